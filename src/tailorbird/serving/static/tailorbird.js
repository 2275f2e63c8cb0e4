// Tailorbird's tracker: page views with dwell, impressions, clicks and searches of a page, sent to POST /v1/events. docs/how-to/tracker.md.
//
//   <script defer src="https://events.shop.example/tailorbird.js" data-key="KEY"></script>
//   <ul data-tb-request="REQUEST_ID"> <li data-tb-item="i93"> … </ul>      what an answer showed
//   <main data-tb-view="i93">                                            the page is about this item
//
// An event stays in localStorage until the server has said what became of it, so it survives a lost network, a closed tab and a reload;
// sent twice it counts once, by its event_id. No cookies; nothing is stored, and no id made, before there is consent.
(() => {
  "use strict";
  const script = document.currentScript, set = script.dataset;
  const address = (set.url || new URL(script.src).origin) + "/v1/events";
  const PREFIX = "tailorbird.", QUEUE_MAX = 500, BATCH = 50, SESSION_MS = 30 * 60e3, WAIT_MAX_MS = 5 * 60e3;
  const SEEN_SHARE = 0.5, SEEN_MS = Number(set.seenMs || 1000), GATHER_MS = Number(set.gatherMs || 1000);

  const uid = () => crypto.randomUUID ? crypto.randomUUID()
    : [...crypto.getRandomValues(new Uint8Array(16))].map(byte => byte.toString(16).padStart(2, "0")).join("");
  // Storage may be full or forbidden: then the page's own memory has to do.
  const memory = {};
  const kept = {
    get: name => { try { return JSON.parse(localStorage.getItem(PREFIX + name)) ?? memory[name] ?? null; } catch { return memory[name] ?? null; } },
    put: (name, value) => { try { localStorage.setItem(PREFIX + name, JSON.stringify(value)); } catch { memory[name] = value; } },
    drop: name => { delete memory[name]; try { localStorage.removeItem(PREFIX + name); } catch { /* nothing is there then */ } },
    names: () => { try { return Object.keys(localStorage).filter(name => name.startsWith(PREFIX)).map(name => name.slice(PREFIX.length)); } catch { return Object.keys(memory); } },
  };

  const mine = "queue." + uid();
  let consent = kept.get("consent") ?? !(set.consent === "required" || navigator.globalPrivacyControl);
  let queue = [], sending = false, stopped = false, failures = 0, timer = 0, notBefore = 0, dropped = 0, most = BATCH;

  const session = () => {
    const now = Date.now(), last = kept.get("session");
    const id = last && now - last.at < SESSION_MS ? last.id : uid();
    kept.put("session", { id, at: now });
    return id;
  };
  const anonymous = () => { const id = kept.get("id") || uid(); kept.put("id", id); return id; };
  const save = () => consent && (queue.length ? kept.put(mine, queue) : kept.drop(mine));

  const whose = event => {
    const user = kept.get("user");
    return { ...event, anonymous_id: anonymous(), session_id: session(), ...(user && { user_id: user }) };
  };

  function track(type, fields = {}) {
    if (consent === false && kept.get("consent") === false) return;
    const page = location.origin + location.pathname;  // without what was typed or is secret in an address
    const context = {
      device: matchMedia("(pointer: coarse)").matches ? (Math.min(screen.width, screen.height) < 600 ? "phone" : "tablet") : "desktop",
      page, user_agent: navigator.userAgent.slice(0, 512), utc_offset_min: -new Date().getTimezoneOffset(),
      ...(document.referrer && { referrer: document.referrer.split(/[?#]/)[0] }), ...fields.context,
    };
    const event = { event_id: uid(), type, ts: Date.now() * 1000, ...fields, context };
    queue.push(consent ? whose(event) : event);
    if (queue.length > QUEUE_MAX) {
      queue.shift();
      if (!dropped++) console.warn(`tailorbird: more than ${QUEUE_MAX} events wait; the oldest are dropped`);
    }
    save();
    schedule(queue.length >= BATCH ? 0 : GATHER_MS);
  }

  function schedule(ms) {
    clearTimeout(timer);
    timer = setTimeout(flush, Math.max(ms, notBefore - Date.now()));
  }

  // Half of an emoji, which slice() may leave, is no text: a server could not read the body.
  const text = (_, value) => typeof value === "string" ? value.replace(/\p{Cs}/gu, "\ufffd") : value;
  const bodyOf = batch => JSON.stringify(batch.map(event => ({ ...event, sent_at: Date.now() * 1000 })), text);

  async function flush() {
    if (!consent || sending || stopped || !queue.length) return;
    if (Date.now() < notBefore) return schedule(0);  // a timer may be early
    sending = true;
    const batch = queue.slice(0, most), ids = new Set(batch.map(event => event.event_id));
    const decided = () => { queue = queue.filter(event => !ids.has(event.event_id)); failures = 0; most = BATCH; };
    let wait = 0;
    try {
      const headers = { "content-type": "application/json", ...(set.key && { authorization: `Bearer ${set.key}` }) };
      const answer = await fetch(address, { method: "POST", headers, body: bodyOf(batch), credentials: "omit" });
      const told = await answer.json().catch(() => ({}));
      if (told.events?.length === batch.length) {  // each is decided: taken, or refused and kept by the server with its reason
        told.events.filter(each => !each.accepted).slice(0, 3).forEach(each => console.warn("tailorbird: refused", each.code, each.path || "", each.message || ""));
        decided();
      } else if (answer.status === 413 || told.events) {  // too large, or not to be read, as a whole; what is so alone must not hold up the rest
        if (batch.length > 1) most = batch.length >> 1;
        else { decided(); console.warn("tailorbird: larger than the server takes, not sent:", batch[0].type); }
      } else if (answer.status === 408 || answer.status === 429 || answer.status >= 500) {
        wait = 1000 * Number(answer.headers.get("retry-after") || 0) || later();
      } else {  // a key or an address that is wrong does not mend itself
        stopped = true;
        console.error("tailorbird: the server takes nothing from this page:", answer.status, told.code || "", told.message || "");
      }
    } catch { wait = later(); }
    sending = false;
    notBefore = wait ? Date.now() + wait : 0;
    save();
    if (queue.length && !stopped) schedule(wait);
  }
  const later = () => Math.min(WAIT_MAX_MS, 1000 * 2 ** failures++) * (0.5 + Math.random() / 2);

  // What leaves with the page is not heard of again; it stays in the queue, and is sent once more by the next page.
  function beacon() {
    if (!consent || stopped) return;
    for (let at = 0; at < queue.length; at += BATCH) {
      const blob = new Blob([bodyOf(queue.slice(at, at + BATCH))], { type: "text/plain" });
      if (!navigator.sendBeacon(address + (set.key ? "?key=" + encodeURIComponent(set.key) : ""), blob)) return;
    }
  }

  function adopt() {  // what tabs left behind that were closed before they heard an answer
    for (const name of kept.names().filter(name => name.startsWith("queue.") && name !== mine)) {
      queue = [...(kept.get(name) || []), ...queue].slice(-QUEUE_MAX);
      kept.drop(name);
    }
    save();
    if (queue.length) schedule(0);
  }

  // Views: one begins with a page or with coming back to it, and ends when it is hidden or left.
  let view = null, came = {};  // item → the answer whose click led there, on this page or the one before it in the tab
  const keepCame = () => { try { if (consent) sessionStorage.setItem(PREFIX + "came", JSON.stringify(came)); else sessionStorage.removeItem(PREFIX + "came"); } catch { /* the page's own memory has to do */ } };
  try { if (consent) came = JSON.parse(sessionStorage.getItem(PREFIX + "came")) || {}; } catch { /* likewise */ }
  function begin(item) {
    const about = document.querySelector("[data-tb-view]");
    view = { from: performance.now(), page: location.origin + location.pathname, item: item || (about && about.dataset.tbView) };
  }
  function end() {
    if (!view) return;
    const request = view.item && came[view.item];
    track("view", {
      ...(view.item && { item_id: view.item }), ...(request && { request_id: request }),
      context: { page: view.page }, properties: { dwell_ms: Math.round(performance.now() - view.from) },
    });
    view = null;
  }
  function page(item) { end(); begin(item); look(); }

  // Impressions: half of the item in sight for a second, once for each answer.
  const shown = new Set(), timers = new Map();
  let seen = new Map(), gathering = 0;
  const requestOf = element => element.closest("[data-tb-request]")?.dataset.tbRequest || "";
  function see(element) {
    const item = element.dataset.tbItem, request = requestOf(element), once = JSON.stringify([request, item]);
    if (shown.has(once)) return;
    shown.add(once);
    seen.set(request, [...(seen.get(request) || []), item]);
    gathering = gathering || setTimeout(tell, GATHER_MS / 2);
  }
  function tell() {
    clearTimeout(gathering);
    gathering = 0;
    for (const [request, items] of seen) track("impression", { items, ...(request && { request_id: request }) });
    seen = new Map();
  }
  const watcher = new IntersectionObserver(entries => entries.forEach(({ target, intersectionRatio }) => {
    clearTimeout(timers.get(target));
    if (intersectionRatio >= SEEN_SHARE) timers.set(target, setTimeout(() => document.visibilityState === "visible" ? see(target) : watched.delete(target), SEEN_MS));
    else timers.delete(target);
  }), { threshold: [0, SEEN_SHARE] });
  const watched = new WeakMap();
  const look = () => document.querySelectorAll("[data-tb-item]").forEach(element => {  // an element may come to show another item
    const what = requestOf(element) + " " + element.dataset.tbItem;
    if (watched.get(element) === what) return;
    watched.set(element, what);
    watcher.unobserve(element);
    watcher.observe(element);
  });

  document.addEventListener("click", event => {
    const element = event.target.closest?.("[data-tb-item]");
    if (!element) return;
    const item = element.dataset.tbItem, request = requestOf(element);
    if (request) { came[item] = request; keepCame(); }
    tell();
    track("click", { item_id: item, ...(request && { request_id: request }) });
  }, true);
  document.addEventListener("submit", event => {
    const form = event.target.closest?.("[data-tb-search]");
    const query = form && new FormData(form).get(form.dataset.tbSearch || "q");
    if (query) search(String(query));
  }, true);
  const search = (query, requestId) => track("search", { properties: { query: query.slice(0, 512) }, ...(requestId && { request_id: requestId }) });

  const leave = () => { tell(); end(); beacon(); };
  addEventListener("pagehide", leave);
  document.addEventListener("visibilitychange", () => { if (document.visibilityState === "hidden") leave(); else { begin(); look(); } });
  addEventListener("pageshow", event => { if (event.persisted) { begin(); look(); } });
  addEventListener("storage", event => {  // another tab was told: what holds there holds here
    if (event.key === PREFIX + "consent" && event.newValue !== null && JSON.parse(event.newValue) !== consent) api.consent(!consent);
  });
  addEventListener("online", () => { notBefore = failures = 0; flush(); });
  for (const name of ["pushState", "replaceState"]) {  // pages that change their address without being loaded
    const before = history[name];
    history[name] = function (...args) { const from = location.pathname; before.apply(this, args); if (location.pathname !== from) page(); };
  }
  addEventListener("popstate", () => page());

  const api = {
    track, search, page, flush,
    identify(user) {  // from here on; null where somebody has logged out
      if (user == null) return kept.drop("user");
      if (consent) kept.put("user", String(user)); else memory.user = String(user);
      if ("identify" in set) track("identify", { user_id: String(user) });
    },
    consent(given) {
      consent = Boolean(given);
      if (!consent) came = {};
      keepCame();
      if (!consent) { queue = []; kept.names().forEach(kept.drop); kept.put("consent", false); return; }
      kept.put("consent", true);
      if (memory.user) kept.put("user", memory.user);
      queue = queue.map(event => event.anonymous_id ? event : whose(event));
      adopt();
      schedule(0);
    },
    get anonymousId() { return consent ? anonymous() : null; },
    get waiting() { return queue.length; },
  };
  const early = Array.isArray(window.tailorbird) ? window.tailorbird : [];
  window.tailorbird = api;
  early.forEach(([name, ...args]) => api[name](...args));
  const start = () => {
    if (set.user) api.identify(set.user);
    if (consent) adopt();
    if (document.visibilityState === "visible") begin();
    look();
    new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true, attributeFilter: ["data-tb-item", "data-tb-request"] });
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start); else start();
})();
