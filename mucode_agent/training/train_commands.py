"""`python -m mucode_agent train`: what is learned from labelled traces."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mucode_agent.training.generator_commands import generator, installed, loop, settings_of

train = typer.Typer(
    name="train", help="Learns from labelled traces: a verifier, a generator, or both in turns.", no_args_is_help=True
)

train.command()(generator)
train.command()(loop)

Traces = Annotated[
    list[Path], typer.Option("--traces", help="A directory that `rollout` or `evaluate run` wrote; may be repeated.")
]


@train.command("verifier")
def verifier(
    traces: Traces,
    base: Annotated[
        str, typer.Option(help="The checkpoint to start from, a directory or a hub id; smollm2 is embedded.")
    ],
    out: Annotated[Path, typer.Option(help="Directory of the verifier; the same command goes on with it.")],
    held_out: Annotated[
        list[Path] | None, typer.Option(help="Traces of other problems, for calibration; default: a share of --traces.")
    ] = None,
    held_out_share: Annotated[float, typer.Option(help="Share of the problems, where --held-out is not given.")] = 0.15,
    evaluation: Annotated[
        list[str] | None, typer.Option(help="A benchmark whose problems must not be trained on; may be repeated.")
    ] = None,
    drop_overlap: Annotated[
        bool, typer.Option("--drop-overlap", help="Leave out training problems that stand in an evaluation set.")
    ] = False,
    loss: Annotated[str, typer.Option(help="bt (pairs) · bce (programs) · bt+bce")] = "bt",
    l2: Annotated[float, typer.Option(help="Weight of the mean squared logit.")] = 0.0,
    epochs: Annotated[float, typer.Option(help="Passes over the data.")] = 2.0,
    learning_rate: Annotated[float, typer.Option(help="Falls to 0 in a straight line.")] = 1e-5,
    batch_size: Annotated[int, typer.Option(help="Groups of up to 8 programs per optimiser step.")] = 8,
    micro_batch: Annotated[int, typer.Option(help="Groups per forward pass.")] = 2,
    lora_rank: Annotated[int, typer.Option(help="0 trains the weights themselves.")] = 0,
    last_layers: Annotated[int, typer.Option(help="Train only the last blocks; 0 trains all.")] = 0,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Faster after half a minute; needs a C++ compiler.")
    ] = False,
    per_problem: Annotated[int, typer.Option(help="Distinct programs of one problem at most.")] = 16,
    near_misses: Annotated[
        bool, typer.Option("--near-misses", help="Prefer wrong programs that are nearly right.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="Programs with longer texts are left out.")] = 2048,
    save_steps: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 50,
    seed: Annotated[int, typer.Option(help="Same seed and data, same verifier.")] = 0,
) -> None:
    """Train R(x, y) on labelled programs, calibrate it on held-out problems, and write a checkpoint with its card."""
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.training.data import generators_of, read_attempts
    from mucode_agent.training.examples import held_out as part
    from mucode_agent.training.examples import without_overlap

    with installed("training", "train"):
        from mucode_agent.training.verifier import VerifierSettings, train_verifier
    settings = settings_of(
        VerifierSettings,
        loss=loss,
        l2=l2,
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        micro_batch=micro_batch,
        lora_rank=lora_rank,
        last_layers=last_layers,
        compile=compiled,
        per_problem=per_problem,
        near_misses=near_misses,
        max_tokens=max_tokens,
        save_steps=save_steps,
        seed=seed,
    )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    data = read_attempts(traces)
    if held_out:
        calibration = read_attempts(held_out)
    else:
        data, calibration = part(data, held_out_share, seed)
    problems = [problem for spec in evaluation or [] for problem in load_benchmark(spec).problems]
    apart = [*(entry.problem for entry in calibration), *problems]
    kept = without_overlap([entry.problem for entry in data], apart, drop=drop_overlap)
    if dropped := sorted({entry.problem.id for entry in data} - kept):
        console.print(f"left out, since an evaluation set has them: {', '.join(dropped)}", markup=False)
    data = [entry for entry in data if entry.problem.id in kept]
    console.print(
        f"{len(data)} problems, {sum(len(entry.distinct()) for entry in data)} distinct programs; "
        f"{len(calibration)} problems held out",
        markup=False,
    )
    trained = train_verifier(
        data,
        base=base,
        out=out,
        held_out=calibration,
        evaluation=problems,
        generators=generators_of(held_out or traces),
        settings=settings,
        console=console,
    )
    console.print(str(trained), markup=False)
