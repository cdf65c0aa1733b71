// The tree of stages and hooks with their writes as heat, and the list of fields.

const MANY = 300; // a tree of more rows begins with its first two levels

function treeOf(log) {
  const root = { children: new Map(), path: "" };
  const own = new Map();
  for (const { slot, counts } of log.heat) {
    if (!own.has(slot.actor)) own.set(slot.actor, []);
    own.get(slot.actor).push({ slot, counts });
  }
  const touched = new Map();
  for (const { actor, field } of log.touches) touched.set(actor, [...(touched.get(actor) ?? []), field]);
  for (const slot of log.slots) {
    const colon = slot.actor.indexOf(":");
    const [stages, hook] = colon < 0 ? [slot.actor, ""] : [slot.actor.slice(0, colon), slot.actor.slice(colon)];
    let node = root, path = "";
    for (const name of hook ? [...stages.split("/"), hook.slice(1)] : stages.split("/")) {
      const isHook = hook !== "" && name === hook.slice(1);
      path = isHook ? slot.actor : path ? `${path}/${name}` : name;
      if (!node.children.has(path)) node.children.set(path, { children: new Map(), path, name, isHook, parent: node });
      node = node.children.get(path);
    }
    node.slots = own.get(slot.actor) ?? [];
    node.touches = touched.get(slot.actor) ?? [];
  }
  return root;
}

function heatOf(node, matches, whole) {
  const sums = [];
  for (const { slot, counts } of node.slots ?? []) {
    if (slot.kind === "write" && matches(slot)) counts.forEach((count, n) => (sums[n] = (sums[n] ?? 0) + count));
  }
  if (whole) {
    for (const child of node.children.values()) {
      heatOf(child, matches, true).forEach((count, n) => (sums[n] = (sums[n] ?? 0) + count));
    }
  }
  return sums;
}

// A strip of cells, a part of the run each; the more writes, the deeper, in five steps.
function strip(counts, most, className = "") {
  const steps = new Map([[0.06, "M0 0h96v10h-96z"]]), wide = 96 / counts.length;
  counts.forEach((count, n) => {
    const opacity = count ? 0.2 + 0.2 * Math.min(4, Math.floor(5 * Math.sqrt(count / most))) : 0;
    if (opacity) steps.set(opacity, `${steps.get(opacity) ?? ""}M${(n * wide).toFixed(1)} 0h${(wide - 0.6).toFixed(1)}v10h-${(wide - 0.6).toFixed(1)}z`);
  });
  const parts = [...steps].map(([opacity, d]) => svg("path", { d, opacity: opacity.toFixed(2) }));
  return svg("svg", { class: `strip ${className}`, viewBox: "0 0 96 10", width: 72, height: 10, preserveAspectRatio: "none", "aria-hidden": "true" }, parts);
}

const total = (counts) => counts.reduce((sum, count) => sum + count, 0);

function showTree(log, container, onchoose) {
  const root = treeOf(log);
  const closed = new Set(), nodes = [root];
  for (const node of nodes) nodes.push(...node.children.values());
  for (const node of nodes.length > MANY ? nodes : []) {
    if (node.parent && node.parent !== root && node.children.size) closed.add(node.path);
  }
  let chosen = "", matches = () => true;
  const items = () => [...container.querySelectorAll('[role="treeitem"]')];

  function draw() {
    const focused = container.contains(document.activeElement) ? document.activeElement.dataset.path : null;
    const rows = [];
    (function walk(node, depth) {
      for (const child of node.children.values()) {
        rows.push([child, depth]);
        if (!closed.has(child.path)) walk(child, depth + 1);
      }
    })(root, 1);
    const heats = rows.map(([node]) => heatOf(node, matches, closed.has(node.path)));
    const most = heats.reduce((max, counts) => Math.max(max, ...counts), 1);
    const made = rows.map(([node, depth], index) => row(node, depth, heats[index], most));
    const held = made.find((item) => item.dataset.path === (focused ?? chosen)) ?? made[0];
    made.forEach((item) => stop(item, item === held));
    container.replaceChildren(...made);
    if (focused !== null) held?.focus();
  }

  function row(node, depth, counts, most) {
    const touches = node.touches?.length ? `touches ${node.touches.join(", ")}` : "";
    const writes = total(counts), hasChildren = node.children.size > 0, isOpen = !closed.has(node.path);
    const twisty = el("span", { class: "twisty", "aria-hidden": "true" }, hasChildren ? (isOpen ? "▾" : "▸") : "");
    const item = el("div", {
      role: "treeitem", "aria-level": depth, "aria-selected": String(node.path === chosen), title: [node.path, touches].filter(Boolean).join("\n"),
      "aria-expanded": hasChildren ? String(isOpen) : null, class: node.isHook ? "row hook" : "row",
      "aria-label": [node.name, plural(writes, "write"), touches].filter(Boolean).join(", "),
    }, twisty, el("span", { class: "label" }, node.name),
    el("span", { class: "count" }, writes ? number(writes) : touches && "touches"), strip(counts.length ? counts : [0], most, node.path === "external" ? "bad" : ""));
    item.style.setProperty("--depth", depth - 1);
    item.dataset.path = node.path;
    twisty.addEventListener("click", (event) => {
      if (!hasChildren) return;
      event.stopPropagation();
      toggle(node.path);
    });
    item.addEventListener("click", () => onchoose(node.path === chosen ? "" : node.path));
    return item;
  }

  function toggle(path) {
    if (!closed.delete(path)) closed.add(path);
    draw();
  }

  const expanded = (item) => item.getAttribute("aria-expanded");
  roving(container, items, {
    keys: {
      ArrowRight: (item, focus) => {
        if (expanded(item) === "false") toggle(item.dataset.path);
        else if (expanded(item) === "true") focus(items()[items().indexOf(item) + 1]);
      },
      ArrowLeft: (item, focus) => {
        if (expanded(item) === "true") return toggle(item.dataset.path);
        const level = Number(item.getAttribute("aria-level"));
        const above = items().slice(0, items().indexOf(item)).reverse();
        focus(above.find((other) => Number(other.getAttribute("aria-level")) < level));
      },
    },
  });
  return (actor, matchesSlot) => {
    chosen = actor;
    matches = matchesSlot;
    draw();
  };
}

function showFields(log, container, onchoose) {
  const names = new Map();
  for (const { slot, counts } of log.heat) {
    if (slot.kind !== "write") continue;
    if (!names.has(slot.field)) names.set(slot.field, { scope: slot.scope, slots: [] });
    names.get(slot.field).slots.push({ slot, counts });
  }
  const sorted = [...names].sort(([a], [b]) => (a < b ? -1 : 1));
  roving(container, () => stopsIn(container));
  return (field, matches) => {
    const focused = container.contains(document.activeElement) ? document.activeElement.dataset.name : null;
    const made = sorted.map(([name, { scope, slots }]) => {
      const writes = total(slots.filter(({ slot }) => matches(slot)).map(({ counts }) => total(counts)));
      const item = el("div", { role: "option", class: writes ? "row" : "row faint", "aria-selected": String(name === field), title: name },
        el("span", { class: "label" }, name), el("span", { class: "scope dim" }, scope), el("span", { class: "count" }, writes ? number(writes) : ""));
      item.dataset.name = name;
      item.addEventListener("click", () => onchoose(name === field ? "" : name));
      return item;
    });
    const held = made.find((item) => item.dataset.name === (focused ?? field)) ?? made[0];
    made.forEach((item) => stop(item, item === held));
    container.replaceChildren(...made);
    if (focused !== null) held?.focus();
  };
}

