// The demo shop: shows a list, sends what the visitor does, and what that changed.
import { Trial, badge, byId, element, fresh, makePanel, titleOf } from "/console/live.js";

const ATTRIBUTES = ["title", "price", "category", "colour", "brand"];
let trial;

async function act(type, item) {
  try {
    if ((await trial.act(type, item)) === null) return;
    byId("list-note").textContent = type === "click"
      ? `You looked at “${titleOf(item)}”. The list has changed.`
      : `You put “${titleOf(item)}” into the cart. The list has changed.`;
  } catch (error) {
    byId("list-note").textContent = `That did not work: ${error.message}`;
  }
}

function show(answer, old) {
  const places = new Map((old ? old.items : []).map((item) => [item.item_id, item.position]));
  byId("list-title").textContent = trial.query ? `Found for “${trial.query}”` : "For you";
  byId("list").replaceChildren(...answer.items.map((item) => card(item, old ? places.get(item.item_id) : item.position)));
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
  const text = element("span", "text");
  text.append(element("span", "price", price(attributes.price)), element("span", "title", titleOf(item)));
  open.append(picture, text);
  open.addEventListener("click", () => act("click", item));
  const bar = element("div", "bar");
  const cart = element("button", "", "Add to cart");
  cart.type = "button";
  cart.setAttribute("aria-label", `Add to cart: ${titleOf(item)}`);
  cart.addEventListener("click", () => act("cart", item));
  bar.append(element("span", "score", item.score === null ? "" : `score ${item.score.toFixed(3)}`), cart);
  made.append(open, element("p", "reason", item.reason), bar, badge(item.position, before));
  return made;
}

const price = (value) => (typeof value === "number" ? value.toFixed(2) : "");

async function begin() {
  const who = { anonymous_id: fresh("visitor-"), session_id: fresh("session-") };
  trial = new Trial({ who, slot: document.documentElement.dataset.slot, size: 12, attributes: ATTRIBUTES, show });
  byId("visitor").textContent = who.anonymous_id;
  byId("query").value = "";
  byId("list-note").textContent = "Click anything, and watch the list and the panel.";
  try {
    await trial.begin();
  } catch (error) {
    byId("list-note").textContent = `No list yet: ${error.message}`;
  }
}

byId("stranger").addEventListener("click", begin);
byId("search").addEventListener("submit", async (submitted) => {
  submitted.preventDefault();
  try {
    await trial.search(byId("query").value.trim());
    byId("list-note").textContent = trial.query ? `${trial.answer.items.length} found; what you clicked decides their order.` : "";
  } catch (error) {
    byId("list-note").textContent = `That did not work: ${error.message}`;
  }
});
makePanel(document.querySelector("aside"));
begin();
