// Draws [data-scatter]: a dot for each trace, time from left to right, duration upwards on a logarithmic scale. A click
// opens the trace; selecting a part searches in it, and the search is in the URL.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const HEIGHT = 190;
  const MARGIN = { left: 58, right: 12, top: 8, bottom: 22 };
  const SELECTED_PX_MIN = 6;
  const TIME_LABEL_PX = 110;
  const NEAR_PX = 12;
  const { quantity } = globalThis.numberFormat;
  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: globalThis.vantageZone });
  const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: globalThis.vantageZone });

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  const text = (attributes, content) => {
    const element = make("text", attributes);
    element.textContent = content;
    return element;
  };

  // Where times and durations are, and what is at a point. The scale ends at whole powers of ten.
  const scales = (dots, startMs, endMs, width) => {
    const durations = dots.map((dot) => Math.max(1, dot.durationNs));
    let low = Math.floor(Math.log10(Math.min(...durations)));
    let high = Math.ceil(Math.log10(Math.max(...durations)));
    if (high - low < 1) [low, high] = [high - 1, high];
    const inner = { width: width - MARGIN.left - MARGIN.right, height: HEIGHT - MARGIN.top - MARGIN.bottom };
    const lengthMs = Math.max(1, endMs - startMs);
    return {
      low,
      high,
      x: (ms) => MARGIN.left + (inner.width * Math.min(Math.max(ms - startMs, 0), lengthMs)) / lengthMs,
      y: (ns) => MARGIN.top + inner.height * (1 - (Math.log10(Math.max(1, ns)) - low) / (high - low)),
      ms: (x) => startMs + (lengthMs * (x - MARGIN.left)) / inner.width,
      ns: (y) => 10 ** (high - ((high - low) * (y - MARGIN.top)) / inner.height),
    };
  };

  const axes = (scale, startMs, endMs, width) => {
    const group = make("g", { class: "scatter-axes" });
    const step = Math.ceil((scale.high - scale.low) / 5);
    for (let power = scale.low; power <= scale.high; power += step) {
      const y = scale.y(10 ** power);
      group.append(make("line", { x1: MARGIN.left, x2: width - MARGIN.right, y1: y, y2: y }));
      group.append(text({ x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" }, quantity(10 ** power, "ns")));
    }
    const labels = Math.max(2, Math.floor((width - MARGIN.left) / TIME_LABEL_PX));
    const format = endMs - startMs > 86400000 ? day : clock;
    for (let i = 0; i < labels; i++) {
      const ms = startMs + ((endMs - startMs) * i) / (labels - 1);
      const anchor = i === 0 ? "start" : i === labels - 1 ? "end" : "middle";
      group.append(text({ x: scale.x(ms), y: HEIGHT - 4, "text-anchor": anchor }, format.format(ms)));
    }
    return group;
  };

  const mark = (dot, scale) => {
    const at = `translate(${scale.x(dot.startMs).toFixed(1)} ${scale.y(dot.durationNs).toFixed(1)})`;
    const shape = dot.errors ? make("path", { d: "M0 -5L5 4H-5Z", class: "dot-error", transform: at }) : make("circle", { r: 3.5, class: `dot-ok ${dot.colour}`, transform: at });
    const title = make("title");
    title.textContent = `${dot.service}: ${dot.name}, ${quantity(dot.durationNs, "ns")}${dot.errors ? `, ${dot.errors} ${dot.errors === 1 ? "error" : "errors"}` : ""}`;
    shape.append(title);
    return shape;
  };

  const durationText = (ns, round) => (ns >= 1e6 ? `${round(ns / 1e4) / 100}ms` : `${round(ns / 10) / 100}us`);

  const search = (scale, box) => {
    const address = new URL(location.href);
    const { searchParams } = address;
    for (const name of ["range", "cursor", "compare"]) searchParams.delete(name);
    searchParams.set("start", String(Math.floor(scale.ms(box.left))));
    searchParams.set("end", String(Math.ceil(scale.ms(box.right))));
    searchParams.set("min_duration", durationText(scale.ns(box.bottom), Math.floor));
    searchParams.set("max_duration", durationText(scale.ns(box.top), Math.ceil));
    address.hash = "";
    location.assign(address);
  };

  // Select with a pointer. A finger scrolls the page instead, and a tap opens the nearest trace.
  const listen = (svg, selection, scale, dots, width) => {
    let from = null;
    const within = (event) => {
      const frame = svg.getBoundingClientRect();
      return {
        x: Math.min(Math.max(event.clientX - frame.left, MARGIN.left), width - MARGIN.right),
        y: Math.min(Math.max(event.clientY - frame.top, MARGIN.top), HEIGHT - MARGIN.bottom),
      };
    };
    const boxTo = (point) => ({
      left: Math.min(from.x, point.x), right: Math.max(from.x, point.x), top: Math.min(from.y, point.y), bottom: Math.max(from.y, point.y),
    });
    const hide = () => {
      from = null;
      selection.setAttribute("width", 0);
    };
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      from = within(event);
      if (event.pointerType === "mouse") svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (!from || event.pointerType === "touch") return;
      const box = boxTo(within(event));
      const size = { x: box.left, y: box.top, width: box.right - box.left, height: box.bottom - box.top };
      for (const [name, value] of Object.entries(size)) selection.setAttribute(name, value);
    });
    svg.addEventListener("pointercancel", hide);
    svg.addEventListener("pointerup", (event) => {
      if (!from) return;
      const point = within(event);
      const box = boxTo(point);
      hide();
      if (box.right - box.left >= SELECTED_PX_MIN && box.bottom - box.top >= SELECTED_PX_MIN) {
        search(scale, box);
        return;
      }
      const distance = (dot) => Math.hypot(scale.x(dot.startMs) - point.x, scale.y(dot.durationNs) - point.y);
      const nearest = dots.reduce((best, dot) => (distance(dot) < distance(best) ? dot : best), dots[0]);
      if (distance(nearest) <= NEAR_PX) location.assign(`/traces/${encodeURIComponent(nearest.id)}`);
    });
  };

  const drawn = new WeakMap();
  const draw = (element) => {
    const { scatter, start, end, label } = element.dataset;
    const { paddingLeft, paddingRight } = getComputedStyle(element);
    const width = element.clientWidth - Number.parseFloat(paddingLeft) - Number.parseFloat(paddingRight);
    const key = `${width} ${start} ${end} ${scatter}`;
    // What the pointer is on stays as it is: a trace must not move away from under it.
    if (width <= 0 || drawn.get(element) === key || element.querySelector("svg:hover")) return;
    drawn.set(element, key);
    const dots = JSON.parse(scatter)
      .filter((dot) => dot)
      .map(([startMs, durationNs, errors, id, colour, service, name]) => ({ startMs, durationNs, errors, id, colour, service, name }));
    if (!dots.length) return;
    const [startMs, endMs] = [Number(start), Number(end)];
    const scale = scales(dots, startMs, endMs, width);
    const selection = make("rect", { class: "scatter-selection", width: 0, height: 0 });
    const svg = make("svg", { width, height: HEIGHT, role: "img", "aria-label": label }, axes(scale, startMs, endMs, width));
    // Failed ones last, above the others.
    for (const dot of [...dots].sort((a, b) => (a.errors > 0) - (b.errors > 0))) svg.append(mark(dot, scale));
    svg.append(selection);
    listen(svg, selection, scale, dots, width);
    svg.addEventListener("pointerleave", () => setTimeout(draw, 0, element));
    element.replaceChildren(svg);
  };

  const drawAll = () => {
    for (const element of document.querySelectorAll("[data-scatter]")) draw(element);
  };
  document.addEventListener("htmx:after:swap", drawAll);
  window.addEventListener("resize", drawAll);
  drawAll();
})();
