"""`python -m mucode_agent evaluate run | check | compare | report`."""

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mucode_agent.cli.options import RUNNING, SAMPLING, Fields, command
from mucode_agent.cli.output import command_line
from mucode_agent.console import messages
from mucode_agent.graphs.settings import StatedSettings
from mucode_agent.models.embedded import MODELS
from mucode_agent.runs.config import Pace
from mucode_agent.runs.running import Running
from mucode_agent.types import InfrastructureError, ProblemError
from mucode_agent.verifiers import DEFAULT

if TYPE_CHECKING:
    from mucode_agent.evaluation.results import Results

app = typer.Typer(
    name="evaluate",
    help="Measures a generator, a verifier and a selector on a benchmark, with intervals.",
    no_args_is_help=True,
)

REFERENCE_FAILS = 1
"""Exit code of `check` if a reference does not pass."""

BENCHMARKS = (
    "humaneval · mbpp:FILE · humaneval+:FILE · mbpp+:FILE · bigcodebench:FILE · codecontests:FILE · "
    "livecodebench:FILE · apps:FILE · jsonl:FILE; "
    "NAME:hub reads from the hub"
)
ModelSpec = Annotated[str, typer.Option(help=MODELS)]
SEARCH = Fields("n", "max_turns", "selector", "accept_threshold", "trust_calibration", *SAMPLING, "seed")
Bench = Annotated[str, typer.Argument(metavar="BENCH", help=BENCHMARKS)]
Split = Annotated[str, typer.Option(help="fixed: ours · paper: the authors' rules, with their defects")]
RequestTimeout = Annotated[
    float | None, typer.Option(help="Seconds for one request to a model server; default: 600 for a URL.")
]
Testless = Annotated[bool, typer.Option("--testless", help="Leave the tests out of the prompt.")]
Limit = Annotated[int | None, typer.Option(help="Only the first problems.")]
VerifierSpec = Annotated[
    str,
    typer.Option(
        help="evidence · CARD.json · a directory of `train verifier` · vllm:DIRECTORY@URL · agreement · logprob · none"
    ),
]


@app.command()
@command
def run(
    benchmark: Bench,
    model: ModelSpec,
    search: Annotated[StatedSettings, SEARCH],
    running: Annotated[Running, RUNNING],
    pace: Annotated[Pace, Fields(*Pace.model_fields)],
    output: Annotated[
        Path | None, typer.Option(help="Directory of the run; the same command continues it. Default: runs/…")
    ] = None,
    verifier: VerifierSpec = DEFAULT,
    greedy: Annotated[bool, typer.Option(help="Also run one candidate per turn at temperature 0.")] = True,
    independent: Annotated[
        bool, typer.Option(help="Also draw N·T first-turn samples: the same compute, no feedback.")
    ] = True,
    split: Split = "fixed",
    testless: Testless = False,
    tests: Annotated[
        str,
        typer.Option(
            help="run: the public tests guide the search · none: they are only shown in the prompt, and "
            "judge at the end"
        ),
    ] = "run",
    limit: Limit = None,
    request_timeout: RequestTimeout = None,
) -> None:
    """Run a benchmark, or continue a run; print the tables, write results.json and report.html."""
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.evaluation.check import without_false_examples
    from mucode_agent.evaluation.runner import run_benchmark
    from mucode_agent.evaluation.testless import without_running
    from mucode_agent.models.load import load_model
    from mucode_agent.runs.progress import watching
    from mucode_agent.runs.retry import unfinished
    from mucode_agent.verifiers import load_verifier
    from mucode_agent.verifiers.card import calibration_mismatch

    if tests not in ("run", "none"):
        raise ProblemError(f"--tests must be run or none, got {tests!r}")
    scorer = load_verifier(verifier)
    mismatch = calibration_mismatch(scorer, model)
    if search.accept_threshold is not None and not search.trust_calibration and mismatch is not None:
        raise ProblemError(f"{mismatch}; calibrate on this generator's programs, or give --trust-calibration")
    console = messages()
    asked = running.benchmark(load_benchmark(benchmark, split=split, testless=testless, limit=limit))  # type: ignore[arg-type]
    kind = "" if tests == "run" else "-no-tests"
    directory = output or Path("runs") / _slug(f"{asked.name}-{split}-{model}-seed{search.seed}{kind}")
    console.print(f"{asked.name}: {len(asked.problems)} problems, {directory}", markup=False)
    generator = load_model(model, timeout=request_timeout, **search.request())
    with (
        contextlib.closing(running.open(asked.problems)) as place,
        _reported_if_cut_short(directory, console),
        watching(len(asked.problems), console) as watch,
    ):
        asked = without_false_examples(asked, place)
        if tests == "none":
            asked = asked.model_copy(update={"problems": tuple(map(without_running, asked.problems))})
        failures = run_benchmark(
            asked,
            directory,
            model=generator,
            model_name=model,
            sandbox=place,
            watch=watch,
            verifier=scorer,
            greedy=greedy,
            independent=independent,
            pace=pace,
            command=command_line(),
            **search.options(),
        )
    _report(directory, console)
    if failures:
        first, total = failures[0], len(asked.problems)
        summary = f"{len(failures)} of {total} problems are unfinished and not in the figures, the first "
        raise unfinished(failures, total, f"{summary}{first.problem_id}: {first.cause}")


