// Runs before the first paint, so that a chosen theme does not flash. The default is the system's theme, and its time
// zone: vantageZone is what times are shown in, undefined for the system's.
(() => {
  try {
    const chosen = localStorage.getItem("vantage-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
    globalThis.vantageZone = localStorage.getItem("vantage-zone") === "UTC" ? "UTC" : undefined;
  } catch {
    // Storage may be forbidden; those of the system are fine.
  }
})();
