// Small comforts: copying, lists that submit themselves, menus that close.

addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (button) {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.firstChild.nodeValue = "Copied";
      setTimeout(() => (button.firstChild.nodeValue = "Copy"), 2000);
    } catch {
      getSelection().selectAllChildren(source); // no clipboard over plain http: at least it is selected
    }
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
