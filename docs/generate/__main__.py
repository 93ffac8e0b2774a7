"""Write every generated page, or with `--check` say which of them are not what the code generates."""

import sys

from docs.generate import FOLDER, PAGES, text_of

if sys.argv[1:] == ["--check"]:
    if stale := [name for name in PAGES if (FOLDER / name).read_text() != text_of(name)]:
        sys.exit(f"docs/reference: not what the code generates: {', '.join(stale)}; run: python -m docs.generate")
else:
    for name in PAGES:
        (FOLDER / name).write_text(text_of(name))
