// The endpoints table. Endpoint names come from anybody's logs: they are text, never markup.

import * as format from "/static/format.js";
import { settle } from "/static/order.js";

const BAD_ERROR_RATE = 0.05;
const CELLS = ["rate", "errors", "p95", "count", "failed"];

function newRow(name) {
  const row = document.createElement("tr");
  const head = row.appendChild(document.createElement("th"));
  head.scope = "row";
  const bar = head.appendChild(document.createElement("span"));
  bar.className = "bar";
  const label = head.appendChild(document.createElement("bdi"));
  label.textContent = name;
  label.title = name;
  const cells = CELLS.map((kind) => {
    const cell = row.appendChild(document.createElement("td"));
    cell.className = kind;
    return cell;
  });
  return { row, bar, cells };
}

function fill({ bar, cells }, endpoint, busiest) {
  const texts = [
    format.joined(format.rate(endpoint.rate)),
    format.joined(format.percent(endpoint.error_rate)),
    format.joined(format.millis(endpoint.p95_ms)),
    format.count(endpoint.count),
    format.count(endpoint.errors),
  ];
  cells.forEach((cell, i) => {
    if (cell.textContent !== texts[i]) cell.textContent = texts[i];
  });
  cells[1].classList.toggle("bad", endpoint.error_rate >= BAD_ERROR_RATE);
  const share = busiest > 0 ? endpoint.rate / busiest : 0;
  bar.style.clipPath = `inset(0 ${100 - 100 * share}% 0 0 round 5px)`;
}

// Lets each row glide from where it was to where it is.
function glide(body, act) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return act();
  const before = new Map([...body.children].map((row) => [row, row.offsetTop]));
  act();
  for (const row of body.children) {
    const moved = (before.get(row) ?? row.offsetTop) - row.offsetTop;
    if (moved) {
      row.animate([{ transform: `translateY(${moved}px)` }, { transform: "none" }], {
        duration: 300,
        easing: "ease-out",
      });
    }
  }
}

// Returns show(endpoints), which brings the table body up to date.
export function endpointsTable(body) {
  let shown = new Map();

  return function show(endpoints) {
    const ordered = settle([...shown.keys()], endpoints);
    const busiest = Math.max(0, ...ordered.map((e) => e.rate));
    const next = new Map();
    for (const endpoint of ordered) {
      const entry = shown.get(endpoint.endpoint) ?? newRow(endpoint.endpoint);
      fill(entry, endpoint, busiest);
      next.set(endpoint.endpoint, entry);
    }
    const rows = [...next.values()].map((entry) => entry.row);
    if (rows.length !== body.children.length || rows.some((row, i) => row !== body.children[i])) {
      glide(body, () => body.replaceChildren(...rows));
    }
    shown = next;
  };
}
