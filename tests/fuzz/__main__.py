"""`python -m tests.fuzz [TARGET …] --seconds N`: atheris on each target in turn, from the corpus in this directory.

Each target runs in a process of its own, because libFuzzer ends the one it runs in. Findings are written to
`findings/` here, to be fixed and then moved into the corpus, which the suite reads.
"""

import subprocess
import sys
from pathlib import Path

import click

HERE = Path(__file__).parent
SLOW_S = 5  # an input that takes longer is a finding
INPUT_BYTES_MAX = 4_096


@click.command()
@click.argument("names", nargs=-1)
@click.option("--seconds", type=click.IntRange(1), default=60, show_default=True, help="For each target.")
def main(names: tuple[str, ...], seconds: int) -> None:
    """Fuzz."""
    from tests.fuzz.targets import TARGETS

    failed = [name for name in names or TARGETS if subprocess.run(command(name, seconds)).returncode]
    if failed:
        raise click.ClickException(f"found something in {', '.join(failed)}: see {HERE / 'findings'}")


def command(name: str, seconds: int, found: Path = HERE / "findings") -> list[str]:
    """The program that fuzzes one target. Inputs that reach further are kept below `found`, apart from the corpus."""
    reached = found / "reached" / name
    reached.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={seconds}",
        f"-timeout={SLOW_S}",
        f"-max_len={INPUT_BYTES_MAX}",
        f"-artifact_prefix={found}/{name}-",
        "-rss_limit_mb=2000",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    corpus = HERE / "corpus" / name
    return [sys.executable, "-m", "tests.fuzz.one", name, *options, str(reached), str(corpus)]


if __name__ == "__main__":
    main()
