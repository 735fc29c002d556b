"""`python -m mucode_agent train`: what is learned from labelled traces."""

import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from mucode_agent.cli.options import RUNNING, command, record_of
from mucode_agent.cli.output import progress
from mucode_agent.cli.train_loop import export_adapter, generator, installed, loop
from mucode_agent.runs.running import Running
from mucode_agent.types import ProblemError
from mucode_agent.verifiers import DEFAULT

PRECISION = 0.9

train = typer.Typer(
    name="train", help="Learns from labelled traces: a verifier, a generator, or both in turns.", no_args_is_help=True
)

train.command()(generator)
train.command()(loop)
train.command()(export_adapter)

Traces = Annotated[
    list[Path], typer.Option("--traces", help="A directory that `rollout` or `evaluate run` wrote; may be repeated.")
]


@train.command("verifier")
@command
def verifier(
    traces: Traces,
    running: Annotated[Running, RUNNING],
    out: Annotated[
        Path,
        typer.Option(help="CARD.json of an evidence verifier; with --base a directory, resumed by the same command."),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            help="Train a language model from this checkpoint instead: a directory, a hub id or an embedded model."
        ),
    ] = None,
    language_model: Annotated[
        str, typer.Option(help="Evidence: a verifier whose logit is one more feature, as --verifier of `solve`.")
    ] = "none",
    precision: Annotated[
        float, typer.Option(help="Evidence: share of right answers that acceptance without tests must keep.")
    ] = PRECISION,
    source: Annotated[
        str, typer.Option(help="Evidence: where the problems come from and their licence, for the card.")
    ] = "",
    also_known_as: Annotated[
        list[str] | None, typer.Option(help="Evidence: another name of the traces' generator; may be repeated.")
    ] = None,
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
    start: Annotated[
        str, typer.Option(help="Of the logit: logprob (the generator's, where the traces hold it) · nothing")
    ] = "logprob",
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
    """Fit P(correct) on labelled programs, and write it with what it is worth on problems that it did not see.

    Without --base, in minutes: the evidence verifier, a JSON card, from what the programs do beside each other. With
    it: a language model that reads each program, calibrated on held-out problems, a checkpoint with its card.
    """
    if base is None:
        _evidence(
            traces,
            out,
            None,
            language_model,
            precision,
            source,
            also_known_as or [],
            running,
            evaluation or [],
            drop_overlap,
        )
        return
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.training.data import generators_of, read_attempts
    from mucode_agent.training.examples import held_out as part
    from mucode_agent.training.examples import without_overlap

    with installed("training", "train"):
        from mucode_agent.training.fit import end_processes
        from mucode_agent.training.verifier import VerifierSettings, train_verifier
    settings = record_of(
        VerifierSettings,
        loss=loss,
        start=start,
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
    console = progress()
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
    end_processes()


@train.command("calibrate")
@command
def calibrate(
    traces: Traces,
    running: Annotated[Running, RUNNING],
    out: Annotated[Path, typer.Option(help="CARD.json to write.")],
    verifier: Annotated[str, typer.Option(help="The evidence verifier to calibrate: evidence or CARD.json.")] = DEFAULT,
    precision: Annotated[
        float, typer.Option(help="Share of right answers that acceptance without tests must keep.")
    ] = PRECISION,
    source: Annotated[str, typer.Option(help="The problems' origin and licence, for the card.")] = "",
    also_known_as: Annotated[
        list[str] | None, typer.Option(help="Another name of the traces' generator; may be repeated.")
    ] = None,
    keep_weights: Annotated[
        bool,
        typer.Option(
            "--keep-weights",
            help="Measure the verifier as it is, and add the traces' generator to those that it holds for.",
        ),
    ] = False,
) -> None:
    """Rescale an evidence verifier's P(correct) to another generator's programs: same order, new probabilities."""
    names = also_known_as or []
    _evidence(
        traces, out, verifier, "none", precision, source, names, running, [],
        drop_overlap=False, keep_weights=keep_weights,
    )  # fmt: skip


def _evidence(
    traces: Sequence[Path],
    out: Path,
    calibrated: str | None,
    language_model: str,
    precision: float,
    source: str,
    names: Sequence[str],
    running: Running,
    evaluation: Sequence[str],
    drop_overlap: bool,
    keep_weights: bool = False,
) -> None:
    """Fits, or calibrates an earlier card, or measures it as it is."""
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.files import write_whole
    from mucode_agent.training.data import generators_of, read_attempts
    from mucode_agent.training.examples import without_overlap
    from mucode_agent.verifiers import load_verifier
    from mucode_agent.verifiers.evidence import EvidenceVerifier

    with installed("fitting a verifier", "train"):
        from mucode_agent.training.evidence import Origin, card_of, recalibrated, with_behaviour, with_measured
    if out.suffix != ".json":
        raise ProblemError(f"--out must be a .json file for an evidence verifier, got {out}; or give --base")
    if not 0.5 <= precision < 1:
        raise ProblemError(f"--precision must be at least 0.5 and less than 1, got {precision:g}")
    scorer = None if language_model == "none" else load_verifier(language_model)
    earlier = load_verifier(calibrated) if calibrated is not None else None
    if earlier is not None and not isinstance(earlier, EvidenceVerifier):
        raise ProblemError(
            f"only an evidence verifier is calibrated here, and {calibrated!r} is none; give its CARD.json"
        )
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    data = read_attempts(traces)
    problems = [problem for spec in evaluation for problem in load_benchmark(spec).problems]
    kept = without_overlap([entry.problem for entry in data], problems, drop=drop_overlap)
    data = [entry for entry in data if entry.problem.id in kept]
    with contextlib.closing(running.open_for_any([entry.problem for entry in data])) as place:
        data = with_behaviour(data, place)
    console.print(f"{len(data)} problems, {sum(len(entry.attempts) for entry in data)} programs", markup=False)
    made = shlex.join(["python", "-m", "mucode_agent", *sys.argv[1:]])
    data_named = source or ", ".join(path.name for path in traces)
    origin = Origin(made=made, data=data_named, generators=[*generators_of(traces), *names])
    if earlier is None:
        named = None if scorer is None else language_model
        card = card_of(data, origin, precision=precision, language_model=named, scorer=scorer)
    elif keep_weights:
        card = with_measured(earlier.card, data, origin, scorer=earlier.language_model)
    else:
        card = recalibrated(earlier.card, data, origin, precision=precision, scorer=earlier.language_model)
    write_whole(out, card.model_dump_json(indent=1) + "\n")
    console.print(str(card), markup=False)
