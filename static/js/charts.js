// Draws [data-chart] from the page's own points and [data-source] from the API, with uPlot. Selecting a part of a chart
// zooms the page to it: the range is in the URL.
(() => {
  const REFETCH_MS_MIN = 5000;
  const LEGEND_PX = 22;
  const LINES_MAX = 8;
  const { quantity } = globalThis.numberFormat;
  const LIMITS = JSON.parse(document.body.dataset.limits);
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
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
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

  // Without a pointer on the chart, the legend shows the newest values.
  const latest = (values) => {
    for (let i = (values?.length ?? 0) - 1; i >= 0; i--) if (values[i] !== null && values[i] !== undefined) return values[i];
    return null;
  };

  // Some charts are as high as they like and have their legend below; others fit into their element.
  const heightOf = (element) =>
    Number(getComputedStyle(element).getPropertyValue("--plot-height")) || Math.max(80, element.clientHeight - LEGEND_PX);

  const optionsFor = (element, chart) => {
    const axis = { stroke: token("--muted"), font: "11px system-ui, sans-serif", ticks: { show: false } };
    const grid = { stroke: token("--line"), width: 1 };
    return {
      width: Math.max(120, element.clientWidth),
      height: heightOf(element),
      padding: [10, 18, 0, 0],
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
      hooks: { setSelect: [zoom], draw: [(plot) => drawMarks(plot, chart.marks ?? [])] },
    };
  };

  const draw = (element, chart, points) => {
    const entry = plots.get(element);
    const chartable = { ...chart, lonely: points.slice(1).some((line) => line.filter((v) => v !== null).length < 3) };
    const key = JSON.stringify(chart);
    if (entry?.plot && entry.shape === JSON.stringify([chart.unit, chart.lines])) {
      entry.chart.start = chart.start;
      entry.chart.end = chart.end;
      entry.chart.marks = chart.marks;
      if (entry.key !== key || entry.points !== points) entry.plot.setData(points);
      Object.assign(entry, { key, points });
      return;
    }
    entry?.plot?.destroy();
    element.replaceChildren();
    const plot = new uPlot(optionsFor(element, chartable), points, element);
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
