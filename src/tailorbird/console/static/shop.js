// The demo shop: asks for a list, shows it, sends what the visitor does, and shows what that changed.
"use strict";

const SLOT = document.documentElement.dataset.slot;
const ATTRIBUTES = ["title", "price", "category", "colour", "brand"];
const CONTEXT = { device: matchMedia("(max-width: 60rem)").matches ? "phone" : "desktop", utc_offset_min: -new Date().getTimezoneOffset() };
const state = { visitor: "", session: "", answer: null, query: "", busy: false };

const byId = (id) => document.getElementById(id);
const fresh = (prefix) => prefix + crypto.getRandomValues(new Uint32Array(2)).reduce((text, n) => text + n.toString(36), "");

async function call(path, body) {
  const response = await fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok && !answer.events) throw new Error(answer.message || response.statusText);
  return answer;
}

function event(type, more) {
  const now = new Date().toISOString();
  return {
    event_id: fresh("shop-"), type, ts: now, sent_at: now, anonymous_id: state.visitor, session_id: state.session,
    request_id: state.answer ? state.answer.request_id : undefined, context: CONTEXT, ...more,
  };
}

function ask() {
  const who = { anonymous_id: state.visitor, session_id: state.session, context: CONTEXT, explain: true, attributes: ATTRIBUTES };
  return state.query
    ? call("/v1/search", { ...who, query: state.query, size: 12 })
    : call("/v1/recommend", { ...who, slot: SLOT, size: 12 });
}

function look() {
  return call("/shop/person", { anonymous_id: state.visitor, session_id: state.session });
}

// After an event was accepted, its features are readable a few milliseconds later: wait until the person's record says so.
async function untilSeen(before, deadline) {
  for (;;) {
    const person = await look();
    if (person.seen > before.seen || performance.now() > deadline) return person;
    await new Promise((done) => setTimeout(done, 2));
  }
}

async function act(type, item) {
  if (state.busy) return;
  state.busy = true;
  try {
    const before = await look();
    const old = state.answer;
    const start = performance.now();
    const properties = type === "click" ? undefined : { price: item.attributes.price, quantity: 1 };
    const sent = event(type, { item_id: item.item_id, properties });
    const receipts = await call("/v1/events", sent);
    const accepted = performance.now();
    if (receipts.refused) throw new Error(receipts.events[0].message);
    const now = await untilSeen(before, start + 5000);
    const seen = performance.now();
    const searched = state.query;
    if (type === "click") state.query = "";
    const answer = await ask();
    const done = performance.now();
    showSteps(sent, [
      ["accepted: checked, written and synced", accepted - start],
      ["routed, and in the features", seen - accepted],
      ["ranked anew", done - seen],
    ], done - start);
    showFeatures(before, now, old, answer, item);
    show(answer, searched ? null : old);
    byId("list-note").textContent = type === "click"
      ? `You looked at “${item.attributes.title}”. The list has changed.`
      : `You put “${item.attributes.title}” into the cart. The list has changed.`;
  } catch (error) {
    byId("list-note").textContent = `That did not work: ${error.message}`;
  } finally {
    state.busy = false;
  }
}

function show(answer, old) {
  state.answer = answer;
  const places = new Map((old ? old.items : []).map((item) => [item.item_id, item.position]));
  byId("list-title").textContent = state.query ? `Found for “${state.query}”` : "For you";
  byId("list").replaceChildren(...answer.items.map((item) => card(item, old ? places.get(item.item_id) : item.position)));
  showScores(answer, old);
  showAnswer(answer);
  if (answer.items.length) {
    call("/v1/events", event("impression", { items: answer.items.map((item) => item.item_id) })).catch(() => {});
  }
}

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function card(item, before) {
  const attributes = item.attributes || {};
  const made = element("li", "card" + (before === item.position ? "" : " moved"));
  made.dataset.item = item.item_id;
  const open = element("button", "open");
  open.type = "button";
  const picture = element("img");
  picture.src = `/shop/picture/${encodeURIComponent(item.item_id)}.svg`;
  picture.alt = "";
  const text = element("div", "text");
  text.append(element("span", "price", price(attributes.price)), element("span", "title", attributes.title || item.item_id));
  open.append(picture, text);
  open.addEventListener("click", () => act("click", item));
  const bar = element("div", "bar");
  const cart = element("button", "", "Add to cart");
  cart.type = "button";
  cart.addEventListener("click", () => act("cart", item));
  bar.append(element("span", "score", item.score === null ? "" : `score ${item.score.toFixed(3)}`), cart);
  made.append(open, element("p", "reason", item.reason), bar, badge(item.position, before));
  return made;
}

function badge(position, before) {
  const move = before === undefined ? "new" : before === position ? "" : before > position ? `▲ ${before - position}` : `▼ ${position - before}`;
  const made = element("span", "badge", move ? `${position} ` : String(position));
  if (move) made.append(element("span", move.startsWith("▼") ? "down" : "up", move));
  return made;
}

const price = (value) => (typeof value === "number" ? value.toFixed(2) : "");

function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  return Math.abs(value) >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toPrecision(3);
}

function rows(table, values) {
  byId(table).tBodies[0].replaceChildren(...values.map((cells) => {
    const row = element("tr");
    row.append(...cells.map((cell) => element("td", cell.className || "", cell.text === undefined ? cell : cell.text)));
    return row;
  }));
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
    const title = (item.attributes && item.attributes.title) || item.item_id;
    for (const row of changes(featuresOf(old, item.item_id), featuresOf(answer, item.item_id), ` of ${title}`)) {
      if (!seen.has(row[0].replace(` of ${title}`, ""))) moved.push(row);
    }
  }
  rows("features", moved.length ? moved.slice(0, 12) : [["none moved", "", ""]]);
}

function changes(before, now, suffix) {
  return Object.keys(now).filter((name) => name in before && before[name] !== now[name])
    .map((name) => [name + suffix, number(before[name]), number(now[name])]);
}

function showScores(answer, old) {
  const earlier = new Map((old ? old.items : []).map((item) => [item.item_id, item]));
  rows("scores", answer.items.map((item) => {
    const was = earlier.get(item.item_id);
    const rise = was ? was.position - item.position : 0;
    const place = was ? `${was.position} → ${item.position}` : `new → ${item.position}`;
    const title = (item.attributes && item.attributes.title) || item.item_id;
    return [title, number(was ? was.score : null), number(item.score), { text: place, className: rise < 0 ? "down" : rise > 0 || !was ? "up" : "" }];
  }));
}

function showAnswer(answer) {
  const facts = { request: answer.request_id, model: answer.model, arm: answer.arm || "none", "state commit": answer.commit, degraded: answer.degraded.join(", ") || "no" };
  byId("answer").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [element("dt", "", name), element("dd", "", String(value))]));
}

async function begin() {
  state.visitor = fresh("visitor-");
  state.session = fresh("session-");
  state.query = "";
  state.answer = null;
  byId("visitor").textContent = state.visitor;
  byId("query").value = "";
  try {
    show(await ask(), null);
  } catch (error) {
    byId("list-note").textContent = `No list yet: ${error.message}`;
  }
}

byId("stranger").addEventListener("click", begin);
byId("search").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  state.query = byId("query").value.trim();
  try {
    if (state.query) await call("/v1/events", event("search", { properties: { query: state.query }, request_id: undefined }));
    show(await ask(), null);
    byId("list-note").textContent = state.query ? `${state.answer.items.length} found; what you clicked decides their order.` : "";
  } catch (error) {
    byId("list-note").textContent = `That did not work: ${error.message}`;
  }
});
begin();
