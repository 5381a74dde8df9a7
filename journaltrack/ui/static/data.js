/* How the page asks: the address bar as state, requests with the token, and events that say when to
   ask again. */
"use strict";
(function () {
  const { html, useEffect, useRef, useState } = htmPreact;

  /* Every text that the page shows passes here, whoever wrote it: see `jt.shown`. What a component
     or a link gets as a value stays as it is. */
  const SAID = ["title", "aria-label", "alt"];
  const passed = new WeakSet();
  const shown = (made) => {
    if (typeof made === "string") return jt.shown(made);
    if (Array.isArray(made)) return made.map(shown);
    if (!made || !made.props || passed.has(made)) return made;
    passed.add(made);
    const { type, props } = made;
    if (props.children !== undefined) props.children = shown(props.children);
    if (typeof type === "string") SAID.filter((name) => typeof props[name] === "string").forEach((name) => { props[name] = jt.shown(props[name]); });
    return made;
  };
  htmPreact.html = (...template) => shown(html(...template));

  jt.token = new URLSearchParams(location.search).get("token") || "";

  const listeners = new Set();
  let told = 0;
  const tell = () => {
    told += 1;
    listeners.forEach((each) => each());
  };
  const useTurns = () => {
    const [, setTurn] = useState(0);
    const drawn = told;
    useEffect(() => {
      const again = () => setTurn((n) => n + 1);
      listeners.add(again);
      // Something may have been told between drawing and listening.
      if (told !== drawn) again();
      return () => listeners.delete(again);
    }, []);
  };

  /* The address: #/page?name=value. It holds selection, filter and zoom, so a link keeps them. */
  jt.route = () => {
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    return { page: path || "runs", params: new URLSearchParams(query || "") };
  };
  const queryOf = (values) => {
    const params = new URLSearchParams();
    for (const [name, value] of Object.entries(values)) {
      for (const each of Array.isArray(value) ? value : [value]) {
        if (each !== null && each !== undefined && each !== "" && each !== false) params.append(name, each);
      }
    }
    return params;
  };
  jt.href = (page, values) => {
    const query = String(queryOf(values || {}));
    return `#/${page}${query ? `?${query}` : ""}`;
  };
  /** Change some values of the address and keep the rest; lists replace lists. */
  jt.set = (changes) => {
    const { page, params } = jt.route();
    for (const [name, value] of Object.entries(changes)) {
      params.delete(name);
      for (const [, each] of queryOf({ [name]: value })) params.append(name, each);
    }
    const query = String(params);
    history.replaceState(null, "", `#/${page}${query ? `?${query}` : ""}`);
    tell();
  };
  addEventListener("hashchange", tell);
  jt.useRoute = () => {
    useTurns();
    return jt.route();
  };

  /** Ask the server; an error has `message` and `hint`. */
  jt.get = async (path, values, signal) => {
    let response;
    try {
      response = await fetch(`api/${path}?${queryOf(values || {})}`, { headers: { Authorization: `Bearer ${jt.token}` }, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw { message: "The server is gone.", hint: "Start it again: journaltrack ui" };
    }
    if (response.ok) return response;
    let told = { message: `The server answered ${response.status}.`, hint: "" };
    try {
      told = (await response.json()).error;
    } catch { /* no JSON: the status says enough */ }
    throw told;
  };

  /* Curves are asked for two at a time: the first one is there soon, instead of all at once late. */
  const AT_ONCE = 2;
  let running = 0;
  const waiting = [];
  const inTurn = async (signal, ask) => {
    if (running >= AT_ONCE) await new Promise((begin) => waiting.push(begin));
    running += 1;
    try {
      signal.throwIfAborted();
      return await ask();
    } finally {
      running -= 1;
      if (waiting.length) waiting.shift()();
    }
  };

  /* Events carry a number that grows with each change, and so do answers: what is shown asks again
     when its answer is older, one request at a time for each. */
  jt.live = { connected: false, turn: 0 };
  const setLive = (news) => {
    jt.live = { ...jt.live, ...news };
    tell();
  };

  /* A browser keeps six connections to a server, for all its tabs together: with a line of events in
     each, a seventh tab would never load. One tab listens and tells the others; when it closes, the
     next one has the lock. */
  jt.connect = () => {
    // Another server may have had this port before.
    const name = `jt-events ${jt.token}`;
    const channel = new BroadcastChannel(name);
    let listens = false;
    channel.onmessage = ({ data }) => {
      if (data) setLive(data);
      else if (listens) channel.postMessage(jt.live);
    };
    const share = (news) => {
      setLive(news);
      channel.postMessage(jt.live);
    };
    channel.postMessage(null);
    navigator.locks.request(name, () => new Promise(() => {
      listens = true;
      const source = new EventSource(`api/events?${queryOf({ token: jt.token })}`);
      source.onopen = () => share({ connected: true });
      source.onerror = () => share({ connected: false });
      source.addEventListener("changed", (event) => share({ turn: Number(event.data) }));
    }));
  };

  /**
   * The answer to a request, asked again when its values or a journal change. The last answer stays
   * until the next one is there; `isOld` says that it answers other values than those of now.
   * `path` null: nothing is asked.
   */
  jt.useData = (path, values) => {
    useTurns();
    const [state, setState] = useState({ data: null, of: null, error: null });
    const own = useRef({ busy: null, key: null, turn: -1 }).current;
    const key = path && `${path}?${queryOf(values || {})}`;
    const ask = () => {
      if (own.busy && own.key === key) return;
      if (own.busy) own.busy.abort();
      const control = new AbortController();
      Object.assign(own, { busy: control, key });
      const question = async () => {
        const response = await jt.get(path, values, control.signal);
        return { data: await response.json(), turn: Number(response.headers.get("X-Journaltrack-Turn")) };
      };
      (path === "series" ? inTurn(control.signal, question) : question()).then(
        ({ data, turn }) => {
          if (control.signal.aborted) return;
          own.turn = turn;
          setState({ data, of: key, error: null });
        },
        (error) => {
          if (control.signal.aborted) return;
          own.turn = jt.live.turn;
          setState((old) => ({ ...old, error }));
        },
      ).finally(() => {
        if (own.busy !== control) return;
        own.busy = null;
        if (own.turn < jt.live.turn) ask();
      });
    };
    useEffect(() => {
      if (path && (own.key !== key || own.turn < jt.live.turn)) ask();
    }, [key, jt.live.turn]);
    useEffect(() => () => own.busy && own.busy.abort(), []);
    return { ...state, isOld: state.of !== key };
  };
})();
