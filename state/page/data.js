// The log as it was packed into this page, its filters, and values as text.

async function unpacked() {
  const { data } = JSON.parse(document.getElementById("data").textContent);
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return modelOf(JSON.parse(await new Response(stream).text()));
}

function modelOf(data) {
  const actors = data.actors.map(([path, source]) => ({ path, source }));
  const fields = data.fields.map(([name, scope]) => ({ name, scope }));
  const slots = data.slots.map(([actor, kind, field, evidence], id) => ({
    id, kind, evidence, actor: actors[actor].path, source: actors[actor].source,
    field: field === null ? null : fields[field].name, scope: field === null ? "" : fields[field].scope,
  }));
  const segments = new Map(data.segments.map(([seq, time, place, template, values, before]) =>
    [seq, { seq, time, place, template, values, before }]));
  const shapes = new Map(data.shapes.map(([id, cycle, phase, regular, count, first, last, numbers]) =>
    [id, { id, cycle, phase, regular, count, first, last, slots: numbers.map((number) => slots[number]) }]));
  const rounds = data.rounds.map(([shape, place, notes, seqs, count]) =>
    ({ shape: shapes.get(shape), place, notes, seqs, missing: count - seqs.length }));
  const lines = data.lines.map((line) => ({ ...line, slot: slots[line.slot] }));
  const heat = data.heat.map(([slot, counts]) => ({ slot: slots[slot], counts }));
  const touches = data.touches.map((slot) => slots[slot]);
  const order = [...segments.keys()].sort((a, b) => a - b);
  return { ...data, slots, segments, shapes, rounds, lines, heat, touches, order };
}

function recordsOf(log, segment) {
  segment.records ??= segment.values.map((after, index) => ({
    seq: segment.seq + index, time: segment.time, place: segment.place, after, before: segment.before[index],
    slot: log.slots[log.templates[segment.template][index]],
  }));
  return segment.records;
}

function recordsOfRound(log, round) {
  return round.seqs.flatMap((seq) => (log.segments.has(seq) ? recordsOf(log, log.segments.get(seq)) : []));
}

function allRecords(log) {
  return log.order.flatMap((seq) => recordsOf(log, log.segments.get(seq)));
}

// The record with a number, or null where it is not in this page.
function recordAt(log, seq) {
  let low = 0, high = log.order.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (log.order[middle] <= seq) low = middle + 1; else high = middle;
  }
  const segment = low ? log.segments.get(log.order[low - 1]) : null;
  return (segment && recordsOf(log, segment)[seq - segment.seq]) ?? null;
}

// A test of names: patterns with * as the command line has them, whole names with all below, else a part of a name.
function namesMatching(text, names, separators) {
  const wanted = text.trim();
  if (!wanted) return () => true;
  if (wanted.includes("*")) {
    const parts = wanted.split("*").map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
    const pattern = new RegExp(`^${parts.join("[^]*")}$`);
    return (name) => pattern.test(name);
  }
  if (names.has(wanted)) {
    const below = [...separators].map((separator) => wanted + separator);
    return (name) => name === wanted || below.some((start) => name.startsWith(start));
  }
  return (name) => name.includes(wanted);
}

// A test of places for "2", "1-3:fit" or "2:fit:5-9"; a part that is empty or * fits all. Null if it is none of these.
function placesMatching(text) {
  const parts = text.trim().split(":").map((part) => part.trim());
  if (parts.length > 3) return null;
  const tests = [];
  for (const [index, part] of parts.entries()) {
    if (!part || part === "*") continue;
    if (index === 1) {
      tests.push((place) => place[1] === part);
      continue;
    }
    const found = /^(\d+)(?:-(\d+))?$/.exec(part);
    if (!found) return null;
    const [first, last] = [Number(found[1]), Number(found[2] ?? found[1])];
    tests.push((place) => place[index] !== null && first <= place[index] && place[index] <= last);
  }
  return (place) => tests.every((test) => test(place));
}

const isViolation = (slot) => slot.kind === "broken" || slot.kind === "write" && (slot.evidence === "undeclared" || slot.actor === "external");

function number(value) {
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return value.toLocaleString("en-US");
  const short = Number(value.toPrecision(6));
  return Math.abs(short) >= 1e9 ? short.toExponential().replace("+", "") : String(short);
}

function valueText(value, exact = false) {
  if (value === null) return "";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "number") return exact || (Number.isInteger(value) && Math.abs(value) < 1e9) ? String(value) : number(value);
  if (typeof value === "string") return value;
  const [what, text, low, high, mean, norm, fingerprint, where] = value;
  if (what === "absent") return "not ready";
  if (what !== "summary") return text;
  const shown = (n) => (typeof n === "number" ? number(n) : n);
  const told = [
    norm === null ? "" : `norm ${shown(norm)}`, low === null ? "" : `${shown(low)} to ${shown(high)}`,
    mean === null ? "" : `mean ${shown(mean)}`, where ? `${where} is not finite` : "",
    fingerprint ? `#${exact ? fingerprint : fingerprint.slice(0, 8)}` : "",
  ].filter(Boolean);
  told.splice(exact ? 0 : told.length, 0, text); // a list has no room for both: what differs comes first
  return told.join(", ");
}

const timeText = (time) => new Date(time * 1000).toISOString().replace("T", " ").replace("Z", " UTC");

function placeText([epoch, phase, batch, update]) {
  const named = [["epoch", epoch], ["", phase], ["batch", batch], ["update", update]];
  const told = named.filter(([, part]) => part !== null).map(([name, part]) => `${name} ${part}`.trim());
  return told.join(", ") || "outside of epochs";
}

function shortPlace([epoch, phase, batch]) {
  const parts = [epoch, phase, batch];
  while (parts.length && parts.at(-1) === null) parts.pop();
  return parts.length ? parts.map((part) => part ?? "").join(":") : "–";
}

// The shortest ends of paths that still tell them apart.
function tailsOf(paths) {
  const parts = paths.map((path) => path.split("/"));
  const ends = (length) => parts.map((names) => names.slice(-length).join("/"));
  for (let length = 1; length < 12; length++) {
    if (new Set(ends(length)).size === new Set(paths).size) return ends(length);
  }
  return paths;
}

const tail = (path) => path.slice(path.lastIndexOf("/", path.indexOf(":") < 0 ? path.length : path.indexOf(":")) + 1);

