"""Write every generated page, or with `--check` say which of them are not what the code generates."""

import sys

from docs.generate import FOLDER, PAGES

if sys.argv[1:] == ["--check"]:
    if stale := [name for name, page in PAGES.items() if (FOLDER / name).read_text() != page()]:
        sys.exit(f"docs/reference: not what the code generates: {', '.join(stale)}; run: python -m docs.generate")
else:
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
