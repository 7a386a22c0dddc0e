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

  const menus = document.querySelectorAll(".menu");
  document.addEventListener("click", (event) => {
    for (const other of menus) if (!other.contains(event.target)) other.open = false;
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") for (const other of menus) other.open = false;
  });
  // The name to save it by has no place in the address of a query. Enter in its field saves.
  const name = document.querySelector("[name='save_as']");
  const form = document.getElementById("query");
  let saves = false;
  form.addEventListener("submit", (event) => { saves = event.submitter?.formMethod === "post"; });
  form.addEventListener("formdata", (event) => { if (!saves) event.formData.delete("save_as"); });
  name?.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    name.closest(".save-form").querySelector("button").click();
  });
  document.querySelector("[data-hint]").hidden = false;
  if (!document.getElementById("query-problem")) remember(textarea.value);
  show();
})();
