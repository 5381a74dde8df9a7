/* Runs side by side: overlaid curves, what differs, parallel coordinates, scatter. */
"use strict";
(function () {
  const { html, useState } = htmPreact;

  const Diff = ({ data, labels, colours }) => {
    const [all, setAll] = useState(false);
    const shown = all ? data.parameters : data.parameters.filter((p) => p.differs);
    return html`<${jt.Panel} title="Parameters" flush end=${html`<label class="inline"><input type="checkbox" checked=${all} onChange=${() => setAll(!all)} />also those that agree</label>`}>
      <div class="scroll"><table><caption class="unseen">Parameters of each run</caption><thead><tr><th scope="col">parameter</th>${data.runs.map((r, i) => html`<th scope="col" class=${`c${colours[i] % jt.COLOURS}`} title=${r.name}><span class="swatch"></span> ${labels[i]}</th>`)}</tr></thead>
      <tbody>${shown.map((p) => html`<tr key=${p.name} class=${p.differs && all ? "differs" : ""}><th scope="row">${p.name}</th>${p.values.map((v) => html`<td class=${typeof v === "number" ? "" : "wide"}>${v === null ? html`<span class="muted">–</span>` : jt.number(v).slice(0, 300)}</td>`)}</tr>`)}</tbody></table>
      ${!shown.length && html`<div class="body muted">No parameter differs.</div>`}</div><//>`;
  };

  // With which code: what is the same in all runs is told by the page of each.
  const PACKAGES = 10;
  const Code = ({ data, labels, colours }) => {
    const [all, setAll] = useState(false);
    const packages = all ? data.packages : data.packages.slice(0, PACKAGES);
    const row = (label) => (each) => html`<tr key=${label + each.name}><th scope="row">${label}${each.name}</th>${each.values.map((v) => html`<td class="wide">${v === null ? html`<span class="muted">–</span>` : v}</td>`)}</tr>`;
    return html`<${jt.Panel} title="Code" flush><div class="scroll"><table><caption class="unseen">Code of each run</caption><thead><tr><th scope="col">what differs</th>${data.runs.map((r, i) => html`<th scope="col" class=${`c${colours[i] % jt.COLOURS}`} title=${r.name}><span class="swatch"></span> ${labels[i]}</th>`)}</tr></thead>
      <tbody>${data.code.map(row(""))}${packages.map(row("package "))}</tbody></table></div>
      ${packages.length < data.packages.length && html`<div class="body"><button onClick=${() => setAll(true)}>All ${data.packages.length} packages</button></div>`}<//>`;
  };

  // A table of thousands of rows is slow to draw, and hardly read.
  const AT_FIRST = 200;
  const Numbers = ({ data, labels, colours }) => {
    const [all, setAll] = useState(false);
    const shown = all ? data.metrics : data.metrics.slice(0, AT_FIRST);
    return html`<${jt.Panel} title="Metrics" flush><div class="scroll"><table class="sums"><caption class="unseen">Last value of each metric</caption>
      <thead><tr><th scope="col">metric: last, min … max</th>${data.runs.map((r, i) => html`<th scope="col" class=${`c${colours[i] % jt.COLOURS}`}><span class="swatch"></span> ${labels[i]}</th>`)}</tr></thead>
      <tbody>${shown.map((m) => html`<tr key=${m.name}><th scope="row">${m.name}</th>${m.runs.map((v, i) => html`<td class=${m.best.includes(i) && m.runs.length > 1 ? "best" : ""}>${v ? html`${jt.number(v.last)}<small class=${m.best_ever.includes(i) && m.runs.length > 1 ? "best" : ""}>${jt.number(v.min)} … ${jt.number(v.max)}</small>` : html`<span class="muted">–</span>`}</td>`)}</tr>`)}</tbody></table></div>
      ${shown.length < data.metrics.length && html`<div class="body"><button onClick=${() => setAll(true)}>All ${data.metrics.length} metrics</button></div>`}<//>`;
  };

  jt.Compare = () => {
    const { params } = jt.useRoute();
    const keys = params.getAll("run");
    const hidden = params.getAll("hide");
    const { data, error } = jt.useData(keys.length ? "compare" : null, { run: keys });
    if (!keys.length) return html`<div class="empty"><p>Select runs to compare.</p><a class="button" href="#/runs">Choose runs</a></div>`;
    if (!data) return error ? html`<${jt.Problem} error=${error} />` : html`<p class="muted" role="status">Loading…</p>`;
    const colours = data.runs.map((r) => keys.indexOf(r.key));
    const labels = data.runs.map((r) => r.label);
    const runs = data.runs.map((r, i) => ({ key: r.key, label: labels[i] }));
    const visible = runs.filter((r) => !hidden.includes(r.key));
    const names = data.metrics.map((m) => m.name);
    const asked = params.getAll("metric").filter((n) => names.includes(n));
    const find = params.get("find") || "";
    const shown = (asked.length ? asked : names).filter((n) => n.toLowerCase().includes(find.toLowerCase()));
    // What has one value, or none, tells nothing in a drawing. What is a number tells most.
    const varied = data.parameters.filter((p) => new Set(p.values.filter((v) => v !== null)).size > 1);
    const differing = [...varied.filter((p) => p.values.some((v) => typeof v === "number")), ...varied.filter((p) => !p.values.some((v) => typeof v === "number"))];
    const target = names.includes(params.get("y")) ? params.get("y") : (data.metrics.find((m) => m.goal) || {}).name || names[0];
    const ofTarget = target && { name: target, values: data.metrics.find((m) => m.name === target).runs.map((v) => (v && typeof v.last === "number" ? v.last : null)) };
    const against = differing.find((p) => p.name === params.get("p")) || differing[0];
    return html`${error && html`<${jt.Problem} error=${error} />`}
      <div class="row apart"><h1>Compare ${jt.count(runs.length, "run")}</h1><div class="row"><${jt.CurveControls} params=${params} /></div></div>
      <div class="row" role="group" aria-label="Runs in the comparison">${runs.map((r, i) => html`<label key=${r.key} class=${`inline c${colours[i] % jt.COLOURS}`}><input type="checkbox" checked=${!hidden.includes(r.key)}
          onChange=${() => jt.set({ hide: hidden.includes(r.key) ? hidden.filter((k) => k !== r.key) : [...hidden, r.key] })} /><span class="swatch"></span><a href=${jt.href("run", { run: r.key })}>${r.label}</a></label>`)}
        <a href=${jt.href("runs", { sel: keys })}>Change…</a>
        ${names.length > 4 && html`<input type="search" style=${{ width: "180px", marginLeft: "auto" }} aria-label="Find a metric" placeholder="Find a metric" value=${find} onInput=${(e) => jt.set({ find: e.target.value })} />`}</div>
      ${data.missing.length > 0 && html`<div class="alert mild">${jt.count(data.missing.length, "run is", "runs are")} not there any more: ${data.missing.join(", ")}</div>`}
      <${jt.Charts} level=${2} names=${shown} runs=${visible} colours=${visible.map((r) => keys.indexOf(r.key))} params=${params} height=${260} />
      <${Diff} ...${{ data, labels, colours }} /><${Numbers} ...${{ data, labels, colours }} />
      ${(data.code.length > 0 || data.packages.length > 0) && html`<${Code} ...${{ data, labels, colours }} />`}
      ${target && html`<div class="two"><${jt.Panel} title="Parallel coordinates" end=${html`<${Pick} label="Metric" name="y" value=${target} options=${names} />`}>
          <${jt.Parallel} axes=${[...differing.slice(0, 8).map((p) => ({ name: p.name, values: p.values })), ofTarget]} runs=${runs} colours=${colours} /><//>
        <${jt.Panel} title="Parameter against metric" end=${against && html`<${Pick} label="Parameter" name="p" value=${against.name} options=${differing.map((p) => p.name)} />`}>
          ${against ? html`<${jt.Scatter} x=${against} y=${ofTarget} runs=${runs} colours=${colours} />` : html`<p class="muted">No parameter differs between these runs.</p>`}<//></div>`}`;
  };

  const Pick = ({ label, name, value, options }) => html`<select aria-label=${label} style=${{ maxWidth: "200px" }} value=${value} onChange=${(e) => jt.set({ [name]: e.target.value })}>
    ${options.map((o) => html`<option value=${o}>${o}</option>`)}</select>`;
})();
