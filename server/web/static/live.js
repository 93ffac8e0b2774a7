// Keeps the page as it is on the server: one stream for what is shown, opened again whenever it breaks, and closed while
// nobody looks, because browsers hold few connections to one server.

import { children, morph, parse } from "./morph.js";
import { write } from "./times.js";

const main = document.getElementById("main");
const sign = document.getElementById("live");
const says = document.getElementById("says");
const title = document.title.replace(/^\(\d+\) /, "");
const AWAY_MS = 5000;
let source = null;
let retries = 0;
let timer = 0;

function address() {
  const url = new URL(main.dataset.live, location.href);
  const lines = [...document.querySelectorAll("tr[data-v]")].slice(-300);
  if (lines.length) url.searchParams.set("lines", lines.map((line) => `${line.id.slice(1)}.${line.dataset.v}`).join("_"));
  if (main.dataset.scope) url.searchParams.set("project", main.dataset.scope);
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
  if (!main.dataset.live || document.hidden) return;
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
  source.addEventListener("trouble", () => show("the database is away", true));
  source.onerror = () => {
    // EventSource gives up where the answer was no stream; so we come again ourselves, each time a little later.
    close();
    show("not live: connecting", true);
    retries += 1;
    timer = setTimeout(open, Math.min(30000, 500 * 2 ** retries) * (0.5 + Math.random() / 2));
  };
}

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
  if (id === "trouble") counted(document.querySelector("[data-open]").dataset.open);
  if (id === "counts") document.dispatchEvent(new Event("counts"));
}

function counted(open) {
  document.title = open === "0" ? title : `(${open}) ${title}`;
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
