// Lists of records: one row each, that can be chosen.

const AT_ONCE = 300;

const changed = (record) => JSON.stringify(record.before) !== JSON.stringify(record.after);

// What a slot is about: the field that it writes, else its kind too.
function nameOf(slot) {
  if (slot.kind === "write") return slot.field;
  const told = `(${slot.kind}${slot.evidence ? ` ${slot.evidence}` : ""})`;
  return slot.field === null ? told : `${slot.field} ${told}`;
}

function cells(record) {
  const { slot } = record;
  const isWrite = slot.kind === "write";
  const before = isWrite ? valueText(record.before) : "", after = valueText(record.after);
  return [
    el("span", { class: "seq" }, String(record.seq)),
    el("span", { class: "at" }, shortPlace(record.place)),
    el("span", { class: "who", title: slot.actor }, tail(slot.actor)),
    el("span", { class: "what", title: slot.field ?? slot.kind }, nameOf(slot)),
    el("span", { class: "before dim", title: before }, isWrite && changed(record) ? before : ""),
    el("span", { class: "after", title: after }, after),
    el("span", { class: "evidence dim" }, isWrite ? slot.evidence : ""),
  ];
}

const HEADS = ["record", "at", "actor", "field", "before", "after", "evidence"];

// A list of records; `marked` says which are to stand out, `onchoose` is called with the one that is chosen.
function recordList(records, { label, marked = () => false, onchoose }) {
  const list = el("div", { role: "listbox", class: "records", "aria-label": label });
  const box = el("div", { class: "table" }, el("div", { class: "record head", "aria-hidden": "true" }, HEADS.map((name) => el("span", {}, name))), list);
  let shown = 0;
  function more() {
    const rows = records.slice(shown, shown + AT_ONCE).map((record, index) => {
      const kind = isViolation(record.slot) ? "bad" : marked(record) ? "marked" : record.slot.kind === "write" ? "" : "faint";
      const row = el("div", { role: "option", class: `record ${kind}`, "aria-selected": "false", "aria-posinset": shown + index + 1, "aria-setsize": records.length }, cells(record));
      row.dataset.seq = record.seq;
      row.addEventListener("click", () => {
        row.focus();
        onchoose(record, row);
      });
      return stop(row, shown + index === 0);
    });
    list.append(...rows);
    shown += rows.length;
    rest.hidden = shown >= records.length;
    rest.textContent = `${number(Math.min(AT_ONCE, records.length - shown))} more of ${number(records.length - shown)}`;
  }
  const rest = button("", { class: "more" }, () => {
    const next = shown;
    more();
    list.children[next]?.focus();
  });
  roving(list, () => stopsIn(list));
  more();
  box.append(rest);
  return records.length ? box : el("p", { class: "dim" }, "No record matches.");
}

