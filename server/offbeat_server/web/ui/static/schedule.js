// The next times at which a schedule is due, while one types it.

import { local } from "./times.js";

const form = document.getElementById("settings");
const box = document.getElementById("preview");
const TYPING_MS = 200;
let timer = 0;
let asked = null;

async function show() {
  const kind = form.elements.schedule.value;
  const text = form.elements[kind]?.value?.trim() ?? "";
  if (!text) return (box.hidden = true);
  asked?.abort();
  asked = new AbortController();
  const query = new URLSearchParams({ kind, text, timezone: form.elements.timezone.value, grace: form.elements.grace.value });
  let answer;
  try {
    answer = await (await fetch(`/preview?${query}`, { signal: asked.signal })).json();
  } catch {
    return;
  }
  box.hidden = false;
  const said = box.querySelector(".said");
  said.textContent = answer.error ?? (answer.said || "Next due");
  said.classList.toggle("wrong", Boolean(answer.error));
  box.querySelector("ol").replaceChildren(
    ...(answer.times ?? []).map(({ at, there }) => {
      const item = document.createElement("li");
      const here = document.createElement("span");
      item.append(there, here);
      here.className = "since";
      here.textContent = `${local(Date.parse(at))} your time`;
      return item;
    }),
  );
}

if (form && box) {
  form.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(show, TYPING_MS);
  });
  show();
}
