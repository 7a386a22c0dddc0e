// The page of a trace: keys to move through the lines, and links to a span by the hash of the URL.
(() => {
  const rows = () => [...document.querySelectorAll("#waterfall .span-open")];
  const lineOf = (element) => element?.closest("#waterfall li.span") ?? null;
  const isTyping = (element) => element.closest("input, textarea, select, [contenteditable]") !== null;

  // The line with the focus, or else the selected one.
  const current = () => lineOf(document.activeElement) ?? lineOf(document.querySelector("#waterfall .row-selected"));

  const focusOn = (button) => {
    button.focus({ preventScroll: true });
    button.closest(".row").scrollIntoView({ block: "nearest" });
  };

  const move = (step) => {
    const all = rows();
    if (!all.length) return;
    const at = all.indexOf(current()?.querySelector(".span-open"));
    focusOn(all[at < 0 ? 0 : Math.min(Math.max(at + step, 0), all.length - 1)]);
  };

  const fold = (isOpen) => {
    const button = current()?.querySelector(`.fold[aria-expanded="${isOpen}"]`);
    if (button) {
      focusOn(lineOf(button).querySelector(".span-open"));
      button.click();
    } else if (!isOpen) move(1);
  };

  const ACTIONS = {
    j: () => move(1),
    ArrowDown: () => move(1),
    k: () => move(-1),
    ArrowUp: () => move(-1),
    ArrowLeft: () => fold(true),
    ArrowRight: () => fold(false),
    e: () => document.getElementById("next-error")?.click(),
  };

  document.addEventListener("keydown", (event) => {
    const action = ACTIONS[event.key];
    const isBusy = event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey;
    if (!action || isBusy || isTyping(event.target) || document.querySelector("dialog[open]")) return;
    const isArrow = event.key.startsWith("Arrow");
    if (isArrow && !lineOf(document.activeElement)) return; // they scroll the page
    action();
    event.preventDefault();
  });

  // What a form sends is the state and the button: the last value of "span" counts, and empty ones are left out.
  document.addEventListener("formdata", (event) => {
    if (!event.target.closest("#waterfall, .trace-search")) return;
    const data = event.formData;
    const spans = data.getAll("span");
    if (spans.length) data.set("span", spans.at(-1));
    if (data.get("fold")) data.delete("page");
    for (const name of ["q", "span", "page"]) if (data.get(name) === "") data.delete(name);
  });

  const isShown = (element) => {
    const { top, bottom } = element.getBoundingClientRect();
    return top >= 0 && bottom <= window.innerHeight;
  };

  // A selected span comes into view, and has the focus where a line had it.
  let selected = document.querySelector("#waterfall .row-selected")?.parentElement.id ?? "";
  const showSelected = () => {
    const row = document.querySelector("#waterfall .row-selected");
    const id = row?.parentElement.id ?? "";
    if (row && id !== selected) {
      if (!isShown(row)) row.scrollIntoView({ block: "center" });
      row.querySelector(".span-open").focus({ preventScroll: true });
    }
    selected = id;
  };

  // #span-ID of a line that is not on this page: the server opens what is above it.
  const openHash = () => {
    const match = /^#span-(.+)$/.exec(location.hash);
    if (!match) return;
    let key;
    try {
      key = decodeURIComponent(match[1]);
    } catch {
      return; // of a link that was cut: it names no span
    }
    const address = new URL(location.href);
    if (document.getElementById(`span-${key}`) || address.searchParams.get("span") === key) return;
    address.search = new URLSearchParams({ span: key }).toString();
    location.replace(address);
  };

  document.addEventListener("htmx:after:swap", showSelected);
  window.addEventListener("hashchange", openHash);
  openHash();
  const first = document.querySelector("#waterfall .row-selected");
  if (first && !isShown(first)) first.scrollIntoView({ block: "center" });
})();
