"""`python -m mucode_agent rollout` and `traces export | import | stats | show | add | score`: the training data."""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mucode_agent.cli.evaluate import BENCHMARKS, Limit, ModelSpec, RequestTimeout, Split, Testless
from mucode_agent.cli.options import RUNNING, SAMPLING, Fields, command
from mucode_agent.cli.output import command_line, write_lines
from mucode_agent.console import messages
from mucode_agent.graphs.settings import StatedSettings
from mucode_agent.runs.config import Pace
from mucode_agent.runs.running import Running
from mucode_agent.types import ProblemError

app = typer.Typer(
    name="traces",
    help="Shows, counts, exports, imports, adds and scores traces: what `rollout` and `evaluate run` write.",
    no_args_is_help=True,
)

Directories = Annotated[list[Path], typer.Argument(help="Of `rollout`, `evaluate run` or `traces add`.")]

SEARCH = Fields("max_turns", "n", *SAMPLING, "seed", n=1)
"""Trajectory k uses the seed plus k; a turn feeds back its best candidate."""


@command
def rollout(
    problems: Annotated[str, typer.Argument(metavar="PROBLEMS", help=BENCHMARKS)],
    model: ModelSpec,
    output: Annotated[
        Path, typer.Option("--out", "--output", help="Directory of the rollouts; the same command continues them.")
    ],
    search: Annotated[StatedSettings, SEARCH],
    running: Annotated[Running, RUNNING],
    pace: Annotated[Pace, Fields(*Pace.model_fields, concurrency=64)],
    per_problem: Annotated[int, typer.Option(help="Trajectories per problem (K).")] = 15,
    weights: Annotated[
        str, typer.Option(help="Identifies a served model's weights if its name does not, e.g. an adapter's digest.")
    ] = "",
    verifier: Annotated[
        str, typer.Option(help="Ranks a turn's candidates: none · DIRECTORY_OR_HUB_ID · vllm:NAME@URL")
    ] = "none",
    split: Split = "fixed",
    testless: Testless = False,
    limit: Limit = None,
    request_timeout: RequestTimeout = None,
    on_ray: Annotated[
        bool,
        typer.Option(
            "--ray", help="Run the shards as tasks on the Ray cluster that RAY_ADDRESS names, or on a local one."
        ),
    ] = False,
    workers_ray: Annotated[
        int | None, typer.Option(help="With --ray: concurrent shards; default: one per processor of the cluster.")
    ] = None,
) -> None:
    """Draw K trajectories per problem and judge every program; several workers may share a directory."""
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.evaluation.check import without_false_examples
    from mucode_agent.models.load import load_model
    from mucode_agent.runs.progress import watching
    from mucode_agent.runs.retry import unfinished
    from mucode_agent.training.rollouts import open_rollouts, roll_out
    from mucode_agent.verifiers import load_verifier

    console = messages()
    asked = running.benchmark(load_benchmark(problems, split=split, testless=testless, limit=limit))  # type: ignore[arg-type]
    total = len(asked.problems)
    console.print(f"{asked.name}: {total} problems, {per_problem} trajectories each, {output}", markup=False)
    generator, scorer = load_model(model, timeout=request_timeout, **search.request()), load_verifier(verifier)
    settings: dict[str, Any] = {
        "weights": weights,
        "per_problem": per_problem,
        "command": command_line(),
        **search.options(),
    }
    with contextlib.closing(running.open(asked.problems)) as place, watching(total, console) as watch:
        asked = without_false_examples(asked, place)
        if on_ray:
            from mucode_agent.runs.cluster import Tools, make_shards_on_ray

            run = open_rollouts(asked, output, model=generator, sandbox=place, verifier=scorer, **settings)
            tools = Tools(
                directory=output.resolve(),
                model=model,
                verifier=verifier,
                running=running.model_copy(update={"preload": running.packages(asked.problems)}),
                patience=pace.patience,
                request_timeout=request_timeout,
            )
            failures = make_shards_on_ray(run, asked.problems, tools, watch, workers=workers_ray)
        else:
            failures = roll_out(
                asked,
                output,
                model=generator,
                sandbox=place,
                verifier=scorer,
                watch=watch,
                pace=pace,
                **settings,
            )
    if words := _unjudged(output):
        console.print(words, markup=False)
    if failures:
        first = failures[0]
        summary = f"{len(failures)} of {total} problems have no shard, the first {first.problem_id}: {first.cause}"
        raise unfinished(failures, total, summary)


def _unjudged(directory: Path) -> str:
    """How many programs the tests could not judge, and why; empty if every program has a verdict."""
    from mucode_agent.runs.reading import read_shards

    rows = [row for _, shard in read_shards(directory) if shard is not None for row in shard.judgements]
    unjudged = [row for row in rows if not row.judged]
    if not unjudged:
        return ""
    first, problems = unjudged[0], len({row.problem_id for row in unjudged})
    return (
        f"{len(unjudged)} of {len(rows)} programs, of {problems} problems, are unjudged: their tests can judge no "
        f"program, the first of {first.problem_id}: {first.error}. They count neither as right nor as wrong; see "
        "`evaluate check`, and roll out into another directory with corrected tests, --preload or --judge"
    )


