// Keeps the view up to date: over a socket the server sends what changed of it, at most once a second, as edits of its
// text (vantage/web/edits.py), and it is morphed. Never while the tab is hidden. The button #live shows the state.
(() => {
  const RETRY_MS_MIN = 500;
  const LOST_MS_MIN = 3000;
  const RETRY_MS_MAX = 15000;
  const HEARTBEATS_MISSED_MAX = 2.5;
  const SILENCE_MS_MAX = JSON.parse(document.body.dataset.limits).heartbeat_s * 1000 * HEARTBEATS_MISSED_MAX;
  const NOTHING = { url: "", etag: "", text: "" };
  const TEXTS = { connecting: "Connecting", live: "Live", reconnecting: "Reconnecting", paused: "Paused", still: "Fixed range" };

  const button = document.getElementById("live");
  let socket = null;
  let retryMs = RETRY_MS_MIN;
  let retryTimer = 0;
  let silenceTimer = 0;
  let wasConnected = false;
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

  // The text of the view as the server rendered it last, and its entity tag: what changes are applied to.
  let known = NOTHING;
  let asked = "";

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

  const address = () => location.pathname + location.search;

  // Tells the server what this tab shows, so that it sends what changes of it.
  const watch = () => {
    const url = address();
    const asks = JSON.stringify({ type: "watch", url, etag: known.url === url ? known.etag : "", service: watched() });
    if (socket?.readyState !== WebSocket.OPEN || !watched() || asked === url) return;
    asked = url;
    socket.send(asks);
  };

  const textOf = (message) => {
    if (message.text !== undefined) return message.text;
    if (known.url !== message.url || known.etag !== message.has) return "";
    const text = applied(known.text, message.change.edits);
    return text.length === message.change.length ? text : "";
  };

  const showView = async (packed) => {
    const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
    const message = await new Response(stream).json();
    if (message.reload) {
      location.reload(); // the session has ended
      return;
    }
    if (message.url !== address() || document.hidden || isPaused) {
      known = NOTHING;
      return;
    }
    const text = textOf(message);
    known = text ? { url: message.url, etag: message.etag, text } : NOTHING;
    if (!text) {
      asked = ""; // then all of it
      watch();
    } else if (watched()) {
      await htmx.swap({ sourceElement: view(), target: view(), text, swap: "outerMorph" });
    }
  };

  // One after the other, in the order in which they came.
  let showing = Promise.resolve();
  const received = (packed) => {
    showing = showing.then(() => showView(packed)).catch(() => {
      known = NOTHING;
      asked = "";
      watch();
    });
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
      asked = "";
      watch(); // updates may have been missed since this page was rendered
      show();
    });
    opened.addEventListener("message", (event) => {
      heard();
      if (event.data instanceof Blob) received(event.data);
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
    const open = socket;
    socket = null;
    open?.close();
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      disconnect();
    } else {
      connect();
    }
    show();
  });
  button.addEventListener("click", () => {
    isPaused = !isPaused;
    if (isPaused) {
      disconnect();
    } else {
      connect();
    }
    show();
  });
  // The document goes into the back-forward cache only without an open socket.
  window.addEventListener("pagehide", disconnect);
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) {
      connect();
    }
  });
  document.addEventListener("htmx:after:swap", () => {
    show();
    watch();
  });

  show();
  connect();
})();
