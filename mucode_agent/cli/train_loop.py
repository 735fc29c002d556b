"""`python -m mucode_agent train generator` and `train loop`."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mucode_agent.cli.options import RUNNING, Fields, command
from mucode_agent.cli.output import command_line, progress
from mucode_agent.console import messages
from mucode_agent.runs.running import Running
from mucode_agent.training.settings import ExpertSettings, GeneratorSettings, RelabelSettings
from mucode_agent.types import ProblemError

if TYPE_CHECKING:
    from mucode_agent.training.data import ProblemAttempts
    from mucode_agent.training.rows import RowSet
    from mucode_agent.types import Problem

Evaluation = Annotated[
    list[str] | None, typer.Option(help="A benchmark whose problems must not be trained on; may be repeated.")
]
DropOverlap = Annotated[
    bool, typer.Option("--drop-overlap", help="Leave out training problems that are also in an evaluation set.")
]


@command
def generator(
    traces: Annotated[list[Path], typer.Option(help="A directory of `rollout` or `evaluate run`; may be repeated.")],
    base: Annotated[str, typer.Option(help="Checkpoint directory or hub id to start from.")],
    output: Annotated[
        Path, typer.Option("--out", "--output", help="Directory of the checkpoint; the same command continues it.")
    ],
    *,
    verifier: Annotated[
        str, typer.Option(help="A directory of `train verifier`; not needed for a method that reads no score.")
    ] = "none",
    choice: Annotated[ExpertSettings, Fields(*ExpertSettings.model_fields)],
    pairing: Annotated[RelabelSettings, Fields(*RelabelSettings.model_fields)],
    evaluation: Evaluation = None,
    drop_overlap: DropOverlap = False,
    settings: Annotated[GeneratorSettings, Fields(*GeneratorSettings.model_fields, learning_rate=None)],
) -> None:
    """Pair visited states with the expert's programs and fine-tune a generator on them, or continue that training."""
    with installed("training", "train"):
        from mucode_agent.training.fit import end_processes
        from mucode_agent.training.generator import train_generator
    from mucode_agent.training.data import read_attempts
    from mucode_agent.training.rows import make_rows
    from mucode_agent.verifiers import load_verifier

    console = progress()
    data = read_attempts(traces)
    data = kept_apart(data, problems_of(evaluation), drop=drop_overlap, console=console)
    made = make_rows(data, pairing, choice, load_verifier(verifier))
    console.print(row_words(made), markup=False)
    trained = train_generator(made.rows, base=base, out=output, settings=settings, console=console)
    card = trained.card
    loss = f", loss {card.loss:.4f}" if card.loss is not None else ""
    console.print(
        f"{output}: {card.rows} rows ({card.left_out} left out as longer than {settings.max_tokens} tokens), "
        f"{card.steps} steps{loss}",
        markup=False,
    )
    end_processes()


@command
def loop(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="See examples/training and docs/training.md.")],
    running: Annotated[Running, RUNNING],
    output: Annotated[
        Path | None, typer.Option("--out", "--output", help="The run directory; the same command continues it.")
    ] = None,
) -> None:
    """Run a whole training, or continue it: rollouts, verifier, relabelling, generator, round by round."""
    with installed("the loop", "train,evaluate"):
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401

        from mucode_agent.training.config import read_loop_config
        from mucode_agent.training.loop import benchmarks, run_loop

    # A given option replaces the file's key.
    asked = read_loop_config(config).model_copy(update=running.model_dump(exclude_defaults=True))
    directory = output or asked.out
    if directory is None:
        raise ProblemError(f"{config} names no run directory; give --out, or set the key out")
    problems = [problem for part in benchmarks(asked, Console(quiet=True)) for problem in part.problems]
    with contextlib.closing(asked.open(problems)) as place:
        run_loop(asked, directory, sandbox=place, command=command_line())


def export_adapter(
    generator: Annotated[
        Path, typer.Argument(help="A directory of `train generator`, or ROUND/generator of a loop, with LoRA.")
    ],
    out: Annotated[Path, typer.Option(help="New directory for adapter.safetensors and card.json.")],
    base: Annotated[
        str, typer.Option(help="The base that it was trained from: an embedded model, or a checkpoint directory.")
    ],
    licence: Annotated[str, typer.Option(help="Licence of the base, and so of the adapter; for the card.")],
    data: Annotated[str, typer.Option(help="Source and licence of the training problems, for the card.")],
    evaluation: Annotated[
        list[str] | None, typer.Option(help="A benchmark with problems that it must not have seen; may be repeated.")
    ] = None,
    traces: Annotated[
        list[Path] | None,
        typer.Option(help="The rollouts that it was trained on; default: the loop's. May be repeated."),
    ] = None,
    trained_by: Annotated[str, typer.Option(help="The command that trained it, for the card.")] = "",
) -> None:
    """Write a trained generator's LoRA adapter as data that can ship: bfloat16 tensors and a card with its origin.

    It is refused unless base plus adapter give the generator's own weights.
    """
    with installed("writing an adapter", "train"):
        from mucode_agent.training.adapter import Origin, without_paths
        from mucode_agent.training.adapter import export_adapter as write

    made = command_line(without_paths)
    card = write(
        generator,
        out,
        Origin(made=made, base=base, licence=licence, data=data, trained_by=trained_by),
        traces=traces or (),
        apart_from={without_paths(spec): problems_of([spec]) for spec in evaluation or []},
    )
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    messages().print(
        f"{out}: rank {card.rank}, {card.parameters} parameters, {size:.1f} MB; on {base} it gives {generator}",
        markup=False,
    )


def problems_of(benchmarks: Sequence[str] | None) -> list["Problem"]:
    """All problems of the benchmarks that an option names."""
    from mucode_agent.evaluation.benchmarks import load_benchmark

    return [problem for spec in benchmarks or () for problem in load_benchmark(spec).problems]


def kept_apart(
    data: Sequence["ProblemAttempts"], problems: Sequence["Problem"], *, drop: bool, console: Console
) -> list["ProblemAttempts"]:
    """The training data without these problems. Raises ProblemError if some are in it and may not be dropped."""
    from mucode_agent.training.examples import without_overlap

    kept = without_overlap([entry.problem for entry in data], problems, drop=drop)
    if dropped := sorted({entry.problem.id for entry in data} - kept):
        console.print(f"left out, because an evaluation set has them: {', '.join(dropped)}", markup=False)
    return [entry for entry in data if entry.problem.id in kept]


def row_words(made: "RowSet") -> str:
    """What the rows are, in one line."""
    return (
        f"{len(made.rows)} rows, {made.right} with a right answer, of {made.states} states; "
        f"{made.solved} of {made.problems} problems solved, {made.programs} distinct programs"
    )


@contextlib.contextmanager
def installed(what: str, extras: str) -> Iterator[None]:
    """For imports of modules that need torch. Raises ProblemError naming the missing package and its extra."""
    from mucode_agent.models.chat import prepare_torch

    prepare_torch()
    try:
        yield
    except ImportError as error:
        raise ProblemError(f"{what} needs {error.name}: pip install 'mucode-agent[{extras}]'") from error
