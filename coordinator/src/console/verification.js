// Comparisons of both sides, and how the task was completed.
import { call } from "./api.js";
import { choice, every, field, form, h, problem, section, table } from "./dom.js";
import { VERIFY_MODES } from "./actions.js";
import { moment, number, short, stateOf } from "./words.js";

const TONES = { EQUAL: "ok", DIFFERS: "bad", UNDECIDED: "warn", VERIFIED: "ok", FORCED: "warn", REFUSED: "bad", "TIMED_OUT": "bad", PENDING: "busy" };

function completion(report) {
  if (!report) return undefined;
  const outcome = (report.outcome ?? "").replace("COMPLETION_OUTCOME_", "");
  const fact = (of, value) => value && [h("dt", {}, of), h("dd", {}, value)];
  return h("section", { class: "card", id: "completion" }, h("div", { class: "head" }, h("h2", {}, "Completion"), h("span", { class: `chip ${TONES[outcome] ?? "idle"}` }, short(report.outcome, "COMPLETION_OUTCOME_"))),
    h("dl", { class: "facts" }, fact("Why", report.summary), fact("Asked for by", report.requestedBy), fact("Asked at", report.requestedAt && moment(report.requestedAt)),
      fact("Verification", report.verification && `run ${report.verification} (${short(report.mode, "VERIFY_MODE_")})`), fact("Completed at", report.completedAt && moment(report.completedAt)),
      fact("Passed over", report.waived?.length && report.waived.join("; ")),
      (report.barriers ?? []).map((barrier) => fact(`Shard ${barrier.shardIndex ?? 0} reached`, `offset ${number(barrier.offset)} of ${barrier.replicationId || "its source"}`))));
}

function row(run) {
  const { state, outcome, progress = {} } = run;
  const ended = state === "VERIFY_STATE_DONE";
  const words = ended ? short(outcome, "VERIFY_OUTCOME_") : short(state, "VERIFY_STATE_");
  const tone = ended ? TONES[(outcome ?? "").replace("VERIFY_OUTCOME_", "")] : state === "VERIFY_STATE_RUNNING" ? "busy" : "idle";
  const errors = (run.shards ?? []).map((shard) => shard.error).filter(Boolean);
  return [`${run.number}`, h("div", {}, h("span", { class: `chip ${tone ?? "idle"}` }, words), errors.map((error) => h("div", { class: "fix" }, error))), short(run.spec?.mode, "VERIFY_MODE_") || "full", moment(run.startedAt),
    { number: `${number(progress.sourceKeys)} of ${number(progress.expectedKeys)}` }, { number: number(progress.comparedKeys) }, { number: number(progress.differences) }];
}

/** Keys may be any bytes. */
const key = (base64) => new TextDecoder().decode(Uint8Array.from(atob(base64 ?? ""), (byte) => byte.charCodeAt(0)));

export async function verification(id, signal) {
  const wrong = h("div", {});
  const runs = section({ class: "card" }, (found, differences) => [h("h2", {}, "Verifications"),
    found.length ? table("Verifications", ["Run", "Outcome", "Mode", "Started", "Keys looked at", "Compared", "Differences"], found.map(row)) : h("p", { class: "quiet" }, "None yet."),
    differences.length > 0 && [h("h3", {}, "What the last one found"), table("Differences", ["Key", "Kind", "Database", "Source", "Target"], differences.map((one) => [h("code", {}, key(one.key)), one.kind, `${one.db ?? 0}`, one.source ?? "", one.target ?? ""]))]]);
  const report = section({}, completion);
  let seen;
  const look = async () => {
    try {
      const { verifications = [] } = await call("VerifyService/ListVerifications", { taskId: id }, signal);
      const last = verifications.at(-1);
      const { differences = [] } = last?.outcome === "VERIFY_OUTCOME_DIFFERS" ? await call("VerifyService/ListDifferences", { taskId: id, pageSize: 50 }, signal) : {};
      runs.show([...verifications].reverse(), differences);
      seen = last;
      wrong.replaceChildren();
    } catch (error) {
      if (!signal.aborted) wrong.replaceChildren(problem(error));
    }
  };
  const begin = form({ class: "card" }, async (data, element, submitter) => {
    const requestedBy = data.get("by");
    if (submitter?.value === "repair") await call("VerifyService/RepairVerification", { taskId: id, requestedBy });
    else if (submitter?.value === "end") await call("VerifyService/CancelVerification", { taskId: id, number: seen?.number });
    else await call("VerifyService/StartVerification", { taskId: id, spec: { mode: data.get("mode") }, requestedBy });
    await look();
  }, h("h2", {}, "Verify now"), h("div", { class: "grid" }, field("How", choice("mode", VERIFY_MODES.slice(1), "VERIFY_MODE_FULL")), field("Your name", h("input", { name: "by", maxlength: "128" }))),
  h("div", { class: "row" }, h("button", { type: "submit", value: "start", class: "primary" }, "Verify"), h("button", { type: "submit", value: "repair" }, "Copy differences again"), h("button", { type: "submit", value: "end" }, "End the run")));
  await look();
  every(1000, signal, look);
  return { show(task) { report.show(task.completion); begin.hidden = stateOf(task) !== "INCR_SYNC"; }, content: [wrong, report.element, begin, runs.element] };
}
