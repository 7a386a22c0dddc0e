// VQL: the queries that this browser has run, the latest first.
(() => {
  const KEY = "vantage-vql-history";
  const QUERIES_MAX = 50;
  const textarea = document.getElementById("query-text");
  const menu = document.querySelector("[data-history]");

  const read = () => {
    try {
      const stored = JSON.parse(localStorage.getItem(KEY) ?? "[]");
      return Array.isArray(stored) ? stored.filter((text) => typeof text === "string") : [];
    } catch {
      return [];
    }
  };

  const remember = (text) => {
    if (!text.trim()) return;
    try {
      localStorage.setItem(KEY, JSON.stringify([text, ...read().filter((other) => other !== text)].slice(0, QUERIES_MAX)));
    } catch {
      // Storage may be forbidden or full; then there is no history.
    }
  };

  const show = () => {
    const queries = read();
    menu.hidden = !queries.length;
    menu.querySelector("ul").replaceChildren(...queries.map((text) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.className = "menu-item";
      button.textContent = text.replace(/\s+/g, " ");
      button.title = text;
      button.addEventListener("click", () => {
        textarea.value = text;
        textarea.dispatchEvent(new CustomEvent("vantage:text"));
        menu.open = false;
      });
      item.append(button);
      return item;
    }));
  };

  document.addEventListener("click", (event) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
  menu.addEventListener("keydown", (event) => {
    if (event.key === "Escape") menu.open = false;
  });
  document.querySelector("[data-hint]").hidden = false;
  if (!document.getElementById("query-problem")) remember(textarea.value);
  show();
})();
