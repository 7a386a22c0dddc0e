// The script of every page: local times, copy buttons, the theme switch.
(() => {
  const TICK_MS = 5000;
  const { ago } = globalThis.numberFormat;
  const local = new Intl.DateTimeFormat(undefined, {
    year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
    timeZone: globalThis.vantageZone, timeZoneName: globalThis.vantageZone ? "short" : undefined,
  });

  const setText = (element, text) => {
    if (element.textContent !== text) element.textContent = text;
  };

  const showTimes = () => {
    for (const element of document.querySelectorAll("time[data-ago]")) {
      const atMs = Date.parse(element.dateTime);
      setText(element, ago(atMs, Date.now()));
      element.title = local.format(atMs);
    }
    for (const element of document.querySelectorAll("time[data-at]")) {
      setText(element, local.format(Number(element.dataset.at)));
      element.title = element.dateTime;
    }
  };

  // Fields for times are local while there is a script; their forms send epoch milliseconds.
  const offsetMs = (atMs) => (globalThis.vantageZone ? 0 : new Date(atMs).getTimezoneOffset() * 60000);
  const toField = (atMs) => new Date(atMs - offsetMs(atMs)).toISOString().slice(0, 19);
  const fromField = (text) => new Date(globalThis.vantageZone ? `${text}Z` : text).getTime();
  const fillTimes = () => {
    for (const field of document.querySelectorAll("[data-local-times] input[data-at]")) {
      if (!field.value) field.value = toField(Number(field.dataset.at));
    }
    for (const note of document.querySelectorAll("[data-zone]")) {
      setText(note, `Times are in ${globalThis.vantageZone ?? Intl.DateTimeFormat().resolvedOptions().timeZone}.`);
    }
  };
  document.addEventListener("formdata", (event) => {
    if (!event.target.matches("[data-local-times]")) return;
    for (const name of ["start", "end"]) event.formData.set(name, String(fromField(event.formData.get(name))));
  });
  document.addEventListener("click", (event) => {
    for (const open of document.querySelectorAll(".range-custom[open]")) if (!open.contains(event.target)) open.open = false;
  });

  // On a phone navigation and tabs scroll sideways: the page that is shown must be in sight there.
  const showCurrent = () => {
    for (const current of document.querySelectorAll("nav a[aria-current=page]")) {
      const strip = current.parentElement;
      if (strip.scrollWidth > strip.clientWidth) strip.scrollLeft += current.getBoundingClientRect().left - strip.getBoundingClientRect().left - strip.clientWidth / 3;
    }
  };
  showCurrent();

  const showButtons = () => {
    for (const button of document.querySelectorAll("[data-copy][hidden], #theme[hidden]")) button.hidden = false;
  };

  const copy = async (button) => {
    const label = button.querySelector("span");
    try {
      await navigator.clipboard.writeText(button.closest("figure").querySelector("code").textContent);
      label.textContent = "Copied";
    } catch {
      label.textContent = "Select and copy";
    }
    setTimeout(() => { label.textContent = "Copy"; }, 1500);
  };

  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };

  const switchTheme = () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    try {
      localStorage.setItem("vantage-theme", theme);
    } catch {
      // The choice lasts until the page is closed.
    }
    document.dispatchEvent(new CustomEvent("vantage:theme"));
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-copy], #theme");
    if (!button) return;
    if (button.id === "theme") switchTheme();
    else copy(button);
  });

  // Remove empty fields from the URL.
  document.addEventListener("formdata", (event) => {
    if (!event.target.matches(".search")) return;
    for (const [name, value] of [...event.formData]) if (value === "") event.formData.delete(name);
  });

  // When the session has ended, open the sign-in page as a complete page. A failed live refresh keeps the view.
  document.addEventListener("htmx:before:response", (event) => {
    const { ctx } = event.detail;
    const { redirected, status, url } = ctx.response.raw;
    if (redirected) location.assign(url);
    if (redirected || (status >= 400 && ctx.sourceElement?.id === "view")) event.preventDefault();
  });

  const refresh = () => {
    showTimes();
    showButtons();
    fillTimes();
  };
  document.addEventListener("htmx:after:swap", refresh);
  setInterval(() => { if (!document.hidden) showTimes(); }, TICK_MS);
  refresh();
})();
