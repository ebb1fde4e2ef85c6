// A plot over time: lines of the last minutes, drawn as SVG.
import { draw, h } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [560, 170, 66, 8, 20];
const KEPT = 300;
/** What fits at first. */
const LEAST = 60;

/** A round number at or above. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}

/** `lines` are names; `shown` writes a value. Samples come one a second. */
export function plot(title, lines, shown) {
  const samples = [];
  const paths = lines.map((_, at) => draw("path", { class: `s${at + 1}` }));
  const labels = [0, 1].map((at) => draw("text", { x: LEFT - 6, y: at ? TOP + 10 : HEIGHT - BOTTOM, "text-anchor": "end" }));
  const since = draw("text", { x: LEFT, y: HEIGHT - 4 });
  const now = draw("text", { x: WIDTH, y: HEIGHT - 4, "text-anchor": "end" }, "now");
  const drawing = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: no values yet` },
    [0, 0.5, 1].map((part) => { const y = TOP + part * (HEIGHT - TOP - BOTTOM); return draw("line", { class: "axis", x1: LEFT, x2: WIDTH, y1: y, y2: y }); }),
    labels, since, now, paths);
  const values = lines.map(() => h("strong", {}, "–"));
  const legend = h("ul", { class: "legend" }, lines.map((line, at) => h("li", {},
    draw("svg", { viewBox: "0 0 24 8", "aria-hidden": "true" }, draw("line", { class: `s${at + 1}`, x1: 0, x2: 24, y1: 4, y2: 4 })), `${line} `, values[at])));
  const element = h("section", { class: "card plot", "aria-label": title }, h("h2", {}, title), drawing, legend);

  function show() {
    const most = ceiling(Math.max(0, ...samples.flat()));
    const fits = Math.max(LEAST, samples.length);
    const x = (at) => LEFT + ((fits - samples.length + at) / (fits - 1)) * (WIDTH - LEFT);
    const y = (value) => HEIGHT - BOTTOM - (value / most) * (HEIGHT - TOP - BOTTOM);
    paths.forEach((path, line) => path.setAttribute("d", samples.map((sample, at) => `${at ? "L" : "M"}${x(at).toFixed(1)} ${y(sample[line]).toFixed(1)}`).join("")));
    labels[0].textContent = shown(0);
    labels[1].textContent = shown(most);
    since.textContent = fits < 120 ? `${fits} s ago` : `${Math.floor(fits / 60)} min ago`;
    const last = samples.at(-1);
    values.forEach((value, line) => { value.textContent = shown(last[line]); });
    const spoken = lines.map((line, at) => `${line} ${shown(last[at])}, at most ${shown(Math.max(...samples.map((sample) => sample[at])))}`);
    drawing.setAttribute("aria-label", `${title}: ${spoken.join("; ")}`);
  }
  return { element, push(...sample) {
    samples.push(sample);
    if (samples.length > KEPT) samples.shift();
    show();
  } };
}
