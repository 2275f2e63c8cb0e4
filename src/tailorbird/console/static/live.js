// What the console's pages share: asking the API, and the panel that shows what an event has changed.

const PATIENCE_MS = 3000;  // for the features to hold an event; one that no feature counts never shows

export const byId = (id) => document.getElementById(id);
export const fresh = (prefix) => prefix + crypto.getRandomValues(new Uint32Array(2)).reduce((text, n) => text + n.toString(36), "");

export function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

export class Refused extends Error {
  constructor(message, status, code) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

// One request to the API, with the key that this tab was given, if it needed one.
export async function call(path, body) {
  const key = sessionStorage.getItem("tailorbird-key");
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const sent = body === undefined ? { headers } : { method: "POST", headers: { ...headers, "content-type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, sent);
  const answer = await response.json();
  if (!response.ok && !answer.events) throw new Refused(answer.message || response.statusText, response.status, answer.code);
  return answer;
}

export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Math.abs(value) >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(3);
}

export const titleOf = (item) => String((item.attributes && item.attributes.title) || item.item_id);

export function badge(position, before) {
  const move = before === undefined ? "new" : before === position ? "" : before > position ? `▲ ${before - position}` : `▼ ${position - before}`;
  const made = element("span", "badge", move ? `${position} ` : String(position));
  if (move) made.append(element("span", move.startsWith("▼") ? "down" : "up", move));
  return made;
}

// Rows of text into the body of a table; a cell may be a node, or {text, className}.
export function rows(table, values) {
  table.tBodies[0].replaceChildren(...values.map((cells) => {
    const row = element("tr");
    row.append(...cells.map((cell) => {
      if (cell instanceof Node) {
        const made = element("td");
        made.append(cell);
        return made;
      }
      return element("td", (cell && cell.className) || "", cell && cell.text !== undefined ? cell.text : cell);
    }));
    return row;
  }));
}

// Somebody who is tried out: who they are, what they were shown last, and what each of their events changes.
export class Trial {
  // who: their ids, as the API takes them. slot, searched, size: what is asked for. attributes: to be told of each item.
  // show(answer, before): draws a list. impressions: whether what is drawn counts as seen.
  constructor({ who, slot, searched, size, attributes, show, impressions = true }) {
    Object.assign(this, { who, slot, searched, size, attributes, show, impressions, answer: null, query: "", busy: false, moved: 0 });
    this.context = { device: matchMedia("(max-width: 60rem)").matches ? "phone" : "desktop", utc_offset_min: -new Date().getTimezoneOffset() };
    clearPanel();
  }

  // Without a time of its own: the server dates it, by the clock of its log.
  event(type, more) {
    return { event_id: fresh("page-"), type, ...this.who, request_id: this.answer ? this.answer.request_id : undefined, context: this.context, ...more };
  }

  async ask() {
    const body = { ...this.who, context: this.context, explain: true, attributes: this.attributes, size: this.size };
    return this.query ? call("/v1/search", { ...body, query: this.query, slot: this.searched }) : call("/v1/recommend", { ...body, slot: this.slot });
  }

  async begin() {
    this.take(await this.ask(), null);
  }

  async search(query) {
    this.query = query;
    if (query) await call("/v1/events", this.event("search", { properties: { query }, request_id: undefined }));
    this.take(await this.ask(), null);
  }

  take(answer, before) {
    this.answer = answer;
    this.show(answer, before);
    showScores(answer, before);
    showAnswer(answer);
    const places = new Map((before ? before.items : []).map((item) => [item.item_id, item.position]));
    this.moved = answer.items.filter((item) => places.get(item.item_id) !== item.position).length;
    if (this.impressions && answer.items.length) {
      call("/v1/events", this.event("impression", { items: answer.items.map((item) => item.item_id) })).catch(() => {});
    }
  }

  // Send what they did with an item, wait until their features hold it, and ask anew. Gives the milliseconds from deed to changed list.
  async act(type, item) {
    if (this.busy) return null;
    this.busy = true;
    try {
      const before = await this.features();
      const old = this.answer;
      const start = performance.now();
      const sent = this.event(type, { item_id: item.item_id, properties: propertiesOf(type, item) });
      const receipts = await call("/v1/events", sent);
      const accepted = performance.now();
      if (receipts.refused) throw new Error(receipts.events[0].message);
      const now = await this.untilSeen(before, start + PATIENCE_MS);
      const seen = performance.now();
      const searched = this.query;
      if (type === "click" || type === "view") this.query = "";
      const answer = await this.ask();
      const done = performance.now();
      showSteps(sent, [
        ["accepted: checked, written and synced", accepted - start],
        ["routed, and in the features", seen - accepted],
        ["ranked anew", done - seen],
      ], done - start);
      showFeatures(before, now, old, answer, item);
      this.take(answer, searched ? null : old);
      return done - start;
    } finally {
      this.busy = false;
    }
  }

  features() {
    const { user_id, anonymous_id, session_id } = this.who;
    return call("/console/person", { user_id, anonymous_id, session_id });
  }

  // After an event was accepted, its features are readable a few milliseconds later: wait until the person's record says so.
  async untilSeen(before, deadline) {
    for (;;) {
      const person = await this.features();
      if (person.seen > before.seen || performance.now() > deadline) return person;
      await new Promise((done) => setTimeout(done, 2));
    }
  }
}

function propertiesOf(type, item) {
  const price = item.attributes && item.attributes.price;
  if (type === "rating") return { rating: 5 };
  if (type !== "cart" && type !== "purchase") return undefined;
  return typeof price === "number" ? { price, quantity: 1 } : { quantity: 1 };
}

// The panel

export function makePanel(aside) {
  aside.setAttribute("aria-label", "What happened after your click");
  aside.tabIndex = 0;  // it scrolls, so it must be reachable by keyboard
  const took = element("p", "took");
  const figure = element("b");
  figure.id = "took";
  took.append(figure, " from click to changed answer");
  const table = (id, heads) => {
    const made = element("table");
    made.id = id;
    const row = made.createTHead().insertRow();
    row.append(...heads.map((head) => {
      const cell = element("th", "", head);
      cell.scope = "col";
      return cell;
    }));
    made.createTBody();
    return made;
  };
  const named = (name, id) => {
    const made = element(name);
    made.id = id;
    return made;
  };
  const steps = named("ol", "steps");
  steps.className = "steps";
  aside.append(
    took, steps,
    element("h2", "", "The event that arrived"), named("pre", "event"),
    element("h2", "", "Features that moved"), table("features", ["feature", "before", "now"]),
    element("h2", "", "How scores changed"), table("scores", ["item", "before", "now", "place"]),
    element("h2", "", "This answer"), named("dl", "answer"),
  );
  clearPanel();
}

export function clearPanel() {
  byId("took").textContent = "–";
  byId("steps").replaceChildren();
  byId("event").textContent = "Nothing yet.";
  byId("features").tBodies[0].replaceChildren();
  byId("scores").tBodies[0].replaceChildren();
  byId("answer").replaceChildren();
}

function showSteps(sent, steps, total) {
  byId("took").textContent = `${Math.round(total)} ms`;
  byId("steps").replaceChildren(...steps.map(([what, ms]) => element("li", "", `${what}: ${ms.toFixed(1)} ms`)));
  byId("event").textContent = JSON.stringify(sent).replaceAll('":', '": ').replaceAll(',"', ', "');
}

function featuresOf(answer, id) {
  const item = answer && answer.items.find((each) => each.item_id === id);
  return (item && item.explanation && item.explanation.features) || {};
}

// The person's own features first, then those of the item that was clicked and of an item that both lists hold.
function showFeatures(before, now, old, answer, clicked) {
  const moved = changes(before.features, now.features, "");
  const both = answer.items.find((item) => item.item_id !== clicked.item_id && old && old.items.some((each) => each.item_id === item.item_id));
  const seen = new Set(moved.map((row) => row[0]));
  for (const item of [clicked, both].filter(Boolean)) {
    const title = titleOf(item);
    for (const row of changes(featuresOf(old, item.item_id), featuresOf(answer, item.item_id), ` of ${title}`)) {
      if (!seen.has(row[0].replace(` of ${title}`, ""))) moved.push(row);
    }
  }
  rows(byId("features"), moved.length ? moved.slice(0, 12) : [["none moved", "", ""]]);
}

function changes(before, now, suffix) {
  return Object.keys(now).filter((name) => name in before)
    .map((name) => [name + suffix, number(before[name]), number(now[name])])
    .filter(([, was, is]) => was !== is);
}

function showScores(answer, old) {
  const earlier = new Map((old ? old.items : []).map((item) => [item.item_id, item]));
  rows(byId("scores"), answer.items.map((item) => {
    const was = earlier.get(item.item_id);
    const rise = was ? was.position - item.position : 0;
    const place = was ? `${was.position} → ${item.position}` : `${old ? "new → " : ""}${item.position}`;
    return [titleOf(item), number(was ? was.score : null), number(item.score), { text: place, className: rise < 0 ? "down" : rise > 0 || (old && !was) ? "up" : "" }];
  }));
}

function showAnswer(answer) {
  const facts = { request: answer.request_id, model: answer.model, "arm of an experiment": answer.arm || "none", lacks: answer.degraded.join(", ") || "nothing" };
  byId("answer").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [element("dt", "", name), element("dd", "", String(value))]));
}
