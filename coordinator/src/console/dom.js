// Elements without markup: every string of the API becomes text, never HTML.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else if (name === "checked") element.checked = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** An element; `on…` are listeners. */
export const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);

/** An element of a drawing. */
export const draw = (tag, properties, ...children) => fill(document.createElementNS(SVG, tag), properties, children);

/** New content; who was focused in it is focused again, if it is still there under its `data-key`. */
export function update(container, ...children) {
  const active = document.activeElement;
  const key = container.contains(active) ? active.dataset.key : undefined;
  container.replaceChildren(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  if (key) container.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

/** Content that is built again only when what it shows has changed. */
export function section(properties, build) {
  const element = h("div", properties);
  let last;
  return { element, show(...what) {
    const now = JSON.stringify(what);
    if (now === last) return;
    last = now;
    update(element, build(...what));
  } };
}

/** A labelled control; `hint` says more. */
export function field(label, control, hint) {
  return h("label", {}, label, control, hint && h("span", { class: "hint" }, hint));
}

export function choice(name, options, value) {
  return h("select", { name }, options.map(([of, text]) => h("option", { value: of, selected: of === value }, text)));
}

/** A table that becomes cards on a phone. `rows` are arrays of cells: text, nodes, or {number: text}. */
export function table(caption, columns, rows) {
  const cell = (of, at) => {
    const label = columns[at];
    const [content, kind] = of && of.number !== undefined ? [of.number, "number"] : [of, undefined];
    const shown = content === undefined || content === null ? "" : content;
    return at === 0 ? h("th", { scope: "row" }, shown) : h("td", { class: kind, "data-label": label || undefined }, shown);
  };
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption, "data-key": `table ${caption}` },
    h("table", { class: "wide" },
      h("caption", { class: "visually-hidden" }, caption),
      h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col" }, column || h("span", { class: "visually-hidden" }, "Actions"))))),
      h("tbody", {}, rows.map((cells) => h("tr", {}, cells.map(cell))))));
}

/** Tells for some seconds, and to screen readers. */
export function notice(text, tone = "ok") {
  const shown = h("div", { class: `alert ${tone}` }, h("p", {}, text));
  document.getElementById("notices").replaceChildren(shown);
  setTimeout(() => shown.remove(), 6000);
}

/** What went wrong and what to do about it. */
export function problem(error) {
  return h("div", { class: "alert bad", role: "alert" },
    h("p", {}, error.reason && h("strong", {}, `${error.reason}: `), error.message),
    error.fix && h("p", { class: "small" }, `What to do: ${error.fix}`));
}

/** A form whose errors stand in it; a second submission waits for the first. */
export function form(properties, submit, ...children) {
  const told = h("div", {});
  const element = h("form", { ...properties, onsubmit: async (event) => {
    event.preventDefault();
    if (element.dataset.busy) return;
    element.dataset.busy = "yes";
    const buttons = [...element.querySelectorAll("button[type=submit]")];
    buttons.forEach((button) => button.setAttribute("aria-disabled", "true"));
    told.replaceChildren();
    try {
      await submit(new FormData(element), element, event.submitter);
    } catch (error) {
      told.replaceChildren(problem(error));
      told.scrollIntoView({ block: "nearest" });
    } finally {
      delete element.dataset.busy;
      buttons.forEach((button) => button.removeAttribute("aria-disabled"));
    }
  } }, ...children, told);
  return element;
}

/** A modal dialog; Escape and the button close it, and the focus goes back. */
export function dialog(title, build) {
  const before = document.activeElement;
  const heading = h("h2", { id: "dialog-title" }, title);
  const element = h("dialog", { "aria-labelledby": "dialog-title" });
  const close = () => element.close();
  element.addEventListener("close", () => {
    element.remove();
    const again = before?.isConnected ? before : before?.dataset?.key && document.querySelector(`[data-key="${CSS.escape(before.dataset.key)}"]`);
    (again || document.querySelector("h1"))?.focus();
  });
  element.append(heading, build(close));
  document.body.append(element);
  element.showModal();
  return element;
}

/** Again and again until the page is left; a failure is told and does not end it. */
export function every(ms, signal, look) {
  let timer;
  const again = async () => {
    await look().catch(() => {});
    if (!signal.aborted) timer = setTimeout(again, ms);
  };
  signal.addEventListener("abort", () => clearTimeout(timer));
  again();
}
