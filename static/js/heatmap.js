// Draws [data-heatmap]: requests by time and duration, each cell coloured by its count. See vantage/web/pages/heatmap.py.
// The readout below says what is under the pointer or chosen with the arrow keys, with a link to its traces; dragging
// leads to the traces of that time and those durations.
(() => {
  const { count, durationMs } = globalThis.numberFormat;
  const MARGIN = { left: 58, right: 12, top: 6, bottom: 20 };
  const DRAG_PX_MIN = 5;
  const TICKS_PX = 76;
  const DAY_MS = 86400e3;
  const ROW_TICKS_PX = 14;
  const TIME_STEPS_MS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880, 10080, 20160, 40320].map((minutes) => minutes * 60e3);
  const maps = new Map(); // element -> state

  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const token = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };

  const zone = globalThis.vantageZone;
  const time = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone });
  const dayTime = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: zone });
  const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", timeZone: zone });
  const lengthOf = (map) => map.columns.length * map.options.step;
  const moment = (map, ms) => (lengthOf(map) > 20 * 3600e3 ? dayTime : time).format(ms);
  const tick = (map, ms) => (lengthOf(map) > 2 * DAY_MS ? day : time).format(ms);

  const parseLine = (line) => {
    if (!line) return { first: 0, counts: [] };
    const [first, ...counts] = line.split(",");
    return { first: Number(first), counts: counts.map(Number) };
  };

  // The line of a bucket follows from its time.
  const parse = (text, { start, step, columns }) => {
    const lines = text.split("\n");
    return Array.from({ length: columns }, (_, position) => parseLine(lines[(Math.floor(start / step) + position) % lines.length]));
  };

  const countAt = (map, column, row) => {
    const { first, counts } = map.columns[column] ?? { first: 0, counts: [] };
    return counts[row - first] ?? 0;
  };

  const colour = (map, number) => {
    const { levels } = map.options;
    let level = 0;
    while (level + 1 < levels.length && levels[level + 1] <= number) level++;
    return map.colours[levels.length === 1 ? map.colours.length - 1 : Math.round(level * (map.colours.length - 1) / (levels.length - 1))];
  };

  const geometry = (map) => {
    const width = map.canvas.clientWidth - MARGIN.left - MARGIN.right;
    const height = map.canvas.clientHeight - MARGIN.top - MARGIN.bottom;
    const rows = map.options.edges.length - 1;
    return { width, height, rows, cellWidth: width / map.columns.length, cellHeight: height / rows };
  };

  // Times on the axis are round in the zone that is shown.
  const timeTicks = (map, pxPerMs) => {
    const { start } = map.options;
    const end = start + lengthOf(map);
    const shortest = lengthOf(map) > 2 * DAY_MS ? DAY_MS : 0; // then the axis has days
    const step = TIME_STEPS_MS.find((ms) => ms >= shortest && ms * pxPerMs >= TICKS_PX) ?? TIME_STEPS_MS[TIME_STEPS_MS.length - 1];
    const offset = zone ? 0 : -new Date(start).getTimezoneOffset() * 60e3;
    const ticks = [];
    for (let at = Math.ceil((start + offset) / step) * step - offset; at < end; at += step) ticks.push(at);
    return ticks;
  };

  // 1, 10, 100 …, with 2 and 5 between them where there is room.
  const durationTicks = (low, high, height) => {
    const decades = Math.log10(high / low);
    const factors = height / decades < ROW_TICKS_PX * 4 ? [1] : [1, 2, 5];
    const ticks = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
      for (const factor of factors) if (factor * 10 ** power >= low && factor * 10 ** power <= high) ticks.push(factor * 10 ** power);
    }
    return ticks.length ? ticks : [low, high];
  };

  const drawAxes = (map, context, { width, height, rows }) => {
    const { edges, start } = map.options;
    context.fillStyle = token("--muted");
    context.font = "11px Inter, system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const ms of durationTicks(edges[0], edges[rows], height)) {
      const y = MARGIN.top + height * (1 - Math.log(ms / edges[0]) / Math.log(edges[rows] / edges[0]));
      context.fillText(durationMs(Number(ms.toPrecision(2))), MARGIN.left - 8, y);
      context.fillRect(MARGIN.left - 4, Math.round(y), 4, 1);
    }
    context.textBaseline = "alphabetic";
    context.textAlign = "center";
    const pxPerMs = width / lengthOf(map);
    for (const at of timeTicks(map, pxPerMs)) {
      const x = (at - start) * pxPerMs;
      if (x > 14 && x < width - 14) context.fillText(tick(map, at), MARGIN.left + x, MARGIN.top + height + 15);
    }
  };

  const boxOf = (selection, shape) => {
    const [left, right] = [selection.from.column, selection.to.column].sort((a, b) => a - b);
    const [bottom, top] = [selection.from.row, selection.to.row].sort((a, b) => a - b);
    return {
      left, right, bottom, top,
      x: MARGIN.left + left * shape.cellWidth,
      y: MARGIN.top + shape.height - (top + 1) * shape.cellHeight,
      width: (right - left + 1) * shape.cellWidth,
      height: (top - bottom + 1) * shape.cellHeight,
    };
  };

  const draw = (map) => {
    const { canvas } = map;
    const ratio = globalThis.devicePixelRatio || 1;
    canvas.width = Math.round(canvas.clientWidth * ratio);
    canvas.height = Math.round(canvas.clientHeight * ratio);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const shape = geometry(map);
    if (shape.width <= 0) return;
    context.fillStyle = token("--heat-0");
    context.fillRect(MARGIN.left, MARGIN.top, shape.width, shape.height);
    map.colours = [1, 2, 3, 4, 5, 6].map((level) => token(`--heat-${level}`));
    const gap = shape.cellWidth > 5 ? 0.6 : 0;
    map.columns.forEach(({ first, counts }, column) => {
      counts.forEach((number, index) => {
        if (!number) return;
        context.fillStyle = colour(map, number);
        context.fillRect(
          MARGIN.left + column * shape.cellWidth, MARGIN.top + shape.height - (first + index + 1) * shape.cellHeight,
          shape.cellWidth - gap, shape.cellHeight - gap,
        );
      });
    });
    drawAxes(map, context, shape);
    const selection = map.selection ?? (map.cell && { from: map.cell, to: map.cell });
    if (!selection) return;
    const box = boxOf(selection, shape);
    context.lineWidth = 1.5;
    context.strokeStyle = token("--text");
    context.strokeRect(box.x, box.y, box.width, box.height);
  };

  const tracesUrl = (map, box) => {
    const { edges, start, step, traces } = map.options;
    const address = new URL(traces, location.origin);
    address.searchParams.set("start", String(start + box.left * step));
    address.searchParams.set("end", String(start + (box.right + 1) * step));
    if (edges[box.bottom] >= 1) address.searchParams.set("min_duration", `${Math.floor(edges[box.bottom])}ms`);
    address.searchParams.set("max_duration", `${Math.ceil(edges[box.top + 1])}ms`);
    return address.pathname + address.search;
  };

  const read = (map) => {
    const selection = map.selection ?? (map.cell && { from: map.cell, to: map.cell });
    if (!selection) {
      map.text.textContent = map.canvas.matches(":focus") ? "Arrow keys choose a cell, Enter opens its traces." : "Point at a cell, or drag over several.";
      map.link.hidden = true;
      return;
    }
    const box = boxOf(selection, geometry(map));
    const { edges, start, step } = map.options;
    let number = 0;
    for (let column = box.left; column <= box.right; column++) for (let row = box.bottom; row <= box.top; row++) number += countAt(map, column, row);
    const times = `${moment(map, start + box.left * step)} – ${moment(map, start + (box.right + 1) * step)}`;
    map.text.textContent = `${times}, ${durationMs(edges[box.bottom])} – ${durationMs(edges[box.top + 1])}: ${count(number)} ${number === 1 ? "request" : "requests"}`;
    map.link.hidden = false;
    map.link.href = tracesUrl(map, box);
  };

  const refresh = (map) => {
    draw(map);
    read(map);
  };

  const cellAt = (map, event) => {
    const shape = geometry(map);
    const area = map.canvas.getBoundingClientRect();
    const column = Math.floor((event.clientX - area.left - MARGIN.left) / shape.cellWidth);
    const row = Math.floor((MARGIN.top + shape.height - (event.clientY - area.top)) / shape.cellHeight);
    const clamp = (value, last) => Math.max(0, Math.min(last, value));
    return { column: clamp(column, map.columns.length - 1), row: clamp(row, shape.rows - 1) };
  };

  const listen = (map) => {
    const { canvas } = map;
    let pressed = null;
    let isPinned = false;
    const clear = () => {
      Object.assign(map, { cell: null, selection: null });
      isPinned = false;
      refresh(map);
    };
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      pressed = { x: event.clientX, y: event.clientY, cell: cellAt(map, event), isDragging: false };
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (pressed) {
        pressed.isDragging ||= Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) >= DRAG_PX_MIN;
        if (pressed.isDragging) map.selection = { from: pressed.cell, to: cellAt(map, event) };
      } else if (!isPinned) map.cell = cellAt(map, event);
      refresh(map);
    });
    canvas.addEventListener("pointerup", (event) => {
      if (!pressed) return;
      const { isDragging } = pressed;
      pressed = null;
      if (isDragging) {
        location.assign(tracesUrl(map, boxOf(map.selection, geometry(map))));
        return;
      }
      map.cell = cellAt(map, event); // stays, so that its link can be reached
      isPinned = true;
      refresh(map);
    });
    canvas.addEventListener("pointercancel", () => {
      pressed = null;
      clear();
    });
    canvas.addEventListener("pointerleave", () => {
      if (!pressed && !isPinned && !canvas.matches(":focus-visible")) clear();
    });
    canvas.addEventListener("focus", () => read(map));
    canvas.addEventListener("blur", () => read(map));
    canvas.addEventListener("keydown", (event) => {
      const rows = map.options.edges.length - 1;
      const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
      const step = steps[event.key];
      if (step) {
        const from = map.cell ?? { column: map.columns.length - 1, row: 0 };
        const column = Math.max(0, Math.min(map.columns.length - 1, from.column + (map.cell ? step[0] : 0)));
        const row = Math.max(0, Math.min(rows - 1, from.row + (map.cell ? step[1] : 0)));
        map.cell = { column, row };
        isPinned = true;
        refresh(map);
      } else if (event.key === "Enter" && map.cell) location.assign(map.link.href);
      else if (event.key === "Escape") clear();
      else return;
      event.preventDefault();
      event.stopPropagation(); // letters and arrows are keys of the page, too
    });
  };

  const build = (element) => {
    const canvas = document.createElement("canvas");
    canvas.className = "heat-canvas";
    canvas.tabIndex = 0;
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-label", "Heatmap of requests by time and duration; the table below has its figures");
    const readout = document.createElement("p");
    readout.className = "heat-readout";
    const text = document.createElement("span");
    text.setAttribute("role", "status");
    const link = document.createElement("a");
    link.className = "link";
    link.textContent = "Traces";
    link.hidden = true;
    readout.append(text, " ", link);
    element.replaceChildren(canvas, readout);
    const map = { canvas, text, link, cell: null, selection: null, colours: [] };
    map.observer = new ResizeObserver(() => draw(map));
    map.observer.observe(canvas);
    maps.set(element, map);
    return map;
  };

  const drawAll = () => {
    for (const [element, map] of maps) {
      if (element.isConnected) continue;
      map.observer.disconnect();
      maps.delete(element);
    }
    for (const element of document.querySelectorAll("[data-heatmap]")) {
      const raw = element.dataset.heatmap + element.dataset.cells;
      const known = maps.get(element);
      if (known?.raw === raw) continue;
      const map = known ?? build(element);
      const options = JSON.parse(element.dataset.heatmap);
      Object.assign(map, { raw, options, columns: parse(element.dataset.cells, options) });
      // A bucket that is over moves everything to the left: what was chosen is another cell.
      if (map.start !== map.options.start) Object.assign(map, { start: map.options.start, cell: null, selection: null });
      if (!known) listen(map);
      refresh(map);
    }
  };

  const redrawAll = () => {
    for (const map of maps.values()) draw(map);
  };

  document.addEventListener("htmx:after:swap", drawAll);
  document.addEventListener("vantage:theme", redrawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
  drawAll();
})();
