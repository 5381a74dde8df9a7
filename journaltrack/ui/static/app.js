/* The frame: pages, theme, the state of the connection, errors. */
"use strict";
(function () {
  const { html, render, Component, useEffect } = htmPreact;

  const PAGES = { runs: ["Runs", jt.Runs], run: ["Run", jt.Run], compare: ["Compare", jt.Compare], delivery: ["Delivery", jt.DeliveryPage] };

  /** A fault of the page itself is told, and leaves the rest usable. */
  class Guard extends Component {
    componentDidCatch(error) {
      this.setState({ error });
    }
    render({ children }, { error }) {
      if (!error) return children;
      return html`<${jt.Problem} error=${{ message: `This page has a fault: ${error.message}`, hint: "Reload it. If it happens again, please report it." }} />`;
    }
  }

  const THEMES = { "": "Auto", light: "Light", dark: "Dark" };
  const theme = () => document.documentElement.dataset.theme || "";
  const setTheme = (name) => {
    if (name) document.documentElement.dataset.theme = name;
    else delete document.documentElement.dataset.theme;
    try {
      localStorage.setItem("theme", name);
    } catch { /* the choice lasts as long as the page */ }
    dispatchEvent(new Event("jt-theme"));
  };

  const App = () => {
    const { page, params } = jt.useRoute();
    const [title, Page] = jt.own(PAGES, page) || PAGES.runs;
    useEffect(() => {
      document.title = `${title} · journaltrack`;
    }, [title]);
    // Another subject is another page: nothing of one run may be seen below the name of another.
    const subject = JSON.stringify([page, params.getAll("run")]);
    const tab = (name, text, href) => html`<a href=${href} aria-current=${page === name || (name === "runs" && page === "run") ? "page" : undefined}>${text}</a>`;
    return html`<a class="skip" href="#main" onClick=${(e) => { e.preventDefault(); document.querySelector("main").focus(); }}>Skip to content</a>
      <header class="top"><a class="brand" href="#/runs">journaltrack</a>
        <nav aria-label="Pages">${tab("runs", "Runs", "#/runs")}${tab("compare", "Compare", page === "compare" ? location.hash : jt.href("compare", { run: params.getAll("sel") }))}${tab("delivery", "Delivery", "#/delivery")}</nav>
        <div class="end"><span class=${jt.live.connected ? "live" : "live off"} role="status">${jt.live.connected ? "live" : "not connected"}</span>
          <select aria-label="Theme" value=${theme()} onChange=${(e) => setTheme(e.target.value)}>${Object.entries(THEMES).map(([k, t]) => html`<option value=${k}>${t}</option>`)}</select></div></header>
      <main tabindex="-1"><${Guard} key=${subject}><${Page} /><//></main>`;
  };

  try {
    setTheme(localStorage.getItem("theme") || "");
  } catch { /* no storage: the system's theme */ }
  addEventListener("keydown", (event) => {
    const filter = document.getElementById("filter");
    if (event.key === "/" && filter && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName)) {
      event.preventDefault();
      filter.focus();
    }
  });
  render(html`<${App} />`, document.getElementById("app"));
  jt.connect();
})();
