"""`offbeat` and `python -m server`: the same program."""

import sys

from server.cli import main

if __name__ == "__main__":
    sys.exit(main())
