// Elements made of names and texts. Whatever comes from the log becomes a text node or the value of an attribute here
// that cannot run; nothing in this page is ever parsed as markup.

const SVG = "http://www.w3.org/2000/svg";
const SAFE = /^(class|id|role|title|tabindex|type|aria-[a-z]+|viewBox|width|height|x|y|x1|x2|y1|y2|d|points|cx|cy|r|opacity|text-anchor|preserveAspectRatio|value|hidden)$/;

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (!SAFE.test(name)) throw new Error(`no attribute ${name} here`);
    node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}

const el = (tag, attributes = {}, ...children) => filled(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => filled(document.createElementNS(SVG, tag), attributes, children);

function button(text, attributes, onclick) {
  const made = el("button", { type: "button", ...attributes }, text);
  made.addEventListener("click", onclick);
  return made;
}

// A button with what it opens and closes; what is inside is made when it is first opened.
let disclosures = 0;
function disclosure(heading, make, { open = false, className = "" } = {}) {
  const id = `inside-${++disclosures}`;
  const inside = el("div", { id, class: "inside", hidden: true });
  const head = button(heading, { class: `disclosure ${className}`, "aria-expanded": "false", "aria-controls": id }, () =>
    set(head.getAttribute("aria-expanded") !== "true"));
  let isMade = false;
  function set(isOpen) {
    if (isOpen && !isMade) {
      isMade = true;
      inside.append(...[make()].flat());
    }
    head.setAttribute("aria-expanded", String(isOpen));
    inside.hidden = !isOpen;
  }
  if (open) set(true);
  return el("div", { class: "group" }, head, inside);
}

const plural = (count, one, many = `${one}s`) => `${count.toLocaleString("en-US")} ${count === 1 ? one : many}`;

