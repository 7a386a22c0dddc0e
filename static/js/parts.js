// Loads [data-part] from its URL once it comes near the view, and again every data-every seconds while the page is live,
// visible and not paused. See vantage/web/pages/service_parts.py.
(() => {
  const AHEAD_PX = 300;
  const BEAT_MS = 1000;
  const FAILED = "This part could not be loaded. It is tried again.";
  const RETRY_S = 10; // also of parts that are otherwise loaded once
  const HEADERS = { Accept: "text/html", "HX-Request": "true", "HX-Request-Type": "partial" };
  const parts = new Map(); // element -> { near, loading, loaded, failed, at }

  const mayLoad = () => !document.hidden && document.getElementById("live")?.dataset.state !== "paused";

  const note = (element, text) => {
    let paragraph = element.querySelector(":scope > .part-note");
    if (!paragraph) {
      paragraph = document.createElement("p");
      paragraph.className = "nothing part-note";
      paragraph.setAttribute("role", "status");
      element.append(paragraph);
    }
    paragraph.textContent = text;
  };

  const load = async (element, entry) => {
    Object.assign(entry, { loading: true, at: Date.now() });
    if (!entry.loaded && !entry.failed) note(element, "Loading …");
    try {
      const response = await fetch(element.dataset.part, { headers: HEADERS, cache: "no-store" });
      if (response.redirected) location.reload(); // the session has ended
      if (!response.ok) throw new Error(response.statusText);
      const text = await response.text();
      if (!element.isConnected) return;
      await htmx.swap({ sourceElement: element, target: element, text, swap: "innerMorph" });
      Object.assign(entry, { loaded: true, failed: false });
    } catch {
      entry.failed = true;
      if (element.isConnected) note(element, FAILED);
    } finally {
      entry.loading = false;
    }
  };

  const isDue = (element, entry) => {
    if (!entry.near || entry.loading) return false;
    if (entry.failed) return Date.now() - entry.at >= RETRY_S * 1000;
    if (!entry.loaded) return true;
    const seconds = Number(element.dataset.every);
    return seconds > 0 && Date.now() - entry.at >= seconds * 1000;
  };

  const beat = () => {
    if (!mayLoad()) return;
    for (const [element, entry] of parts) if (isDue(element, entry)) load(element, entry);
  };

  const observer = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      const entry = parts.get(target);
      if (entry) entry.near = isIntersecting;
    }
    beat();
  }, { rootMargin: `${AHEAD_PX}px 0px` });

  const find = () => {
    for (const element of parts.keys()) {
      if (element.isConnected) continue;
      observer.unobserve(element);
      parts.delete(element);
    }
    for (const element of document.querySelectorAll("[data-part]")) {
      if (parts.has(element)) continue;
      parts.set(element, { near: false, loading: false, loaded: false, failed: false, at: 0 });
      observer.observe(element);
    }
  };

  document.addEventListener("htmx:after:swap", find);
  document.addEventListener("visibilitychange", beat);
  setInterval(beat, BEAT_MS);
  find();
})();
