// Formats numbers and times for people: the twin of vantage/core/number_format.py, function by function. Both must
// pass the examples in tests/number_format.json: change all three together.
globalThis.numberFormat = (() => {
  const NONE = "–";
  const FULL = 0.9995; // of a unit: what rounds to 1 of it is written in it
  const COUNTS = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const BYTES = [[1e18, "EB"], [1e15, "PB"], [1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]];
  const DURATIONS_MS = [[86400000, "d"], [3600000, "h"], [60000, "min"], [1000, "s"], [1, "ms"], [1e-3, "µs"]];
  const ELAPSED_S = [[86400, "d"], [3600, "h"], [60, "min"]];
  const FUTURE_S = 60; // clocks may differ by this much
  const EXPONENT_FROM = 1e15;
  const EXPONENT_BELOW = 1e-6;
  const UNITS_MS = new Map(Object.entries({ ns: 1e-6, us: 1e-3, "µs": 1e-3, ms: 1, s: 1000, min: 60000, h: 3600000 }));
  const UNITS_BYTES = ["By", "B", "bytes"];
  const UNITS_RATE = ["/s", "1/s"];

  const isNone = (value) => !Number.isFinite(value); // nothing, or no finite number
  const trim = (text) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);

  const withExponent = (value) => {
    const [mantissa, exponent] = value.toExponential(2).split("e");
    return `${trim(mantissa)}e${Number(exponent)}`;
  };

  const plain = (value) => {
    if (isNone(value)) return NONE;
    if (value === 0) return "0";
    const size = Math.abs(value);
    if (size >= EXPONENT_FROM || size < EXPONENT_BELOW) return withExponent(value);
    return size >= 100 ? value.toFixed(0) : trim(value.toPrecision(3));
  };

  const count = (value) => {
    if (isNone(value)) return NONE;
    const size = Math.abs(value);
    if (size >= EXPONENT_FROM * FULL) return withExponent(value);
    for (const [unit, letter] of COUNTS) if (size >= unit * FULL) return plain(value / unit) + letter;
    return plain(value);
  };

  // The marks of an axis share a unit, which the largest of them decides.
  const rate = (perS, largest = perS) => {
    if (isNone(perS)) return NONE;
    const decisive = Math.abs(largest);
    if (decisive === 0 || decisive >= 0.1) return `${count(perS)}/s`;
    if (decisive * 60 >= FULL) return `${plain(perS * 60)}/min`;
    return `${plain(perS * 3600)}/h`;
  };

  const percent = (value) => {
    if (isNone(value)) return NONE;
    return value > 0 && value < 0.01 ? "< 0.01 %" : `${plain(value)} %`;
  };

  const durationMs = (value) => {
    if (isNone(value)) return NONE;
    if (value === 0) return "0 ms";
    for (const [size, unit] of DURATIONS_MS) if (Math.abs(value) >= size * FULL) return `${plain(value / size)} ${unit}`;
    return `${plain(value * 1e6)} ns`;
  };

  const size = (nbytes) => {
    if (isNone(nbytes)) return NONE;
    for (const [unitNbytes, unit] of BYTES) if (Math.abs(nbytes) >= unitNbytes * FULL) return `${plain(nbytes / unitNbytes)} ${unit}`;
    return `${plain(nbytes)} B`;
  };

  const quantity = (value, unit, largest = value) => {
    if (isNone(value)) return NONE;
    if (UNITS_MS.has(unit)) return durationMs(value * UNITS_MS.get(unit));
    if (UNITS_BYTES.includes(unit)) return size(value);
    if (UNITS_RATE.includes(unit)) return rate(value, largest);
    if (unit === "%") return percent(value);
    return unit === "" || unit === "1" ? count(value) : `${count(value)} ${unit}`;
  };

  const ago = (atMs, nowMs) => {
    const elapsedS = Math.floor((nowMs - atMs) / 1000);
    if (elapsedS < -FUTURE_S) return "in the future";
    for (const [unitS, unit] of ELAPSED_S) if (elapsedS >= unitS) return `${Math.floor(elapsedS / unitS)} ${unit} ago`;
    return elapsedS > 0 ? `${elapsedS} s ago` : "now";
  };

  return { plain, count, rate, percent, durationMs, size, quantity, ago };
})();
