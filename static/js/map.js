// Draws [data-map] with dagre: callers left of callees, above them where there is little room.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const WIDTH = 176;
  const HEIGHT = 46;
  const NAME_MAX = 20;
  const NARROW_PX = 620;
  const PADDING_PX = 8;
  const SCALE_MIN = 0.7;
  const SHAPES = {
    ok: ["circle", { r: 5 }],
    warn: ["path", { d: "M0 -6L6 5H-6Z" }],
    bad: ["rect", { x: -5, y: -5, width: 10, height: 10 }],
    idle: ["circle", { r: 4.5 }],
    external: ["rect", { x: -5, y: -5, width: 10, height: 10 }],
  };

  const make = (name, attributes = {}, ...children) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    element.append(...children);
    return element;
  };

  const shorten = (text) => {
    const letters = [...text];
    return letters.length > NAME_MAX ? `${letters.slice(0, NAME_MAX - 1).join("")}…` : text;
  };

  const layOut = (graph, narrow) => {
    const layout = new dagre.graphlib.Graph({ multigraph: true });
    layout.setGraph({ rankdir: narrow ? "TB" : "LR", nodesep: 18, ranksep: narrow ? 46 : 84, marginx: 12, marginy: 12 });
    layout.setDefaultEdgeLabel(() => ({}));
    for (const id of Object.keys(graph.nodes)) layout.setNode(id, { width: WIDTH, height: HEIGHT });
    graph.edges.forEach((edge, number) => { layout.setEdge(edge.from, edge.to, {}, String(number)); });
    dagre.layout(layout);
    return layout;
  };

  // A smooth line through the points of an edge.
  const line = (points) => {
    const [first, ...rest] = points;
    let path = `M${first.x} ${first.y}`;
    for (let i = 0; i < rest.length - 1; i++) {
      const middle = { x: (rest[i].x + rest[i + 1].x) / 2, y: (rest[i].y + rest[i + 1].y) / 2 };
      path += `Q${rest[i].x} ${rest[i].y} ${middle.x} ${middle.y}`;
    }
    const last = rest[rest.length - 1];
    return `${path}L${last.x} ${last.y}`;
  };

  const head = (points) => {
    const [before, tip] = points.slice(-2);
    const angle = (Math.atan2(tip.y - before.y, tip.x - before.x) * 180) / Math.PI;
    return make("path", { class: "map-head", d: "M0 0L-9 -4V4Z", transform: `translate(${tip.x} ${tip.y}) rotate(${angle})` });
  };

  const drawEdge = (edge, points, busiest, names) => {
    const width = 1.2 + 2.8 * Math.sqrt(edge.rate / busiest);
    const d = line(points);
    const title = make("title");
    title.textContent = `${names[edge.from].name} → ${names[edge.to].name}: ${edge.text}`;
    const group = make("g", { class: `map-edge ${edge.level} ${edge.kind}` }, title, make("path", { d, class: "map-line", "stroke-width": width }), head(points), make("path", { d, class: "map-hit" }));
    group.dataset.from = edge.from;
    group.dataset.to = edge.to;
    return group;
  };

  const drawNode = (id, node, { x, y }) => {
    const [shape, attributes] = SHAPES[node.level];
    const name = make("text", { class: "map-name", x: 28, y: 19 });
    name.textContent = shorten(node.name || "(no name)");
    const text = make("text", { class: "map-text", x: 28, y: 35 });
    text.textContent = node.text;
    const title = make("title");
    title.textContent = `${node.name}: ${node.text}`;
    const parts = [
      title,
      make("rect", { width: WIDTH, height: HEIGHT, rx: 8 }),
      make(shape, { ...attributes, class: `map-shape ${node.level}`, transform: "translate(15 23)" }),
      name,
      text,
    ];
    const inner = node.href ? [make("a", { href: node.href }, ...parts)] : parts;
    const group = make("g", { class: `map-node ${node.level}`, transform: `translate(${x - WIDTH / 2} ${y - HEIGHT / 2})` }, ...inner);
    group.dataset.id = id;
    return group;
  };

  // A service stands out with its neighbours while the pointer or the focus is on it.
  const emphasize = (svg, id) => {
    const near = new Set([id]);
    for (const edge of svg.querySelectorAll(".map-edge")) {
      const touches = edge.dataset.from === id || edge.dataset.to === id;
      edge.classList.toggle("dim", id !== null && !touches);
      if (touches) near.add(edge.dataset.from).add(edge.dataset.to);
    }
    for (const node of svg.querySelectorAll(".map-node")) node.classList.toggle("dim", id !== null && !near.has(node.dataset.id));
  };

  const drawn = new WeakMap();
  const draw = (element) => {
    const narrow = element.clientWidth < NARROW_PX;
    const key = `${narrow}${element.dataset.map}`;
    if (drawn.get(element) === key) return;
    drawn.set(element, key);
    const graph = JSON.parse(element.dataset.map);
    const layout = layOut(graph, narrow);
    const { width, height } = layout.graph();
    const busiest = Math.max(...graph.edges.map((edge) => edge.rate), Number.MIN_VALUE);
    const room = (element.clientWidth - 2 * PADDING_PX) / width;
    const scale = room < SCALE_MIN ? 1 : Math.min(1, room); // what would be too small to read is scrolled
    const svg = make("svg", { width: width * scale, height: height * scale, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": "Services and their calls" });
    graph.edges.forEach((edge, number) => {
      svg.append(drawEdge(edge, layout.edge(edge.from, edge.to, String(number)).points, busiest, graph.nodes));
    });
    for (const [id, node] of Object.entries(graph.nodes)) svg.append(drawNode(id, node, layout.node(id)));
    for (const type of ["pointerover", "focusin"]) svg.addEventListener(type, (event) => emphasize(svg, event.target.closest(".map-node")?.dataset.id ?? null));
    for (const type of ["pointerleave", "focusout"]) svg.addEventListener(type, () => emphasize(svg, null));
    const { scrollLeft, scrollTop } = element;
    element.replaceChildren(svg);
    element.scrollTo(scrollLeft, scrollTop);
  };

  const drawAll = () => {
    for (const element of document.querySelectorAll("[data-map]")) draw(element);
  };
  document.addEventListener("htmx:after:swap", drawAll);
  window.addEventListener("resize", drawAll);
  drawAll();
})();
