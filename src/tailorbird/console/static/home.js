// The page of a project: what it is doing, and a list for anybody with what each click changes.
import { Trial, badge, byId, call, element, fresh, makePanel, number, rows, titleOf } from "/console/live.js";

const EVERY_MS = 5000;
const ATTRIBUTES = ["title", "price", "category", "brand"];
let overview = null;
let trial = null;

// What the project is doing

async function look() {
  try {
    overview = await call("/console/overview");
    byId("key-form").hidden = true;
    byId("problem").textContent = overview.problem;
    showOverview();
    return true;
  } catch (error) {
    if (error.status === 401 || error.status === 403) byId("key-form").hidden = false;
    byId("problem").textContent = error.status === 401 && error.code === "key_missing" ? "" : error.message;
    return false;
  }
}

function showOverview() {
  document.title = `${overview.name} – Tailorbird`;
  byId("project").textContent = overview.name;
  byId("clock").textContent = overview.clock;
  byId("shop").hidden = !overview.shop;
  showFacts();
  showSlots();
  showRoles();
  showModels();
  showEvents();
}

function showFacts() {
  const champion = overview.models.find((model) => model.aliases.includes("champion"));
  const running = overview.roles.filter((role) => role.state === "runs").length;
  const newest = overview.events.newest[0];
  const facts = [
    [overview.events.total.toLocaleString("en"), "rows in the log"],
    [newest ? when(newest.ts) : "none", "last event"],
    [overview.roles.length ? `${running} of ${overview.roles.length}` : "–", "roles run here"],
    [champion ? champion.version : "none", champion ? `serves: ${champion.kind}` : "no model serves"],
    [overview.missing.length ? overview.missing.join(", ") : "ready", overview.missing.length ? "answers lack this" : "answers"],
  ];
  byId("facts").replaceChildren(...facts.map(([value, what]) => {
    const made = element("li", "", what);
    made.prepend(element("b", "", value));
    return made;
  }));
}

function showSlots() {
  const select = byId("slot");
  if (select.options.length) return;
  select.append(...overview.slots.map((slot) => {
    const option = element("option", "", slot.name);
    option.selected = slot.name === overview.slot;
    return option;
  }));
}

function showRoles() {
  byId("roles-note").hidden = overview.roles.length > 0;
  byId("roles-note").textContent = "No role is seen here: tailorbird up runs them all.";
  rows(byId("roles"), overview.roles.map((role) => [
    role.name,
    { text: role.restarts ? `${role.state}, restarted ${role.restarts} times` : role.state, className: role.state === "runs" ? "up" : "down" },
    role.since_s ? ago(Date.now() * 1000 - role.since_s * 1e6).replace(" ago", "") : "–",
    role.behind_rows === null ? "–" : role.behind_rows ? `${role.behind_rows.toLocaleString("en")} rows, ${number(role.behind_s)} s` : "nothing",
  ]));
}

function showModels() {
  byId("models-note").hidden = overview.models.length > 0;
  byId("models-note").textContent = "No model yet: tailorbird train makes the first one.";
  rows(byId("models"), overview.models.map((model) => [
    versionOf(model), model.made, model.kind, number(model.ndcg_10), model.decision || "–",
  ]));
  byId("reports").replaceChildren(...overview.reports.flatMap((name) => [link(`/console/reports/${name}`, name), " "]));
}

function versionOf(model) {
  const made = element("span");
  made.append(model.report ? link(`/console/reports/${model.report}`, `${model.version} report`) : model.version);
  if (model.aliases.length) made.append(` ${model.aliases.join(", ")}`);
  return made;
}

function link(path, text) {
  const made = element("a", "", text);
  made.href = path;
  made.addEventListener("click", async (clicked) => {
    const key = sessionStorage.getItem("tailorbird-key");
    if (!key) return;
    clicked.preventDefault();  // a plain link cannot carry the key: fetch it, and keep it as a file
    const response = await fetch(path, { headers: { authorization: `Bearer ${key}` } });
    const file = element("a");
    file.href = URL.createObjectURL(await response.blob());
    file.download = path.split("/").pop();
    file.click();
  });
  return made;
}

function showEvents() {
  const { events } = overview;
  const types = Object.entries(events.types).map(([type, count]) => `${type} ${count.toLocaleString("en")}`).join(", ");
  const refused = events.refused ? ` ${events.refused} refused: tailorbird sql "select * from quarantine" says why.` : "";
  const sample = `curl ${location.origin}/v1/events -d '{"event_id": "e1", "type": "click", "user_id": "42", "item_id": "i93"}'`;
  byId("events-note").textContent = events.newest.length
    ? `Of the last ${events.counted.toLocaleString("en")} rows: ${types}.${refused}`
    : `No event yet. Send one: ${sample}`;
  rows(byId("events"), events.newest.map((event) => [
    when(event.ts), event.type, event.user_id || event.anonymous_id || "–", whatOf(event),
  ]));
  const users = [...new Set(events.newest.map((event) => event.user_id).filter(Boolean))];
  byId("users").replaceChildren(...users.map((user) => {
    const option = element("option");
    option.value = user;
    return option;
  }));
}

