/* A report's curves: where scripts may run, they replace the pictures, can be read off and zoomed. */
"use strict";
(function () {
  const curves = JSON.parse(document.getElementById("curves").textContent);
  const drawn = new Map();

  const draw = (chart) => {
    const { series } = curves[Number(chart.dataset.chart)];
    const some = series.filter((s) => s.y.some((v) => v !== null));
    const place = chart.querySelector(".plot");
    if (!some.length || drawn.has(chart)) return;
    const values = chart.querySelectorAll(".legend li span:last-child");
    const last = [...values].map((each) => each.textContent);
    const made = jt.draw(place, some, {
      kind: "step", smooth: 0, width: place.clientWidth, height: 220,
      onZoom: (range) => made.update(some, 0, range),
      onCursor: (at) => some.forEach((s) => {
        const i = series.indexOf(s);
        if (values[i]) values[i].textContent = at ? jt.number(at.values[some.indexOf(s)]) : last[i];
      }),
    });
    drawn.set(chart, made);
  };

  const charts = document.querySelectorAll(".chart");
  document.body.classList.add("scripted");
  const near = new IntersectionObserver((entries) => entries.filter((e) => e.isIntersecting).forEach((e) => draw(e.target)), { rootMargin: "400px" });
  charts.forEach((chart) => near.observe(chart));
  addEventListener("resize", () => drawn.forEach((made, chart) => made.resize(chart.querySelector(".plot").clientWidth, 220)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach((made) => made.redraw()));
})();
