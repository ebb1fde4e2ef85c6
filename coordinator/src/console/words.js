// Words and units for people.

export const count = (value) => Number(value ?? 0);

export function bytes(value) {
  let left = count(value);
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (left >= 1024 && unit < units.length - 1) { left /= 1024; unit += 1; }
  return `${unit ? left.toFixed(1) : Math.round(left)} ${units[unit]}`;
}

export const rate = (value) => `${bytes(value)}/s`;
export const number = (value) => count(value).toLocaleString("en");

export function period(ms) {
  if (ms === undefined || ms === null) return "–";
  const seconds = count(ms) / 1000;
  if (seconds < 1 && seconds > 0) return `${Math.round(count(ms))} ms`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

export function moment(at) {
  if (!at) return "–";
  return new Date(at).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** `TASK_STATE_FULL_SYNC` as `full sync`. */
export const short = (name, prefix) => (name ?? "").replace(prefix, "").replaceAll("_", " ").toLowerCase();

const STATES = {
  CREATED: ["set-up not finished", "idle"], CONFIGURED: ["servers reached", "idle"], CHECKING: ["checking", "busy"], CHECK_PASSED: ["check passed", "ok"],
  CHECK_FAILED: ["check failed", "bad"], SCHEDULED: ["scheduled", "busy"], VERIFYING: ["verifying", "busy"], PREPARING: ["preparing", "busy"],
  FULL_SYNC: ["full copy", "busy"], INCR_SYNC: ["synchronising", "busy"], PAUSED: ["paused", "warn"], INTERRUPTED: ["interrupted, will retry", "warn"],
  NEEDS_DECISION: ["needs you", "bad"], COMPLETING: ["completing", "busy"], COMPLETED: ["completed", "ok"], CANCELLING: ["cancelling", "busy"],
  CANCELLED: ["cancelled", "idle"], FAILED: ["failed, needs you", "bad"],
};

export const stateOf = (task) => (task.state ?? "").replace("TASK_STATE_", "");

/** Words and tone. */
export function state(task) {
  const [words, tone] = STATES[stateOf(task)] ?? [short(task.state, "TASK_STATE_"), "idle"];
  return { words: task.readyToComplete && stateOf(task) === "INCR_SYNC" ? "in step, ready to complete" : words, tone: task.readyToComplete && stateOf(task) === "INCR_SYNC" ? "ok" : tone };
}

export const isSetUp = (task) => ["CREATED", "CONFIGURED", "CHECKING", "CHECK_FAILED", "CHECK_PASSED", "SCHEDULED"].includes(stateOf(task));
export const allows = (task, action) => (task.allowedActions ?? []).includes(`TASK_ACTION_${action}`);
export const place = (end) => end ? `${end.host?.includes(":") ? `[${end.host}]` : end.host}:${end.port}` : "–";
export const name = (task) => task.spec?.name || task.id;

/** How far the copy is, 0 to 1; undefined if it is not known. */
export function copied(task) {
  const { snapshotTotalBytes, snapshotAppliedBytes } = task.totals ?? {};
  const total = count(snapshotTotalBytes);
  return total ? Math.min(1, count(snapshotAppliedBytes) / total) : undefined;
}
