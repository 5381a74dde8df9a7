/* What page and report share: texts of numbers and times, colours. No framework, no network. */
"use strict";
(function () {
  const jt = (window.jt = {});

  jt.COLOURS = 8;

  /** A member that the object itself has: names come from journals, and may be "constructor". */
  jt.own = (object, name) => (Object.prototype.hasOwnProperty.call(object, name) ? object[name] : undefined);

  /**
   * A foreign text as it may be seen, like in the terminal: what is invisible, or turns the text
   * around, is escaped. Lines stay lines.
   */
  const UNSEEN = /(?![\n\t])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;
  jt.shown = (text) => text.replace(/\r\n/g, "\n").replace(UNSEEN, (each) => {
    const code = each.codePointAt(0);
    const [mark, digits] = code < 256 ? ["x", 2] : code < 65536 ? ["u", 4] : ["U", 8];
    return `\\${mark}${code.toString(16).padStart(digits, "0")}`;
  });

  /** A number as people read it: six digits, no trailing zeros; texts stay as they are. */
  jt.number = (value) => {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number") return String(value);
    if (Number.isInteger(value) && Math.abs(value) < 1e15) return String(value);
    if (value !== 0 && Math.abs(value) < 1e-4) return String(Number(value.toPrecision(6)).toExponential());
    return String(Number(value.toPrecision(6)));
  };

  /** Paths without the folders that all of them share: what tells them apart. */
  jt.tails = (paths) => {
    const parts = paths.map((path) => path.split("/"));
    let same = 0;
    while (parts.length && parts.every((each) => each.length > same + 1 && each[same] === parts[0][same])) same += 1;
    return parts.map((each) => each.slice(same).join("/"));
  };

  jt.count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many || one + "s"}`;

  /** Seconds as "3 h 12 min". */
  jt.duration = (seconds) => {
    if (seconds === null || seconds === undefined) return "–";
    const s = Math.max(0, seconds);
    if (s < 0.1) return `${(s * 1000).toFixed(0)} ms`;
    if (s < 10) return `${s.toFixed(1)} s`;
    const parts = [
      [Math.floor(s / 86400), "d"],
      [Math.floor(s / 3600) % 24, "h"],
      [Math.floor(s / 60) % 60, "min"],
      [Math.floor(s) % 60, "s"],
    ];
    const first = parts.findIndex(([amount]) => amount > 0);
    return parts.slice(first, first + 2).filter(([amount]) => amount).map((p) => p.join(" ")).join(" ");
  };

  jt.bytes = (n) => {
    if (n === null || n === undefined) return "–";
    let unit = 0;
    let value = n;
    while (value >= 1000 && unit < 5) {
      value /= 1000;
      unit += 1;
    }
    return `${unit ? value.toFixed(1) : value} ${["B", "kB", "MB", "GB", "TB", "PB"][unit]}`;
  };

  /** An ISO time as local time, to the second. */
  jt.moment = (iso) => {
    if (!iso) return "–";
    const at = new Date(iso);
    if (Number.isNaN(at.getTime())) return String(iso);
    return `${dateOf(at)} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}`;
  };

  jt.age = (iso) => {
    const at = Date.parse(iso);
    return Number.isNaN(at) ? "–" : `${jt.duration((Date.now() - at) / 1000).split(" ").slice(0, 2).join(" ")} ago`;
  };

  /** A colour of the style sheet, as it is now (light or dark). */
  jt.colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  jt.seriesColour = (index) => jt.colour(`--s${index % jt.COLOURS}`);
  jt.faded = (colour, share) => {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    return `rgba(${r},${g},${b},${share})`;
  };

  /** Exponential moving average without the bias of its start; a gap begins it anew. */
  jt.smoothed = (values, weight) => {
    if (!weight) return values;
    let mean = 0;
    let seen = 0;
    return values.map((value) => {
      if (value === null || value === undefined) {
        if (value === null) mean = seen = 0;
        return value;
      }
      mean = mean * weight + (1 - weight) * value;
      seen += 1;
      return mean / (1 - weight ** seen);
    });
  };

  const stepOf = (low, high, count) => {
    const raw = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    return [1, 2, 5, 10].find((each) => each * power >= raw) * power;
  };

  /** The round numbers around low and high, between which `ticks` finds about `count`. */
  jt.rounded = (low, high, count) => {
    const step = stepOf(low, high, count);
    const [first, last] = [Math.floor(low / step) * step, Math.ceil(high / step) * step];
    // Extremes have no round numbers around them.
    return first <= low && last >= high && Number.isFinite(last - first) ? [first, last] : [low, high];
  };

  /** Round numbers from low to high, about `count` of them. */
  jt.ticks = (low, high, count) => {
    if (!(high > low)) return [low];
    const step = stepOf(low, high, count);
    const first = Math.ceil(low / step);
    // By counting: where neighbours of a double are far, to add a step may change nothing.
    return Array.from({ length: 2 * count + 2 }, (_, i) => (first + i) * step)
      .filter((at) => at <= high + step / 1e6).map((at) => Number(at.toPrecision(12)));
  };

  const two = (n) => String(n).padStart(2, "0");
  const dateOf = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  /** Local times, 24 hours; the date is below the first one, and where it changes. */
  const timeText = (u, splits, axis, space, step) => {
    let before = null;
    return splits.map((v) => {
      if (v === null) return "";
      const at = new Date(v * 1000);
      const date = dateOf(at);
      const below = date === before ? "" : `\n${date}`;
      before = date;
      if (step >= 86400) return date;
      const seconds = step >= 60 ? "" : `:${two(at.getSeconds())}`;
      const parts = step >= 1 ? "" : `.${String(at.getMilliseconds()).padStart(3, "0")}`;
      return `${two(at.getHours())}:${two(at.getMinutes())}${seconds}${parts}${below}`;
    });
  };
  const axisText = (u, splits) => splits.map((v) => (v === null ? "" : jt.number(v)));
  const spanText = (u, splits) => splits.map((v) => (v === null ? "" : v < 0 ? "" : v < 10 ? `${jt.number(v)} s` : jt.duration(v)));

  /**
   * Draw lines with uPlot into `place`.
   *
   * `series`: [{label, colour (a number), x, y}], x ascending, null where there is a gap. What was
   * thinned out has the lowest and the highest point of each column. `options`: {kind: "step" | "time" | "relative", logX, logY, smooth, range, height, width,
   * onZoom(range or null), onCursor(values or null), sync}.
   */
  jt.draw = (place, series, options) => {
    const data = jt.joined(series, options.smooth);
    const shown = { smooth: options.smooth };
    let range = options.range;
    const finite = () => series.flatMap((s) => [s.x[0], s.x[s.x.length - 1]]).filter((v) => v !== undefined);
    const ofX = () => {
      if (range) return range;
      const ends = finite();
      let low = Math.min(...ends);
      let high = Math.max(...ends);
      if (!ends.length) return [0, 1];
      if (options.logX) low = Math.max(low, 1);
      if (!(high > low)) [low, high] = [low - 0.5, high + 0.5];
      if (options.logX && low <= 0) low = high / 2;
      return [low, high];
    };
    const axis = {
      stroke: () => jt.colour("--muted"),
      grid: { stroke: () => jt.colour("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    // uPlot's own steps end at 1e16. Below 5 it takes those alone; `splits` does not use the step.
    const labels = (u) => Math.max(2, Math.floor(u.height / 45));
    const ofAnySize = {
      incrs: (u, _, low, high) => [Math.max(5, (high - low) / labels(u))],
      splits: (u, _, low, high) => jt.ticks(low, high, labels(u)),
    };
    const time = options.kind === "time";
    const lines = [{}];
    series.forEach((s) => {
      const colour = () => jt.seriesColour(s.colour);
      const dash = s.colour >= jt.COLOURS ? [6, 3] : undefined;
      const few = s.x.length <= 40;
      // While smoothing, what was recorded stays visible behind.
      lines.push(
        { stroke: () => jt.faded(colour(), shown.smooth ? 0.28 : 0), width: 1, points: { show: false } },
        { label: s.label, stroke: colour, width: 1.5, dash, points: { show: few, size: 5, fill: colour } },
      );
    });
    const zoomTo = (next) => options.onZoom && options.onZoom(next);
    const chart = new uPlot(
      {
        width: options.width,
        height: options.height,
        legend: { show: false },
        // A label is as wide to the right of its mark as to the left.
        padding: [8, options.kind === "step" ? 22 : 42, 0, 0],
        cursor: {
          y: false,
          points: { size: 6 },
          drag: { x: Boolean(options.onZoom), y: false, setScale: false },
          sync: options.sync ? { key: options.sync } : undefined,
          bind: {
            dblclick: () => () => zoomTo(null),
            mousedown: (u, target, handler) => (event) => {
              if (event.shiftKey && options.onZoom) jt.pan(u, event, zoomTo);
              else handler(event);
            },
          },
        },
        scales: {
          x: { time, range: ofX, distr: options.logX ? 3 : 1 },
          y: { distr: options.logY ? 3 : 1 },
        },
        axes: [
          { ...axis, values: time ? timeText : options.kind === "relative" ? spanText : axisText, size: time ? 44 : 30, space: options.kind === "step" ? 60 : 90 },
          { ...axis, ...(options.logY ? {} : ofAnySize), values: axisText, size: (u, values) => Math.max(38, 12 + 6.5 * Math.max(0, ...(values || []).map((v) => v.length))) },
        ],
        series: lines,
        hooks: {
          setSelect: [
            (u) => {
              if (u.select.width < 4) return;
              const ends = [u.select.left, u.select.left + u.select.width].map((px) => u.posToVal(px, "x"));
              u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
              zoomTo(ends);
            },
          ],
          setCursor: [
            (u) => {
              if (!options.onCursor) return;
              const index = u.cursor.idx;
              if (index === null || index === undefined || u.cursor.left < 0) options.onCursor(null);
              else options.onCursor({ x: u.data[0][index], values: series.map((_, i) => nearest(u.data[2 + 2 * i], index)) });
            },
          ],
        },
      },
      data,
      place,
    );
    return {
      chart,
      resize: (width, height) => chart.setSize({ width, height }),
      update: (next, smooth, nextRange) => {
        series = next;
        shown.smooth = smooth;
        range = nextRange;
        chart.setData(jt.joined(next, smooth));
      },
      redraw: () => chart.redraw(false, true),
      destroy: () => chart.destroy(),
    };
  };

  /** The value at a place of joined data, or the closest before it: other runs have other steps. */
  const nearest = (values, index) => {
    for (let at = index; at >= 0 && at > index - 500; at -= 1) if (values[at] !== undefined) return values[at];
    return null;
  };

  /* Beyond this, the length of an axis is no double. */
  const HUGE = 1e300;

  /** Joining needs ascending places: points of the same step are drawn a hair apart. */
  const apart = (x) => {
    const found = x.slice();
    const hair = (Math.abs(x[x.length - 1] - x[0]) || 1) * 1e-9;
    for (let i = 1; i < found.length; i += 1) if (!(found[i] > found[i - 1])) found[i] = found[i - 1] + Math.max(hair, Math.abs(found[i - 1]) * 4e-16);
    return found;
  };

  jt.joined = (series, smooth) => {
    if (!series.length) return [[0], [null]];
    return uPlot.join(series.map((s) => {
      const y = s.y.map((v) => (v === null ? null : Math.max(-HUGE, Math.min(HUGE, v))));
      // What was recorded is drawn behind what is smoothed, and only then.
      return [apart(s.x), smooth ? y : y.map(() => null), jt.smoothed(y, smooth)];
    }));
  };

  /** Move the range of x with the pointer, until it is released. */
  jt.pan = (u, event, zoomTo) => {
    const { min, max } = u.scales.x;
    const from = u.posToVal(event.offsetX, "x");
    const box = u.over.getBoundingClientRect();
    let last = null;
    const move = (e) => {
      const by = from - (min + ((e.clientX - box.left) / box.width) * (max - min));
      last = [min + by, max + by];
    };
    const up = () => {
      document.removeEventListener("mousemove", move);
      document.removeEventListener("mouseup", up);
      if (last) zoomTo(last);
    };
    document.addEventListener("mousemove", move);
    document.addEventListener("mouseup", up);
    event.preventDefault();
  };
})();
