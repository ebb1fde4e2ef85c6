// What may be asked of a task, with a question before what cannot be taken back.
import { call, requestId } from "./api.js";
import { choice, dialog, field, form, h, notice } from "./dom.js";
import { allows, stateOf } from "./words.js";

const MODES = [["VERIFY_MODE_UNSPECIFIED", "do not verify"], ["VERIFY_MODE_COUNT", "count keys"], ["VERIFY_MODE_KEYS", "every key: existence, type, expiry"],
  ["VERIFY_MODE_SAMPLE", "everything of some keys"], ["VERIFY_MODE_FULL", "everything of every key"]];
export const VERIFY_MODES = MODES;

/** Action, words, method, question. */
const ACTIONS = [
  ["START", "Start", "StartTask"], ["RESUME", "Resume", "ResumeTask"], ["RETRY", "Retry now", "RetryTask"], ["PAUSE", "Pause", "PauseTask"],
  ["RESYNC", "Copy again", "ResyncTask", "Everything is copied again over what the target holds, and what the source no longer has is deleted there."],
  ["ABORT", "Abort completion", "AbortCompletion", "The task goes on following. Everything is copied again, because completion has given keys their exact expiries."],
  ["CANCEL", "Cancel", "CancelTask", "The task is given up. What was copied stays on the target; our keys and connections are removed."],
  ["DELETE", "Delete", "DeleteTask", "The task and its history are forgotten."],
];

const sure = (words, question, act) => dialog(`${words}?`, (close) => form({}, async () => { await act(); close(); },
  h("p", {}, question), h("div", { class: "row end" }, h("button", { type: "button", onclick: close }, "No, go back"), h("button", { type: "submit", class: "primary" }, words))));

function complete(task) {
  dialog("Complete the task", (close) => form({}, async (data) => {
    await call("TaskService/CompleteTask", { id: task.id, revision: task.revision, verify: data.get("verify"), force: Boolean(data.get("force")), requestedBy: data.get("by") });
    close();
    notice("Completion was asked for.");
  }, h("p", {}, "The synchronisation ends once the target holds everything up to the source's offset of now. Stop writing to the source first, then let clients use the target."),
  field("Verify before", choice("verify", MODES, "VERIFY_MODE_FULL"), "it completes only if both sides are found equal, and goes on otherwise"),
  field("Your name", h("input", { name: "by", maxlength: "128" }), "kept in the report"),
  h("label", { class: "inline" }, h("input", { type: "checkbox", name: "force" }), "Complete although the last verification found differences (not together with a verification)"),
  h("div", { class: "row end" }, h("button", { type: "button", onclick: close }, "Not yet"), h("button", { type: "submit", class: "primary" }, "Complete"))));
}

/** The buttons. */
export function actions(task) {
  const { id, revision } = task;
  const shown = [];
  const button = (key, words, act, kind) => shown.push(h("button", { type: "button", class: kind, "data-key": `do ${key}`, onclick: () => Promise.resolve(act()).catch((error) => notice(error.message, "bad")) }, words));
  if (allows(task, "COMPLETE")) button("COMPLETE", "Complete…", () => complete(task), task.readyToComplete ? "primary" : undefined);
  for (const [action, words, method, question] of ACTIONS) {
    if (!allows(task, action)) continue;
    // A page that is older than the task asks about the task as it is now.
    const act = async () => { await call(`TaskService/${method}`, { id, ...(["DELETE", "CANCEL"].includes(action) ? {} : { revision }) }); if (action === "DELETE") { notice("The task is deleted."); location.hash = "#/tasks"; } };
    button(action, question ? `${words}…` : words, () => (question ? sure(words, question, act) : act()), ["CANCEL", "DELETE"].includes(action) ? "danger" : action === "RESUME" || (action === "START" && stateOf(task) === "FAILED") ? "primary" : undefined);
  }
  if (allows(task, "CLONE")) button("CLONE", "Clone", async () => { const made = await call("TaskService/CloneTask", { id, requestId: requestId() }); location.hash = `#/tasks/${made.id}/setup`; });
  return h("div", { class: "row" }, shown);
}
