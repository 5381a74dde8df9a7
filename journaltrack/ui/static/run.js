/* One run: curves, parameters, artifacts, provenance, delivery, timeline. */
"use strict";
(function () {
  const { html, useEffect, useState } = htmPreact;

  const Facts = ({ rows }) => html`<dl class="facts">${rows.filter(([, value]) => value !== null && value !== undefined && value !== "")
    .map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;
  jt.Facts = Facts;
  const Panel = ({ title, end, children, flush }) => html`<section class="panel" aria-label=${title}><header><h2>${title}</h2>${end && html`<div class="end row">${end}</div>`}</header>
    ${flush ? children : html`<div class="body">${children}</div>`}</section>`;
  jt.Panel = Panel;

  const STATES = { delivered: "good", pending: "", "in flight": "going", "in doubt": "warn", quarantined: "bad" };
  const PROBLEMS = ["in doubt", "quarantined"];
  const State = ({ state }) => html`<span class=${`chip ${jt.own(STATES, state) || ""}`}>${state || "unknown"}</span>`;

  const Rows = ({ columns, rows, more }) => {
    const kinds = columns.map((_, i) => (rows.every((row) => row[i] === null || typeof row[i] === "number") ? "number" : ""));
    return html`<div class="scroll"><table><thead><tr>${columns.map((c, i) => html`<th scope="col" class=${kinds[i]}>${c}</th>`)}</tr></thead>
    <tbody>${rows.map((row) => html`<tr>${row.map((v, i) => html`<td class=${kinds[i] || "wide"}>${jt.number(v)}</td>`)}</tr>`)}</tbody></table></div>
    ${more !== 0 && html`<p class="muted">${more === null ? "There are more rows" : `${jt.count(more, "more row")}`}: download it, or <code>journaltrack get</code> it.</p>`}`;
  };

  /** A part of an artifact's content: an image, a table, JSON or text. Nothing of it is ever run. */
  const Preview = ({ run, artifact }) => {
    const [shown, setShown] = useState(null);
    useEffect(() => {
      let url = null;
      let gone = false;
      jt.get("preview", { run, sha256: artifact.sha256 }).then(async (response) => {
        if (response.headers.get("X-Journaltrack-Preview") === "image") {
          url = URL.createObjectURL(await response.blob());
          if (!gone) setShown(html`<img src=${url} alt=${artifact.name} />`);
          return;
        }
        const told = await response.json();
        if (!gone) setShown(told.kind === "none" ? html`<p class="muted">No preview of this kind of file.</p>` : told.kind === "table" ? html`<${Rows} ...${told} />` : html`<pre>${told.text}</pre>`);
      }).catch((error) => gone || setShown(html`<p>${error.message}</p>`));
      return () => {
        gone = true;
        if (url) URL.revokeObjectURL(url);
      };
    }, [artifact.sha256]);
    return html`<div class="preview" tabindex="0" role="region" aria-label=${`Preview of ${artifact.name}`}>${shown || "Loading…"}</div>`;
  };

  const Artifact = ({ run, artifact }) => {
    const [open, setOpen] = useState(false);
    const [chosen, setChosen] = useState(null);
    const { steps } = artifact;
    // The last one, until somebody chooses: new ones arrive while the run trains.
    const place = chosen === null ? steps.length - 1 : Math.min(chosen, steps.length - 1);
    const at = steps.length ? { ...artifact, ...steps[place] } : artifact;
    const file = `api/artifact?${new URLSearchParams({ token: jt.token, run, sha256: at.sha256 || "" })}`;
    return html`<tr><th scope="row" class="wide">${artifact.name}<div class="muted">${[artifact.kind || artifact.media_type, artifact.direction].filter(Boolean).join(" · ")}</div></th>
      <td class="wide">${artifact.value && html`<div>${artifact.value}</div>`}
        ${at.sha256 && html`<code class="muted" title=${at.sha256}>sha256 ${at.sha256.slice(0, 16)}…</code>`}
        ${steps.length > 1 && html`<label class="inline"><span class="muted">step</span><input type="range" min="0" max=${steps.length - 1} value=${place} aria-label=${`Step of ${artifact.name}`} aria-valuetext=${`step ${at.step}`}
          onInput=${(e) => { setChosen(Number(e.target.value)); setOpen(true); }} /><span>${at.step} (${place + 1} of ${steps.length})</span></label>`}
        ${open && html`<${Preview} run=${run} artifact=${at} />`}</td>
      <td class="number">${at.size_bytes === null ? "" : jt.bytes(at.size_bytes)}</td>
      <td><${State} state=${artifact.state} /></td>
      <td>${artifact.here && html`<div class="row"><button aria-expanded=${open} onClick=${() => setOpen(!open)}>${open ? "Close" : "Preview"}</button>
        <a class="button" href=${file} download>Download</a></div>`}</td></tr>`;
  };

  const Diff = ({ run, artifact }) => {
    const [open, setOpen] = useState(false);
    return html`<div><button aria-expanded=${open} onClick=${() => setOpen(!open)}>${open ? "Close" : "Show"}</button> <span class="muted">${jt.bytes(artifact.size_bytes)}</span>
      ${open && html`<${Preview} run=${run} artifact=${artifact} />`}</div>`;
  };

  const Packages = ({ packages }) => html`<details><summary>${jt.count(Object.keys(packages).length, "package")}</summary>
    <div class="mono">${Object.entries(packages).map(([n, v]) => html`<div>${n}==${v}</div>`)}</div></details>`;

  // Nobody reads hundreds of rows: the search finds one.
  const PARAMETERS = 25;
  const Parameters = ({ parameters }) => {
    const [text, setText] = useState("");
    const [whole, setWhole] = useState(null);
    const [all, setAll] = useState(false);
    const fitting = parameters.filter((p) => p.name.toLowerCase().includes(text.toLowerCase()));
    const shown = all ? fitting : fitting.slice(0, PARAMETERS);
    return html`<${Panel} title="Parameters" flush end=${parameters.length > 8 && html`<input type="search" aria-label="Find a parameter" placeholder="Find" value=${text} onInput=${(e) => setText(e.target.value)} />`}>
      ${parameters.length ? html`<div class="scroll"><table><caption class="unseen">Parameters</caption><tbody>${shown.map((p) => {
        const value = jt.number(p.value);
        const long = value.length > 200 && whole !== p.name;
        return html`<tr key=${p.name}><th scope="row" class="wide">${p.name}</th>
          <td class="wide">${long ? `${value.slice(0, 200)}…` : value}${long && html` <button class="quiet" onClick=${() => setWhole(p.name)}>All ${value.length} characters</button>`}</td>
          <td>${p.in_file ? "in parameters.json" : html`<${State} state=${p.state} />`}</td></tr>`;
      })}</tbody></table></div>
      ${shown.length < fitting.length && html`<div class="body"><button onClick=${() => setAll(true)}>All ${fitting.length} parameters</button></div>`}` : html`<div class="body muted">None were logged.</div>`}<//>`;
  };

  const Curves = ({ run, data, params }) => {
    const [text, setText] = useState("");
    const names = data.metrics.map((m) => m.name).filter((n) => n.toLowerCase().includes(text.toLowerCase()));
    const me = [{ key: run, label: jt.label(data) }];
    return html`<section aria-label="Curves" class="row" style=${{ display: "grid", gap: "12px" }}>
      <div class="row"><h2>Curves</h2><span class="muted" role="status">${names.length === data.metrics.length ? jt.count(names.length, "metric") : `${names.length} of ${jt.count(data.metrics.length, "metric")}`}</span>
        <div class="row" style=${{ marginLeft: "auto" }}>${data.metrics.length > 4 && html`<input type="search" style=${{ width: "160px" }} aria-label="Find a metric" placeholder="Find a metric" value=${text} onInput=${(e) => setText(e.target.value)} />`}
        <${jt.CurveControls} params=${params} /></div></div>
      ${data.metrics.length ? html`<${jt.Charts} names=${names} runs=${me} colours=${[0]} params=${params} height=${200} />` : html`<p class="muted">No metrics were logged.</p>`}</section>`;
  };

  /** The weight that an address asks for; beyond 1 a mean would be none. */
  jt.smoothing = (params) => Math.min(0.99, Math.max(0, Number(params.get("smooth")) || 0));

  /** Axis, scales and smoothing: the same controls for all curves of a page. */
  jt.CurveControls = ({ params }) => {
    const smooth = jt.smoothing(params);
    const on = (name) => params.get(name) === "1";
    return html`<label class="inline"><span class="muted">x</span><select aria-label="Horizontal axis" value=${params.get("x") || "step"} onChange=${(e) => jt.set({ x: e.target.value, from: null, to: null, logx: null })}>
        <option value="step">step</option><option value="time">time</option><option value="relative">relative time</option></select></label>
      ${params.get("x") !== "time" && html`<button aria-pressed=${on("logx")} onClick=${() => jt.set({ logx: on("logx") ? null : "1" })}>log x</button>`}
      <button aria-pressed=${on("logy")} onClick=${() => jt.set({ logy: on("logy") ? null : "1" })}>log y</button>
      <label class="inline"><span class="muted">smooth</span><input type="range" min="0" max="0.99" step="0.01" value=${smooth} aria-label="Smoothing" onInput=${(e) => jt.set({ smooth: e.target.value === "0" ? null : e.target.value })} /><span>${smooth.toFixed(2)}</span></label>`;
  };

  const Timeline = ({ events }) => {
    const [all, setAll] = useState(false);
    const shown = all ? events : events.slice(-30);
    return html`<${Panel} title="Timeline"><ol class="timeline">${shown.map((e) => html`<li><time datetime=${e.at}>${jt.moment(e.at)}</time><span class="what"><span class="muted">${e.kind}${e.name ? ` ${e.name}` : ""}</span> ${e.text.slice(0, 300)}${PROBLEMS.includes(e.state) && html` <${State} state=${e.state} />`}${e.reason && html` <span class="muted">${e.reason}</span>`}</span></li>`)}</ol>
      ${!all && events.length > 30 && html`<button onClick=${() => setAll(true)}>All ${events.length}</button>`}<//>`;
  };

  jt.Run = () => {
    const { params } = jt.useRoute();
    const key = params.get("run");
    const { data, error } = jt.useData(key ? "run" : null, { run: key });
    if (!key) return html`<div class="empty">No run was named. <a href="#/runs">All runs</a></div>`;
    if (!data) return error ? html`<${jt.Problem} error=${error} />` : html`<p class="muted" role="status">Loading…</p>`;
    const { artifacts } = data;
    const diff = artifacts.find((a) => a.is_newest_diff && a.here);
    return html`${error && html`<${jt.Problem} error=${error} />`}
      <div class="row apart"><div style=${{ minWidth: 0 }}><div class="row"><h1>${jt.label(data)}</h1><${jt.Status} status=${data.status} /></div>
        <div class="muted">${data.display_name && data.display_name !== data.name ? `${data.name} · ` : ""}started ${jt.moment(data.started)} · ${jt.duration(data.duration_s)}</div></div>
        <a class="button" href=${jt.href("compare", { run: [key] })}>Compare…</a></div>
      ${data.message && html`<div class="alert mild"><strong>${data.message}</strong>${data.traceback && html`<details><summary>Traceback</summary><pre>${data.traceback}</pre></details>`}</div>`}
      ${data.output.length > 0 && html`<div class="alert mild"><details><summary>Last lines of the output</summary><pre>${data.output.join("\n")}</pre></details></div>`}
      ${(Object.keys(data.tags).length > 0 || data.note) && html`<div>${Object.entries(data.tags).map(([k, v]) => html`<span class="tag">${v ? `${k}=${v}` : k}</span>`)}${data.note && html`<p class="note">${data.note}</p>`}</div>`}
      <${Curves} run=${key} data=${data} params=${params} />
      <div class="two"><${Parameters} parameters=${data.parameters} />
        <div style=${{ display: "grid", gap: "20px", minWidth: 0 }}>
        <${Panel} title="Provenance"><${Facts} rows=${[
          ...data.recorded.map(([name, text]) => [name, html`<code>${text}</code>`]),
          ["git diff", diff && html`<${Diff} run=${key} artifact=${diff} />`],
          ...Object.entries(data.packages).filter(([, found]) => Object.keys(found).length > 0).map(([name, found]) => [name, html`<${Packages} packages=${found} />`]),
          ["trials", data.trials.map((t) => t.filter(Boolean).join(" / ")).join(", ")], ["journal", data.journal]]} /><//>
        <${Panel} title="Delivery" end=${html`<a href="#/delivery">Whole journal</a>`}><${Facts} rows=${[
          ["entries", data.delivery.entries], ["delivered", data.delivery.delivered], ["pending", data.delivery.pending],
          ["in doubt", data.delivery.in_doubt], ["quarantined", data.delivery.quarantined], ["ARN", data.arn],
          ...Object.entries(data.destinations).map(([name, d]) => [`to ${name}`, `${d.delivered} delivered, ${d.pending} pending, ${d.quarantined} quarantined`]),
          ["audit", html`<${jt.Command} text=${data.audit} />`]]} />
          ${data.is_hearsay && html`<p class="muted">Some deliveries are known from others only; \`journaltrack check --remote\` asks AWS.</p>`}<//></div></div>
      <${Panel} title="Artifacts" flush>${artifacts.length ? html`<div class="scroll"><table class="stacked"><caption class="unseen">Artifacts</caption><tbody>${artifacts.map((a) => html`<${Artifact} key=${`${a.direction} ${a.name} ${a.steps.length ? "" : a.sha256}`} run=${key} artifact=${a} />`)}</tbody></table></div>` : html`<div class="body muted">None were logged.</div>`}<//>
      <${Timeline} events=${data.timeline} />`;
  };
})();
