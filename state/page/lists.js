// Keyboard: one stop of the Tab key for each list, arrow keys within it.

// `items()` gives the elements in order; Enter and Space click the one that has the focus.
function roving(container, items, { keys = {}, horizontal = false } = {}) {
  const [back, on] = horizontal ? ["ArrowLeft", "ArrowRight"] : ["ArrowUp", "ArrowDown"];
  function focus(item) {
    if (!item) return;
    for (const other of container.querySelectorAll('[data-stop][tabindex="0"]')) other.setAttribute("tabindex", "-1");
    item.setAttribute("tabindex", "0");
    item.focus();
    item.scrollIntoView({ block: "nearest" });
  }
  container.addEventListener("keydown", (event) => {
    const item = event.target.closest("[data-stop]");
    if (!item || !container.contains(item) || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = items(), here = all.indexOf(item);
    const moves = { [back]: here - 1, [on]: here + 1, Home: 0, End: all.length - 1, PageUp: here - 10, PageDown: here + 10 };
    if (event.key in moves) {
      focus(all[Math.max(0, Math.min(all.length - 1, moves[event.key]))]);
    } else if (event.key === "Enter" || event.key === " ") {
      item.click();
    } else if (keys[event.key]) {
      keys[event.key](item, focus);
    } else {
      return;
    }
    event.preventDefault();
    event.stopPropagation();
  });
  container.addEventListener("focusin", (event) => {
    const item = event.target.closest("[data-stop]");
    if (!item || !container.contains(item)) return;
    for (const other of container.querySelectorAll('[data-stop][tabindex="0"]')) {
      if (other !== item) other.setAttribute("tabindex", "-1");
    }
    item.setAttribute("tabindex", "0");
  });
  return focus;
}

// Makes an element one of a list's items; the first one is where Tab stops.
function stop(item, isFirst) {
  item.dataset.stop = "";
  item.setAttribute("tabindex", isFirst ? "0" : "-1");
  return item;
}

const stopsIn = (container) => [...container.querySelectorAll("[data-stop]")].filter((item) => item.getClientRects().length);

