// Keeps a page up to date while it is open and in sight. Without it, or without the stream, the page is whole all the same.
//
// The stream says what there is now ("FLEET.EVENTS"), the page what it was made from (data-seen). When they differ the
// page is fetched again, and what stands under [data-live] is brought up to it node by node: focus, what is typed or
// ticked, open details and scrolling stay as they are. A form is known by where it goes, a row by its first link, wherever
// they have moved: what a person is about to press stays about the same device.
"use strict";

const SOON_MS = 1000; // the fleet has changed
const LATER_MS = 5000; // only another sync came in, or something is arriving (data-soon)
const AGE_MS = 60000; // "2 minutes ago" grows old by itself
const SHARE = 20; // a slow link or service is asked less often
const SAY_MS = 30000; // nobody is to be read the same sentence every second

const shown = document.getElementById("live-shown");
const said = document.getElementById("live-said");
const regions = () => document.querySelectorAll("[data-live]");
let stream = null;
let timer = 0;
let due = 0;
let took = 0;
let spoke = 0;

function keyOf(node) {
  if (node.nodeType !== Node.ELEMENT_NODE) return "";
  const own = node.id || node.getAttribute("aria-labelledby") || node.getAttribute("action");
  return own || (/^(TR|LI)$/.test(node.nodeName) && node.querySelector("a[href]")?.getAttribute("href")) || "";
}

const classOf = (node) => (node.nodeType === Node.ELEMENT_NODE ? node.getAttribute("class") : null);

// The next of the old nodes that can become the new one.
function alike(at, next) {
  while (at && (keyOf(at) || at.nodeName !== next.nodeName || classOf(at) !== classOf(next))) at = at.nextSibling;
  return at;
}

function morph(old, now) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== now.data) old.data = now.data;
    return;
  }
  // What a person has opened, typed, ticked or chosen is theirs.
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(old.tagName)) {
    if (old.name === now.name && old.type === now.type && old.type !== "hidden") return;
    old.replaceWith(document.importNode(now, true));
    return;
  }
  const kept = old.tagName === "DETAILS" ? "open" : "";
  for (const { name, value } of now.attributes)
    if (name !== kept && old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const { name } of [...old.attributes]) if (name !== kept && !now.hasAttribute(name)) old.removeAttribute(name);
  morphChildren(old, now);
}

function morphChildren(old, now) {
  const wanted = new Set([...now.children].map(keyOf));
  const known = new Map();
  for (const child of [...old.children]) {
    if (!keyOf(child)) continue;
    if (wanted.has(keyOf(child))) known.set(keyOf(child), child);
    else child.remove();
  }
  let at = old.firstChild;
  for (const next of [...now.childNodes]) {
    const key = keyOf(next);
    const found = key ? known.get(key) : alike(at, next);
    known.delete(key);
    if (!found) old.insertBefore(document.importNode(next, true), at);
    else {
      if (found === at) at = at.nextSibling;
      else old.insertBefore(found, at);
      morph(found, next);
    }
  }
  while (at) {
    const after = at.nextSibling;
    at.remove();
    at = after;
  }
}

function bringUp(fresh) {
  let changed = false;
  for (const old of regions()) {
    const now = fresh.querySelector(`[data-live="${CSS.escape(old.dataset.live)}"]`);
    if (!now) continue;
    const before = old.textContent;
    const focused = old.contains(document.activeElement) ? document.activeElement : null;
    morph(old, now);
    if (focused && focused !== document.activeElement)
      (focused.isConnected ? focused : document.getElementById("main")).focus({ preventScroll: true });
    changed ||= old.textContent !== before;
  }
  document.title = fresh.title;
  document.body.dataset.seen = fresh.body.dataset.seen;
  return changed;
}

async function refresh() {
  const begun = performance.now();
  const address = new URL(location.href);
  address.searchParams.delete("done");
  const answer = await fetch(address, { headers: { Accept: "text/html" }, redirect: "manual" });
  if (answer.type === "opaqueredirect") return stop("signed out");
  if (!answer.ok) return;
  const changed = bringUp(new DOMParser().parseFromString(await answer.text(), "text/html"));
  took = performance.now() - begun;
  if (!changed) return;
  shown.textContent = `updated ${new Date().toLocaleTimeString()}`;
  if (Date.now() - spoke > SAY_MS) said.textContent = `Updated at ${new Date().toLocaleTimeString()}`;
  if (Date.now() - spoke > SAY_MS) spoke = Date.now();
}

function plan(ms) {
  const wanted = Date.now() + Math.max(ms, SHARE * took);
  if (timer && due <= wanted) return;
  clearTimeout(timer);
  due = wanted;
  timer = setTimeout(async () => {
    timer = 0;
    try {
      await refresh();
    } catch (error) {
      console.debug("not brought up to date", error);
    }
    if (stream) plan(document.querySelector("[data-soon]") ? LATER_MS : AGE_MS);
  }, wanted - Date.now());
}

function start() {
  stream = new EventSource("/live");
  stream.onopen = () => (shown.textContent ||= "live");
  stream.onerror = () => {
    if (stream?.readyState === EventSource.CLOSED) stop("");
  };
  stream.addEventListener("changed", ({ data }) => {
    const [fleet, events] = data.split(".");
    const [fleetSeen, eventsSeen] = document.body.dataset.seen.split(".");
    if (fleet !== fleetSeen) plan(SOON_MS);
    else if (events !== eventsSeen) plan(LATER_MS);
  });
  plan(document.querySelector("[data-soon]") ? LATER_MS : AGE_MS);
}

function stop(why) {
  stream?.close();
  stream = null;
  clearTimeout(timer);
  timer = 0;
  shown.textContent = why;
}

if (regions().length) {
  // A browser opens six connections to a host: pages that nobody sees must not hold them.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) stop("");
    else if (!stream) start();
  });
  if (!document.hidden) start();
}
