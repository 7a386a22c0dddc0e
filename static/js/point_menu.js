// The menu of a point in a chart: its time and value, the traces behind it, and a closer look. charts.js says which point.
(() => {
  const EXEMPLARS_MAX = 5;
  const { quantity } = globalThis.numberFormat;
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: globalThis.vantageZone });
  const EDGE_PX = 8;

  const menu = document.createElement("div");
  menu.className = "point-menu";
  menu.popover = "auto";
  menu.setAttribute("role", "dialog");
  menu.setAttribute("aria-label", "What is behind this point");
  document.body.append(menu);

  const add = (tag, className, text) => {
    const element = document.createElement(tag);
    element.className = className;
    element.textContent = text;
    menu.append(element);
    return element;
  };

  const link = (href, text) => {
    const element = add("a", "point-link", text);
    element.href = href;
    return element;
  };

  const place = (x, y) => {
    const { offsetWidth: width, offsetHeight: height } = menu;
    menu.style.left = `${Math.max(EDGE_PX, Math.min(x + EDGE_PX, document.documentElement.clientWidth - width - EDGE_PX))}px`;
    menu.style.top = `${Math.max(EDGE_PX, y + height + EDGE_PX > innerHeight ? y - height - EDGE_PX : y + EDGE_PX)}px`;
  };

  const between = (url, start, end) => `${url}${url.includes("?") ? "&" : "?"}start=${start}&end=${end}`;

  const addExemplars = async (detail, start, end) => {
    const waiting = add("p", "point-note", "Looking for traces …");
    let text = "No sample of it names a trace.";
    try {
      const response = await fetch(`${between(detail.exemplars, start, end)}&limit=${EXEMPLARS_MAX}`, { headers: { Accept: "application/json" } });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.detail ?? response.statusText);
      for (const one of answer.exemplars) waiting.before(link(`/traces/${encodeURIComponent(one.trace_id)}`, `${quantity(one.value, detail.unit)} · trace ${one.trace_id.slice(0, 8)}`));
      if (answer.exemplars.length) text = "";
    } catch (error) {
      text = `Traces could not be read: ${error.message}`;
    }
    waiting.textContent = text;
    waiting.hidden = !text;
  };

  document.addEventListener("vantage:point", async ({ detail }) => {
    menu.replaceChildren();
    const start = Math.round(detail.at * 1000);
    const end = Math.round((detail.at + detail.step) * 1000);
    add("p", "point-title", detail.text);
    add("p", "point-note", `${clock.format(start)} to ${clock.format(end)}`);
    if (detail.traces) link(between(detail.traces, start, end), "Traces of this time");
    const closer = new URL(location.href);
    closer.searchParams.delete("range");
    closer.searchParams.set("start", String(start - Math.round(detail.step * 10000)));
    closer.searchParams.set("end", String(end + Math.round(detail.step * 10000)));
    link(closer.href, "Zoom to this time");
    const service = /^\/services\/([^/]+)$/.exec(location.pathname)?.[1];
    link(`/changes?start=${start}&end=${end}${service ? `&service=${service}` : ""}`, "What changed here");
    const exemplars = detail.exemplars ? addExemplars(detail, start, end) : null;
    menu.showPopover();
    place(detail.x, detail.y);
    menu.querySelector("a").focus();
    await exemplars;
    place(detail.x, detail.y);
  });
})();
