// The chosen change, and the history of its field: a line for numbers, and the runs of equal values.

const EVIDENCE = {
  write: "The value went through State, so actor and value are known.",
  comparison: "A plain value of a part was another one afterwards.",
  inferred: "The actor declares that it changes this part, and ended well. The tensors were not looked at.",
  undeclared: "The guard found it changed, and nobody had declared it.",
};
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [380, 150, 52, 18, 8];

const exactText = (value) => (value === null ? "None, or not kept" : valueText(value, true) || "–");
const hookOrTail = (path) => (path.includes(":") ? path.slice(path.indexOf(":", path.indexOf(":") + 1) + 1) : tail(path));

function showChange(record) {
  const { slot } = record;
  const facts = [
    ["actor", slot.actor], ["source", slot.source || "–"], ["position", placeText(record.place)], ["record", number(record.seq)],
    ["time", Number.isFinite(record.time) ? timeText(record.time) : "–"],
    [slot.kind === "write" ? "evidence" : "kind", slot.kind === "write" ? slot.evidence : `${slot.kind} ${slot.evidence}`],
  ];
  if (slot.scope) facts.splice(4, 0, ["scope", slot.scope]);
  const values = slot.kind !== "write" ? el("pre", { class: "value" }, exactText(record.after)) : el("div", { class: "two" },
    el("div", {}, el("h4", {}, "Before"), el("pre", { class: "value old" }, exactText(record.before))),
    el("div", {}, el("h4", {}, "After"), el("pre", { class: changed(record) ? "value new" : "value" }, exactText(record.after))));
  const why = slot.actor === "external" ? "A change between two looks of the guard, or one that no actor of the tree made. " : "";
  const told = why + (slot.kind === "write" ? EVIDENCE[slot.evidence] ?? "" : "");
  return [
    el("h2", { class: isViolation(slot) ? "bad" : "" }, slot.field ?? `${slot.kind} ${tail(slot.actor)}`), values,
    el("dl", {}, facts.flatMap(([name, text]) => [el("dt", {}, name), el("dd", { class: name === "source" || name === "actor" ? "path" : "" }, text)])),
    told ? el("p", { class: "dim" }, told) : "",
  ];
}

function showHistory(log, field, { keepsSlot, onchoose, seq = null }) {
  const lines = log.lines.filter((line) => line.slot.field === field && keepsSlot(line.slot));
  if (!lines.length) return [el("h3", {}, "History"), el("p", { class: "dim" }, "This page has no history of it for these filters.")];
  const count = lines.reduce((sum, line) => sum + line.count, 0);
  const missing = lines.reduce((sum, line) => sum + line.missing, 0);
  const made = [el("h3", {}, "History of ", el("span", { class: "path" }, field), " ", el("span", { class: "dim" }, plural(count, "write")))];
  const drawn = lines.filter((line) => line.points.length || line.odd.length);
  if (drawn.reduce((sum, line) => sum + line.points.length + line.odd.length, 0) > 1) made.push(chart(log, drawn, seq));
  const runs = lines.flatMap((line) => line.runs.map(([first, last, times, value, place]) => ({ line, first, last, times, value, place })))
    .sort((a, b) => a.first - b.first);
  const list = el("div", { role: "listbox", class: "runs", "aria-label": `Values of ${field}` });
  roving(list, () => stopsIn(list));
  runs.forEach((run, index) => {
    const { slot } = run.line;
    const row = el("div", { role: "option", class: `record run ${isViolation(slot) ? "bad" : ""}`, "aria-selected": String(run.first === seq), title: slot.actor },
      el("span", { class: "seq" }, String(run.first)), el("span", { class: "at" }, shortPlace(run.place)), el("span", { class: "who" }, hookOrTail(slot.actor)),
      el("span", { class: "after" }, valueText(run.value)), el("span", { class: "dim" }, run.times > 1 ? `×${number(run.times)}` : ""));
    row.addEventListener("click", () => onchoose(recordAt(log, run.first) ?? {
      seq: run.first, time: NaN, place: run.place, slot, before: ["other", "not in this page"], after: run.value,
    }, row));
    list.append(stop(row, index === 0));
  });
  made.push(list);
  if (missing) made.push(el("p", { class: "dim" }, `${plural(missing, "value")} in the middle not in this list.`));
  return made;
}

// Of a field that goes on over rounds all writers make one line, of any other each has its own.
function seriesOf(lines) {
  const series = lines[0].slot.scope === "run" ? [lines] : lines.map((line) => [line]);
  return series.map((parts) => ({
    slot: parts[0].slot, norms: parts.some((line) => line.norms), isStep: lines[0].slot.scope === "run",
    points: parts.flatMap((line) => line.points.map((point) => [point[0], point[1], point.at(-1), line.slot])).sort((a, b) => a[0] - b[0]),
    odd: parts.flatMap((line) => line.odd),
  })).filter(({ points, odd }) => points.length || odd.length);
}

const tick = (value) => {
  const short = Number(value.toPrecision(3)), size = Math.abs(short);
  return size !== 0 && (size >= 1e5 || size < 1e-3) ? short.toExponential().replace("+", "") : String(short);
};

