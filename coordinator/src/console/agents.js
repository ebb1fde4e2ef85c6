// The agents, and taking them in and out of service.
import { all, call } from "./api.js";
import { every, h, problem, section, table } from "./dom.js";
import { bytes, moment } from "./words.js";

function condition(agent) {
  if (!agent.alive) return ["lost", "bad"];
  if (agent.draining) return [agent.shards ? "draining" : "drained", "warn"];
  if (agent.cordoned) return ["cordoned", "warn"];
  return agent.connected ? ["in service", "ok"] : ["not connected", "warn"];
}

export async function agents({ signal }) {
  const wrong = h("div", {});
  const act = (agent, method, words) => h("button", { type: "button", "data-key": `${method} ${agent.id}`, "aria-label": `${words} ${agent.id}`, onclick: async () => {
    try {
      await call(`FleetService/${method}`, { id: agent.id });
      await look();
    } catch (error) { wrong.replaceChildren(problem(error)); }
  } }, words);
  const list = section({ class: "card" }, (found) => found.length
    ? table("Agents", ["Agent", "Condition", "Shards", "Labels", "Free disk", "Version", "Last seen", ""], found.map((agent) => {
      const [words, tone] = condition(agent);
      const labels = Object.entries(agent.labels ?? {}).map(([of, value]) => `${of}=${value}`).sort().join(", ");
      const stays = (agent.stays ?? []).flatMap((stay) => (stay.refusals ?? []).map((refusal) => h("div", { class: "fix" }, `shard ${stay.shardIndex ?? 0} stays: ${refusal.agentId}: ${refusal.why}`)));
      return [agent.id, h("div", {}, h("span", { class: `chip ${tone}` }, words), stays), { number: `${agent.shards ?? 0}${agent.maxShards ? ` of ${agent.maxShards}` : ""}` }, labels || "–", { number: bytes(agent.freeDiskBytes) }, agent.version ?? "",
        moment(agent.lastSeenAt), h("div", { class: "row" }, agent.cordoned ? act(agent, "UncordonAgent", "Uncordon") : act(agent, "CordonAgent", "Cordon"), !agent.draining && act(agent, "DrainAgent", "Drain"))];
    }))
    : h("p", { class: "empty quiet" }, "No agent has registered. On a host near the source: ", h("code", {}, "dts agent --name NAME --coordinator ADDRESS")));
  const look = async () => {
    try {
      // When it was seen last changes all the time and matters when it is lost.
      const found = await all("FleetService/ListAgents", "agents", {}, signal);
      list.show(found.map((agent) => ({ ...agent, ways: undefined, lastSeenAt: agent.lastSeenAt?.slice(0, 16) && (agent.alive ? `${agent.lastSeenAt.slice(0, 16)}:00Z` : agent.lastSeenAt) })));
      wrong.replaceChildren();
    } catch (error) {
      if (!signal.aborted) wrong.replaceChildren(problem(error));
    }
  };
  await look();
  every(2000, signal, look);
  return [h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Agents")),
    h("p", { class: "quiet" }, "A cordoned agent keeps its shards and gets no more; a drained one hands them to others. Uncordon takes either back."), wrong, list.element];
}
