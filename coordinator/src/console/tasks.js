// All tasks.
import { all } from "./api.js";
import { every, h, problem, section, table } from "./dom.js";
import { bytes, copied, count, isSetUp, moment, name, period, place, state, stateOf } from "./words.js";

export const link = (task) => h("a", { href: `#/tasks/${task.id}${isSetUp(task) ? "/setup" : ""}`, "data-key": task.id }, name(task));
export const chip = (task) => { const { words, tone } = state(task); return h("span", { class: `chip ${tone}` }, words); };

function progress(task) {
  const part = copied(task);
  if (stateOf(task) === "FULL_SYNC" && part !== undefined) return `${Math.floor(part * 100)} % copied`;
  if (!task.totals) return "–";
  const { lagBytes, lagMs } = task.totals;
  return count(lagBytes) || count(lagMs) ? `${bytes(lagBytes)}, ${period(lagMs)} behind` : "in step";
}

export async function tasks({ signal }) {
  const wrong = h("div", {});
  const list = section({ class: "card" }, (found) => found.length
    ? table("Tasks", ["Name", "State", "Progress", "From", "To", "Created"], found.map((task) => [
      link(task), chip(task), isSetUp(task) || ["COMPLETED", "CANCELLED"].includes(stateOf(task)) ? "–" : progress(task),
      task.spec?.sources?.length > 1 ? `${task.spec.sources.length} nodes` : place(task.spec?.sources?.[0]), place(task.spec?.target), moment(task.createdAt)]))
    : h("div", { class: "empty" }, h("p", {}, "No task yet. A task moves one Redis into another, once or for as long as you like."),
      h("a", { class: "button primary", href: "#/new", "data-key": "first" }, "Create the first task")));
  const look = async () => {
    try {
      const found = await all("TaskService/ListTasks", "tasks", {}, signal);
      list.show(found.reverse());
      wrong.replaceChildren();
    } catch (error) {
      if (!signal.aborted) wrong.replaceChildren(problem(error));
    }
  };
  await look();
  every(2000, signal, look);
  return [h("div", { class: "head" }, h("h1", { tabindex: "-1" }, "Tasks")), wrong, list.element];
}
