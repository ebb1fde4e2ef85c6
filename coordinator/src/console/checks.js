// What agents found out before the start.
import { call } from "./api.js";
import { h, table } from "./dom.js";
import { bytes, moment, period, short } from "./words.js";

const ENDED = (run) => run.state && run.state !== "CHECK_STATE_RUNNING";

/** The last run, or undefined if there is none. */
export async function lastRun(id, signal) {
  const { runs = [] } = await call("TaskService/ListChecks", { id }, signal);
  return runs.length ? call("TaskService/GetCheck", { id, number: runs[0].number }, signal) : undefined;
}

/** Shows a run until it has ended. */
export async function follow(id, run, show, signal) {
  show(run);
  while (!ENDED(run) && !signal.aborted) {
    await new Promise((done) => setTimeout(done, 300));
    run = await call("TaskService/GetCheck", { id, number: run.number }, signal);
    show(run);
  }
  return run;
}

function verdict(item) {
  if (item.outcome === "CHECK_OUTCOME_PASSED") return ["passed", "ok"];
  if (item.needsAcknowledgement && item.acknowledgement) return [`acknowledged by ${item.acknowledgement.by || "somebody"}`, "idle"];
  if (item.outcome === "CHECK_OUTCOME_UNKNOWN") return ["not known", "warn"];
  if (item.outcome !== "CHECK_OUTCOME_FAILED") return ["running", "busy"];
  return { SEVERITY_BLOCKS: ["blocks", "bad"], SEVERITY_WARNS: ["warns", "warn"] }[item.severity] ?? ["to know", "idle"];
}

export function head(run) {
  const tone = { CHECK_STATE_PASSED: "ok", CHECK_STATE_FAILED: "bad", CHECK_STATE_RUNNING: "busy" }[run.state] ?? "idle";
  const kind = run.kind === "CHECK_KIND_TEST" ? "Connectivity test" : "Check";
  return h("div", { class: "head" }, h("h2", {}, `${kind}, run ${run.number ?? ""}`),
    h("div", {}, h("span", { class: "quiet small" }, moment(run.startedAt)), h("span", { class: `chip ${tone}` }, short(run.state, "CHECK_STATE_"))));
}

/** Every item, what needs a look first. */
export function report(run) {
  const items = [...(run.items ?? [])];
  const rank = (item) => ["bad", "warn", "busy", "idle", "ok"].indexOf(verdict(item)[1]);
  items.sort((one, other) => rank(one) - rank(other));
  const rows = items.map((item) => {
    const [words, tone] = verdict(item);
    const findings = (item.findings ?? []).filter((finding) => finding.message);
    return [h("code", {}, item.id), h("span", { class: `chip ${tone}` }, words),
      h("div", {}, findings.length && tone !== "ok" ? findings.map((finding) => h("div", {}, finding.message)) : item.title),
      h("div", { class: "fix" }, tone === "ok" ? "" : [...new Set(findings.map((finding) => finding.fix).filter(Boolean))].map((fix) => h("div", {}, fix))),
      { number: item.tookMs ? `${item.tookMs} ms` : "" }];
  });
  return h("div", { class: "card", "data-run": run.state }, head(run),
    rows.length ? table("Report", ["Item", "Outcome", "Found", "What to do", "Took"], rows) : h("p", { class: "quiet" }, "Agents are asking the servers…"));
}

const PLANNED = { snapshot_bytes: "Snapshot", fork_bytes: "Memory that the sources' hosts need besides", copy_ms: "Until everything is copied", spool_bytes: "Memory and disk of the agents", catch_up_ms: "From then until the target is in step" };
const planned = (id, value) => value === undefined ? "–" : id.endsWith("_ms") ? period(value) : bytes(value);

/** What is to be expected of the copy, and what came of it. */
export function plan(task) {
  const { estimates = [], catchesUp } = task.plan ?? {};
  if (!estimates.length) return undefined;
  return h("section", { class: "card" }, h("h2", {}, "Plan"), h("p", {}, catchesUp ? "At these rates the target can be in step one day." : "At these rates the target will never be in step: the source writes more than can be applied."),
    table("Plan", ["What", "Estimate", "By", "Came to"], estimates.map((one) => [PLANNED[one.id] ?? one.id, { number: planned(one.id, one.value) }, one.basis ?? "", { number: planned(one.id, one.actual) }])));
}
