// Source and target as a form, and the spec that it comes to.
import { choice, field, h } from "./dom.js";
import { count } from "./words.js";

const NETWORKS = [["NETWORK_UNSPECIFIED", "not said: by any agent"], ["NETWORK_PUBLIC", "public network"], ["NETWORK_CVM", "self-built on a cloud VM (CVM)"],
  ["NETWORK_DC", "data centre, dedicated line (DC)"], ["NETWORK_VPN", "VPN gateway"], ["NETWORK_CCN", "cloud connect network (CCN)"]];
const SECRETS = [["", "none"], ["password", "typed here, stored sealed"], ["passwordEnv", "environment variable of the agent"],
  ["passwordFile", "file on the agent's host"], ["agentSecret", "secret of the agent, by name"]];
const KINDS = [["", "one server, or servers with no key in common"], ["SOURCE_KIND_CLUSTER", "Redis Cluster: one node of every master"]];

const secretOf = (end) => {
  const login = end?.credential ?? {};
  if (login.passwordSet) return ["stored", ""];
  const kind = SECRETS.map(([of]) => of).find((of) => of && login[of]);
  return kind ? [kind, login[kind]] : ["", ""];
};

/** The fields of one server. */
function server(prefix, end, removal) {
  const [kind, value] = secretOf(end);
  const kinds = end?.credential?.passwordSet ? [["stored", "the one that is stored"], ...SECRETS] : SECRETS;
  const secret = choice(`${prefix}secret`, kinds, kind);
  const text = h("input", { name: `${prefix}value`, value, autocomplete: "off" });
  const shown = field("Password, or where it is", text);
  const fit = () => {
    shown.hidden = ["", "stored"].includes(secret.value);
    text.type = secret.value === "password" ? "password" : "text";
    text.required = !shown.hidden;
  };
  secret.addEventListener("change", fit);
  fit();
  return h("div", { class: "node", "data-server": prefix },
    h("div", { class: "grid" },
      field("Address", h("input", { name: `${prefix}host`, value: end?.host ?? "", required: true, placeholder: "10.0.0.5", autocomplete: "off", spellcheck: "false" })),
      field("Port", h("input", { name: `${prefix}port`, value: end?.port ?? "6379", required: true, inputmode: "numeric", pattern: "[0-9]{1,5}", title: "1 to 65535" })),
      field("Instance id (optional)", h("input", { name: `${prefix}instance`, value: end?.instanceId ?? "", maxlength: "128", autocomplete: "off" })),
      field("User (optional)", h("input", { name: `${prefix}user`, value: end?.credential?.username ?? "", autocomplete: "off" })),
      field("Password", secret), shown),
    h("div", { class: "row" },
      h("label", { class: "inline" }, h("input", { type: "checkbox", name: `${prefix}tls`, checked: Boolean(end?.tls) }), "Encrypted (TLS)"), removal));
}

function access(prefix, end) {
  return h("div", { class: "grid" },
    field("How it is reached", choice(`${prefix}network`, NETWORKS, end?.network ?? "NETWORK_UNSPECIFIED")),
    field("Region (optional)", h("input", { name: `${prefix}region`, value: end?.region ?? "", autocomplete: "off" })));
}

