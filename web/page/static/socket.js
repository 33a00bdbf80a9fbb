// The feed: one WebSocket that comes back by itself.

const BACKOFF_MS = { first: 500, longest: 5_000 };
const STALE_MS = 3_000;
const DEAD_MS = 10_000;

// Calls onMessage(message) for each push, and onLink(link) when the link changes between
// "connecting", "open" (messages arrive), "stale" (none for 3 s) and "reconnecting".
export function feed(path, { onMessage, onLink }) {
  let socket = null;
  let link = null;
  let attempt = 0;
  let timers = [];

  const become = (next) => {
    if (next !== link) onLink((link = next));
  };
  const after = (ms, act) => timers.push(setTimeout(act, ms));
  const clear = () => {
    timers.forEach(clearTimeout);
    timers = [];
  };

  function listen() {
    clear();
    after(STALE_MS, () => link === "open" && become("stale"));
    // A peer that vanished without a word never closes its end: leave, and call again.
    after(DEAD_MS, retry);
  }

  function open() {
    const mine = new WebSocket(new URL(path, location.href.replace(/^http/, "ws")));
    socket = mine;
    listen();
    mine.onmessage = ({ data }) => {
      if (socket !== mine) return;
      attempt = 0;
      listen();
      become("open");
      onMessage(JSON.parse(data));
    };
    mine.onclose = () => socket === mine && retry();
  }

  function retry() {
    clear();
    const left = socket;
    socket = null;
    left?.close();
    become("reconnecting");
    const longest = Math.min(BACKOFF_MS.longest, BACKOFF_MS.first * 2 ** attempt);
    attempt += 1;
    // Jitter: pages that lost the same worker must not all call back in the same instant.
    after(longest * (0.5 + Math.random() / 2), open);
  }

  function hurry() {
    if (socket || document.hidden) return;
    clear();
    open();
  }

  addEventListener("online", hurry);
  document.addEventListener("visibilitychange", hurry);
  become("connecting");
  open();
}
