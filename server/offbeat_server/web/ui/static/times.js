// Times as the person in front of it reads them: local, and "so long ago" kept running. Nothing here asks the server.

const page = document.documentElement;
// The browser's clock may be wrong; the page came with the server's.
const ahead = page.dataset.now ? Date.parse(page.dataset.now) - Date.now() : 0;
const now = () => Date.now() + ahead;

/** A length of time in two units at most: `1 h 30 min`. */
export function length(milliseconds) {
  const s = Math.round(Math.abs(milliseconds) / 1000);
  const two = (big, bigUnit, small, smallUnit) => (small ? `${big} ${bigUnit} ${small} ${smallUnit}` : `${big} ${bigUnit}`);
  if (s < 60) return `${s} s`;
  if (s < 3600) return s < 600 ? two(Math.floor(s / 60), "min", s % 60, "s") : `${Math.floor(s / 60)} min`;
  if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
const whole = new Intl.DateTimeFormat(undefined, { dateStyle: "full", timeStyle: "long" });

/** A local time, with the date only where it is not today. */
export function local(at) {
  const date = new Date(at);
  return date.toDateString() === new Date(now()).toDateString() ? clock.format(date) : `${day.format(date)}, ${clock.format(date)}`;
}

function words(element, at) {
  const since = now() - at;
  if ("ago" in element.dataset) return since < 1500 ? "just now" : `${length(since)} ago`;
  if ("left" in element.dataset) return since < 0 ? `in ${length(since)}` : `${length(since)} ago`;
  if ("for" in element.dataset) return `for ${length(Math.max(0, since))}`;
  return local(at);
}

/** Write every time below `root` anew. */
export function write(root = document) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    const at = Date.parse(element.dateTime);
    const text = words(element, at);
    if (element.textContent !== text) element.textContent = text;
    if (element.dataset.told !== element.dateTime) {
      element.dataset.told = element.dateTime;
      element.title = `${whole.format(new Date(at))} · ${element.dateTime}`;
    }
  }
}

write();
setInterval(() => document.hidden || write(), 1000);
document.addEventListener("visibilitychange", () => document.hidden || write());
