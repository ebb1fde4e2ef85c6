// One task: what it does now, and everything about it.
import { call, stream } from "./api.js";
import { every, h, problem, section, table } from "./dom.js";
import { actions } from "./actions.js";
import { lastRun, plan, report } from "./checks.js";
import { progress } from "./progress.js";
import { chip } from "./tasks.js";
import { verification } from "./verification.js";
import { bytes, count, isSetUp, moment, name, place, short, stateOf } from "./words.js";

const TABS = [["progress", "Progress"], ["check", "Check"], ["events", "Events"], ["verification", "Verification"], ["settings", "Settings"]];

function reason(task) {
  if (!task.reason) return undefined;
  const { code, message, fix, retry } = task.reason;
  return h("div", { class: `alert ${retry ? "warn" : "bad"}` }, h("p", {}, h("strong", {}, `${code}: `), message), h("p", { class: "small" }, retry ? "It will retry. " : "It needs you. ", fix && `What to do: ${fix}`));
}

async function events(id, signal) {
  const list = section({ class: "card" }, (found, forgotten) => [h("h2", {}, "Events"), count(forgotten) > 0 && h("p", { class: "quiet" }, `${forgotten} older ones are not kept.`),
    table("Events", ["When", "State", "What"], found.map((event) => [h("span", { class: "nowrap" }, moment(event.at)), short(event.state, "TASK_STATE_"), h("div", {}, event.message, event.reason && h("div", { class: "fix" }, `${event.reason.code}: ${event.reason.message}`))]))]);
  const look = async () => { const { events: found = [], forgotten } = await call("TaskService/ListTaskEvents", { id }, signal); list.show(found.reverse(), forgotten); };
  await look();
  every(1000, signal, look);
  return { show() {}, content: [list.element] };
}

async function check(id, signal) {
  const run = await lastRun(id, signal);
  const planned = section({}, (of) => plan({ plan: of }));
  return { show(task) { planned.show(task.plan); }, content: [planned.element, run ? report(run) : h("p", { class: "quiet" }, "No check was run.")] };
}

function server(end) {
  const login = end?.credential;
  const password = login && (login.passwordSet ? "stored, sealed" : login.passwordEnv ? `variable ${login.passwordEnv} of the agent` : login.passwordFile ? `file ${login.passwordFile} on the agent's host` : login.agentSecret ? `secret ${login.agentSecret} of the agent` : undefined);
  return [place(end), end?.instanceId, login?.username && `user ${login.username}`, password && `password: ${password}`, end?.tls && "TLS", end?.region && `region ${end.region}`,
    end?.network && end.network !== "NETWORK_UNSPECIFIED" && short(end.network, "NETWORK_")].filter(Boolean).join(", ");
}

function settings(task) {
  const { spec = {} } = task;
  const limits = spec.limits ?? {};
  const fact = (of, value) => value && [h("dt", {}, of), h("dd", {}, value)];
  return h("section", { class: "card" }, h("h2", {}, "Settings"), h("dl", { class: "facts" },
    fact("Id", h("code", {}, task.id)), fact("Mode", short(spec.mode, "MODE_")), fact("Source", h("div", {}, (spec.sources ?? []).map((end) => h("div", {}, server(end))))), fact("Target", server(spec.target)),
    fact("What the sources are", spec.topology?.kind && short(spec.topology.kind, "SOURCE_KIND_")), fact("Completes by itself", spec.completeWhenCaughtUp && "once it has caught up"),
    fact("Older target", spec.allowDowngrade && "taken"), fact("Moves", spec.filter && h("code", {}, JSON.stringify(spec.filter))), fact("Databases", spec.dbMap && Object.keys(spec.dbMap).length > 0 && h("code", {}, JSON.stringify(spec.dbMap))),
    fact("Read at most", count(limits.readBytesPerSecond) > 0 && `${bytes(limits.readBytesPerSecond)}/s`), fact("Written at most", count(limits.writeBytesPerSecond) > 0 && `${bytes(limits.writeBytesPerSecond)}/s`),
    fact("Created", moment(task.createdAt)), fact("Schedule", task.schedule && `${task.schedule.startAt} ${task.schedule.note ?? ""}`)),
  h("p", { class: "small quiet" }, "As a file: ", h("code", {}, `dts task export ${task.id}`)));
}

async function panel(tab, id, signal) {
  if (tab === "check") return check(id, signal);
  if (tab === "events") return events(id, signal);
  if (tab === "verification") return verification(id, signal);
  if (tab === "settings") { const shown = section({}, settings); return { show: shown.show, content: [shown.element] }; }
  return progress(signal);
}

export async function task({ id, tab, signal }) {
  let now = await call("TaskService/GetTask", { id }, signal);
  if (isSetUp(now) && tab === "progress") {
    location.replace(`#/tasks/${id}/setup`);
    return [];
  }
  const shown = await panel(tab, id, signal);
  const state = section({}, (_words, of) => chip(of));
  const buttons = section({}, (_allowed, of) => actions(of));
  const why = section({}, (of) => reason({ reason: of }));
  const said = h("p", { class: "quiet" });
  const lost = h("div", {});
  let told;
  const show = (of) => {
    now = of;
    state.show([of.state, of.readyToComplete], { state: of.state, readyToComplete: of.readyToComplete });
    buttons.show(of.allowedActions, { id: of.id, revision: of.revision, state: of.state, allowedActions: of.allowedActions, readyToComplete: of.readyToComplete });
    why.show(of.reason);
    shown.show(of);
    if (of.state !== told) {
      told = of.state;
      call("TaskService/ExplainTask", { id }, signal).then((explained) => { said.textContent = [explained.why, explained.waitsFor && `waits for ${explained.waitsFor}`].filter(Boolean).join("; "); }).catch(() => {});
    }
  };
  show(now);
  (async () => {
    while (!signal.aborted) {
      try {
        for await (const change of stream("TaskService/WatchTask", { id }, signal)) { lost.replaceChildren(); show(change); }
        return;
      } catch (error) {
        if (signal.aborted || error.code === "not_found") return;
        lost.replaceChildren(problem(error));
        await new Promise((done) => setTimeout(done, 1000));
      }
    }
  })();
  return [h("div", { class: "head" }, h("div", {}, h("h1", { tabindex: "-1" }, name(now)), h("div", { role: "status" }, state.element)), buttons.element), said, lost, why.element,
    h("nav", { class: "tabs", "aria-label": "About this task" }, TABS.map(([of, words]) => h("a", { href: `#/tasks/${id}/${of}`, "aria-current": of === tab ? "page" : undefined }, words)), isSetUp(now) && h("a", { href: `#/tasks/${id}/setup` }, "Set-up")), ...shown.content];
}
