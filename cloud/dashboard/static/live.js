// Keeps a page up to date while it is open. Without it, or without the stream, the page is whole all the same.
"use strict";

const PAUSE_MS = 1000;
const SOON_MS = 3000;
let waiting = false;
let again = false;

async function refresh() {
  if (document.hidden) {
    again = true;
    return;
  }
  const answer = await fetch(location.href, { headers: { Accept: "text/html" }, redirect: "error" });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of document.querySelectorAll("[data-live]")) {
    const now = fresh.querySelector(`[data-live="${old.dataset.live}"]`);
    // What a person is typing into, or has just opened, is not taken from under their hands.
    if (!now || now.innerHTML === old.innerHTML || old.querySelector("details[open]")) continue;
    if (old.contains(document.activeElement) && /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName)) continue;
    const focus = old.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    old.replaceWith(document.adoptNode(now));
    if (focus) now.querySelector(`a[href="${CSS.escape(focus)}"]`)?.focus();
    document.getElementById("live").textContent = "updated";
  }
  if (document.querySelector("[data-soon]")) setTimeout(soon, SOON_MS);
}

function soon() {
  if (waiting) {
    again = true;
    return;
  }
  waiting = true;
  again = false;
  setTimeout(async () => {
    try {
      await refresh();
    } catch (error) {
      console.debug("not refreshed", error);
    }
    waiting = false;
    if (again && !document.hidden) soon();
  }, PAUSE_MS);
}

const stream = new EventSource("/live");
stream.addEventListener("changed", soon);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && again) soon();
});
if (document.querySelector("[data-soon]")) setTimeout(soon, SOON_MS);
