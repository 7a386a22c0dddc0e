// Refreshes the view: the server sends the names of services with new data over a socket, and what changed of the view
// is fetched (RFC 3229, vantage/web/edits.py) and morphed, at most once a second, never while the tab is hidden. The
// button #live shows the state.
(() => {
  const REFRESH_MS_MIN = 1000;
  const REST_FACTOR = 3; // refresh a slow server less often: wait this many times as long as it took
  const EVERYTHING = "*"; // in place of the names of services
  const RETRY_MS_MIN = 500;
  const LOST_MS_MIN = 3000;
  const RETRY_MS_MAX = 15000;
  const HEARTBEATS_MISSED_MAX = 2.5;
  const SILENCE_MS_MAX = JSON.parse(document.body.dataset.limits).heartbeat_s * 1000 * HEARTBEATS_MISSED_MAX;
  const TEXTS = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", paused: "Paused", still: "Fixed range" };

  const button = document.getElementById("live");
  let socket = null;
  let retryMs = RETRY_MS_MIN;
  let retryTimer = 0;
  let silenceTimer = 0;
  let refreshTimer = 0;
  let refreshedAt = 0;
  let tookMs = 0;
  let wasConnected = false;
  let isStale = false;
  let isRefreshing = false;
  let isPaused = false;
  let lostAt = 0;

  const view = () => document.getElementById("view");
  const watched = () => view()?.dataset.live ?? "";

  // After a while without a connection, a notice above the view says since when it has not changed.
  const showLost = (isLost) => {
    const notice = document.getElementById("offline");
    if (!isLost) lostAt = 0;
    else if (!lostAt) {
      lostAt = Date.now();
      setTimeout(show, LOST_MS_MIN);
    }
    const hidden = !lostAt || Date.now() - lostAt < LOST_MS_MIN;
    if (notice.hidden === hidden) return;
    notice.hidden = hidden;
    if (!hidden) notice.querySelector("time").textContent = new Date(lostAt).toLocaleTimeString();
  };

  const show = () => {
    const open = socket?.readyState === WebSocket.OPEN;
    let state = open ? "live" : wasConnected ? "reconnecting" : "connecting";
    if (isPaused) state = "paused";
    else if (!watched()) state = "still";
    button.hidden = view()?.dataset.live === undefined; // such as a trace, which does not change
    showLost(state === "reconnecting");
    if (button.dataset.state === state) return;
    button.dataset.state = state;
    button.setAttribute("aria-pressed", String(isPaused));
    button.title = isPaused ? "Follow new data again" : "Stop following new data";
    button.querySelector(".live-text").textContent = TEXTS[state];
  };

  // The text of the view as the server rendered it last, and its entity tag: what edits are applied to.
  let known = { url: "", etag: "", text: "" };

  const applied = (text, edits) => {
    const lines = text.split("\n");
    for (const [line, ...change] of edits.reverse()) {
      if (change.length === 3) {
        const [before, after, inserted] = change;
        lines[line] = lines[line].slice(0, before) + inserted + lines[line].slice(lines[line].length - after);
      } else {
        lines.splice(line, change[0], ...change[1]);
      }
    }
    return lines.join("\n");
  };

  const fetchView = async () => {
    const url = location.pathname + location.search;
    const has = known.url === url ? known : { url, etag: "", text: "" };
    const headers = { Accept: "text/html", "HX-Request": "true", "HX-Request-Type": "partial", "A-IM": "edits" };
    if (has.etag) headers["If-None-Match"] = has.etag;
    const response = await fetch(url, { headers, cache: "no-store" });
    if (response.redirected) {
      location.assign(response.url); // the session has ended
      return;
    }
    if (!response.ok) return;
    let text;
    if (response.status === 226) {
      const { length, edits } = await response.json();
      text = applied(has.text, edits);
      if (text.length !== length) text = ""; // then all of it next time
    } else {
      text = await response.text();
    }
    known = text ? { url, etag: response.headers.get("ETag") ?? "", text } : { url: "", etag: "", text: "" };
    if (!text || document.hidden || location.pathname + location.search !== url) return;
    await htmx.swap({ sourceElement: view(), target: view(), text, swap: "outerMorph" });
  };

  const refresh = async () => {
    refreshTimer = 0;
    if (document.hidden || isPaused || !watched()) return;
    isStale = false;
    isRefreshing = true;
    refreshedAt = Date.now();
    try {
      await fetchView();
    } catch {
      // The view stays as it is; the button shows whether the server can be reached.
    } finally {
      isRefreshing = false;
      tookMs = Date.now() - refreshedAt;
      if (isStale) plan();
    }
  };

  const plan = () => {
    isStale = true;
    if (refreshTimer || isRefreshing || document.hidden || isPaused) return;
    refreshTimer = setTimeout(refresh, Math.max(0, refreshedAt + Math.max(REFRESH_MS_MIN, tookMs * (1 + REST_FACTOR)) - Date.now()));
  };

  const concerns = (services) => {
    const names = watched();
    return names !== "" && (names === EVERYTHING || services.includes(EVERYTHING) || services.includes(names));
  };

  const heard = () => {
    clearTimeout(silenceTimer);
    silenceTimer = setTimeout(() => socket?.close(), SILENCE_MS_MAX);
  };

  const connect = () => {
    clearTimeout(retryTimer);
    if (document.hidden || isPaused || socket) return;
    const opened = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws/pages`);
    socket = opened;
    opened.addEventListener("open", () => {
      heard();
      retryMs = RETRY_MS_MIN;
      wasConnected = true;
      plan(); // updates may have been missed since this page was rendered
      show();
    });
    opened.addEventListener("message", (event) => {
      heard();
      const message = JSON.parse(event.data);
      if (message.type === "changed" && concerns(message.services)) plan();
    });
    opened.addEventListener("close", () => {
      clearTimeout(silenceTimer);
      if (socket !== opened) return;
      socket = null;
      show();
      if (document.hidden || isPaused) return;
      retryTimer = setTimeout(connect, retryMs * (0.5 + Math.random()));
      retryMs = Math.min(RETRY_MS_MAX, retryMs * 2);
    });
  };

  const disconnect = () => {
    clearTimeout(retryTimer);
    clearTimeout(refreshTimer);
    refreshTimer = 0;
    const open = socket;
    socket = null;
    open?.close();
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      disconnect();
    } else {
      isStale = true;
      connect();
    }
    show();
  });
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    if (isPaused) {
      disconnect();
    } else {
      isStale = true;
      connect();
    }
    show();
  });
  // The document goes into the back-forward cache only without an open socket.
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) {
      isStale = true;
      connect();
    }
  });
  document.addEventListener("htmx:after:swap", show);

  show();
  connect();
})();
