// How a task goes: figures, plots, shards.
import { h, section, table } from "./dom.js";
import { plot } from "./plot.js";
import { bytes, copied, count, number, period, rate, short, stateOf } from "./words.js";

const figure = (title, value, more) => h("div", { class: "card figure" }, h("dt", {}, title), h("dd", {}, value, more && h("small", {}, more)));

/** How keys have changed of late, where that is known. */
const change = (keys) => keys === undefined ? undefined : `${count(keys) > 0 ? "+" : ""}${number(keys)} within a minute`;

/** What is known of who else writes to the target. */
function guard(task) {
  const { level, why, readOnlyUsers = [], foreignWrites, foreignClients = [], recent } = (task.shards ?? []).map((shard) => shard.status?.guard).find(Boolean) ?? {};
  if (!level) return undefined;
  const how = { TARGET_GUARD_ACL: "Others may not write to the target while the task runs", TARGET_GUARD_WATCH: "Writes of others to the target are watched for", TARGET_GUARD_OFF: "Nobody looks who else writes to the target" }[level] ?? short(level, "TARGET_GUARD_");
  return h("section", { class: `card${recent ? " alert bad" : ""}` }, h("h2", {}, "The target"), h("p", {}, how, why && ` (${why})`, "."),
    readOnlyUsers.length > 0 && h("p", {}, `Read-only for now: ${readOnlyUsers.join(", ")}`),
    count(foreignWrites) > 0 && h("p", {}, h("strong", {}, `${number(foreignWrites)} writes of others`), foreignClients.length > 0 && `: ${foreignClients.join(", ")}`));
}

function figures(task) {
  const totals = task.totals ?? {};
  const pace = totals.pace ?? {};
  const behind = count(totals.lagBytes) || count(totals.lagMs);
  const difference = count(totals.sourceKeys) - count(totals.targetKeys);
  const cards = [
    figure("Keys on the source", number(totals.sourceKeys), change(totals.sourceKeysChange)),
    figure("Keys on the target", number(totals.targetKeys), [change(totals.targetKeysChange), difference ? `${number(Math.abs(difference))} ${difference > 0 ? "fewer" : "more"} than the source${difference < 0 ? "; the task's own are counted" : ""}` : "as many as the source"].filter(Boolean).join("; ")),
    figure("Behind the source", behind ? period(totals.lagMs) : "in step", bytes(totals.lagBytes)),
    figure("Offset reached", (task.shards ?? []).length === 1 ? number(task.shards[0].status?.stream?.appliedOffset) : `${totals.shardsStreaming ?? 0} of ${totals.shards ?? 0} shards in step`,
      (task.shards ?? []).length === 1 ? `source: ${number(task.shards[0].status?.stream?.sourceOffset)}` : undefined),
    figure("Commands applied", number(totals.appliedCommands)),
    figure("Time left", pace.timeLeftMs === undefined ? "–" : period(pace.timeLeftMs), pace.throttledBy ? `held back by: ${pace.throttledBy.replace("_", " ")}` : undefined),
    figure("Backlog lasts", pace.backlogLeftMs === undefined ? "–" : period(pace.backlogLeftMs), "at this rate, if nothing more is applied"),
  ];
  return h("dl", { class: "cards" }, cards);
}

function copy(task) {
  const totals = task.totals ?? {};
  const part = copied(task);
  if (!count(totals.snapshotReceivedBytes)) return undefined;
  const words = part === undefined ? `${bytes(totals.snapshotAppliedBytes)}, ${number(totals.snapshotAppliedKeys)} keys` : `${Math.floor(part * 100)} %: ${bytes(totals.snapshotAppliedBytes)} of ${bytes(totals.snapshotTotalBytes)}, ${number(totals.snapshotAppliedKeys)} keys`;
  return h("section", { class: "card" }, h("h2", { id: "copy" }, "Full copy"), h("progress", { "aria-labelledby": "copy", max: "1", value: part ?? (stateOf(task) === "FULL_SYNC" ? undefined : 1) }), h("p", { class: "small quiet" }, words));
}

function shards(task) {
  const rows = (task.shards ?? []).map((shard) => {
    const status = shard.status ?? {};
    const stream = status.stream ?? {};
    const refused = (shard.refusals ?? []).map((refusal) => h("div", { class: "fix" }, `${refusal.agentId}: ${refusal.why}`));
    const wrong = status.reason && h("div", { class: "fix" }, `${status.reason.code}: ${status.reason.message}`);
    return [`${shard.index ?? 0}`, h("div", {}, short(status.phase, "SHARD_PHASE_") || "waits for an agent", wrong, refused), shard.agentId || "–", status.readingFrom || "–",
      { number: number(stream.sourceOffset) }, { number: number(stream.appliedOffset) }, { number: bytes(stream.lagBytes) }, status.fence ? `${status.fence}${stream.exactlyOnce ? ", exactly once" : ""}` : "–"];
  });
  return h("section", { class: "card" }, h("h2", {}, "Shards"), table("Shards", ["Shard", "Phase", "Agent", "Reads from", "Source offset", "Applied offset", "Behind", "Fence"], rows));
}

function warnings(task) {
  const told = [...new Set((task.shards ?? []).flatMap((shard) => shard.status?.warnings ?? []))];
  return told.length ? h("section", { class: "card" }, h("h2", {}, "Warnings"), h("ul", {}, told.map((warning) => h("li", {}, warning)))) : undefined;
}

/** Shows the task at every change; a sample a second. */
export function progress(signal) {
  const rates = plot("Rates", ["source writes", "received", "applied"], rate);
  const lag = plot("Behind, in bytes", ["source to agent", "agent to target"], bytes);
  const time = plot("Behind, in time", ["source to agent", "agent to target"], (ms) => (ms ? period(ms) : "0 s"));
  const keys = plot("Keys", ["source", "target"], number);
  const figured = section({}, figures);
  const copying = section({}, copy);
  const parts = section({ class: "stack" }, (task) => [guard(task), shards(task), warnings(task)]);
  let task;
  const timer = setInterval(() => {
    const totals = task?.totals;
    if (!totals) return;
    const pace = totals.pace ?? {};
    rates.push(count(pace.sourceBytesPerSecond), count(pace.receivedBytesPerSecond), count(pace.appliedBytesPerSecond));
    lag.push(count(pace.received?.lagBytes), count(pace.applied?.lagBytes));
    time.push(count(pace.received?.lagMs), count(pace.applied?.lagMs));
    keys.push(count(totals.sourceKeys), count(totals.targetKeys));
  }, 1000);
  signal.addEventListener("abort", () => clearInterval(timer));
  return { show(now) { task = now; figured.show(now); copying.show(now); parts.show(now); },
    content: [figured.element, copying.element, h("div", { class: "two" }, lag.element, rates.element, time.element, keys.element), parts.element] };
}
