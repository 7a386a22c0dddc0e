// Draws [data-chart] from the page's own points and [data-source] from the API, with uPlot. Selecting a part of a chart
// zooms the page to it: the range is in the URL.
(() => {
  const REFETCH_MS_MIN = 5000;
  const LEGEND_PX = 22;
  const LINES_MAX = 8;
  const BAND_MS = 60000;
  const BANDS_MAX = 20;
  const { quantity } = globalThis.numberFormat;
  const LIMITS = JSON.parse(document.body.dataset.limits);
  const bands = new Map(); // URL -> { fetchedAt, answer }
  const plots = new Map(); // element -> { plot, key, fetchedAt, observer, waiting }

  // A canvas needs the colour of the theme in use as rgb(…); the token itself is light-dark(…).
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  const token = (name) => {
    probe.style.color = `var(${name})`;
    return getComputedStyle(probe).color;
  };
  const translucent = (colour, alpha) => colour.replace(/^rgb\((.*)\)$/, `rgba($1, ${alpha})`);
  const COLOURS = {
    rate: ["--chart-rate", 0.12], errors: ["--chart-errors", 0.12], quiet: ["--chart-quiet", 0.12],
    p50: ["--c5", 0], p95: ["--chart-p95", 0.08], p99: ["--c4", 0],
  };
  const colourOf = (name) => token(COLOURS[name] ? COLOURS[name][0] : name);

  const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone: globalThis.vantageZone });
  const minute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23", timeZone: globalThis.vantageZone });
  const day = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", timeZone: globalThis.vantageZone });
  const moment = (at, chart) => {
    const length = chart.end - chart.start;
    if (length > 2 * 86400) return day.format(at * 1000);
    return (length < 600 ? clock : minute).format(at * 1000);
  };

  const zoom = (plot) => {
    const { left, width } = plot.select;
    if (width < 6) return;
    const address = new URL(location.href);
    address.searchParams.delete("range");
    address.searchParams.set("start", String(Math.round(plot.posToVal(left, "x") * 1000)));
    address.searchParams.set("end", String(Math.round(plot.posToVal(left + width, "x") * 1000)));
    location.assign(address);
  };

  // Versions going live, as dashed lines.
  const drawMarks = (plot, marks) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.strokeStyle = token("--muted");
    ctx.fillStyle = token("--muted");
    ctx.setLineDash([4, 4]);
    ctx.lineWidth = devicePixelRatio;
    ctx.font = `${11 * devicePixelRatio}px Inter, system-ui, sans-serif`;
    for (const [at, label] of marks) {
      const x = plot.valToPos(at, "x", true);
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const toLeft = x > bbox.left + bbox.width * 0.8;
      ctx.textAlign = toLeft ? "right" : "left";
      ctx.fillText(label, x + (toLeft ? -4 : 4) * devicePixelRatio, bbox.top + 11 * devicePixelRatio);
    }
    ctx.restore();
  };

  // What was expected, shaded: between two lines of the chart, or of its own times.
  const drawBand = (plot, times, low, high) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    ctx.fillStyle = translucent(token("--accent"), 0.13);
    const known = (i) => low[i] !== null && low[i] !== undefined && high[i] !== null && high[i] !== undefined;
    const x = (i) => plot.valToPos(times[i], "x", true);
    for (let from = 0; from < times.length; from++) {
      if (!known(from)) continue;
      let to = from;
      while (to + 1 < times.length && known(to + 1)) to++;
      ctx.beginPath();
      for (let i = from; i <= to; i++) ctx.lineTo(x(i), plot.valToPos(high[i], "y", true));
      for (let i = to; i >= from; i--) ctx.lineTo(x(i), plot.valToPos(low[i], "y", true));
      ctx.closePath();
      ctx.fill();
      from = to;
    }
    ctx.restore();
  };

  // Anomalies: a bar at the top over their time, and a triangle where they begin.
  const drawAnomalies = (plot, anomalies) => {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.fillStyle = token("--bad");
    for (const { start, end } of anomalies) {
      const left = Math.max(bbox.left, plot.valToPos(start / 1000, "x", true));
      const right = Math.min(bbox.left + bbox.width, plot.valToPos(end / 1000, "x", true));
      if (right < bbox.left || left > bbox.left + bbox.width) continue;
      const size = 5 * devicePixelRatio;
      ctx.fillRect(left, bbox.top, Math.max(devicePixelRatio, right - left), 2 * devicePixelRatio);
      ctx.beginPath();
      ctx.moveTo(left - size, bbox.top);
      ctx.lineTo(left + size, bbox.top);
      ctx.lineTo(left, bbox.top + 2 * size);
      ctx.closePath();
      ctx.fill();
    }
    ctx.restore();
  };

  const drawExpected = (plot, chart) => {
    if (chart.band) drawBand(plot, plot.data[0], plot.data[chart.band[0] + 1], plot.data[chart.band[1] + 1]);
    const expected = bands.get(chart.expected)?.answer;
    if (!expected) return;
    drawBand(plot, expected.times, expected.low, expected.high);
    drawAnomalies(plot, expected.anomalies);
  };

  // The band of a chart comes after the page, and is as old as a minute: it changes with the hour.
  const fetchBand = async (element, chart) => {
    if (!chart.expected) return;
    const entry = bands.get(chart.expected) ?? { fetchedAt: 0, answer: null };
    if (Date.now() - entry.fetchedAt < BAND_MS) return;
    if (bands.size >= BANDS_MAX) bands.delete(bands.keys().next().value);
    bands.set(chart.expected, Object.assign(entry, { fetchedAt: Date.now() }));
    try {
      const response = await fetch(chart.expected, { headers: { Accept: "application/json" } });
      if (!response.ok) return;
      const answer = await response.json();
      const scale = (value) => (value === null || answer.unit !== "%" ? value : value * 100);
      entry.answer = { ...answer, times: answer.times.map((at) => at / 1000), low: answer.low.map(scale), high: answer.high.map(scale) };
      plots.get(element)?.plot?.redraw(false);
    } catch {
      // The chart is complete without it.
    }
  };

  // Without a pointer on the chart, the legend shows the newest values.
  const latest = (values) => {
    for (let i = (values?.length ?? 0) - 1; i >= 0; i--) if (values[i] !== null && values[i] !== undefined) return values[i];
    return null;
  };

  // Some charts are as high as they like and have their legend below; others fit into their element.
  const heightOf = (element) =>
    Number(getComputedStyle(element).getPropertyValue("--plot-height")) || Math.max(80, element.clientHeight - LEGEND_PX);

  const optionsFor = (element, chart) => {
    const axis = { stroke: token("--muted"), font: "11px Inter, system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: token("--line"), width: 1 };
    return {
      width: Math.max(120, element.clientWidth),
      height: heightOf(element),
      padding: [10, 18, 0, 0],
      legend: { isolate: true, markers: { dash: (uplot, which) => (uplot.series[which].dash ? "dashed" : "solid") } },
      cursor: { sync: { key: "page" }, drag: { x: true, y: false, setScale: false }, points: { size: 6 } },
      scales: {
        x: { range: () => [chart.start, chart.end] },
        y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.12 : chart.unit === "%" ? LIMITS.empty_percent_top : 1] },
      },
      axes: [
        { ...axis, grid: { show: false }, space: 72, size: 24, values: (_, splits) => splits.map((at) => moment(at, chart)) },
        { ...axis, grid, size: 58, space: 34, values: (_, splits) => splits.map((value) => quantity(value, chart.unit, Math.max(...splits))) },
      ],
      series: [
        { value: (_, at) => (at === null || at === undefined ? "" : (chart.end - chart.start > 7200 ? minute : clock).format(at * 1000)), label: "" },
        ...chart.lines.map((line) => {
          const colour = colourOf(line.colour);
          const fill = COLOURS[line.colour]?.[1] ?? 0;
          return {
            label: line.label, stroke: colour, width: 1.6, dash: line.dashed ? [4, 4] : undefined, fill: fill ? translucent(colour, fill) : undefined,
            points: { show: chart.lonely, size: 5, fill: colour }, value: (uplot, value, which, at) => quantity(at === null || at === undefined ? latest(uplot.data[which]) : value, chart.unit),
          };
        }),
      ],
      hooks: { setSelect: [zoom], drawAxes: [(plot) => drawExpected(plot, chart)], draw: [(plot) => drawMarks(plot, chart.marks ?? [])] },
    };
  };

  // Choosing a line in the legend shows it alone, once more shows all; with the keyboard too.
  const openToKeys = (element, plot) => {
    for (const [i, row] of [...element.querySelectorAll(".u-legend .u-series")].entries()) {
      const label = row.querySelector("th");
      if (i === 0 || plot.series.length < 3) continue;
      label.tabIndex = 0;
      label.setAttribute("role", "button");
      label.title = "Show this line alone";
      label.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        label.click();
      });
    }
  };

  // A point that is clicked, or chosen with the arrow keys and Enter, leads to what is behind it: point_menu.js.
  const nearest = (plot, index, top) => {
    const distances = plot.series.slice(1).map((series, i) => {
      const value = plot.data[i + 1][index];
      return series.show && value !== null && value !== undefined ? Math.abs(plot.valToPos(value, "y") - top) : Number.POSITIVE_INFINITY;
    });
    const least = Math.min(...distances);
    return Number.isFinite(least) ? distances.indexOf(least) : -1;
  };

  const choose = (element, index, left, top) => {
    const { plot, chart } = plots.get(element) ?? {};
    if (!plot || index === null || index === undefined || !chart.step) return;
    const line = nearest(plot, index, top);
    if (line < 0) return;
    const at = plot.data[0][index];
    const { label } = chart.lines[line];
    const text = `${label} ${quantity(plot.data[line + 1][index], chart.unit)}`;
    const box = plot.over.getBoundingClientRect();
    const detail = { at, step: chart.step, text, unit: chart.unit, traces: chart.traces, exemplars: chart.exemplars[line] ?? "", x: box.left + left, y: box.top + top };
    element.dispatchEvent(new CustomEvent("vantage:point", { bubbles: true, detail }));
  };

  document.addEventListener("click", (event) => {
    const element = event.target.closest?.(".u-over")?.closest(".chart");
    const plot = element && plots.get(element)?.plot;
    if (plot && plot.select.width < 6) choose(element, plot.cursor.idx, plot.cursor.left, plot.cursor.top);
  });

  const valueAt = (plot, index) => plot.data.slice(1).map((line) => line[index]).find((value) => value !== null && value !== undefined);

  // The arrow keys go from point to point: where there is no data there is nothing to choose.
  document.addEventListener("keydown", (event) => {
    const element = event.target;
    const plot = element.classList?.contains("chart") && plots.get(element)?.plot;
    if (!plot || event.ctrlKey || event.metaKey || event.altKey) return;
    const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const last = plot.data[0].length - 1;
    const index = plot.cursor.idx ?? last;
    const topOf = (i) => {
      const value = valueAt(plot, i);
      return value === undefined ? plot.over.clientHeight / 2 : plot.valToPos(value, "y");
    };
    if (steps) {
      let next = plot.cursor.left < 0 ? last : index + steps;
      const first = next;
      const isWithin = () => next >= 0 && next <= last;
      while (isWithin() && valueAt(plot, next) === undefined) next += plot.cursor.left < 0 ? -1 : steps;
      if (!isWithin()) next = Math.min(last, Math.max(0, plot.cursor.left < 0 ? first : index));
      plot.setCursor({ left: plot.valToPos(plot.data[0][next], "x"), top: topOf(next) });
    } else if (event.key === "Enter" && plot.cursor.left >= 0) {
      choose(element, index, plot.cursor.left, plot.cursor.top);
    } else {
      return;
    }
    event.preventDefault();
  });

  const draw = (element, chart, points) => {
    const entry = plots.get(element);
    const chartable = { ...chart, lonely: points.slice(1).some((line) => line.filter((v) => v !== null).length < 3) };
    const key = JSON.stringify(chart);
    if (entry?.plot && entry.shape === JSON.stringify([chart.unit, chart.lines])) {
      entry.chart.start = chart.start;
      entry.chart.end = chart.end;
      entry.chart.marks = chart.marks;
      entry.chart.expected = chart.expected;
      if (entry.key !== key || entry.points !== points) entry.plot.setData(points);
      Object.assign(entry, { key, points });
      return;
    }
    entry?.plot?.destroy();
    element.replaceChildren();
    const plot = new uPlot(optionsFor(element, chartable), points, element);
    openToKeys(element, plot);
    plots.set(element, { ...entry, plot, key, points, chart: chartable, shape: JSON.stringify([chart.unit, chart.lines]) });
    if (!entry?.observer) {
      const observer = new ResizeObserver(() => {
        const width = element.clientWidth;
        const current = plots.get(element)?.plot;
        if (width > 0 && current && current.width !== width) {
          current.setSize({ width, height: heightOf(element) });
        }
      });
      observer.observe(element);
      plots.get(element).observer = observer;
    }
  };

  const note = (element, text) => {
    const paragraph = document.createElement("p");
    paragraph.className = "chart-note";
    paragraph.textContent = text;
    element.replaceChildren(paragraph);
  };

  const labelOf = (tags, answer) => Object.values(tags).join(" ") || answer.agg;

  const fetchAndDraw = async (element) => {
    const entry = plots.get(element) ?? {};
    if (entry.waiting || (entry.source === element.dataset.source && Date.now() - entry.fetchedAt < REFETCH_MS_MIN)) return;
    Object.assign(entry, { waiting: true, source: element.dataset.source, fetchedAt: Date.now() });
    plots.set(element, entry);
    try {
      const response = await fetch(element.dataset.source, { headers: { Accept: "application/json" } });
      const answer = await response.json();
      if (!response.ok) throw new Error(answer.detail ?? response.statusText);
      const series = answer.series.slice(0, LINES_MAX);
      if (!series.some((group) => group.points.some((point) => point[1] !== null))) {
        plots.get(element)?.plot?.destroy();
        plots.set(element, { ...plots.get(element), plot: null });
        note(element, "No samples in this range.");
        return;
      }
      const lines = series.map((group, i) => ({ label: labelOf(group.tags, answer), colour: i === 0 ? "rate" : `--c${i % LIMITS.colours}` }));
      const points = [series[0].points.map((point) => point[0] / 1000), ...series.map((group) => group.points.map((point) => point[1]))];
      draw(element, { unit: answer.unit, start: answer.start / 1000, end: answer.end / 1000, lines }, points);
    } catch (error) {
      if (!plots.get(element)?.plot) note(element, `The chart could not be loaded: ${error.message}`);
    } finally {
      const current = plots.get(element);
      if (current) current.waiting = false;
    }
  };

  const drawAll = () => {
    for (const [element, entry] of plots) {
      if (element.isConnected) continue;
      entry.observer?.disconnect();
      entry.plot?.destroy();
      plots.delete(element);
    }
    for (const element of document.querySelectorAll("[data-chart]")) {
      const entry = plots.get(element);
      if (entry?.raw === element.dataset.points + element.dataset.chart) continue;
      draw(element, JSON.parse(element.dataset.chart), JSON.parse(element.dataset.points));
      plots.get(element).raw = element.dataset.points + element.dataset.chart;
      fetchBand(element, plots.get(element).chart);
    }
    for (const element of document.querySelectorAll("details[open] [data-source]")) fetchAndDraw(element);
  };

  const redrawAll = () => {
    for (const entry of plots.values()) {
      entry.plot?.destroy();
      entry.observer?.disconnect();
    }
    plots.clear();
    drawAll();
  };

  // The metric opened last is in the URL.
  document.addEventListener("toggle", (event) => {
    const name = event.target.dataset?.metric;
    if (!name) return;
    if (event.target.open) drawAll();
    const address = new URL(location.href);
    if (event.target.open) address.searchParams.set("metric", name);
    else if (address.searchParams.get("metric") === name) address.searchParams.delete("metric");
    if (address.href !== location.href) history.replaceState(history.state, "", address);
  }, true);
  document.addEventListener("htmx:after:swap", drawAll);
  document.addEventListener("vantage:theme", redrawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redrawAll);
  drawAll();
})();
