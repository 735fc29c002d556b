"""`python -m mucode_agent train generator` and `train loop`."""

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mucode_agent.cli.options import RUNNING, command, record_of
from mucode_agent.cli.output import progress
from mucode_agent.runs.running import Running
from mucode_agent.types import ProblemError

if TYPE_CHECKING:
    from mucode_agent.training.rows import RowSet


def generator(
    traces: Annotated[list[Path], typer.Option(help="A directory of `rollout` or `evaluate run`; may be repeated.")],
    base: Annotated[str, typer.Option(help="Checkpoint directory or hub id to start from.")],
    output: Annotated[
        Path, typer.Option("--out", "--output", help="Directory of the checkpoint; the same command continues it.")
    ],
    verifier: Annotated[str, typer.Option(help="Of `train verifier`; none where no score is asked for.")] = "none",
    expert: Annotated[str, typer.Option(help="both · oracle · learned · lexicographic")] = "both",
    beta_oracle: Annotated[float, typer.Option(help="β_O of the expert both.")] = 1.0,
    beta_learned: Annotated[float, typer.Option(help="β_L of the expert both.")] = 0.1,
    unsolved: Annotated[str, typer.Option(help="Without a right program: leave-out · best-wrong")] = "leave-out",
    pool: Annotated[
        str, typer.Option(help="Programs the expert chooses from: all · final (of each trajectory)")
    ] = "all",
    relabel: Annotated[
        str, typer.Option(help="mucode · authors · rft-single · rft-multi · rft-relabelled · rft-verifier")
    ] = "mucode",
    top: Annotated[int, typer.Option(help="Trajectories per problem of authors and rft-verifier.")] = 3,
    per_problem: Annotated[int | None, typer.Option(help="Rows of one problem at most; default: all.")] = None,
    evaluation: Annotated[
        list[str] | None, typer.Option(help="A benchmark whose problems must not be trained on; may be repeated.")
    ] = None,
    drop_overlap: Annotated[
        bool, typer.Option("--drop-overlap", help="Leave out training problems that stand in an evaluation set.")
    ] = False,
    epochs: Annotated[float, typer.Option(help="Times that every row is read.")] = 2.0,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 5e-7; with LoRA 1e-4.")] = None,
    batch_size: Annotated[int, typer.Option(help="Rows of one step, over all devices.")] = 32,
    micro_batch: Annotated[int, typer.Option(help="Rows of one forward pass.")] = 2,
    lora_rank: Annotated[int, typer.Option(help="0 trains the weights themselves.")] = 0,
    last_layers: Annotated[int, typer.Option(help="Only so many of the last blocks; 0: all.")] = 0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Faster after half a minute; needs a C++ compiler.")
    ] = False,
    warmup: Annotated[float, typer.Option(help="Share of the steps in which the rate rises.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Longer rows are left out and counted.")] = 4096,
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 50,
    seed: Annotated[int, typer.Option(help="Of the order and the rows kept.")] = 0,
) -> None:
    """Pair visited states with the expert's programs and fine-tune a generator on them, or continue that training."""
    with installed("training", "train"):
        from mucode_agent.training.fit import end_processes
        from mucode_agent.training.generator import GeneratorSettings, train_generator
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.training.data import read_attempts
    from mucode_agent.training.examples import without_overlap
    from mucode_agent.training.expert import ExpertSettings
    from mucode_agent.training.relabel import RelabelSettings
    from mucode_agent.training.rows import make_rows
    from mucode_agent.verifiers import load_verifier

    how = record_of(
        ExpertSettings,
        mode=expert,
        beta_oracle=beta_oracle,
        beta_learned=beta_learned,
        unsolved=unsolved,
        pool=pool,
    )
    which = record_of(RelabelSettings, method=relabel, top=top, per_problem=per_problem, seed=seed)
    settings = record_of(
        GeneratorSettings,
        epochs=epochs,
        learning_rate=learning_rate if learning_rate is not None else (1e-4 if lora_rank else 5e-7),
        batch_size=batch_size,
        micro_batch=micro_batch,
        lora_rank=lora_rank,
        last_layers=last_layers,
        compile=compiled,
        warmup=warmup,
        max_tokens=max_tokens,
        save_steps=save_steps,
        seed=seed,
    )
    console = progress()
    data = read_attempts(traces)
    known = [problem for spec in evaluation or [] for problem in load_benchmark(spec).problems]
    kept = without_overlap([entry.problem for entry in data], known, drop=drop_overlap)
    data = [entry for entry in data if entry.problem.id in kept]
    made = make_rows(data, which, how, load_verifier(verifier))
    console.print(row_words(made), markup=False)
    trained = train_generator(made.rows, base=base, out=output, settings=settings, console=console)
    card = trained.card
    loss = f", loss {card.loss:.4f}" if card.loss is not None else ""
    console.print(
        f"{output}: {card.rows} rows ({card.left_out} left out as longer than {max_tokens} tokens), "
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

    # An option that is given takes the place of the file's key.
    asked = read_loop_config(config).model_copy(update=running.model_dump(exclude_defaults=True))
    directory = output or asked.out
    if directory is None:
        raise ProblemError(f"{config} names no run directory: give --out, or the key out")
    problems = [problem for part in benchmarks(asked, Console(quiet=True)) for problem in part.problems]
    with contextlib.closing(asked.open(problems)) as place:
        run_loop(asked, directory, sandbox=place, command=shlex.join(["python", "-m", "mucode_agent", *sys.argv[1:]]))


def export_adapter(
    generator: Annotated[
        Path, typer.Argument(help="A directory of `train generator`, or ROUND/generator of a loop, with LoRA.")
    ],
    out: Annotated[Path, typer.Option(help="New directory of adapter.safetensors and card.json.")],
    base: Annotated[str, typer.Option(help="What it was trained from: an embedded model, or a checkpoint directory.")],
    licence: Annotated[str, typer.Option(help="Of the base, and so of the adapter; for the card.")],
    data: Annotated[str, typer.Option(help="Where the training problems come from and their licence, for the card.")],
    evaluation: Annotated[
        list[str] | None, typer.Option(help="A benchmark whose problems it must not have seen; may be repeated.")
    ] = None,
    traces: Annotated[
        list[Path] | None, typer.Option(help="What it was trained on; default: the loop's rollouts. May be repeated.")
    ] = None,
    trained_by: Annotated[str, typer.Option(help="The command that trained it, for the card.")] = "",
) -> None:
    """Write a trained generator's LoRA adapter as data that can ship: bfloat16 tensors and a card of its origin.

    It is refused unless base and adapter together give the generator's own weights.
    """
    with installed("writing an adapter", "train"):
        from mucode_agent.training.adapter import Origin, without_paths
        from mucode_agent.training.adapter import export_adapter as write
    from mucode_agent.evaluation.benchmarks import load_benchmark

    made = shlex.join(["python", "-m", "mucode_agent", *map(without_paths, sys.argv[1:])])
    card = write(
        generator,
        out,
        Origin(made=made, base=base, licence=licence, data=data, trained_by=trained_by),
        traces=traces or (),
        apart_from={without_paths(spec): load_benchmark(spec).problems for spec in evaluation or []},
    )
    size = sum(file.stat().st_size for file in out.iterdir()) / 1e6
    Console(stderr=True, highlight=False, soft_wrap=True).print(
        f"{out}: rank {card.rank}, {card.parameters} parameters, {size:.1f} MB; on {base} it gives {generator}",
        markup=False,
    )


def row_words(made: "RowSet") -> str:
    """What the rows are, in one line."""
    return (
        f"{len(made.rows)} rows, {made.right} with a right answer, of {made.states} states; "
        f"{made.solved} of {made.problems} problems solved, {made.programs} distinct programs"
    )


@contextlib.contextmanager
def installed(what: str, extras: str) -> Iterator[None]:
    """Around the imports of torch's users. Raises ProblemError naming the package that is missing, and its extra."""
    from mucode_agent.models.chat import prepare_torch

    prepare_torch()
    try:
        yield
    except ImportError as error:
        raise ProblemError(f"{what} needs {error.name}: pip install 'mucode-agent[{extras}]'") from error
