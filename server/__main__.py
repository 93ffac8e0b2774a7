"""`offbeat` and `python -m server`: the same program."""

import os
import sys


def main() -> int:
    """Run the command in sys.argv; its exit code."""
    if sys.argv[1:2] in (["exec"], ["ping"]):
        # These two use the standard library alone. Nothing in PYTHONPATH or the working directory may shadow it.
        standard = os.path.dirname(os.__file__)
        sys.path[:] = [place for place in sys.path if place.startswith(standard)]
        from server import cli_exec

        cli_exec.main()
    from server import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
