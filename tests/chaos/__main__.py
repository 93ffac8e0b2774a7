"""`python -m tests.chaos`: real faults on real processes; the report is results/chaos.md."""

import asyncio
import logging
import pickle
import random
import signal
import sys
from pathlib import Path

import click
import structlog

from tests.chaos.faults.registry import KINDS
from tests.chaos.report import RUNS, entry, read, write
from tests.chaos.run import Outcome, live, summary
from tests.chaos.world.nodes import SHAPES


@click.command()
@click.option("--faults", default=20, show_default=True, help="Faults in each world.")
@click.option("--seed", type=int, help="Seed of the first world. Default: random.")
@click.option(
    "--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)), help="These worlds. Default: one of each."
)
@click.option("--only", multiple=True, type=click.Choice(sorted(KINDS)), help="These faults, in this order.")
@click.option("--monitors", default=400, show_default=True, help="Jobs that ping every 2 to 4 seconds.")
@click.option("--report/--no-report", default=True, help="Append the run to results/chaos.json.")
@click.option(
    "--logs",
    type=click.Path(path_type=Path),
    help="Directory for the journal and the nodes' output of a world with findings.",
)
def main(
    faults: int,
    seed: int | None,
    shapes: tuple[str, ...],
    only: tuple[str, ...],
    monitors: int,
    report: bool,
    logs: Path | None,
) -> None:
    """Inject faults into real processes under load, and compare a journal of all requests with the tables."""
    # The embedded clusters run in this process and would log every fault.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # SIGTERM and, in the background, SIGINT act like Ctrl-C: every process that was started is ended.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    first = random.randrange(1_000_000) if seed is None else seed
    outcomes: list[Outcome] = []
    before = read(RUNS)
    for number, shape in enumerate(shapes or SHAPES):
        outcome = asyncio.run(live(shape, first + number, faults, monitors, click.echo, list(only) or None))
        outcomes.append(outcome)
        _show(outcome, logs)
        if report:  # after each world, so that an aborted run keeps the worlds that are complete
            write([*before, entry(outcomes)])
    sys.exit(0 if all(outcome.ok for outcome in outcomes) else 1)


def _show(outcome: Outcome, logs: Path | None) -> None:
    click.echo(f"{outcome.shape} {outcome.seed}: {'well' if outcome.ok else 'NOT WELL'}: {summary(outcome)}")
    for name, sentences in outcome.verdict.kinds.items():
        for sentence in sentences[:20]:
            click.echo(f"  {name}: {sentence}")
    for trouble in outcome.troubles[:20]:
        click.echo(f"  trouble: {trouble}")
    if not outcome.ok and logs is not None:
        logs.mkdir(parents=True, exist_ok=True)
        for name, lines in outcome.output.items():
            (logs / f"{outcome.shape}-{outcome.seed}-{name}.log").write_text("\n".join(lines))
        (logs / f"{outcome.shape}-{outcome.seed}.pickle").write_bytes(pickle.dumps((outcome.journal, outcome.stored)))
        faults = (f"{f.began:.3f} {f.cured:.3f} {f.recovered:.3f} {f.name} {f.measured}" for f in outcome.faults)
        (logs / f"{outcome.shape}-{outcome.seed}-faults.log").write_text("\n".join(faults))


if __name__ == "__main__":
    main()
