"""`python -m offbeat_server` is the command `offbeat` of the same environment."""

import sys

from offbeat.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
