// How numbers read on the page. Pure: no DOM, no clock of its own.

export const NONE = "–";

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clockOf = (options) =>
  new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", ...options });
const toMinute = clockOf({});
const toSecond = clockOf({ second: "2-digit" });

const known = (value) => typeof value === "number" && Number.isFinite(value);

// Three significant digits at most, so that a number's width hardly changes as it moves.
function short(value) {
  if (value === 0) return "0";
  if (value < 0.01) return "<0.01";
  if (value < 0.9995) return value.toFixed(2);
  if (value < 99.95) return value.toFixed(1);
  if (value < 99_999.5) return whole.format(value);
  if (value < 999_500) return `${whole.format(value / 1e3)}k`;
  return `${(value / 1e6).toFixed(value < 99.95e6 ? 1 : 0)}M`;
}

// Each answers [number, unit], so that the page can set the two in different sizes.

export function rate(value) {
  return known(value) ? [short(value), "/s"] : [NONE, ""];
}

export function percent(value) {
  if (!known(value)) return [NONE, ""];
  if (value === 0) return ["0", "%"];
  const hundredths = value * 100;
  if (hundredths < 0.01) return ["<0.01", "%"];
  return [hundredths < 9.995 ? hundredths.toFixed(2) : hundredths.toFixed(1), "%"];
}

export function millis(value) {
  if (!known(value)) return [NONE, ""];
  if (value === 0) return ["0", "ms"];
  if (value < 9.95) return [value.toFixed(1), "ms"];
  if (value < 999.5) return [whole.format(value), "ms"];
  return [(value / 1e3).toFixed(value < 99_950 ? 2 : 0), "s"];
}

export function count(value) {
  return known(value) ? whole.format(value) : NONE;
}

export function joined([number, unit]) {
  return unit === "ms" || unit === "s" ? `${number}\u00a0${unit}` : number + unit;
}

export const minute = (ms) => toMinute.format(ms);
export const second = (ms) => toSecond.format(ms);