/** The whole form; `spec` fills it. */
export function servers(spec) {
  const kind = spec.topology?.kind ?? "";
  const known = KINDS.some(([of]) => of === kind) || kind === "SOURCE_KIND_STANDALONE";
  const nodes = h("div", { class: "stack" });
  let made = 0;
  const add = (end) => {
    const prefix = `source${made++}.`;
    const node = server(prefix, end, h("button", { type: "button", class: "small", onclick: () => {
      const near = node.previousElementSibling ?? node.nextElementSibling;
      if (!near) return;
      node.remove();
      near.querySelector("input").focus();
    } }, "Remove this node"));
    nodes.append(node);
    return node;
  };
  (spec.sources?.length ? spec.sources : [undefined]).forEach(add);
  const lines = (name, label, values) => field(label, h("textarea", { name, value: (values ?? []).join("\n"), spellcheck: "false" }), "one a line");
  const limits = spec.limits ?? {};
  const filter = spec.filter ?? {};
  return [
    h("fieldset", {}, h("legend", {}, "What"),
      h("label", { class: "inline" }, h("input", { type: "radio", name: "mode", value: "MODE_SYNC", checked: spec.mode !== "MODE_MIGRATE" }), "Synchronisation: everything, then every change until you complete it"),
      h("label", { class: "inline" }, h("input", { type: "radio", name: "mode", value: "MODE_MIGRATE", checked: spec.mode === "MODE_MIGRATE" }), "Migration: everything, once")),
    h("fieldset", { id: "sources" }, h("legend", {}, "Source"),
      known ? field("What it is", choice("kind", KINDS, kind === "SOURCE_KIND_STANDALONE" ? "" : kind), "codis, twemproxy and sentinels: by dts task create --discover, or by a task file")
        : h("p", { class: "quiet" }, `${kind.replace("SOURCE_KIND_", "").toLowerCase()}, found by ${spec.topology.foundBy || "the task file"}; it stays so`),
      access("source.", spec.sources?.[0]), nodes,
      h("div", { class: "row" }, h("button", { type: "button", onclick: () => add().querySelector("input").focus() }, "Add a node"))),
    h("fieldset", {}, h("legend", {}, "Target"), access("target.", spec.target), server("target.", spec.target)),
    h("details", { class: "card" }, h("summary", {}, "Options"),
      h("div", { class: "stack" },
        h("label", { class: "inline" }, h("input", { type: "checkbox", name: "caughtUp", checked: spec.completeWhenCaughtUp }), "Complete by itself once the target has caught up"),
        h("label", { class: "inline" }, h("input", { type: "checkbox", name: "downgrade", checked: spec.allowDowngrade }), "Take a target that is older than the source"),
        h("div", { class: "grid" },
          field("Read at most, MiB a second", h("input", { name: "readRate", inputmode: "decimal", pattern: "[0-9.]*", value: count(limits.readBytesPerSecond) / 2 ** 20 || "", placeholder: "unbounded" })),
          field("Write at most, MiB a second", h("input", { name: "writeRate", inputmode: "decimal", pattern: "[0-9.]*", value: count(limits.writeBytesPerSecond) / 2 ** 20 || "", placeholder: "unbounded" })),
          field("Retry for, seconds", h("input", { name: "window", inputmode: "numeric", pattern: "[0-9]*", value: limits.retryWindowSeconds || "", placeholder: "600" })),
          field("FLUSHALL on the source", choice("flush", [["FLUSH_POLICY_UNSPECIFIED", "empties the target too"], ["FLUSH_POLICY_IGNORE", "leaves the target"], ["FLUSH_POLICY_STOP", "stops the task"]], spec.onFlush))),
        h("div", { class: "grid" }, lines("include", "Only keys that fit", filter.includePatterns), lines("exclude", "No keys that fit", filter.excludePatterns)))),
  ];
}

function read(data, prefix, of, before) {
  const text = (name) => (data.get(prefix + name) ?? "").trim();
  const secret = text("secret");
  const login = {};
  if (text("user")) login.username = text("user");
  if (secret === "stored") login.passwordSet = true;
  else if (secret) login[secret] = data.get(`${prefix}value`);
  const tls = data.get(`${prefix}tls`) ? before?.tls ?? {} : undefined;
  return {
    ...(before?.routes && { routes: true }), host: text("host"), port: Number(text("port")), instanceId: text("instance"),
    network: data.get(`${of}network`), region: (data.get(`${of}region`) ?? "").trim(), ...(Object.keys(login).length && { credential: login }), ...(tls && { tls }),
  };
}

/** What the form says, over what the task had. */
export function specOf(data, element, before) {
  const prefixes = [...element.querySelectorAll("#sources [data-server]")].map((node) => node.dataset.server);
  const same = (host, port) => before.sources?.find((end) => end.host === host && String(end.port) === port);
  const sources = prefixes.map((prefix) => read(data, prefix, "source.", same(data.get(`${prefix}host`), data.get(`${prefix}port`))));
  const listed = (name) => (data.get(name) ?? "").split("\n").map((line) => line.trim()).filter(Boolean);
  const mib = (name) => String(Math.round(Number(data.get(name) || 0) * 2 ** 20));
  const filter = { ...before.filter, includePatterns: listed("include"), excludePatterns: listed("exclude") };
  const filters = Object.values(filter).some((value) => (Array.isArray(value) ? value.length : value));
  const kind = data.get("kind");
  const topology = kind === null || kind === before.topology?.kind ? before.topology : kind ? { kind } : undefined;
  return {
    mode: data.get("mode"), sources, target: read(data, "target.", "target.", before.target), ...(topology && { topology }), ...(filters && { filter }),
    completeWhenCaughtUp: Boolean(data.get("caughtUp")), allowDowngrade: Boolean(data.get("downgrade")), onFlush: data.get("flush"),
    limits: { ...before.limits, readBytesPerSecond: mib("readRate"), writeBytesPerSecond: mib("writeRate"), retryWindowSeconds: Number(data.get("window") || 0) },
  };
}

/** The fields that the form edits. */
export const MASK = "mode,sources,target,topology,filter,completeWhenCaughtUp,allowDowngrade,onFlush,limits";
