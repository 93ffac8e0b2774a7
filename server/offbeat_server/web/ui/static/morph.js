// Brings a part of the page to new HTML by changing only what differs: focus, open details, scrolling and what somebody
// is typing stay. The HTML comes from our own templates, in which every text was escaped.

/** An element made of HTML; also a table row, which cannot stand alone elsewhere. */
export function parse(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content;
}

/** Make the children of `old` those of `fresh`. */
export function children(old, fresh) {
  const wanted = [...fresh.childNodes];
  const byId = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
  let here = old.firstChild;
  for (const node of wanted) {
    let match = node.id ? byId.get(node.id) : here;
    if (match && !node.id && match.id) match = null;
    if (match && same(match, node)) {
      if (match === here) here = here.nextSibling;
      else old.insertBefore(match, here);
      morph(match, node);
    } else {
      old.insertBefore(node, here);
    }
  }
  while (here) {
    const next = here.nextSibling;
    here.remove();
    here = next;
  }
}

const same = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");

/** Make one node equal to another. */
export function morph(old, fresh) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  const kept = old.localName === "details" ? ["open"] : old.localName === "time" ? ["title", "data-told"] : [];
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !kept.includes(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (!kept.includes(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (old === document.activeElement && "value" in old) return;
  if (old.localName === "time") return; // its words are times.js'
  children(old, fresh);
}
