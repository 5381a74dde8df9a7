/* The table of runs: sort, filter, choose columns, select to compare. */
"use strict";
(function () {
  const { html, useEffect, useRef, useState } = htmPreact;

  const TONES = { completed: "good", running: "going", failed: "bad", interrupted: "bad", stopped: "warn", stopping: "warn" };
  jt.Status = ({ status }) => html`<span class=${`chip ${jt.own(TONES, status) || ""}`}>${status || "unknown"}</span>`;
  jt.label = (run) => run.display_name || run.name;
  jt.Problem = ({ error }) => html`<div class="alert" role="alert"><strong>${error.message}</strong>${error.hint && html`<div>${error.hint}</div>`}</div>`;

  jt.Delivery = ({ delivery }) => {
    const { pending, in_doubt: doubt, quarantined } = delivery;
    if (quarantined) return html`<span class="chip bad">${quarantined} quarantined</span>`;
    if (doubt) return html`<span class="chip warn">${doubt} in doubt</span>`;
    if (pending) return html`<span class="chip">${pending} pending</span>`;
    return html`<span class="chip good">delivered</span>`;
  };

  /** One chip, or one for each destination, by name. */
  jt.Deliveries = ({ run }) => {
    const further = Object.entries(run.destinations);
    if (!further.length) return html`<${jt.Delivery} delivery=${run.delivery} />`;
    return [["sagemaker", run.delivery], ...further].map(([name, delivery]) => html`<div><span class="muted">${name}</span> <${jt.Delivery} delivery=${delivery} /></div>`);
  };

  const FIXED = {
    status: { title: "status", sort: "status", cell: (run) => html`<${jt.Status} status=${run.status} />${run.not_finite.points > 0 && html` <span class="chip warn" title=${`NaN or infinite: ${run.not_finite.metrics.join(", ")}`}>${run.not_finite.points.toLocaleString("en")} not finite</span>`}` },
    started: { title: "started", sort: "started", descends: true, cell: (run) => html`<span title=${jt.moment(run.started)}>${jt.age(run.started)}</span>` },
    duration: { title: "duration", cell: (run) => jt.duration(run.duration_s) },
    delivery: { title: "delivery", cell: (run) => html`<${jt.Deliveries} run=${run} />` },
    tags: { title: "tags", cell: (run) => Object.entries(run.tags).map(([k, v]) => html`<span class="tag">${v ? `${k}=${v}` : k}</span>`) },
    note: { title: "note", cell: (run) => html`<span title=${run.note}>${run.note || ""}</span>` },
    journal: { title: "journal", cell: (run) => html`<span title=${run.journal}>${run.journal}</span>` },
  };

  const columnOf = (name) => {
    if (jt.own(FIXED, name)) return { name, ...FIXED[name] };
    const title = name.slice(2);
    if (name.startsWith("p:")) return { name, title, kind: "parameter", sort: `params.${title}`, cell: (run) => jt.number(jt.own(run.parameters, title)) };
    return { name, title, kind: "metric", sort: `metrics.${title}`, cell: (run) => jt.number(jt.own(run.metrics, title)) };
  };
  const Heading = ({ column, sort }) => {
    if (!column.sort) return html`<th scope="col">${column.title}</th>`;
    const up = sort === column.sort || sort === column.title;
    const down = sort === `-${column.sort}` || sort === `-${column.title}`;
    const next = up || (column.descends && !down) ? `-${column.sort}` : column.sort;
    return html`<th scope="col" aria-sort=${up ? "ascending" : down ? "descending" : undefined}>
      ${column.kind && html`<small>${column.kind}</small>`}<button class="sort" title=${`Sort by ${column.title}`} onClick=${() => jt.set({ sort: next })}>
        <span>${column.title}</span><span aria-hidden="true">${up ? "↑" : down ? "↓" : ""}</span></button></th>`;
  };

  const Columns = ({ data, shown }) => {
    const [text, setText] = useState("");
    const menu = useRef();
    useEffect(() => {
      const close = (event) => {
        if (event.key === "Escape" || (event.type === "click" && menu.current && !menu.current.contains(event.target))) menu.current.open = false;
      };
      addEventListener("click", close);
      addEventListener("keydown", close);
      return () => {
        removeEventListener("click", close);
        removeEventListener("keydown", close);
      };
    }, []);
    const toggle = (name) => jt.set({ col: shown.includes(name) ? shown.filter((n) => n !== name) : [...shown, name] });
    const group = (title, names) => {
      const fitting = names.filter((n) => columnOf(n).title.toLowerCase().includes(text.toLowerCase())).slice(0, 100);
      return fitting.length > 0 && html`<h3>${title}</h3>${fitting.map((n) => html`<label key=${n}><input type="checkbox" checked=${shown.includes(n)} onChange=${() => toggle(n)} />${columnOf(n).title}</label>`)}`;
    };
    return html`<details class="menu" ref=${menu}><summary class="button">Columns</summary><div class="list">
      <input type="search" placeholder="Find a column" aria-label="Find a column" value=${text} onInput=${(e) => setText(e.target.value)} />
      ${group("Run", Object.keys(FIXED))}${group("Metrics", data.metrics.map((n) => `m:${n}`))}${group("Parameters", data.parameters.map((n) => `p:${n}`))}
      <button class="quiet" onClick=${() => jt.set({ col: [] })}>Default columns</button></div></details>`;
  };

  const csvOf = (runs, columns) => {
    const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
    // A spreadsheet runs what begins like a formula.
    const cell = (value) => quoted(/^[=+\-@\t\r]/.test(String(value)) && typeof value !== "number" ? `'${value}` : String(value ?? ""));
    const value = (run, name) => (name.startsWith("p:") ? jt.own(run.parameters, name.slice(2))
      : name.startsWith("m:") ? jt.own(run.metrics, name.slice(2))
        : name === "tags" ? Object.entries(run.tags).map((p) => p.join("=")).join(" ")
          : name === "duration" ? run.duration_s : name === "delivery" ? run.delivery.pending : run[name]);
    return [["name", ...columns.map((c) => c.title)], ...runs.map((r) => [r.name, ...columns.map((c) => value(r, c.name))])]
      .map((line) => line.map(cell).join(",")).join("\r\n");
  };

  /** What tells runs apart whose labels are the same: the journal if there are several, or the name. */
  const captionsOf = ({ runs, journals }) => {
    const labels = runs.map(jt.label);
    const placed = runs.map((run, i) => JSON.stringify([run.journal, labels[i]]));
    const seen = new Map();
    placed.forEach((place) => seen.set(place, (seen.get(place) || 0) + 1));
    const files = [...new Set(runs.map((run) => run.journal))];
    const tails = new Map(jt.tails(files).map((tail, i) => [files[i], tail]));
    return runs.map((run, i) => [seen.get(placed[i]) > 1 && run.name !== labels[i] && run.name, journals > 1 && tails.get(run.journal)].filter(Boolean).join(" · "));
  };
  jt.Runs = () => {
    const { params } = jt.useRoute();
    const where = params.get("where") || "";
    const asked = params.get("sort") || "age";
    // The youngest first: of the column that is shown, the latest first.
    const sort = jt.own({ age: "-started", "-age": "started" }, asked) || asked;
    const limit = Number(params.get("limit")) || 200;
    const picked = params.getAll("sel");
    const chosen = params.getAll("col");
    const { data, error, isOld } = jt.useData("runs", { where, sort, limit, col: chosen });
    const [text, setText] = useState(where);
    useEffect(() => setText(where), [where]);
    const wrong = Boolean(error && where);
    // Rows that answer another question must not look like the answer to this one.
    const stale = Boolean(error && isOld);
    const typed = text.trim() !== where;
    const shown = chosen.length ? chosen : data ? data.columns : [];
    const columns = shown.map(columnOf);
    const toggle = (key) => jt.set({ sel: picked.includes(key) ? picked.filter((k) => k !== key) : [...picked, key] });
    const all = data && data.runs.slice(0, 50);
    const captions = data ? captionsOf(data) : [];
    const everything = data && all.length > 0 && all.every((r) => picked.includes(r.key));
    return html`
      <div class="row">
        <h1 class="unseen">Runs</h1>
        <form class="grow" role="search" onSubmit=${(e) => { e.preventDefault(); jt.set({ where: text.trim() }); }}>
          <input type="search" id="filter" aria-label="Filter runs by an expression" placeholder="Filter, then Enter: lr<0.1 and status=completed" value=${text}
            spellcheck="false" autocomplete="off" aria-invalid=${wrong ? "true" : "false"} aria-describedby=${wrong ? "wrong" : "enter"}
            onInput=${(e) => { setText(e.target.value); if (!e.target.value) jt.set({ where: "" }); }} />
          <span id="enter" role="status" class=${typed ? "muted" : "unseen"}>${typed ? "Enter applies this filter" : ""}</span>
        </form>
        ${data && html`<${Columns} data=${data} shown=${shown} />
          <button disabled=${!data.runs.length} onClick=${() => jt.save(new Blob([csvOf(data.runs, columns)], { type: "text/csv" }), "runs.csv")}>CSV</button>`}
        ${picked.length > 0 && html`<button onClick=${() => jt.set({ sel: [] })}>Clear</button>`}
        <button class="primary" disabled=${picked.length < 1} onClick=${() => { location.hash = jt.href("compare", { run: picked }); }}>Compare${picked.length ? ` ${picked.length}` : ""}</button>
      </div>
      ${error && html`<div id="wrong"><${jt.Problem} error=${error} />${stale && data && html`<p class="muted" style=${{ marginTop: "6px" }}>This filter was not applied. The rows below are those from before.</p>`}</div>`}
      ${data && data.problems.map((each) => html`<${jt.Problem} error=${each} />`)}
      ${data && html`<div class=${`panel ${stale ? "stale" : ""}`}><div class="scroll runs" tabindex="0" role="region" aria-label="Runs">
        <table><caption class="unseen">${jt.count(data.total, "run")}</caption>
          <thead><tr><th class="pick"><input type="checkbox" aria-label="Select the first 50 runs" checked=${everything}
              onChange=${() => jt.set({ sel: everything ? [] : all.map((r) => r.key) })} /></th>
            <th class="name" scope="col" aria-sort=${sort === "name" ? "ascending" : sort === "-name" ? "descending" : undefined}><button class="sort" title="Sort by name" onClick=${() => jt.set({ sort: sort === "name" ? "-name" : "name" })}>
              <span>run</span><span aria-hidden="true">${sort === "name" ? "↑" : sort === "-name" ? "↓" : ""}</span></button></th>
            ${columns.map((c) => html`<${Heading} key=${c.name} column=${c} sort=${sort} />`)}</tr></thead>
          <tbody>${data.runs.map((run, i) => html`<tr key=${run.key} aria-selected=${picked.includes(run.key)}>
            <td class="pick"><input type="checkbox" aria-label=${`Select ${run.name}`} checked=${picked.includes(run.key)} onChange=${() => toggle(run.key)} /></td>
            <th class="name" scope="row"><a href=${jt.href("run", { run: run.key })} title=${run.name}>${jt.label(run)}</a>
              ${captions[i] && html`<small title=${run.journal}>${captions[i]}</small>`}</th>
            ${columns.map((c) => html`<td key=${c.name} title=${c.kind && typeof jt.own(run.parameters, c.title) === "string" ? jt.own(run.parameters, c.title) : undefined}>${c.cell(run)}</td>`)}
          </tr>`)}</tbody></table>
        ${!data.runs.length && html`<div class="empty">${where ? html`<p>No run fits <code>${where}</code>.</p>` : html`<p>No runs yet.</p><p>They appear here as soon as a script calls <code>Tracker.create()</code>.</p>`}</div>`}
      </div></div>
      <div class="row apart muted"><span role="status">${jt.count(data.total, "run")}${data.total > data.runs.length ? `, the first ${data.runs.length} are shown` : ""}</span>
        ${data.total > data.runs.length && html`<button onClick=${() => jt.set({ limit: limit + 200 })}>Show more</button>`}</div>`}`;
  };
})();
