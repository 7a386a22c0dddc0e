// Runs before the first paint, so that a chosen theme does not flash. Without a choice the system's theme holds.
(() => {
  try {
    const chosen = localStorage.getItem("vantage-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage may be forbidden; the system's theme is fine.
  }
})();
