/* Charts of the page, as components: curves that fetch what they show, parallel coordinates and a
   scatter plot as SVG. */
"use strict";
(function () {
  const { html, useEffect, useLayoutEffect, useMemo, useRef, useState } = htmPreact;

  /** Whether an element is near the visible part of the page: only then does a chart cost anything. */
  jt.useNear = (ref) => {
    const [near, setNear] = useState(false);
    useEffect(() => {
      const observer = new IntersectionObserver((entries) => setNear(entries[entries.length - 1].isIntersecting), { rootMargin: "400px" });
      observer.observe(ref.current);
      return () => observer.disconnect();
    }, []);
    return near;
  };

  const useWidth = (ref) => {
    const [width, setWidth] = useState(0);
    useLayoutEffect(() => {
      const observer = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
      observer.observe(ref.current);
      return () => observer.disconnect();
    }, []);
    return width;
  };

  /** The theme as a number that changes with it: canvases are painted again. */
  const useTheme = () => {
    const [turn, setTurn] = useState(0);
    useEffect(() => {
      const again = () => setTurn((n) => n + 1);
      const media = matchMedia("(prefers-color-scheme: dark)");
      media.addEventListener("change", again);
      addEventListener("jt-theme", again);
      return () => {
        media.removeEventListener("change", again);
        removeEventListener("jt-theme", again);
      };
    }, []);
    return turn;
  };

  const PlotBox = ({ series, kind, logX, logY, smooth, range, onZoom, onCursor, height, sync, holder }) => {
    const place = useRef();
    const drawn = useRef();
    const width = useWidth(place);
    const theme = useTheme();
    const zoom = useRef();
    zoom.current = onZoom;
    const shape = `${series.map((s) => [s.label, s.colour, s.x.length <= 40]).join("|")} ${kind} ${logX} ${logY} ${width > 0}`;
    useLayoutEffect(() => {
      if (!width) return undefined;
      place.current.replaceChildren();
      drawn.current = jt.draw(place.current, series, {
        kind, logX, logY, smooth, range, width, height, sync, onCursor, onZoom: (next) => zoom.current(next),
      });
      if (holder) holder.current = drawn.current;
      return () => {
        drawn.current.destroy();
        drawn.current = null;
      };
    }, [shape]);
    useLayoutEffect(() => drawn.current && drawn.current.resize(width, height), [width, height]);
    useLayoutEffect(() => drawn.current && drawn.current.update(series, smooth, range), [series, smooth, range]);
    useLayoutEffect(() => drawn.current && drawn.current.redraw(), [theme]);
    return html`<div ref=${place}></div>`;
  };

  const save = (blob, name) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };
  jt.save = save;

  /** The chart with its title and legend as a PNG. */
  const savePng = (title, chart, series) => {
    const from = chart.ctx.canvas;
    const ratio = devicePixelRatio || 1;
    const head = 34 * ratio;
    const canvas = document.createElement("canvas");
    canvas.width = from.width;
    canvas.height = from.height + head + (8 + 18 * series.length) * ratio;
    const to = canvas.getContext("2d");
    to.fillStyle = jt.colour("--surface");
    to.fillRect(0, 0, canvas.width, canvas.height);
    to.fillStyle = jt.colour("--text");
    to.font = `600 ${14 * ratio}px system-ui, sans-serif`;
    to.fillText(jt.shown(title), 12 * ratio, 22 * ratio);
    to.drawImage(from, 0, head);
    to.font = `${12 * ratio}px system-ui, sans-serif`;
    series.forEach((s, i) => {
      const y = head + from.height + (16 + 18 * i) * ratio;
      to.fillStyle = jt.seriesColour(s.colour);
      to.fillRect(14 * ratio, y - 5 * ratio, 14 * ratio, 3 * ratio);
      to.fillStyle = jt.colour("--muted");
      to.fillText(jt.shown(s.label), 36 * ratio, y);
    });
    canvas.toBlob((blob) => save(blob, `${title.replace(/[^\w.-]+/g, "-")}.png`));
  };

  /**
   * One metric of some runs: fetches the part that is shown, at its resolution, and again when the
   * range or the journal changes.
   */
  jt.Curve = ({ metric, runs, colours, kind, logX, logY, smooth, range, setRange, height, sync, level }) => {
    const root = useRef();
    const holder = useRef();
    const near = jt.useNear(root);
    // A column is two pixels wide, and has its lowest and its highest point.
    const [columns, setColumns] = useState(0);
    const [at, setAt] = useState(null);
    useEffect(() => setColumns(Math.max(200, Math.min(2000, Math.round(root.current.clientWidth * (devicePixelRatio || 1) / 200) * 100))), []);
    const query = { metric, run: runs.map((r) => r.key), x: kind, columns };
    if (range) [query.from, query.to] = range;
    const { data, error, isOld } = jt.useData(near && columns ? "series" : null, query);
    const series = useMemo(
      () => (data && !(error && isOld) ? data.series.map((s) => {
        const place = runs.findIndex((r) => r.key === s.run);
        return { ...s, label: runs[place] ? runs[place].label : s.run, colour: colours[place] || 0 };
      }).filter((s) => s.points) : []),
      [data, error && isOld, JSON.stringify([runs, colours])],
    );
    const drawable = series.some((s) => s.y.some((v) => v !== null));
    const bounds = series.length ? [Math.min(...series.map((s) => s.first)), Math.max(...series.map((s) => s.end))] : null;
    const zoomBy = (factor, shift) => {
      const [low, high] = range || bounds || [0, 1];
      const middle = (low + high) / 2 + shift * (high - low);
      const half = ((high - low) / 2) * factor;
      setRange([middle - half, middle + half]);
    };
    const keys = (event) => {
      const moves = { ArrowLeft: [1, -0.25], ArrowRight: [1, 0.25], "+": [0.5, 0], "=": [0.5, 0], "-": [2, 0] };
      if (event.key === "0") setRange(null);
      else if (moves[event.key]) zoomBy(...moves[event.key]);
      else return;
      event.preventDefault();
    };
    const told = series.map((s) => `${s.label}: last ${jt.number(s.last)}`).join("; ");
    const Heading = `h${level || 3}`;
    const csv = `api/points.csv?${new URLSearchParams([["token", jt.token], ["metric", metric], ...runs.map((r) => ["run", r.key])])}`;
    return html`<section class="chart" ref=${root} data-metric=${metric} data-columns=${data ? series.reduce((n, s) => n + s.x.length, 0) : ""}>
      <header>
        <${Heading} title=${metric}>${metric}<//>
        <div class="tools">
          ${range && html`<button class="quiet" onClick=${() => setRange(null)} title="Show everything (0)">All</button>`}
          <button class="quiet" onClick=${() => zoomBy(0.5, 0)} aria-label=${`Zoom in ${metric}`} title="Zoom in (+); or drag over the chart">+</button>
          <button class="quiet" onClick=${() => zoomBy(2, 0)} aria-label=${`Zoom out ${metric}`} title="Zoom out (-)">−</button>
          <button class="quiet" disabled=${!drawable || !near} onClick=${() => savePng(metric, holder.current.chart, series)} aria-label=${`Download ${metric} as PNG`}>PNG</button>
          <a class="button quiet" href=${csv} download aria-label=${`Download ${metric} as CSV`}>CSV</a>
        </div>
      </header>
      <div class="plot" style=${{ height: `${height}px` }} tabindex="0" role="img" onKeyDown=${keys}
        aria-label=${`${metric} by ${kind}. ${told}. Arrow keys move, plus and minus zoom, 0 shows everything.`}>
        ${near && drawable && html`<${PlotBox} holder=${holder} onCursor=${setAt}
          ...${{ series, kind, logX, logY, smooth, range, height, sync }} onZoom=${setRange} />`}
        ${error && html`<div class="over">${error.message}</div>`}
        ${data && !drawable && html`<div class="over">No finite points${range ? " in this range" : ""}</div>`}
      </div>
      <ul class="legend">
        ${series.map((s, i) => html`<li key=${s.run} class=${`c${s.colour % jt.COLOURS}`}>
          <span class="swatch"></span><span class="label" title=${s.label}>${s.label}</span>
          <span>${jt.number(at ? at.values[i] : s.last)}</span></li>`)}
        ${at && html`<li class="at">at ${kind === "time" ? jt.moment(new Date(at.x * 1000).toISOString()) : kind === "relative" ? jt.duration(at.x) : `step ${jt.number(at.x)}`}</li>`}
      </ul>
    </section>`;
  };

  const CHARTS = 48;

  /** The charts of some metrics, as the address says: axes, scales, smoothing, range. */
  jt.Charts = ({ names, runs, colours, params, height, level }) => {
    const [shown, setShown] = useState(CHARTS);
    const on = (name) => params.get(name) === "1";
    const range = params.get("from") && params.get("to") ? [Number(params.get("from")), Number(params.get("to"))] : null;
    return html`<div class="charts">${names.slice(0, shown).map((name) => html`<${jt.Curve} key=${name} metric=${name} level=${level} runs=${runs} colours=${colours}
        kind=${params.get("x") || "step"} logX=${on("logx")} logY=${on("logy")} smooth=${jt.smoothing(params)} range=${range} height=${height} sync="all"
        setRange=${(next) => jt.set({ from: next && next[0], to: next && next[1] })} />`)}</div>
      ${names.length > shown && html`<div><button onClick=${() => setShown(shown + CHARTS)}>Show ${Math.min(CHARTS, names.length - shown)} more of ${names.length} metrics</button></div>`}`;
  };

  /** Places of values on an axis: numbers by size, other texts evenly. `marks`: from one round number
      to another, about so many. */
  const axisOf = (name, values, marks) => {
    const there = values.filter((v) => v !== null && v !== undefined);
    const numbers = there.length > 0 && there.every((v) => typeof v === "number");
    if (!numbers) {
      const kinds = [...new Set(there.map(String))].sort();
      const at = (v) => (kinds.length < 2 ? 0.5 : kinds.indexOf(String(v)) / (kinds.length - 1));
      return { name, at, labels: kinds.slice(0, 12).map((k) => [k, at(k)]) };
    }
    let low = Math.min(...there);
    let high = Math.max(...there);
    const log = low > 0 && high / low >= 100;
    if (marks && !log && high > low) [low, high] = jt.rounded(low, high, marks);
    const scale = (v) => (log ? Math.log(v) : v);
    const at = (v) => (high === low ? 0.5 : (scale(v) - scale(low)) / (scale(high) - scale(low)));
    return { name, at, low, high, log, labels: (high === low ? [low] : [low, high]).map((v) => [jt.number(v), at(v)]) };
  };
  const shortened = (text, max) => (text.length > max ? `${text.slice(0, max - 1)}…` : text);

  /** Parameters and metrics side by side, a line per run. `axes`: [{name, values}]. */
  jt.Parallel = ({ axes, runs, colours }) => {
    if (axes.length < 2) return html`<p class="muted">Nothing to draw: no parameter differs between these runs.</p>`;
    const height = 260;
    const gap = 130;
    const width = 170 + gap * (axes.length - 1);
    const scales = axes.map((a) => axisOf(a.name, a.values));
    const x = (i) => 70 + gap * i;
    const y = (share) => 40 + (1 - share) * (height - 70);
    return html`<div class="scroll"><svg class="drawn" style=${{ minWidth: `${95 * axes.length}px`, maxWidth: `${width * 1.5}px` }}
      viewBox=${`0 0 ${width} ${height}`} role="group" aria-label="Parallel coordinates: one line per run">
      ${scales.map((s, i) => html`<g key=${s.name}>
        <line class="axis" x1=${x(i)} x2=${x(i)} y1=${y(0)} y2=${y(1)} />
        <text x=${x(i)} y="18" text-anchor="middle"><title>${s.name}</title>${shortened(s.name, 20)}</text>
        ${s.labels.map(([text, share]) => html`<text x=${x(i) + 6} y=${y(share) + (share === 1 ? -4 : share === 0 ? 14 : 4)}>${shortened(text, 16)}</text>`)}
      </g>`)}
      ${runs.map((run, n) => {
        const points = axes.map((a, i) => (a.values[n] === null || a.values[n] === undefined ? null : [x(i), y(scales[i].at(a.values[n]))]));
        let pen = "M";
        const path = points.map((p) => {
          if (!p) { pen = "M"; return ""; }
          const step = `${pen}${p[0]},${p[1]}`;
          pen = "L";
          return step;
        }).join("");
        return html`<a key=${run.key} class=${`c${colours[n] % jt.COLOURS}`} href=${jt.href("run", { run: run.key })} aria-label=${run.label}>
          <path class="line" d=${path}><title>${run.label}</title></path></a>`;
      })}
    </svg></div>`;
  };

  const MARKS = 4;

  /** A parameter against a metric, a dot per run. */
  jt.Scatter = ({ x, y, runs, colours }) => {
    const [width, height] = [560, 260];
    const xs = axisOf(x.name, x.values, MARKS);
    const ys = axisOf(y.name, y.values, MARKS);
    const px = (share) => 78 + share * (width - 104);
    const py = (share) => 26 + (1 - share) * (height - 74);
    const there = runs.map((run, n) => ({ run, n, x: x.values[n], y: y.values[n] }))
      .filter((d) => d.x !== null && d.x !== undefined && typeof d.y === "number");
    if (!there.length) return html`<p class="muted">No run has both values.</p>`;
    const marks = (s) => (s.low === undefined || s.log ? s.labels : jt.ticks(s.low, s.high, MARKS).map((v) => [jt.number(v), s.at(v)]));
    return html`<svg class="drawn" viewBox=${`0 0 ${width} ${height}`} role="group" aria-label=${`${y.name} against ${x.name}`}>
      ${marks(ys).map(([text, share]) => html`<g><line class="grid" x1="74" x2=${width - 20} y1=${py(share)} y2=${py(share)} />
        <text x="68" y=${py(share) + 4} text-anchor="end">${shortened(text, 9)}</text></g>`)}
      ${marks(xs).map(([text, share]) => html`<text x=${px(share)} y=${height - 28} text-anchor="middle">${shortened(text, 12)}</text>`)}
      <text x=${width / 2} y=${height - 8} text-anchor="middle">${shortened(x.name, 60)}</text>
      <text x="4" y="10">${shortened(y.name, 60)}</text>
      ${there.map((d) => html`<a key=${d.run.key} class=${`c${colours[d.n] % jt.COLOURS}`} href=${jt.href("run", { run: d.run.key })}
        aria-label=${`${d.run.label}: ${x.name} ${jt.number(d.x)}, ${y.name} ${jt.number(d.y)}`}>
        <circle class="dot" cx=${px(xs.at(d.x))} cy=${py(ys.at(d.y))} r="5"><title>${`${d.run.label}: ${jt.number(d.x)}, ${jt.number(d.y)}`}</title></circle></a>`)}
    </svg>`;
  };
})();
