"""`offbeat` and `python -m offbeat`: the same program."""

import os
import sys


def main() -> int:
    """Run the command in sys.argv; its exit code."""
    if sys.argv[1:2] in (["exec"], ["ping"]):
        # These two use the standard library alone. Nothing in PYTHONPATH or the working directory may shadow it.
        standard = os.path.dirname(os.__file__)
        sys.path[:] = [place for place in sys.path if place.startswith(standard)]
        from offbeat import exec

        exec.main()
    try:
        import click  # noqa: F401
    except ImportError:
        command = sys.argv[1] if sys.argv[1:] else "--help"
        print(
            f"offbeat: `offbeat {command}` needs more than `exec` and `ping`. Install it: pip install 'offbeat[cli]'",
            file=sys.stderr,
        )
        return 2
    from offbeat import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