// With the date where it is not today's: the log of a project may lie years back.
function when(us) {
  const text = new Date(us / 1000).toISOString().replace("T", " ").slice(0, 19);
  const far = Math.abs(Date.now() * 1000 - us) > 86400e6;
  return far ? text : ago(overview.now - us);
}

function whatOf(event) {
  if (event.query) return `“${event.query}”`;
  if (event.item_id) return event.item_id + (event.price === null ? "" : `, ${number(event.price)}`);
  return event.items ? `${event.items} items` : "–";
}

function ago(us) {
  const s = Math.max(0, us / 1e6);
  if (s < 1) return "now";
  if (s < 60) return `${Math.round(s)} s ago`;
  if (s < 3600) return `${Math.round(s / 60)} min ago`;
  return s < 172800 ? `${Math.round(s / 3600)} h ago` : `${Math.round(s / 86400)} days ago`;
}

// A list for anybody

const chosenSlot = () => overview.slots.find((each) => each.name === byId("slot").value) || overview.slots[0] || { deeds: [] };

async function begin() {
  if (!overview) return;
  const user = byId("user").value.trim();
  const who = user ? { user_id: user, session_id: fresh("page-") } : { anonymous_id: fresh("page-"), session_id: fresh("page-") };
  const slot = chosenSlot();
  const searched = overview.slots.find((each) => each.name === "search") || slot;
  trial = new Trial({ who, slot: slot.name, searched: searched.name, size: slot.size, attributes: ATTRIBUTES, show, impressions: false });
  trial.query = byId("query").value.trim();
  try {
    await trial.begin();
    const person = user ? await trial.features() : null;
    byId("list-note").textContent = noteOf(user, person !== null && !person.seen);
  } catch (error) {
    byId("list").replaceChildren();
    byId("list-note").textContent = `No list: ${error.message}`;
  }
}

function noteOf(user, unknown) {
  const { items, degraded, arm } = trial.answer;
  const lines = [];
  if (!items.length) lines.push(trial.query ? "Nothing is found: titles, categories and other texts of items are searched." : "The list is empty.");
  if (degraded.length) lines.push(`${degraded.map((code) => overview.degraded[code] || code).join("; ")}.`);
  const model = overview.models.find((each) => each.version === trial.answer.model);
  if (model && model.about) lines.push(`${model.about}.`);
  if (arm) lines.push(`Arm ${arm} of the slot's experiment: somebody else may be in another.`);
  if (unknown) lines.push(`Nothing is known of ${user}: the list is a stranger's.`);
  if (items.length) lines.push(user ? `What you click here is kept as an event of ${user}.` : "A stranger who has done nothing yet: click, and watch the list and the panel.");
  return lines.join(" ");
}

function show(answer, old) {
  const places = new Map((old ? old.items : []).map((item) => [item.item_id, item.position]));
  const deeds = deedsOf(chosenSlot());
  byId("list").replaceChildren(...answer.items.map((item) => rowOf(item, old ? places.get(item.item_id) : item.position, deeds)));
}

// What the slot aims at, and a cart where the shop has one.
const ORDER = ["click", "view", "like", "rating", "cart", "purchase"];
const deedsOf = (slot) => [...new Set([...slot.deeds, ...(overview.events.types.cart ? ["cart"] : [])])].sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b));

function rowOf(item, before, deeds) {
  const made = element("li", before === item.position ? "" : "moved");
  made.dataset.item = item.item_id;
  const { title, ...more } = item.attributes || {};
  const text = element("div");
  const named = Object.entries(more).filter(([, value]) => value !== "" && value !== null && value !== undefined);
  const details = [title === undefined ? "" : item.item_id, ...named.map(([name, value]) => (name === "price" ? `price ${value}` : value))];
  text.append(element("div", "title", titleOf(item)), element("div", "id", [...details, item.score === null ? "" : `score ${number(item.score)}`].filter(Boolean).join(" · ")), element("div", "reason", item.reason));
  const buttons = element("div", "deeds");
  buttons.append(...deeds.map((deed) => {
    const button = element("button", "", deed);
    button.type = "button";
    button.setAttribute("aria-label", `${deed}: ${titleOf(item)}`);
    button.addEventListener("click", () => act(deed, item));
    return button;
  }));
  made.append(badge(item.position, before), text, buttons);
  return made;
}

async function act(deed, item) {
  try {
    const took = await trial.act(deed, item);
    if (took === null) return;
    const note = byId("list-note");
    note.textContent = `${deed} of “${titleOf(item)}”: the list was made anew in ${Math.round(took)} ms, and ${trial.moved} of its places changed. `;
    const more = element("a", "", "What moved");
    more.href = "#panel";
    note.append(more);
    note.focus();  // the button that had it is gone, and another item stands in its place
    look();
  } catch (error) {
    byId("list-note").textContent = `That did not work: ${error.message}`;
  }
}

byId("who").addEventListener("submit", (submitted) => {
  submitted.preventDefault();
  begin();
});
byId("slot").addEventListener("change", begin);
byId("stranger").addEventListener("click", () => {
  byId("user").value = "";
  byId("query").value = "";
  begin();
});
byId("key-form").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  sessionStorage.setItem("tailorbird-key", byId("key").value.trim());
  if (await look()) begin();
});
makePanel(document.querySelector("aside"));
if (await look()) begin();
setInterval(() => document.hidden || look(), EVERY_MS);
