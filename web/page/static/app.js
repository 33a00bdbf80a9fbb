// Wires the feed to what is on the page.

import { chart } from "/static/charts.js";
import { endpointsTable } from "/static/endpoints.js";
import * as format from "/static/format.js";
import { columns, highest, merge } from "/static/points.js";
import { feed } from "/static/socket.js";

const byId = (id) => document.getElementById(id);

const PANELS = [
  { id: "rate", field: "rate", say: format.rate, top: "peak", least: 4, ticks: 4 },
  { id: "errors", field: "error_rate", say: format.percent, top: "worst", least: 0.02, ticks: 2 },
  { id: "p95", field: "p95_ms", say: format.millis, top: "worst", least: 10, ticks: 2 },
].map(panel);

const showEndpoints = endpointsTable(byId("rows"));

let link = "connecting";
let last = null; // newest message of any state
let points = [];
let everCounted = false;

function panel({ id, field, say, top, least, ticks }) {
  const figure = byId(id);
  const note = figure.querySelector(".note");
  const number = figure.querySelector(".number");
  const unit = figure.querySelector(".unit");
  const value = figure.querySelector(".value");
  const text = (of) => format.joined(say(of));
  let data = [[], []];
  let hovered = null;

  function annotate() {
    const x = hovered === null ? undefined : data[0][hovered];
    const summit = highest(points, field);
    if (x !== undefined) note.textContent = `${format.second(x * 1e3)} · ${text(data[1][hovered])}`;
    else note.textContent = summit === null ? "" : `${top} ${text(summit)}`;
  }

  const onHover = (index) => {
    if (index === hovered) return;
    hovered = index;
    annotate();
  };
  const plot = chart(figure.querySelector(".plot"), {
    color: `--${id}`,
    format: axisText(say),
    least,
    ticks,
    onHover,
  });

  return function show() {
    const now = points.at(-1)[field];
    [number.textContent, unit.textContent] = say(now);
    value.classList.toggle("none", number.textContent === format.NONE);
    data = columns(points, field);
    plot.show(data);
    annotate();
  };
}

// Axis labels need no decimals that are all zero, and no "/s" on each.
function axisText(say) {
  return (value) => {
    const [number, unit] = say(value);
    return format.joined([number.replace(/\.0+$/, ""), unit === "/s" ? "" : unit]);
  };
}

function status() {
  const from = points.length ? `Numbers are from ${format.second(points.at(-1).ts)}.` : "";
  if (link === "connecting") return ["Connecting", ""];
  if (link === "reconnecting") return ["Reconnecting", from || "The worker does not answer yet."];
  if (link === "stale") return ["Stale", `No update. ${from}`];
  if (last.state === "loading") {
    return ["Loading", "Restoring state; numbers will follow."];
  }
  if (last.partial) return ["Partial", "Some workers are silent: totals too low."];
  return ["Live", ""];
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function showStatus() {
  const [word, detail] = status();
  setText(byId("state"), word);
  setText(byId("detail"), detail);
  document.body.dataset.state = word.toLowerCase();
}

function showFooter({ worker, workers, staleness_ms: staleness }) {
  setText(byId("worker"), worker);
  setText(byId("workers"), workers === 1 ? "1 worker answering" : `${workers} workers answering`);
  setText(byId("staleness"), `${format.joined(format.millis(staleness))} behind the stream`);
}

function showAlert({ alert = "" }) {
  setText(byId("alert"), alert);
  byId("alert").hidden = !alert;
}

function showData(message) {
  const { rate, error_rate, p95_ms, endpoints } = message.data;
  points = merge(points, message.history ?? [], { ts: message.ts, rate, error_rate, p95_ms });
  PANELS.forEach((show) => show());
  everCounted ||= endpoints.length > 0 || points.some((point) => point.rate > 0);
  showEndpoints(endpoints);
  byId("table").hidden = endpoints.length === 0;
  byId("empty").hidden = endpoints.length > 0;
  setText(byId("empty-title"), everCounted ? "No events in the last five minutes" : "No events yet");
  document.title = `${format.joined(format.rate(rate))} · Headrace`;
}

function copyButtons() {
  for (const button of document.querySelectorAll("button[data-copy]")) {
    button.hidden = !navigator.clipboard;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(byId(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1_500);
    });
  }
}

setText(byId("origin"), location.origin);
copyButtons();
feed("/ws/metrics", {
  onMessage(message) {
    last = message;
    if (message.state === "live") showData(message);
    showFooter(message);
    showAlert(message);
    showStatus();
  },
  onLink(next) {
    link = next;
    // "open" is said together with the message that opened it.
    if (next !== "open") showStatus();
  },
});
