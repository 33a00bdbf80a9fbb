// One uPlot time series per panel: five minutes, cursors in step.

import uPlot from "/static/lib/uplot/dist/uPlot.esm.js";
import { minute } from "/static/format.js";
import { SPAN_S } from "/static/points.js";

const FONT = "11px system-ui, sans-serif";
const STEPS = [1, 2, 4, 6, 8, 10];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The smallest round number above the data, so that the axis moves seldom and in whole steps.
function ceiling(value) {
  const unit = 10 ** Math.floor(Math.log10(value));
  return unit * (STEPS.find((step) => step * unit >= value * 1.05) ?? 20);
}

function area(u, color) {
  const gradient = u.ctx.createLinearGradient(0, u.bbox.top, 0, u.bbox.top + u.bbox.height);
  gradient.addColorStop(0, `${color}40`);
  gradient.addColorStop(1, `${color}05`);
  return gradient;
}

function markNow(u, color) {
  const last = u.data[0].length - 1;
  if (last < 0 || u.data[1][last] == null) return;
  const x = u.valToPos(u.data[0][last], "x", true);
  const y = u.valToPos(u.data[1][last], "y", true);
  u.ctx.fillStyle = color;
  u.ctx.beginPath();
  u.ctx.arc(x, y, 3.5 * devicePixelRatio, 0, 2 * Math.PI);
  u.ctx.fill();
}

// holder: element of a fixed height. color: name of a CSS variable holding #rrggbb.
// format: value -> text. least: lowest top of the axis. ticks: intervals on it.
// onHover: index of the point under the cursor, or null.
export function chart(holder, { color, format, least, ticks, onHover }) {
  const stroke = () => css(color);
  const muted = () => css("--muted");
  let now = Date.now() / 1e3;

  const options = {
    width: holder.clientWidth,
    height: holder.clientHeight,
    padding: [10, 16, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, points: { size: 8 }, sync: { key: "page" } },
    scales: {
      x: { range: () => [now - SPAN_S, now] },
      y: { range: (_u, _min, max) => [0, Math.max(least, max > 0 ? ceiling(max) : 0)] },
    },
    axes: [
      {
        stroke: muted,
        font: FONT,
        size: 24,
        gap: 6,
        space: 56,
        incrs: [60, 120, 300],
        values: (_u, xs) => xs.map((x) => minute(x * 1e3)),
        grid: { show: false },
        ticks: { show: false },
      },
      {
        stroke: muted,
        font: FONT,
        size: 52,
        gap: 8,
        splits: (_u, _axis, _min, max) =>
          Array.from({ length: ticks + 1 }, (_, i) => (max * i) / ticks),
        values: (_u, ys) => ys.map(format),
        grid: { stroke: () => css("--line"), width: 1 },
        ticks: { show: false },
      },
    ],
    series: [
      {},
      {
        stroke,
        width: 1.75,
        fill: (u) => area(u, stroke()),
        points: { show: false },
      },
    ],
    hooks: {
      draw: [(u) => markNow(u, stroke())],
      setCursor: [(u) => onHover(u.cursor.idx ?? null)],
    },
  };

  const plot = new uPlot(options, [[], []], holder);
  new ResizeObserver(() =>
    plot.setSize({ width: holder.clientWidth, height: holder.clientHeight }),
  ).observe(holder);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => plot.redraw());

  return {
    show(data) {
      now = data[0].at(-1);
      plot.setData(data);
    },
  };
}
