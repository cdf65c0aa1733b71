// The page: what is chosen, what is filtered, and what is shown of it.

const at = (id) => document.getElementById(id);

function started(log) {
  const asked = { actor: "", field: "", position: "", stages: false };
  const view = { tab: "", record: null, from: null, field: "" };
  const actors = new Set(log.slots.map((slot) => slot.actor)), names = new Set(log.slots.map((slot) => slot.field).filter((name) => name !== null));
  for (const path of [...actors]) {
    for (let end = path.lastIndexOf("/"); end > 0; end = path.lastIndexOf("/", end - 1)) actors.add(path.slice(0, end));
  }
  const count = (sort) => log.findings[sort]?.[0] ?? 0;
  const tabs = [
    ["cycles", "Cycles", null],
    ["changes", "Changes", null],
    ["violation", "Violations", count("violation")],
    ["other", "Not finite, not ended well", count("not finite") + count("ended")],
  ];
  view.tab = count("violation") ? "violation" : count("not finite") ? "other" : "cycles";

  const tree = showTree(log, at("tree"), (actor) => ask({ actor }));
  const fields = showFields(log, at("fields"), (field) => {
    ask({ field });
    inspect(null, field, document.activeElement);
  });

  let keepsActor, keepsField, keepsPlace, hasPlace;
  const keepsSlot = (slot) => keepsActor(slot.actor) && (asked.field ? slot.field !== null && keepsField(slot.field) : true);
  const keepsRecord = (record) => keepsSlot(record.slot) && (asked.stages || record.slot.kind !== "enter" && record.slot.kind !== "exit") && keepsPlace(record.place);

  function ask(changes) {
    Object.assign(asked, changes);
    keepsActor = namesMatching(asked.actor, actors, "/:");
    keepsField = namesMatching(asked.field, names, ".");
    const found = placesMatching(asked.position);
    hasPlace = found !== null;
    keepsPlace = found ?? (() => false);
    for (const name of ["actor", "field", "position"]) if (at(name).value !== asked[name]) at(name).value = asked[name];
    at("position").setAttribute("aria-invalid", String(!hasPlace));
    at("stages").checked = asked.stages;
    tree(asked.actor, (slot) => !asked.field || keepsField(slot.field ?? ""));
    fields(asked.field, (slot) => keepsActor(slot.actor));
    show();
  }

  function show() {
    const focused = document.activeElement?.id?.startsWith("tab-");
    const buttons = tabs.map(([id, name, number]) => {
      const isChosen = id === view.tab;
      const made = button([name, number === null ? "" : el("span", { class: number ? "badge bad" : "badge" }, number.toLocaleString("en-US"))],
        { id: `tab-${id}`, role: "tab", "aria-selected": String(isChosen), "aria-controls": "panel" }, () => choose(id));
      made.dataset.stop = "";
      made.setAttribute("tabindex", isChosen ? "0" : "-1");
      return made;
    });
    at("tabs").replaceChildren(...buttons);
    at("panel").setAttribute("aria-labelledby", `tab-${view.tab}`);
    if (focused) at(`tab-${view.tab}`).focus();
    const matching = allRecords(log).filter(keepsRecord);
    at("matches").textContent = !hasPlace ? "A position is epoch:phase:batch, such as 2, 1-3:fit or 2:fit:5-9." : `${plural(matching.length, "record")} in this page`;
    at("panel").replaceChildren(...panel(matching));
  }

  function panel(matching) {
    if (view.tab === "cycles") {
      const isFiltered = asked.actor || asked.field;
      const keeps = (round) => (isFiltered ? recordsOfRound(log, round).some(keepsRecord) : keepsPlace(round.place));
      return showCycles(log, { keeps, keepsRecord, onchoose: inspect });
    }
    if (view.tab === "changes") return [recordList(matching, { label: "Changes", onchoose: inspect })];
    const parts = view.tab === "violation"
      ? [["violation", "Changes that nobody declared, and invariants that broke", "No change in this log is without a declaration, and no invariant broke."]]
      : [["not finite", "Values that are not finite", "Every number in this log is finite."], ["ended", "Stages that did not end well", "Every stage ended well."]];
    return parts.flatMap(([sort, name, none]) => {
      const [all, found] = log.findings[sort] ?? [0, []];
      const records = found.map(([seq, index]) => log.segments.get(seq) && recordsOf(log, log.segments.get(seq))[index])
        .filter((record) => record && keepsSlot(record.slot) && keepsPlace(record.place));
      const rest = all - found.length;
      return [
        el("h3", {}, name, " ", el("span", { class: "dim" }, all ? number(all) : "")),
        all ? recordList(records, { label: name, onchoose: inspect }) : el("p", { class: "dim" }, none),
        rest > 0 ? el("p", { class: "dim" }, `${number(rest)} in the middle are not in this page.`) : "",
      ].filter(Boolean);
    });
  }

  function choose(tab) {
    view.tab = tab;
    show();
  }

  function inspect(record, field = "", from = null) {
    if (field instanceof Element) [field, from] = ["", field];
    for (const row of document.querySelectorAll('main [aria-selected="true"][data-seq]')) row.setAttribute("aria-selected", "false");
    if (record && from?.matches("main *")) from.setAttribute("aria-selected", "true");
    Object.assign(view, { record, field: field || record?.slot.field || "", from: from?.matches("aside *") ? view.from : from });
    const shown = record ? showChange(record) : view.field ? [el("h2", {}, view.field)] : [];
    const history = view.field ? showHistory(log, view.field, { keepsSlot: (slot) => keepsActor(slot.actor), onchoose: inspect, seq: record?.seq ?? null }) : [];
    const close = button("✕", { class: "close", "aria-label": "Close" }, back);
    at("inspector").replaceChildren(...(shown.length ? [close, ...shown, ...history] : []).filter(Boolean));
    document.body.classList.toggle("inspecting", shown.length > 0);
  }

  function back() {
    const { from } = view;
    inspect(null);
    (from?.isConnected ? from : at("panel")).focus();
  }

  roving(at("tabs"), () => stopsIn(at("tabs")), { horizontal: true });
  for (const name of ["actor", "field", "position"]) at(name).addEventListener("input", (event) => ask({ [name]: event.target.value }));
  at("stages").addEventListener("change", (event) => ask({ stages: event.target.checked }));
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("clear").addEventListener("click", () => ask({ actor: "", field: "", position: "", stages: false }));
  document.addEventListener("keydown", (event) => {
    const inField = event.target.matches("input");
    if (event.key === "Escape") {
      if (inField && asked[event.target.id]) ask({ [event.target.id]: "" });
      else if (view.record || view.field) back();
      else if (asked.actor || asked.field || asked.position) ask({ actor: "", field: "", position: "" });
      else return;
      event.preventDefault();
    } else if (event.key === "/" && !inField) {
      event.preventDefault();
      at("actor").focus();
    }
  });

  document.title = log.name;
  at("name").textContent = log.name;
  const [first, last] = log.times;
  const day = timeText(first).slice(0, 16);
  at("facts").textContent = `${plural(log.records, "record")} · ${plural(log.made, "round")} · ${day} UTC, ${number(Math.round((last - first) * 10) / 10)} s`;
  at("actors").append(...[...actors].map((value) => el("option", { value })));
  at("names").append(...[...names].map((value) => el("option", { value })));
  at("left-out").querySelector("ul").append(...log.left_out.map((text) => el("li", {}, text)));
  at("left-out").querySelector("summary").append(log.left_out.length ? `: ${plural(log.left_out.length, "sort")} of records` : ": nothing is missing");
  at("left-out").hidden = false;
  inspect(null);
  ask({});
  document.documentElement.dataset.ready = "true";
}

function switchable() {
  const themes = [["", "Auto", "as the system has them"], ["light", "Light", "light"], ["dark", "Dark", "dark"]];
  let here = 0;
  at("theme").addEventListener("click", () => {
    here = (here + 1) % themes.length;
    const [theme, name, told] = themes[here];
    document.documentElement.dataset.theme = theme;
    at("theme").textContent = name;
    at("theme").setAttribute("aria-label", `Colours: ${told}`);
  });
}

switchable();
unpacked().then(started).catch((error) => {
  at("trouble").textContent = `This page could not read its data: ${error}. It needs a browser of 2023 or later.`;
  at("trouble").hidden = false;
});