function chart(log, lines, seq) {
  const series = seriesOf(lines);
  const all = series.flatMap((each) => each.points.map((point) => [point, each])).sort(([a], [b]) => a[0] - b[0]);
  const seqs = [...all.map(([[n]]) => n), ...series.flatMap(({ odd }) => odd.map(([n]) => n))];
  const first = seqs.reduce((a, b) => Math.min(a, b)), last = seqs.reduce((a, b) => Math.max(a, b));
  let low = all.reduce((min, [[, a]]) => Math.min(min, a), Infinity), high = all.reduce((max, [[, , b]]) => Math.max(max, b), -Infinity);
  if (!all.length) [low, high] = [0, 1];
  if (low === high) [low, high] = [low - Math.max(1e-9, Math.abs(low) * 0.05), high + Math.max(1e-9, Math.abs(high) * 0.05)];
  const isLog = low > 0 && high / low > 1000;
  const scaled = isLog ? Math.log10 : (n) => n, unscaled = isLog ? (n) => 10 ** n : (n) => n;
  const [bottom, top] = [scaled(low), scaled(high)];
  const x = (n) => LEFT + ((n - first) / Math.max(1, last - first)) * (WIDTH - LEFT - 8);
  const y = (n) => TOP + (1 - (scaled(n) - bottom) / (top - bottom)) * (HEIGHT - TOP - BOTTOM);
  const xy = (n, v) => `${x(n).toFixed(1)},${y(v).toFixed(1)}`;
  const told = `${number(low)} to ${number(high)}${isLog ? ", log scale" : ""}, records ${number(first)} to ${number(last)}`;
  const drawing = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${lines[0].slot.field}: ${told}`, tabindex: 0 });
  const epochs = log.epochs.filter(([, start]) => start > first && start < last), each = Math.ceil(epochs.length / 6);
  epochs.forEach(([epoch, start], index) => {
    if (epochs.length <= 60) drawing.append(svg("line", { class: "grid", x1: x(start), x2: x(start), y1: TOP, y2: HEIGHT - BOTTOM }));
    if (index % each === 0) drawing.append(svg("text", { x: x(start), y: HEIGHT - 5, "text-anchor": "middle" }, index ? String(epoch) : `epoch ${epoch}`));
  });
  for (const value of [bottom, (bottom + top) / 2, top].map(unscaled)) {
    drawing.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - 8, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 5, y: y(value) + 3.5, "text-anchor": "end" }, tick(value)));
  }
  series.forEach(({ points, odd, isStep }, index) => {
    const name = `s${Math.min(index, 3)}`;
    if (points.some(([, a, b]) => a !== b)) {
      const band = [...points.map(([n, , b]) => xy(n, b)), ...points.toReversed().map(([n, a]) => xy(n, a))];
      drawing.append(svg("polygon", { class: `band ${name}`, points: band.join(" ") }));
    }
    const path = points.flatMap(([n, a, b], at) => {
      const middle = unscaled((scaled(a) + scaled(b)) / 2), next = points[at + 1];
      return isStep && next ? [xy(n, middle), xy(next[0], middle)] : [xy(n, middle)];
    });
    drawing.append(svg("polyline", { class: `series ${name}`, points: path.join(" ") }));
    for (const [n, a, , slot] of points.length <= 60 ? points : points.filter((point) => isViolation(point[3]))) {
      drawing.append(svg("circle", { class: isViolation(slot) ? "dot bad" : `dot ${name}`, cx: x(n), cy: y(a), r: isViolation(slot) ? 3 : 1.8 }));
    }
    for (const [n, what] of odd) {
      drawing.append(svg("line", { class: "odd", x1: x(n), x2: x(n), y1: TOP, y2: HEIGHT - BOTTOM }, svg("title", {}, `record ${n}: ${what}`)));
    }
  });
  const cursor = svg("line", { class: "cursor", x1: -9, x2: -9, y1: TOP, y2: HEIGHT - BOTTOM });
  const readout = el("p", { class: "readout dim", "aria-live": "polite" }, told);
  let here = all.length - 1;
  function point(n) {
    if (!all.length) return;
    here = Math.max(0, Math.min(all.length - 1, n));
    const [[record, a, b, slot], { norms }] = all[here];
    cursor.setAttribute("x1", x(record));
    cursor.setAttribute("x2", x(record));
    readout.textContent = `record ${number(record)}: ${norms ? "norm " : ""}${a === b ? number(a) : `${number(a)} to ${number(b)}`}, ${tail(slot.actor)}`;
  }
  drawing.append(cursor);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const record = first + (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - 8) * Math.max(1, last - first);
    const away = all.map(([[n]]) => Math.abs(n - record));
    point(away.indexOf(Math.min(...away)));
  });
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    point(Math.max(0, Math.min(all.length - 1, here + step)));
  });
  const chosen = all.findIndex(([[n]]) => n >= (seq ?? Infinity));
  if (chosen >= 0) point(chosen);
  const names = tailsOf(series.map(({ slot }) => slot.actor));
  const legend = series.length < 2 ? "" : el("p", { class: "legend" }, series.map(({ slot, norms }, index) =>
    el("span", { title: slot.actor }, el("span", { class: `key s${Math.min(index, 3)}`, "aria-hidden": "true" }), `${names[index]}${norms ? ", norm" : ""}`)));
  return el("figure", {}, drawing, readout, legend);
}

