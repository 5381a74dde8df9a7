/* Where each journal stands, what went wrong, and the commands to run next. */
"use strict";
(function () {
  const { html, useState } = htmPreact;

  jt.Command = ({ text }) => {
    const [copied, setCopied] = useState(false);
    const copy = () => navigator.clipboard && navigator.clipboard.writeText(text).then(() => setCopied(true), () => {});
    return html`<div class="command"><code>${text}</code><button class="quiet" onClick=${copy} aria-label=${`Copy ${text}`}>${copied ? "Copied" : "Copy"}</button></div>`;
  };

  const Journal = ({ journal }) => {
    if (journal.error) return html`<${jt.Panel} title=${journal.path}><${jt.Problem} error=${journal.error} /><//>`;
    const s = journal.status;
    const total = s.pending + s.in_flight + s.in_doubt + s.quarantined;
    const own = { ...s, pending: s.pending + s.in_flight };
    const further = Object.fromEntries(s.destinations.filter((d) => !d.problem).map((d) => [d.name, d]));
    return html`<${jt.Panel} title=${journal.path} end=${s.destinations.length ? html`<${jt.Deliveries} run=${{ delivery: own, destinations: further }} />` : total === 0 ? html`<span class="chip good">all delivered</span>` : html`<${jt.Delivery} delivery=${own} />`}>
      <div class="two"><${jt.Facts} rows=${[
        ["pending", `${s.pending}${s.pending_by_stream.length ? ` (${s.pending_by_stream.map((p) => `${p.entries} ${p.stream}`).join(", ")})` : ""}`],
        ["oldest pending", s.oldest_pending_at && `${jt.moment(s.oldest_pending_at)} (${jt.age(s.oldest_pending_at)})`], ["in flight", s.in_flight], ["in doubt", s.in_doubt], ["quarantined", s.quarantined],
        ["last success", s.last_success ? `${jt.moment(s.last_success.at)}, ${s.last_success.action}` : "never"],
        ["last error", s.last_error && `${jt.moment(s.last_error.at)}: ${s.last_error.code || ""} ${s.last_error.text || ""}`],
        ["syncing now", s.lease && `${s.lease.owner} since ${jt.moment(s.lease.acquired_at)}`], ["endpoint", journal.endpoint],
        ...s.destinations.map((d) => [`to ${d.name}`, d.problem || `${d.pending} pending, ${d.quarantined} quarantined`]),
        ["size", `${jt.bytes(s.sizes.database_bytes)} database, ${jt.bytes(s.sizes.spool_bytes)} artifacts`]]} />
      <div style=${{ display: "grid", gap: "10px", alignContent: "start" }}><h3>${journal.next.length ? "Next" : "Nothing to do"}</h3>
        ${journal.next.map((n) => html`<div><div class="muted">${n.why}</div><${jt.Command} text=${n.command} /></div>`)}</div></div>
      ${journal.problems.length > 0 && html`<h3 style=${{ margin: "16px 0 6px" }}>Problems</h3><div class="scroll"><table class="stacked"><caption class="unseen">Entries with problems</caption><thead><tr><th scope="col">run</th><th scope="col">entries</th><th scope="col">state</th><th scope="col">reason</th></tr></thead>
        <tbody>${journal.problems.map((p) => html`<tr><td class="wide">${p.run}</td><td class="wide">${p.what}</td><td><span class=${`chip ${p.state === "quarantined" ? "bad" : "warn"}`}>${p.state}</span></td><td class="wide">${p.reason}</td></tr>`)}</tbody></table></div>`}<//>`;
  };

  jt.DeliveryPage = () => {
    const { data, error } = jt.useData("delivery", {});
    if (!data) return error ? html`<${jt.Problem} error=${error} />` : html`<p class="muted" role="status">Loading…</p>`;
    return html`<h1 class="unseen">Delivery</h1>${error && html`<${jt.Problem} error=${error} />`}${data.journals.map((j) => html`<${Journal} key=${j.path} journal=${j} />`)}`;
  };
})();