@app.command()
@command
def check(
    benchmark: Bench,
    running: Annotated[Running, RUNNING],
    split: Split = "fixed",
    limit: Limit = None,
) -> None:
    """Run every reference solution on its own tests, and list those that fail. Exits with 1 if any fails.

    If a reference passes only with the second judge, the list says so: its problem needs `judge: "together"`.
    """
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.evaluation.check import check_references, check_table
    from mucode_agent.evaluation.tables import for_terminal

    asked = running.benchmark(load_benchmark(benchmark, split=split, limit=limit))  # type: ignore[arg-type]
    console = messages()
    with contextlib.closing(running.open(asked.problems)) as place:
        found = check_references(asked, place, lambda done: console.print(f"{done}/{len(asked.problems)}"))
    _out().print(for_terminal(check_table(found)))
    raise typer.Exit(REFERENCE_FAILS if found.failures else 0)


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(help="A run's directory or results.json.")],
    run_b: Annotated[Path, typer.Argument(help="Another run of the same problems.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead of a table.")] = False,
    answers: Annotated[
        str | None,
        typer.Option(help="List the answers of this search that differ between the runs: greedy · turns · independent"),
    ] = None,
) -> None:
    """Compare two runs problem by problem: what B gains over A, and whether it is more than chance."""
    from pydantic import TypeAdapter

    from mucode_agent.evaluation.comparison import answers_table, compare_runs, read_results
    from mucode_agent.evaluation.results import Comparison
    from mucode_agent.evaluation.tables import comparison_table, for_terminal
    from mucode_agent.runs.config import ARM_NAMES

    if answers is not None:
        if answers not in ARM_NAMES:
            raise ProblemError(f"answers must be of one of {', '.join(ARM_NAMES)}, got {answers!r}")
        _out().print(for_terminal(answers_table(run_a, run_b, answers)))
        return
    found = compare_runs(read_results(run_a), read_results(run_b))
    if as_json:
        sys.stdout.write(TypeAdapter(list[Comparison]).dump_json(found, indent=2).decode() + "\n")
    else:
        _out().print(for_terminal(comparison_table(found, str(run_a), str(run_b))))


@app.command()
def bundle(
    directory: Annotated[Path, typer.Argument(help="A run's directory, finished or not.")],
    output: Annotated[
        Path | None, typer.Option("--out", "--output", help="A .tar.gz file. Default: next to the directory.")
    ] = None,
) -> None:
    """Pack a run into one file to share, without API keys and this machine's paths; `report` opens it."""
    from mucode_agent.evaluation.bundle import SUFFIX, write_bundle

    target = output or directory.with_name(directory.resolve().name + SUFFIX)
    if not target.name.endswith(SUFFIX):
        raise ProblemError(f"--out must end in {SUFFIX}, got {target}")
    packed = write_bundle(directory, target)
    size = sum(held.bytes for held in packed.files.values())
    messages().print(f"{len(packed.files)} files, {size:,} bytes unpacked: {target}", markup=False)


@app.command()
def report(
    directory: Annotated[
        Path, typer.Argument(help="A run's directory, finished or not, or a file that `bundle` wrote.")
    ],
    output: Annotated[
        Path | None, typer.Option(help="Where the page goes. Default: report.html in the directory.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
) -> None:
    """Rebuild the tables, figures and HTML page of a run; for a bundle, in a directory next to it."""
    console = messages()
    if directory.is_file():
        from mucode_agent.evaluation.bundle import open_bundle

        directory = open_bundle(directory)
    if markdown:
        from mucode_agent.evaluation.report import write_report

        write_report(directory, output)
        sys.stdout.write((directory / "report.md").read_text())
    else:
        _report(directory, console, output)


def _report(directory: Path, console: Console, output: Path | None = None) -> None:
    from mucode_agent.evaluation.report import write_report

    results, page = write_report(directory, output)
    _print_tables(results)
    console.print(f"report: {page}", markup=False)


@contextlib.contextmanager
def _reported_if_cut_short(directory: Path, console: Console) -> Iterator[None]:
    """Prints the tables of what was finished, whatever ended the run."""
    try:
        yield
    except (InfrastructureError, KeyboardInterrupt):
        with contextlib.suppress(ProblemError):  # nothing is finished yet
            _report(directory, console)
        raise


def _print_tables(results: "Results") -> None:
    from mucode_agent.evaluation.tables import for_terminal, tables

    out = _out()
    if results.unjudged:
        count, first = len(results.unjudged), results.unjudged[0]
        out.print(
            f"{count} problems have an answer that could not be judged and are in no figure, the first {first}: see "
            "`evaluate check`; --preload and --judge may help"
        )
    for table in tables(results):
        out.print(for_terminal(table))
        out.print()


def _out() -> Console:
    """Standard output; wide if it is no terminal, so lines in a file are not broken."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=200)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9+.-]+", "-", text).strip("-")
