// Keeps the page as it is on the server: one stream for what is shown, opened again whenever it breaks, and closed while
// nobody looks, because browsers hold few connections to one server.

import { children, morph, parse } from "./morph.js";
import { write } from "./times.js";

const main = document.getElementById("main");
const sign = document.getElementById("live");
const says = document.getElementById("says");
const AWAY_MS = 5000;
let source = null;
let retries = 0;
let timer = 0;
let typed = false; // into a form that was not sent yet
let over = false; // the session

function address() {
  const url = new URL(main.dataset.live, location.href);
  const lines = [...document.querySelectorAll("tr[data-v]")].slice(-300);
  if (lines.length) url.searchParams.set("lines", lines.map((line) => `${line.id.slice(1)}.${line.dataset.v}`).join("_"));
  if (main.dataset.scope) url.searchParams.set("project", main.dataset.scope);
  if (document.getElementById("filters")) {
    for (const [name, value] of new URLSearchParams(location.search)) {
      if (["q", "tag", "status"].includes(name)) url.searchParams.append(name, value);
    }
  }
  return url;
}

function show(word, away) {
  if (!sign) return;
  sign.hidden = false;
  sign.classList.toggle("away", away);
  document.getElementById("live-word").textContent = word;
}

/** Open the stream, also anew where other things are shown now. */
export function open() {
  if (!main.dataset.live || document.hidden || over) return;
  close();
  source = new EventSource(address());
  source.addEventListener("hello", (event) => {
    retries = 0;
    const is_new = !document.documentElement.dataset.version.endsWith(JSON.parse(event.data).version);
    show(is_new ? "Offbeat was updated: load the page again" : "live", is_new);
  });
  source.addEventListener("patch", (event) => {
    JSON.parse(event.data).forEach(([id, html]) => take(id, html));
    show("live", false);
  });
  source.addEventListener("signed-out", signedOut);
  source.addEventListener("trouble", () => show("database unavailable", true));
  source.onerror = () => {
    // EventSource gives up where the answer was no stream; so we come again ourselves, each time a little later.
    close();
    show("not live: connecting", true);
    retries += 1;
    askForSession();
    timer = setTimeout(open, Math.min(30000, 500 * 2 ** retries) * (0.5 + Math.random() / 2));
  };
}

/** Why was the stream refused? */
async function askForSession() {
  try {
    if ((await fetch("/live/session")).status === 401) signedOut();
  } catch {
    // the server is away: it will be asked again
  }
}

/** The session is over. What somebody has typed stays; a page without it goes to the sign-in. */
function signedOut() {
  close();
  over = true;
  if (!typed) return location.reload();
  const link = document.createElement("a");
  link.href = "/sign-in";
  link.target = "_blank";
  link.textContent = "signed out: sign in again";
  show("", true);
  document.getElementById("live-word").replaceChildren(link);
}

addEventListener("input", (event) => (typed ||= event.target.form?.method === "post"));

function close() {
  clearTimeout(timer);
  if (source) source.close();
  source = null;
}

function take(id, html) {
  const old = document.getElementById(id);
  if (!old) return;
  if (!html) return old.remove();
  const before = status(old);
  const fresh = parse(html);
  if (fresh.firstElementChild && fresh.firstElementChild.id === id) morph(old, fresh.firstElementChild);
  else children(old, fresh);
  write(old);
  tell(before, status(old));
  const titled = old.isConnected && (old.matches("[data-title]") ? old : old.querySelector("[data-title]"));
  if (titled) document.title = titled.dataset.title; // the page's own state, as its card says it
  if (id === "counts") document.dispatchEvent(new Event("counts"));
}

function status(element) {
  const told = element.matches("[data-status]") ? element : element.querySelector("[data-status]");
  return told ? { name: told.dataset.name, status: told.dataset.status } : null;
}

function tell(before, after) {
  if (before && after && before.status !== after.status) says.textContent = `${after.name} is ${after.status}`;
}

document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (document.hidden) timer = setTimeout(close, AWAY_MS);
  else if (!source) open();
});
addEventListener("pagehide", close);
addEventListener("pageshow", (event) => event.persisted && open());
