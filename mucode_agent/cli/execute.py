"""`python -m mucode_agent execute`: one verdict per program of a file."""

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mucode_agent.cli.options import RUNNING, command
from mucode_agent.cli.output import write_bytes
from mucode_agent.console import messages
from mucode_agent.runs.running import Running
from mucode_agent.types import InfrastructureError, ProblemError

if TYPE_CHECKING:
    from mucode_agent.evaluation.execute import Tally

_PLAIN_PROGRESS_S = 10.0


@command
def execute(
    file: Annotated[str, typer.Argument(help="Rows of programs with tests (.jsonl or .jsonl.gz), or - for stdin.")],
    running: Annotated[Running, RUNNING],
    output: Annotated[
        Path | None, typer.Option(help="Write the verdicts to this file; the same command continues where it stopped.")
    ] = None,
    problems: Annotated[
        Path | None, typer.Option(help="HumanEval's problems, for rows with only task_id and completion.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Programs at a time; default: one per core.")] = None,
) -> None:
    """Run the programs of a file on their tests: one verdict per row, in order."""
    from mucode_agent.evaluation.execute import VerdictFile, check, judge
    from mucode_agent.evaluation.programs import Problems, ProgramFile

    console = messages()
    if output is not None and Path(file).exists() and output.exists() and output.samefile(file):
        raise ProblemError(f"--output {output} is the input itself; give another path")
    with contextlib.ExitStack() as stack:
        programs = stack.enter_context(
            contextlib.closing(
                ProgramFile(
                    file, Problems(problems), time_s=running.timeout, preload=running.preload, judge=running.judge
                )
            )
        )
        verdicts = stack.enter_context(VerdictFile.open(output)) if output else None
        known = verdicts.lines() if verdicts else iter(())
        tally = check(programs, known)
        if tally.known == tally.rows and not tally.missing:
            console.print(tally.summary(), markup=False)
            return
        place = stack.enter_context(contextlib.closing(running.open(workers=workers)))
        tally.started = time.monotonic()
        show = stack.enter_context(_progress(tally, console, alone=output is not None or not sys.stdout.isatty()))
        if verdicts and tally.missing:
            verdicts = stack.enter_context(verdicts.repaired(judge(place, programs, tally, show, verdicts.lines())))
        rest = judge(place, itertools.islice(programs, tally.known, None), tally, show)
        write = verdicts.append if verdicts else write_bytes
        for line in rest:
            write(line)
    console.print(tally.summary(), markup=False)
    if cost := getattr(place, "cost", ""):
        console.print(cost, markup=False)
    if tally.missing:
        raise InfrastructureError(tally.without_verdict())


@contextlib.contextmanager
def _progress(tally: "Tally", console: Console, *, alone: bool) -> Iterator[Callable[[], None]]:
    """A progress bar on a terminal, else a plain line now and then."""
    if not (console.is_terminal and alone):
        yield _plain(tally, console)
        return
    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=tally.rows)

        def show() -> None:
            done = tally.statuses.total()
            bar.update(task, completed=done, description=f"{tally.rate:.0f}/s · {tally.counts()}")

        yield show


def _plain(tally: "Tally", console: Console) -> Callable[[], None]:
    last = time.monotonic()

    def show() -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_PROGRESS_S:
            last = time.monotonic()
            done = tally.statuses.total()
            console.print(f"{done} of {tally.rows} · {tally.rate:.0f} verdicts/s · {tally.counts()}", markup=False)

    return show
