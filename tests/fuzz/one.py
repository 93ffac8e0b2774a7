"""`python -m tests.fuzz.one TARGET …`: libFuzzer with these arguments on one target, in this process."""

import sys

import atheris

with atheris.instrument_imports(include=["offbeat", "offbeat_server", "cronsim", "oncalendar"]):
    from tests.fuzz.targets import TARGETS


def main() -> None:
    """Until libFuzzer ends the process."""
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
