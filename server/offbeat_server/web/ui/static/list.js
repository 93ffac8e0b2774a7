// The list of monitors: filtered while one types, with the filters in the address, and longer as one scrolls. Where
// there are more monitors than before, or others of the status that is asked for, they come by themselves.

import { children, parse } from "./morph.js";
import { open } from "./live.js";
import { write } from "./times.js";

const form = document.getElementById("filters");
const TYPING_MS = 150;
const LINES = 100; // of a page of the list
let timer = 0;
let asked = null;
let counts = form && document.getElementById("counts").dataset.counts;

async function fetchPart(path, part) {
  asked?.abort();
  asked = new AbortController();
  const answer = await fetch(path, { headers: { "X-Part": part }, signal: asked.signal });
  if (answer.status === 401) location.assign(`/sign-in?${new URLSearchParams({ back: location.pathname + location.search })}`);
  if (!answer.ok) throw new Error(`${answer.status} for ${path}`);
  return parse(await answer.text());
}

async function filter() {
  const said = [...new FormData(form)].filter(([, value]) => value);
  const path = "/" + (said.length ? `?${new URLSearchParams(said)}` : "");
  try {
    const fresh = await fetchPart(path, "list");
    for (const id of ["trouble", "list"]) children(document.getElementById(id), fresh.getElementById(id));
  } catch (error) {
    if (error.name !== "AbortError") location.assign(path);
    return;
  }
  history.replaceState(null, "", path);
  document.getElementById("main").dataset.scope = form.elements.project?.value ?? "";
  written();
  form.scrollIntoView({ block: "nearest" }); // above it there may be fewer cards than before
}

function counted() {
  const was = JSON.parse(counts);
  counts = document.getElementById("counts").dataset.counts;
  const now = JSON.parse(counts);
  for (const place of form.querySelectorAll("[data-count]")) {
    place.textContent = now[place.dataset.count]?.toLocaleString("en").replaceAll(",", " ") ?? "";
  }
  const all = (each) => Object.values(each).reduce((sum, some) => sum + some, 0);
  const others = [...new FormData(form).getAll("status")].some((each) => was[each] !== now[each]);
  // Whoever has scrolled on reads; nothing moves under their eyes.
  if ((all(was) !== all(now) || others) && document.querySelectorAll("tr.line").length <= LINES) filter();
}

function written() {
  write(document.getElementById("trouble"));
  write(document.getElementById("list"));
  const more = document.getElementById("more");
  if (more) nearEnd.observe(more);
  open();
}

const nearEnd = new IntersectionObserver(
  async (entries) => {
    const more = document.getElementById("more");
    if (!more || !entries.some((entry) => entry.isIntersecting)) return;
    nearEnd.unobserve(more);
    try {
      const fresh = await fetchPart(more.querySelector("a").href, "lines");
      more.replaceWith(fresh);
      written();
    } catch (error) {
      if (error.name !== "AbortError") nearEnd.observe(more);
    }
  },
  { rootMargin: "600px" },
);

if (form) {
  form.addEventListener("input", (event) => {
    clearTimeout(timer);
    timer = setTimeout(filter, event.target.type === "search" ? TYPING_MS : 0);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(timer);
    filter();
  });
  document.addEventListener("counts", counted);
  addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
    event.preventDefault();
    form.elements.q.focus();
  });
  const more = document.getElementById("more");
  if (more) nearEnd.observe(more);
}
