// From the name to the start: the steps of a task that does not run yet.
import { call, requestId } from "./api.js";
import { field, form, h, notice, problem, update } from "./dom.js";
import { follow, lastRun, plan, report } from "./checks.js";
import { MASK, servers, specOf } from "./servers.js";
import { allows, isSetUp, moment, name, stateOf } from "./words.js";

const STEPS = ["Name", "Source and target", "Connectivity test", "Check", "Start"];

function steps(current, reached, go) {
  return h("ol", { class: "steps", "aria-label": "Steps" }, STEPS.map((step, at) => h("li", { class: at < reached && at !== current ? "done" : undefined, "aria-current": at === current ? "step" : undefined },
    at > 0 && at <= reached && at !== current && go ? h("button", { type: "button", "data-key": `step ${at}`, onclick: () => go(at) }, step) : step)));
}

/** The first step. */
export async function create() {
  const key = requestId();
  return [h("h1", { tabindex: "-1" }, "New task"), steps(0, 0),
    form({ class: "card" }, async (data) => {
      const task = await call("TaskService/CreateTask", { spec: { name: data.get("name").trim() }, requestId: key });
      location.hash = `#/tasks/${task.id}/setup`;
    }, field("Name", h("input", { name: "name", required: true, maxlength: "128", autocomplete: "off", "data-focus": "yes" }), "for people: orders, to the new region"),
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Create the task"), h("a", { class: "button", href: "#/tasks" }, "Not now")))];
}

/** How far a task is. */
function reached(task) {
  const state = stateOf(task);
  if (state === "CREATED") return task.spec?.target ? 2 : 1;
  if (state === "CONFIGURED") return 3;
  if (state === "CHECKING" || state === "CHECK_FAILED" || task.check?.unacknowledged?.length) return 3;
  return 4;
}

/** The other steps. */
export async function setup({ id, signal }) {
  let task = await call("TaskService/GetTask", { id }, signal);
  if (!isSetUp(task)) {
    location.replace(`#/tasks/${id}`);
    return [];
  }
  const bar = h("div", {});
  const panel = h("div", { class: "stack" });
  const told = h("div", {});
  let step;

  const go = async (to) => {
    step = to;
    told.replaceChildren();
    update(bar, steps(step, Math.max(reached(task), step), go));
    await [undefined, edit, test, check, start][step]();
    const heading = panel.querySelector("h2, legend");
    heading?.setAttribute("tabindex", "-1");
    heading?.focus();
  };
  const again = async () => { task = await call("TaskService/GetTask", { id }, signal); };
  const attempt = async (what) => {
    told.replaceChildren();
    try { await what(); } catch (error) { if (!signal.aborted) told.replaceChildren(problem(error)); }
  };
  const button = (text, what, kind, key) => h("button", { type: "button", class: kind, "data-key": key ?? text, onclick: () => attempt(what) }, text);

  async function edit() {
    const spec = task.spec ?? {};
    const element = form({}, async (data, filled) => {
      task = await call("TaskService/UpdateTask", { id, revision: task.revision, spec: specOf(data, filled, spec), updateMask: MASK });
      await go(2);
      await attempt(run("TestConnectivity"));
    }, servers(spec), h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Save and test the connection")));
    update(panel, element);
  }

  /** Begins a run and shows it until it ends. */
  const run = (method) => async () => {
    const shown = panel.querySelector("[data-report]") ?? panel;
    const begun = await call(`TaskService/${method}`, { id }, signal);
    const ended = await follow(id, begun, (now) => update(shown, report(now)), signal);
    await again();
    update(bar, steps(step, reached(task), go));
    await [undefined, edit, test, check, start][step](ended);
    panel.querySelector(".primary")?.focus();
  };

  async function test(known) {
    const last = known ?? await lastRun(id, signal);
    const shown = last?.kind === "CHECK_KIND_TEST" || stateOf(task) === "CREATED" ? last : undefined;
    const passed = stateOf(task) !== "CREATED";
    update(panel,
      h("p", {}, "Every server is tried from the agents that would run the task, and from others that stand by. Only a task whose test passes can go on."),
      h("div", { "data-report": "yes" }, shown ? report(shown) : h("div", { class: "card" }, h("h2", {}, "Connectivity test"), h("p", { class: "quiet" }, passed ? "The servers were reached." : "No test yet."))),
      h("div", { class: "row" }, passed && button("Go on to the check", async () => { await go(3); if (stateOf(task) === "CONFIGURED") await run("RunCheck")(); }, "primary", "on"),
        allows(task, "TEST") && button(last ? "Test again" : "Test the connection", run("TestConnectivity"), passed ? "" : "primary", "test"), button("Change the servers", () => go(1), "", "change")));
  }

  async function check(known) {
    const last = known ?? await lastRun(id, signal);
    const shown = last?.kind === "CHECK_KIND_TEST" ? undefined : last;
    const open = task.check?.unacknowledged ?? [];
    update(panel,
      h("p", {}, "Only a task that meets the conditions can start. What blocks has to be mended; what warns has to be acknowledged. Nothing is written on either side."),
      h("div", { "data-report": "yes" }, shown ? report(shown) : h("div", { class: "card" }, h("h2", {}, "Check"), h("p", { class: "quiet" }, "No check yet."))),
      plan(task),
      stateOf(task) === "CHECK_PASSED" && open.length > 0 && form({ class: "card" }, async (data) => {
        task = await call("TaskService/Acknowledge", { id, revision: task.revision, items: data.getAll("item"), by: data.get("by"), reason: data.get("reason") });
        update(bar, steps(step, reached(task), go));
        await check();
        panel.querySelector(".primary")?.focus();
      }, h("h2", {}, "Warnings to acknowledge"), h("div", { class: "stack" }, open.map((item) => h("label", { class: "inline" }, h("input", { type: "checkbox", name: "item", value: item, checked: true }), h("code", {}, item)))),
      h("div", { class: "grid" }, field("Your name", h("input", { name: "by", required: true, maxlength: "128" })), field("Why", h("input", { name: "reason", maxlength: "128" }))),
      h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Acknowledge"))),
      h("div", { class: "row" }, ["CHECK_PASSED", "SCHEDULED"].includes(stateOf(task)) && !open.length && button("Go on to the start", () => go(4), "primary", "on"),
        allows(task, "CHECK") && button(shown ? "Check again" : "Run the check", run("RunCheck"), shown && stateOf(task) !== "CHECK_FAILED" ? "" : "primary", "check"),
        allows(task, "CANCEL_CHECK") && button("End this check", async () => { await call("TaskService/CancelCheck", { id }); await again(); await check(); }, "", "end"), button("Change the servers", () => go(1), "", "change")));
    if (!known && shown?.state === "CHECK_STATE_RUNNING") {
      const ended = await follow(id, shown, (now) => update(panel.querySelector("[data-report]"), report(now)), signal);
      await again();
      await check(ended);
    }
  }

  async function start() {
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC";
    const scheduled = stateOf(task) === "SCHEDULED";
    update(panel,
      h("section", { class: "card" }, h("h2", {}, "Start now"), h("p", {}, "The task is verified once more, then everything is copied, then every change. Until the copy begins it can only be cancelled and viewed."),
        button("Start now", async () => { await call("TaskService/StartTask", { id, revision: task.revision }); location.hash = `#/tasks/${id}`; }, "primary", "start")),
      scheduled
        ? h("section", { class: "card" }, h("h2", {}, "Scheduled"), h("p", {}, `It starts at ${moment(task.schedule?.at)} (asked for as ${task.schedule?.startAt}). An edit voids this until it is checked and scheduled again.`),
          button("Take the schedule back", async () => { task = await call("TaskService/UnscheduleTask", { id, revision: task.revision }); await go(4); }, "", "unschedule"))
        : form({ class: "card" }, async (data) => {
          task = await call("TaskService/ScheduleTask", { id, revision: task.revision, startAt: `${data.get("at")}[${zone}]` });
          if (task.schedule?.note) notice(task.schedule.note, "warn");
          if (isSetUp(task)) await go(4); else location.hash = `#/tasks/${id}`;
        }, h("h2", {}, "Or at a time"), field("Start at", h("input", { type: "datetime-local", name: "at", required: true }), `in ${zone}; a time that is past is now`),
        h("div", { class: "row" }, h("button", { type: "submit" }, "Schedule"))));
  }

  const heading = h("h1", { tabindex: "-1" }, name(task));
  step = reached(task);
  bar.replaceChildren(steps(step, step, go));
  await [undefined, edit, test, check, start][step]();
  const row = h("div", { class: "row" },
    allows(task, "DELETE") && button("Delete this task", async () => { await call("TaskService/DeleteTask", { id }); notice("The task is deleted."); location.hash = "#/tasks"; }, "danger", "delete"));
  // A schedule that comes, or somebody else's start.
  const look = setInterval(async () => {
    const now = await call("TaskService/GetTask", { id }, signal).catch(() => undefined);
    if (now && !isSetUp(now) && !signal.aborted) location.hash = `#/tasks/${id}`;
  }, 3000);
  signal.addEventListener("abort", () => clearInterval(look));
  return [heading, bar, told, panel, row];
}
