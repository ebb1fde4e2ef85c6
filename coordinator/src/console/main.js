// Which page is shown: the part of the address behind #.
import { h, problem } from "./dom.js";
import { tasks } from "./tasks.js";
import { create, setup } from "./setup.js";
import { task } from "./task.js";
import { agents } from "./agents.js";
import { alarms } from "./alarms.js";

const main = document.getElementById("main");
let leave = new AbortController();
let shown;

function route() {
  const [section = "tasks", id, tab] = location.hash.replace(/^#\//, "").split("/").map(decodeURIComponent);
  if (section === "new") return { section, key: "new", page: create };
  if (section === "agents") return { section, key: "agents", page: agents };
  if (section === "alarms") return { section, key: "alarms", page: alarms };
  if (id && tab === "setup") return { section: "tasks", key: `setup ${id}`, page: setup, id };
  if (id) return { section: "tasks", key: `task ${id} ${tab}`, page: task, id, tab: tab || "progress", same: shown?.startsWith(`task ${id} `) };
  return { section: "tasks", key: "tasks", page: tasks };
}

async function show() {
  if (location.hash === "#main") { history.replaceState(null, "", "#/tasks"); main.focus(); return; }
  const { section, key, page, id, tab, same } = route();
  leave.abort();
  leave = new AbortController();
  const signal = leave.signal;
  for (const link of document.querySelectorAll("[data-section]")) {
    if (link.dataset.section === section) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.querySelectorAll("dialog").forEach((open) => open.close());
  const first = shown === undefined;
  shown = key;
  try {
    const content = await page({ id, tab, signal });
    if (signal.aborted) return;
    main.replaceChildren(...content);
  } catch (error) {
    if (signal.aborted) return;
    main.replaceChildren(h("h1", { tabindex: "-1" }, "That did not work"), problem(error), h("p", {}, h("a", { href: "#/tasks" }, "All tasks")));
  }
  const heading = main.querySelector("h1");
  document.title = heading ? `${heading.textContent} · DTS for Redis` : "DTS for Redis";
  // Who works with the keyboard goes on where the page changed.
  if (same) main.querySelector(".tabs [aria-current]")?.focus();
  else if (!main.contains(document.activeElement)) {
    window.scrollTo(0, 0);
    const begin = main.querySelector("[data-focus]");
    if (begin || !first) (begin ?? heading)?.focus();
  }
}

addEventListener("hashchange", show);
show();
