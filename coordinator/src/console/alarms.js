// Who is told when something is wrong, and what was told.
import { all, call, requestId } from "./api.js";
import { choice, dialog, every, field, form, h, notice, problem, section, table } from "./dom.js";
import { moment, short } from "./words.js";

const KINDS = [["INTERRUPTED", "interrupted: it will retry", true], ["NEEDS_DECISION", "needs a decision", true], ["FAILED", "failed", true], ["LAG", "too far behind", false], ["BACKLOG", "the source's backlog ends soon", true],
  ["AGENT_LOST", "an agent is lost", true], ["DEGRADED", "a shard has no agent", true], ["CERTIFICATE", "a certificate expires", false], ["FOREIGN_WRITES", "somebody else writes to the target", false], ["VERIFICATION_MISMATCH", "a verification found differences", false],
  ["REPLAY_SHORT", "the target may forget more than can be replayed", false]];
/** Seconds that a trigger takes where it takes any. */
const THRESHOLDS = { LAG: 60, BACKLOG: 600, CERTIFICATE: 1209600 };
const to = (receiver) => receiver.webhook?.url ?? receiver.alertmanager?.url ?? `${receiver.email?.to?.join(", ")} by ${receiver.email?.server}`;

function create(done) {
  dialog("New alarm policy", (close) => {
    const kind = choice("kind", [["webhook", "webhook (POST of JSON)"], ["alertmanager", "Alertmanager"], ["email", "email"]]);
    const url = field("Address", h("input", { name: "url", type: "url", required: true, placeholder: "https://…" }));
    const mail = h("div", { class: "grid" }, field("SMTP server", h("input", { name: "server", placeholder: "mail.example:587" })), field("From", h("input", { name: "from", type: "email" })), field("To", h("input", { name: "to", type: "email" })));
    const fit = () => {
      mail.hidden = kind.value !== "email";
      url.hidden = !mail.hidden;
      url.querySelector("input").required = mail.hidden;
      mail.querySelectorAll("input").forEach((input) => { input.required = !mail.hidden; });
    };
    kind.addEventListener("change", fit);
    fit();
    const key = requestId();
    return form({}, async (data) => {
      const names = data.get("tasks").trim();
      const chosen = data.get("kind");
      const receiver = chosen === "email" ? { email: { server: data.get("server"), from: data.get("from"), to: [data.get("to")] } } : { [chosen]: { url: data.get("url") } };
      const triggers = data.getAll("trigger").map((of) => ({ kind: `ALARM_KIND_${of}`, ...(THRESHOLDS[of] && { thresholdSeconds: THRESHOLDS[of] }) }));
      await call("AlarmService/CreateAlarmPolicy", { requestId: key, policy: { name: data.get("name"), ...(names && { tasks: { names: [names] } }), triggers, receivers: [{ name: "first", ...receiver }] } });
      close();
      notice("The policy is stored. Send a test message to see that it arrives.");
      done();
    }, field("Name", h("input", { name: "name", required: true, maxlength: "128" })), field("Tasks", h("input", { name: "tasks", placeholder: "all" }), "a pattern of names, such as orders-*"),
    h("fieldset", {}, h("legend", {}, "When"), KINDS.map(([of, words, on]) => h("label", { class: "inline" }, h("input", { type: "checkbox", name: "trigger", value: of, checked: on }), `${words}${of === "LAG" ? ": more than 60 s" : of === "BACKLOG" ? ": less than 10 min left" : of === "CERTIFICATE" ? ": less than 14 days left" : ""}`))),
    field("Whom to tell", kind), url, mail,
    h("div", { class: "row end" }, h("button", { type: "button", onclick: close }, "Not now"), h("button", { type: "submit", class: "primary" }, "Create")));
  });
}

