// Small comforts: copying, lists that submit themselves, menus that close.

const COPIED_MS = 2000;

/** Put the text of an element on the clipboard, also where the page came over plain http. */
async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
    return true;
  } catch {
    // No clipboard outside a secure context: the old command copies what is selected.
    getSelection().selectAllChildren(source);
    return document.execCommand("copy");
  }
}

addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) {
    const source = document.getElementById(button.dataset.copy);
    const word = (await copy(source)) ? "Copied" : "Selected: press Ctrl+C";
    button.firstChild.nodeValue = word;
    document.getElementById("says").textContent = word;
    setTimeout(() => (button.firstChild.nodeValue = "Copy"), COPIED_MS);
  }
  for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
addEventListener("keydown", (event) => {
  const menu = event.key === "Escape" && event.target.closest("details.menu[open]");
  if (menu) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});
addEventListener("change", (event) => event.target.matches("select[data-submit]") && event.target.form.requestSubmit());

// A further row of a table of inputs; without scripts the button asks the server for some.
addEventListener("click", (event) => {
  const button = event.target.closest("[data-add-row]");
  if (!button) return;
  event.preventDefault();
  const rows = document.getElementById(button.dataset.addRow).tBodies[0].rows;
  const row = rows[rows.length - 1].cloneNode(true);
  for (const input of row.querySelectorAll("input, select")) {
    if (input.localName === "select") input.selectedIndex = 0;
    else input.value = "";
    input.setAttribute("aria-label", input.getAttribute("aria-label").replace(/\d+/, rows.length + 1));
  }
  rows[0].parentElement.append(row);
  row.querySelector("input").focus();
});
