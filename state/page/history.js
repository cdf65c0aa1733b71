// The chosen change, and the history of its field: a line for numbers, and the runs of equal values.

const EVIDENCE = {
  write: "The value went through State, so actor and value are known.",
  comparison: "A plain value of a part was another one afterwards.",
  inferred: "The actor declares that it changes this part, and ended well. The tensors were not looked at.",
  undeclared: "The guard found it changed, and nobody had declared it.",
};
const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [380, 150, 52, 18, 8];

function showChange(record) {
  const { slot } = record;
  const facts = [
    ["actor", slot.actor], ["source", slot.source || "–"], ["position", placeText(record.place)], ["record", number(record.seq)],
    ["time", new Date(record.time * 1000).toISOString().replace("T", " ").replace("Z", " UTC")],
    [slot.kind === "write" ? "evidence" : "kind", slot.kind === "write" ? slot.evidence : `${slot.kind} ${slot.evidence}`],
  ];
  if (slot.scope) facts.splice(4, 0, ["scope", slot.scope]);
  const values = slot.kind !== "write" ? el("pre", { class: "value" }, valueText(record.after, true) || "–") : el("div", { class: "two" },
    el("div", {}, el("h4", {}, "Before"), el("pre", { class: "value old" }, valueText(record.before, true) || "–")),
    el("div", {}, el("h4", {}, "After"), el("pre", { class: changed(record) ? "value new" : "value" }, valueText(record.after, true) || "–")));
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
  const drawn = lines.filter((line) => line.points.length > 1 || line.odd.length);
  if (drawn.length) made.push(chart(log, drawn, seq));
  const runs = lines.flatMap((line) => line.runs.map(([first, last, times, value, place]) => ({ line, first, last, times, value, place })))
    .sort((a, b) => a.first - b.first);
  const list = el("div", { role: "listbox", class: "runs", "aria-label": `Values of ${field}` });
  roving(list, () => stopsIn(list));
  runs.forEach((run, index) => {
    const { slot } = run.line;
    const row = el("div", { role: "option", class: `record run ${isViolation(slot) ? "bad" : ""}`, "aria-selected": String(run.first === seq), title: slot.actor },
      el("span", { class: "seq" }, String(run.first)), el("span", { class: "at" }, shortPlace(run.place)), el("span", { class: "who" }, tail(slot.actor)),
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

function chart(log, lines, seq) {
  const points = lines.flatMap((line) => line.points);
  const lows = points.map((point) => point[1]), highs = points.map((point) => point.at(-1));
  const [first, last] = [Math.min(...ends(lines, 0)), Math.max(...ends(lines, -1))];
  let [low, high] = points.length ? [Math.min(...lows), Math.max(...highs)] : [0, 1];
  if (low === high) [low, high] = [low - Math.max(1e-9, Math.abs(low) * 0.05), high + Math.max(1e-9, Math.abs(high) * 0.05)];
  const x = (n) => LEFT + ((n - first) / Math.max(1, last - first)) * (WIDTH - LEFT - 6);
  const y = (n) => TOP + (1 - (n - low) / (high - low)) * (HEIGHT - TOP - BOTTOM);
  const at = (n, v) => `${x(n).toFixed(1)},${y(v).toFixed(1)}`;
  const told = `${lines[0].slot.field}: ${number(low)} to ${number(high)} over records ${first} to ${last}`;
  const drawing = svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": told, tabindex: 0 });
  for (const [epoch, start] of log.epochs) {
    if (start <= first || start >= last) continue;
    drawing.append(svg("line", { class: "grid", x1: x(start), x2: x(start), y1: TOP, y2: HEIGHT - BOTTOM }));
    if (log.epochs.length < 12) drawing.append(svg("text", { x: x(start), y: HEIGHT - 5, "text-anchor": "middle" }, `epoch ${epoch}`));
  }
  for (const value of [low, (low + high) / 2, high]) {
    drawing.append(svg("line", { class: "grid", x1: LEFT, x2: WIDTH - 6, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 5, y: y(value) + 3.5, "text-anchor": "end" }, String(Number(value.toPrecision(3)))));
  }
  lines.forEach((line, index) => {
    const pairs = line.points.map((point) => [point[0], point[1], point.at(-1)]);
    const name = `series s${Math.min(index, 3)}`;
    if (pairs.some(([, a, b]) => a !== b)) {
      const band = [...pairs.map(([n, , b]) => at(n, b)), ...pairs.toReversed().map(([n, a]) => at(n, a))];
      drawing.append(svg("polygon", { class: `band s${Math.min(index, 3)}`, points: band.join(" ") }));
    }
    drawing.append(svg("polyline", { class: name, points: pairs.map(([n, a, b]) => at(n, (a + b) / 2)).join(" ") }));
    if (pairs.length <= 60) pairs.forEach(([n, a]) => drawing.append(svg("circle", { class: `dot s${Math.min(index, 3)}`, cx: x(n), cy: y(a), r: 1.8 })));
    for (const [n, what] of line.odd) {
      drawing.append(svg("line", { class: "odd", x1: x(n), x2: x(n), y1: TOP, y2: HEIGHT - BOTTOM }, svg("title", {}, `record ${n}: ${what}`)));
    }
  });
  const cursor = svg("line", { class: "cursor", x1: 0, x2: 0, y1: TOP, y2: HEIGHT - BOTTOM });
  const readout = el("p", { class: "readout dim", "aria-live": "polite" }, told);
  const all = lines.flatMap((line) => line.points.map((point) => [point, line])).sort(([a], [b]) => a[0] - b[0]);
  let here = all.length - 1;
  function point(n) {
    if (!all.length) return;
    here = Math.max(0, Math.min(all.length - 1, n));
    const [[record, a, b = a], line] = all[here];
    cursor.setAttribute("x1", x(record));
    cursor.setAttribute("x2", x(record));
    readout.textContent = `record ${number(record)}: ${line.norms ? "norm " : ""}${a === b ? number(a) : `${number(a)} to ${number(b)}`}${lines.length > 1 ? `, ${tail(line.slot.actor)}` : ""}`;
  }
  drawing.append(cursor);
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const record = first + (((event.clientX - box.left) / box.width) * WIDTH - LEFT) / (WIDTH - LEFT - 6) * Math.max(1, last - first);
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
  const legend = lines.length < 2 ? "" : el("p", { class: "legend" }, lines.map((line, index) =>
    el("span", { title: line.slot.actor }, el("span", { class: `key s${Math.min(index, 3)}`, "aria-hidden": "true" }), `${tail(line.slot.actor)}${line.norms ? ", norm" : ""}`)));
  return el("figure", {}, drawing, readout, legend);
}

const ends = (lines, index) => lines.flatMap((line) => [line.points.at(index)?.[0], line.odd.at(index)?.[0]]).filter((n) => n !== undefined);

