"""Write every generated page."""

from docs.generate import FOLDER, PAGES

for name, page in PAGES.items():
    (FOLDER / name).write_text(page())
