// Runs before the first paint, so that a chosen theme does not flash. The default is the system's theme.
(() => {
  try {
    const chosen = localStorage.getItem("vantage-theme");
    if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  } catch {
    // Storage may be forbidden; the system's theme is fine.
  }
})();
