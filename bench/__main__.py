"""`python -m bench [NAME …]`: measures, prints one table, writes bench/results/latest.json and latest.svg.

Each result is written when it is there: a run of an hour that is broken off has lost the bench that it was at.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click
import uvloop
from rich.console import Console

from bench import report
from bench.benches import NAMES
from bench.measure import Goal, Result
from bench.stage import Stage

console = Console(width=None if sys.stdout.isatty() else 130)


async def measure(names: list[str], *, quick: bool, rounds: int, keep: Callable[[Result], object]) -> list[Result]:
    """Run these benches one after the other on one Postgres; each result is kept as soon as it is there."""
    results = []
    async with Stage(quick=quick, rounds=rounds, say=_say) as stage:
        for name in names:
            begin = time.monotonic()
            _say(f"{name} …")
            try:
                result = await import_module(f"bench.benches.{name}").run(stage)
            except Exception as error:  # the others' numbers are still wanted
                console.print_exception()
                result = failed(name, error)
            keep(result)
            results.append(result)
            _say(f"{name}: {time.monotonic() - begin:.0f} s")
    return results


def failed(name: str, error: Exception) -> Result:
    """The report of a bench that could not be measured."""
    return Result(name, "", goals=[Goal("could be measured", 0, at_least=1)], notes=[f"failed: {error!r}"])


def _say(text: str) -> None:
    console.print(f"[dim]{text}[/]", highlight=False)


@click.command(help=f"Measure. NAMES: {', '.join(NAMES)}; none: all.")
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--quick", is_flag=True, help="Small sizes: shows that everything works; the numbers mean nothing.")
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True, help="How often each is measured.")
@click.option("--out", type=click.Path(path_type=Path), default=report.LATEST, help="The JSON file; the SVG beside it.")
def main(names: tuple[str, ...], quick: bool, rounds: int, out: Path) -> None:
    """See README.md in this directory."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        results = runner.run(
            measure(
                list(names or NAMES),
                quick=quick,
                rounds=rounds,
                keep=lambda result: report.save([result], out, quick=quick, rounds=rounds),
            )
        )
    report.show(console, results)
    from bench.picture import draw  # slow to import

    draw(report.load(out), out.with_suffix(".svg"))
    if quick:
        console.print("Sizes were small: the numbers mean nothing.")
    sys.exit(any(not result.lines for result in results))


if __name__ == "__main__":
    main()
