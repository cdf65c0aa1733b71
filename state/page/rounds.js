// The cycles of the run: the regular ones once, and those that deviate.

const CYCLES = { batch: "batches", epoch: "epochs, around their phases and batches", run: "outside of epochs" };

const signOf = (slot) => JSON.stringify([slot.actor, slot.kind, slot.field, slot.evidence]);

// What a shape has more and what it lacks, compared with another: [slot, how many times] each.
function difference(shape, other) {
  const counts = new Map();
  for (const [slots, step] of [[shape.slots, 1], [other.slots, -1]]) {
    for (const slot of slots) {
      const held = counts.get(signOf(slot)) ?? [slot, 0];
      held[1] += step;
      counts.set(signOf(slot), held);
    }
  }
  const all = [...counts.values()];
  return { more: all.filter(([, n]) => n > 0), less: all.filter(([, n]) => n < 0).map(([slot, n]) => [slot, -n]) };
}

const slotText = (slot) => (slot.field === null ? `${slot.kind} ${slot.evidence}` : `${nameOf(slot)} by ${tail(slot.actor)}`);

function chips({ more, less }, most = 6) {
  const one = (sign) => ([slot, count]) =>
    el("span", { class: `chip ${isViolation(slot) ? "bad" : ""}`, title: `${slot.actor} (${slot.evidence})` }, `${sign} ${slotText(slot)}${count > 1 ? ` ×${count}` : ""}`);
  const all = [...more.map(one("+")), ...less.map(one("−"))];
  const rest = all.length - most;
  if (!all.length) return [el("span", { class: "dim" }, "the same writes in another order")];
  return rest > 0 ? [...all.slice(0, most), el("span", { class: "dim" }, ` and ${rest} more`)] : all;
}

const typicalOf = (log, shape) =>
  [...log.shapes.values()].filter((other) => other.cycle === shape.cycle && other.phase === shape.phase && other.regular)
    .sort((a, b) => b.count - a.count)[0] ?? null;

// Groups of rounds as they are shown: one per cycle, with its regular shapes and those that deviate.
function cyclesOf(log, keeps) {
  const groups = new Map();
  for (const round of log.rounds) {
    const key = JSON.stringify([round.shape.cycle, round.shape.phase]);
    if (!groups.has(key)) groups.set(key, { cycle: round.shape.cycle, phase: round.shape.phase, shapes: new Map() });
    const { shapes } = groups.get(key);
    if (!shapes.has(round.shape)) shapes.set(round.shape, []);
    if (keeps(round)) shapes.get(round.shape).push(round);
  }
  const order = ["batch", "epoch", "run"];
  return [...groups.values()].sort((a, b) => order.indexOf(a.cycle) - order.indexOf(b.cycle));
}

function showCycles(log, { keeps, keepsRecord, onchoose }) {
  const sections = cyclesOf(log, keeps).map(({ cycle, phase, shapes }, index) => {
    const all = [...shapes.keys()];
    const regular = all.filter((shape) => shape.regular).sort((a, b) => b.count - a.count);
    const odd = all.filter((shape) => !shape.regular).sort((a, b) => a.id - b.id);
    const count = all.reduce((sum, shape) => sum + shape.count, 0);
    const noted = regular.flatMap((shape) => shapes.get(shape).filter((round) => round.notes.length));
    const name = phase === null ? CYCLES[cycle] : `${phase}, ${CYCLES[cycle]}`;
    const told = count === 1 && cycle === "run" ? "" : plural(count, "round");
    const made = [el("h3", {}, name, " ", el("span", { class: "dim" }, told))];
    regular.forEach((shape, n) => {
      const kept = shapes.get(shape);
      if (!kept.length) return;
      const title = cycle === "run" ? "All records" : n ? "Also regular" : "Typical cycle";
      const share = cycle === "run" ? "" : `${number(shape.count)} of ${number(count)}`;
      const apart = n ? chips(difference(shape, regular[0]), 3) : [];
      made.push(disclosure([el("b", {}, title), el("span", { class: "dim" }, share), ...apart],
        () => stepper(log, kept, { keepsRecord, onchoose, others: shape.count }), { open: index === 0 && n === 0 }));
    });
    const deviating = odd.map((shape) => shapeGroup(log, shape, shapes.get(shape), regular[0], { keepsRecord, onchoose })).filter(Boolean);
    if (noted.length) {
      made.push(el("h4", {}, "Regular writes, with a finding ", el("span", { class: "dim" }, plural(noted.length, "round"))),
        ...noted.map((round) => roundGroup(log, round, null, { keepsRecord, onchoose })));
    }
    if (odd.length) {
      const rounds = odd.reduce((sum, shape) => sum + shape.count, 0);
      made.push(el("h4", {}, "Deviating ", el("span", { class: "dim" }, `${plural(rounds, "round")} in ${plural(odd.length, "shape")}`)), ...deviating);
    }
    return made.length > 1 ? el("section", { class: "cycle" }, made) : null;
  }).filter(Boolean);
  return sections.length ? sections : [el("p", { class: "dim" }, "No round in this page matches.")];
}