function told(policy, deliveries) {
  dialog(`Test of ${policy.name}`, (close) => h("div", { class: "stack" }, deliveries.map((one) => h("div", { class: `alert ${one.deliveredAt ? "ok" : "bad"}` }, h("p", {}, `${one.receiver}: ${one.deliveredAt ? "it arrived" : one.error || "it did not arrive"}`))),
    h("div", { class: "row end" }, h("button", { type: "button", class: "primary", onclick: close }, "Close"))));
}

export async function alarms({ signal }) {
  const wrong = h("div", {});
  const attempt = (act) => async () => { wrong.replaceChildren(); try { await act(); await look(); } catch (error) { wrong.replaceChildren(problem(error)); } };
  const policies = section({ class: "card" }, (found) => [h("div", { class: "head" }, h("h2", {}, "Policies"), h("button", { type: "button", class: "primary", "data-key": "new", onclick: () => create(look) }, "New policy")),
    found.length ? table("Policies", ["Name", "Tasks", "When", "Whom", ""], found.map((policy) => [h("div", {}, policy.name, policy.disabled && h("span", { class: "chip" }, "off")), policy.tasks?.names?.join(", ") || (policy.tasks?.ids?.length ? `${policy.tasks.ids.length} by id` : "all"),
      (policy.triggers ?? []).map((trigger) => short(trigger.kind, "ALARM_KIND_")).join(", "), h("div", {}, (policy.receivers ?? []).map((receiver) => h("div", {}, `${receiver.name}: ${to(receiver)}`))),
      h("div", { class: "row" }, h("button", { type: "button", "data-key": `test ${policy.id}`, "aria-label": `Send a test message of ${policy.name}`, onclick: attempt(async () => told(policy, (await call("AlarmService/TestAlarmPolicy", { id: policy.id })).deliveries ?? [])) }, "Send a test"),
        h("button", { type: "button", class: "danger", "data-key": `delete ${policy.id}`, "aria-label": `Delete ${policy.name}`, onclick: () => dialog(`Delete ${policy.name}?`, (close) => form({}, async () => { await call("AlarmService/DeleteAlarmPolicy", { id: policy.id, revision: policy.revision }); close(); await look(); },
          h("p", {}, "Its alarms that are on are resolved."), h("div", { class: "row end" }, h("button", { type: "button", onclick: close }, "No, go back"), h("button", { type: "submit", class: "primary" }, "Delete")))) }, "Delete…"))]))
      : h("p", { class: "quiet" }, "Nobody is told of anything yet.")]);
  const history = section({ class: "card" }, (found) => [h("h2", {}, "Alarms"), found.length ? table("Alarms", ["What", "State", "Task", "Message", "Since", "Told"], found.map((alarm) => [short(alarm.kind, "ALARM_KIND_"),
    h("span", { class: `chip ${alarm.resolvedAt ? "idle" : alarm.need === "ALARM_NEED_NEEDS_YOU" ? "bad" : "warn"}` }, alarm.resolvedAt ? "over" : alarm.need === "ALARM_NEED_NEEDS_YOU" ? "needs you" : "will retry"),
    alarm.taskId ? h("a", { href: `#/tasks/${alarm.taskId}`, "data-key": alarm.id }, alarm.taskName || alarm.taskId) : alarm.about || "–", alarm.message ?? "", moment(alarm.raisedAt),
    h("div", {}, (alarm.deliveries ?? []).map((one) => h("div", { class: one.deliveredAt ? undefined : "fix" }, `${one.receiver}: ${one.deliveredAt ? "yes" : one.givenUp ? `given up: ${one.error}` : one.error || "not yet"}`)))]))
    : h("p", { class: "quiet" }, "No alarm so far.")]);
  async function look() {
    try {
      policies.show(await all("AlarmService/ListAlarmPolicies", "policies", {}, signal));
      history.show((await call("AlarmService/ListAlarms", { pageSize: 50 }, signal)).alarms ?? []);
    } catch (error) {
      if (!signal.aborted) wrong.replaceChildren(problem(error));
    }
  }
  await look();
  every(3000, signal, look);
  return [h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Alarms")), wrong, policies.element, history.element];
}
