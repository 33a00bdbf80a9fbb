// Row order of the endpoints table. Pure.

const CLEARLY = 1.1;

// Busiest first, but two rows change places only when one is clearly busier: the reader's
// eye must not lose a row to noise. `previous` are endpoint names, in the order shown.
export function settle(previous, endpoints) {
  const place = new Map(previous.map((name, i) => [name, i]));
  const rows = endpoints
    .filter((e) => place.has(e.endpoint))
    .sort((a, b) => place.get(a.endpoint) - place.get(b.endpoint));
  const fresh = endpoints.filter((e) => !place.has(e.endpoint)).sort((a, b) => b.rate - a.rate);
  rows.push(...fresh);
  for (let i = 1; i < rows.length; i += 1) {
    for (let j = i; j > 0 && rows[j].rate > rows[j - 1].rate * CLEARLY; j -= 1) {
      [rows[j - 1], rows[j]] = [rows[j], rows[j - 1]];
    }
  }
  return rows;
}
