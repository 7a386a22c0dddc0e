// The command palette (Ctrl-K): pages, services, metrics, a trace by its id, and actions; and the keys (?).
(() => {
  const WAIT_MS = 80;
  const GO_MS = 1200; // within which a letter follows "g"
  const dialog = document.getElementById("palette");
  const keys = document.getElementById("keys");
  if (!dialog || !keys) return;
  const input = dialog.querySelector("input");
  const list = dialog.querySelector("ul");
  const isMac = /Mac|iPhone|iPad/.test(navigator.platform);
  let chosen = 0;
  let timer = 0;
  let asked = 0;
  let goUntil = 0;

  const pages = () => [...document.querySelectorAll(".side nav a")].map((link) => ({
    kind: "page", label: link.textContent.trim(), detail: link.dataset.key ? `g ${link.dataset.key}` : "", run: () => link.click(),
  }));
  const switchZone = () => {
    try {
      if (globalThis.vantageZone) localStorage.removeItem("vantage-zone");
      else localStorage.setItem("vantage-zone", "UTC");
    } catch {
      return; // without storage it would not last
    }
    location.reload();
  };

  const actions = () => [
    { kind: "action", label: globalThis.vantageZone ? "Show times in the local zone" : "Show times in UTC", detail: "u", run: switchZone },
    { kind: "action", label: "Switch between light and dark", detail: "t", run: () => document.getElementById("theme").click() },
    { kind: "action", label: "Follow or stop following new data", detail: "l", run: () => document.getElementById("live")?.click() },
    { kind: "action", label: "Copy the address of this view", detail: "", run: () => navigator.clipboard?.writeText(location.href) },
    { kind: "action", label: "Show the keys", detail: "?", run: () => keys.showModal() },
    ...[...document.querySelectorAll(".ranges a")].map((link) => ({
      kind: "range", label: `Last ${link.textContent.trim()}`, detail: "", run: () => link.click(),
    })),
  ];

  const matches = (item, text) => text.toLowerCase().split(/\s+/).every((word) => item.label.toLowerCase().includes(word));

  const choose = (index) => {
    const items = [...list.children];
    chosen = items.length ? (index + items.length) % items.length : 0;
    items.forEach((item, number) => { item.setAttribute("aria-selected", String(number === chosen)); });
    input.setAttribute("aria-activedescendant", items[chosen]?.id ?? "");
    items[chosen]?.scrollIntoView({ block: "nearest" });
  };

  const show = (items) => {
    list.replaceChildren(...items.map((item, number) => {
      const row = document.createElement("li");
      row.id = `palette-${number}`;
      row.className = "palette-item";
      row.setAttribute("role", "option");
      for (const [name, text] of [["palette-kind", item.kind], ["palette-label", item.label], ["palette-detail", item.detail]]) {
        const part = document.createElement("span");
        part.className = name;
        part.textContent = text;
        row.append(part);
      }
      row.addEventListener("pointermove", () => { if (chosen !== number) choose(number); });
      row.addEventListener("click", () => run(item));
      row.item = item;
      return row;
    }));
    if (!items.length) list.replaceChildren();
    dialog.querySelector(".palette-none").hidden = items.length > 0 || !input.value.trim();
    choose(0);
  };

  const run = (item) => {
    dialog.close();
    if (item.href) location.assign(item.href);
    else item.run();
  };

  const search = async () => {
    const text = input.value.trim();
    const number = ++asked;
    const here = [...pages(), ...actions()].filter((item) => !text || matches(item, text));
    if (!text) {
      show(here);
      return;
    }
    let found = [];
    try {
      const response = await fetch(`/palette?q=${encodeURIComponent(text)}`, { headers: { Accept: "application/json" } });
      if (response.ok && !response.redirected) found = await response.json();
    } catch {
      // Without the server there are pages and actions.
    }
    if (number === asked && dialog.open) show([...found, ...here]);
  };

  const open = () => {
    if (dialog.open) return;
    input.value = "";
    dialog.showModal();
    search();
  };

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(search, WAIT_MS);
  });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") choose(chosen + 1);
    else if (event.key === "ArrowUp") choose(chosen - 1);
    else if (event.key === "Enter") {
      const item = list.children[chosen]?.item;
      if (item) run(item);
    } else return;
    event.preventDefault();
  });
  for (const shown of [dialog, keys]) {
    shown.addEventListener("click", (event) => { if (event.target === shown) shown.close(); });
  }

  const isTyping = (element) => element.closest("input, textarea, select, [contenteditable], .editor") !== null;
  document.addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "k") {
      event.preventDefault();
      open();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || dialog.open) return;
    const goes = Date.now() < goUntil;
    goUntil = 0;
    if (goes) document.querySelector(`.side nav a[data-key="${CSS.escape(event.key)}"]`)?.click();
    else if (event.key === "g") goUntil = Date.now() + GO_MS;
    else if (event.key === "/") open();
    else if (event.key === "?") keys.showModal();
    else if (event.key === "t") document.getElementById("theme").click();
    else if (event.key === "u") switchZone();
    else if (event.key === "l") document.getElementById("live")?.click();
    else return;
    event.preventDefault();
  });

  for (const button of document.querySelectorAll("[data-palette]")) {
    button.hidden = false;
    button.addEventListener("click", open);
    const hint = button.querySelector("kbd");
    if (hint && isMac) hint.textContent = "⌘ K";
  }
})();