function shapeGroup(log, shape, rounds, typical, options) {
  if (!rounds.length) return null;
  const told = typical ? chips(difference(shape, typical)) : [];
  if (rounds.length === 1 && shape.count === 1) return roundGroup(log, rounds[0], typical, options, told);
  const missing = shape.count - rounds.length;
  const ends = `${shortPlace(shape.first)} to ${shortPlace(shape.last)}`;
  return disclosure([el("b", {}, plural(shape.count, "round")), el("span", { class: "at" }, ends), ...told], () => [
    ...rounds.map((round) => roundGroup(log, round, typical, options)),
    missing > 0 ? el("p", { class: "dim" }, `${plural(missing, "more round")} of this shape: not in this page, or filtered out.`) : null,
  ].filter(Boolean), { className: shape.slots.some(isViolation) ? "bad" : "" });
}

function roundGroup(log, round, typical, options, told = []) {
  const notes = round.notes.map((note) => el("span", { class: "chip bad" }, note));
  return disclosure([el("b", {}, placeText(round.place)), ...notes, ...told], () => roundRecords(log, round, typical, options));
}

function roundRecords(log, round, typical, { keepsRecord, onchoose }) {
  const more = new Set(typical ? difference(round.shape, typical).more.map(([slot]) => signOf(slot)) : []);
  const list = recordList(recordsOfRound(log, round).filter(keepsRecord), {
    label: `Records of ${placeText(round.place)}`, marked: (record) => more.has(signOf(record.slot)), onchoose,
  });
  const missing = round.missing ? el("p", { class: "dim" }, `${plural(round.missing, "part")} in the middle of this round not shown.`) : null;
  return [list, missing].filter(Boolean);
}

// One regular round at a time, and the way to the others that are in this page.
function stepper(log, rounds, { keepsRecord, onchoose, others }) {
  const box = el("div");
  let here = Math.max(0, rounds.findIndex((round) => round.seqs.length > 0));
  const where = el("span", { class: "at", "aria-live": "polite" });
  const back = button("◂", { "aria-label": "The round before" }, () => show(here - 1));
  const on = button("▸", { "aria-label": "The next round" }, () => show(here + 1));
  const inside = el("div");
  function show(n) {
    here = Math.max(0, Math.min(rounds.length - 1, n));
    where.textContent = `${placeText(rounds[here].place)} · ${here + 1} of ${rounds.length} in this page${others > rounds.length ? `, ${number(others)} in the run` : ""}`;
    inside.replaceChildren(...roundRecords(log, rounds[here], null, { keepsRecord, onchoose }));
  }
  const bar = el("div", { class: "stepper" }, back, on, where);
  bar.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) show(here + step);
  });
  show(here);
  box.append(...(rounds.length > 1 ? [bar] : []), inside);
  return box;
}

