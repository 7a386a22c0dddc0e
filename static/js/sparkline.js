// <spark-line points="…">: a character for each point, of 64 levels, drawn to the size of the element. See
// vantage/web/sparkline.py. It draws again when its points change, and not otherwise.
(() => {
  const LEVELS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz+-";
  const GAP = ".";
  const TOP = LEVELS.length - 1;
  const MARGIN = 5; // levels, room for the stroke
  const SVG = "http://www.w3.org/2000/svg";

  // The runs between gaps, as lists of [position, depth below the top].
  const runs = (points) => {
    const found = [];
    let run = null;
    [...points].forEach((letter, position) => {
      if (letter === GAP) run = null;
      else {
        if (!run) {
          run = [];
          found.push(run);
        }
        run.push([position, TOP + MARGIN - LEVELS.indexOf(letter)]);
      }
    });
    return found;
  };

  const shape = (name, attributes) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };

  class SparkLine extends HTMLElement {
    static observedAttributes = ["points"];

    constructor() {
      super();
      this.attachShadow({ mode: "open" });
    }

    attributeChangedCallback() {
      const points = this.getAttribute("points") ?? "";
      const bottom = TOP + 2 * MARGIN;
      const stroke = { fill: "none", stroke: "currentColor", "stroke-linecap": "round", "stroke-linejoin": "round", "vector-effect": "non-scaling-stroke" };
      let line = "";
      let area = "";
      let dots = "";
      for (const run of runs(points)) {
        const path = run.map(([x, y]) => `${x} ${y}`).join("L");
        if (run.length === 1) dots += `M${path}h0.01`; // as long as a round stroke needs to be drawn
        else {
          line += `M${path}`;
          area += `M${run[0][0]} ${bottom}L${path}L${run[run.length - 1][0]} ${bottom}Z`;
        }
      }
      const svg = shape("svg", { width: "100%", height: "100%", overflow: "visible", preserveAspectRatio: "none", viewBox: `0 0 ${Math.max(1, points.length - 1)} ${bottom}` });
      if (area) svg.append(shape("path", { d: area, fill: "currentColor", opacity: 0.11 }));
      if (dots) svg.append(shape("path", { ...stroke, d: dots, "stroke-width": 4 }));
      if (line) svg.append(shape("path", { ...stroke, d: line, "stroke-width": 1.5 }));
      this.shadowRoot.replaceChildren(svg);
    }
  }

  customElements.define("spark-line", SparkLine);
})();
