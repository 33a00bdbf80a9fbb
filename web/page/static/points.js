// The last five minutes as the charts draw them. Pure. A point: {ts, rate, error_rate, p95_ms}.

export const POINTS_MAX = 300;
export const SPAN_S = 300;

const GAP_MS = 3_500;

// A reconnected page keeps what it saw before the worker's own history begins.
export function merge(points, history, point) {
  const from = history.length ? history[0].ts : point.ts;
  const kept = [...points.filter((p) => p.ts < from), ...history.filter((p) => p.ts < point.ts)];
  return [...kept, point].slice(-POINTS_MAX);
}

// Columns for one series: [seconds, values], with a null where seconds are missing, so that
// the line breaks there instead of inventing a slope.
export function columns(points, field) {
  const xs = [];
  const ys = [];
  points.forEach((point, i) => {
    if (i && point.ts - points[i - 1].ts > GAP_MS) {
      xs.push((points[i - 1].ts + 1) / 1e3);
      ys.push(null);
    }
    xs.push(point.ts / 1e3);
    ys.push(point[field] ?? null);
  });
  return [xs, ys];
}

export function highest(points, field) {
  return points.reduce((top, p) => (p[field] == null ? top : Math.max(top ?? 0, p[field])), null);
}