@app.command()
def export(
    directories: Directories,
    format_: Annotated[str, typer.Option("--format", help="trl-sft · trl-preference · openai · parquet · atif")],
    output: Annotated[Path, typer.Option("--out", "--output", help="The output file; an existing one is replaced.")],
    pairs: Annotated[int, typer.Option(help="trl-preference: maximum pairs per problem.")] = 32,
    seed: Annotated[int, typer.Option(help="trl-preference: seed for drawing the pairs.")] = 0,
) -> None:
    """Export attempts for another trainer: correct replies, pairs of a right and a wrong one, or all as a table."""
    from mucode_agent.training import export as shapes
    from mucode_agent.training.atif import atif
    from mucode_agent.training.data import stream_attempts, stream_traces

    if format_ not in shapes.FORMATS:
        raise ProblemError(f"format must be one of {', '.join(shapes.FORMATS)}, got {format_!r}")
    data = stream_attempts(directories)
    match format_:
        case "parquet":
            count = shapes.write_parquet(shapes.flat(data), output)
        case "trl-preference":
            count = shapes.write_jsonl(shapes.trl_preference(data, pairs=pairs, seed=seed), output)
        case "atif":
            count = shapes.write_jsonl(atif(stream_traces(directories)), output)
        case "openai":
            count = shapes.write_jsonl(shapes.openai(data), output)
        case _:
            count = shapes.write_jsonl(shapes.trl_sft(data), output)
    messages().print(f"{count:,} rows: {output}", markup=False)


@app.command("import")
@command
def import_(
    files: Annotated[list[Path], typer.Argument(help="Runs of LangSmith or spans of OpenTelemetry, as JSON.")],
    output: Annotated[Path, typer.Option("--out", "--output", help="A new directory.")],
    running: Annotated[Running, RUNNING],
    problems: Annotated[
        str | None, typer.Option(help="A benchmark or file with the private tests, if the runs lack them.")
    ] = None,
    split: Split = "fixed",
) -> None:
    """Import solves that LangSmith or OpenTelemetry recorded; programs are judged if all their tests are known."""
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.training.imports import import_traces

    known = load_benchmark(problems, split=split).problems if problems else ()  # type: ignore[arg-type]
    found = import_traces(files, output, known, opened=running.open_for_any)
    lines = [f"{found.solves} solves, {found.candidates} candidates: {output}"]
    if found.unfinished:
        lines.append(
            f"{found.unfinished} solves have no recorded decisions: only their first turns become training data"
        )
    if found.unlabelled:
        lines.append(
            f"{found.unlabelled} programs have no label, because their private tests are unknown; give --problems"
        )
    if found.calls_of_no_problem:
        lines.append(
            f"{found.calls_of_no_problem} model calls left out, because their problem is unknown; give --problems"
        )
    console = messages()
    for line in lines:
        console.print(line, markup=False)


@app.command()
def stats(
    directories: Directories,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Count problems, attempts, distinct programs, tokens, and how many are right by turn."""
    from mucode_agent.evaluation.tables import for_terminal
    from mucode_agent.training.data import stream_traces
    from mucode_agent.training.stats import stats_tables, trace_stats

    found = trace_stats(stream_traces(directories))
    if as_json:
        write_lines([found.model_dump_json(indent=2)])
        return
    console = Console(highlight=False)
    with console.capture() as captured:
        for table in stats_tables(found):
            console.print(for_terminal(table))
            console.print()
    write_lines([captured.get().rstrip()])


@app.command()
def show(
    directory: Annotated[Path, typer.Argument(help="Of `rollout`, `evaluate run` or `traces add`.")],
    problem: Annotated[str, typer.Argument(help="Its id.")],
) -> None:
    """Show every trajectory of a problem turn by turn: what the model wrote, and what the tests found."""
    from mucode_agent.training.data import stream_traces
    from mucode_agent.training.stats import trajectories_as_text

    entry, solves = next(stream_traces([directory], lambda asked: asked.id == problem), (None, []))
    if entry is None:
        raise ProblemError(f"{directory} has no problem {problem!r}; problems.jsonl lists their ids")
    if not entry.attempts and not solves:
        raise ProblemError(f"{directory} has no trajectory of {problem!r} yet; run the command that makes it")
    write_lines(trajectories_as_text(entry, solves))


@app.command()
def add(
    file: Annotated[Path, typer.Argument(help="JSONL: {problem, code, accepted, consent, weight?, id?} per line.")],
    output: Annotated[Path, typer.Option("--out", "--output", help="Directory to which the rows are added.")],
) -> None:
    """Add programs that users accepted or rejected, with their consent, as training data."""
    from mucode_agent.training.feedback import add_feedback

    added = add_feedback(file, output)
    messages().print(
        f"{added.rows} rows: {added.kept} kept, {added.without_consent} left out without consent, "
        f"{added.known} already there: {output}",
        markup=False,
    )


@app.command()
def score(
    directories: Annotated[list[Path], typer.Argument(help="Of `rollout` or `evaluate run`.")],
    verifier: Annotated[str, typer.Option(help="As of `solve`.")],
    output: Annotated[
        Path | None, typer.Option("--out", "--output", help="A JSONL file for every candidate's score.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Score stored programs with another verifier: what it would have selected, next to chance and the oracle."""
    from mucode_agent.training.data import stream_traces
    from mucode_agent.training.export import write_jsonl
    from mucode_agent.training.rescore import quality, rescored, table
    from mucode_agent.verifiers import load_verifier

    scorer = load_verifier(verifier)
    turns = list(rescored(stream_traces(directories), scorer))
    found = quality(turns, scorer.name)
    if output is not None:
        write_jsonl((row.model_dump(mode="json") for turn in turns for row in turn), output)
    Console(highlight=False, soft_wrap=True).print(
        found.model_dump_json(indent=2) if as_json else "\n".join(table(found)), markup=False
    )
