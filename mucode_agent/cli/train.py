"""`python -m mucode_agent train`: training on labelled traces."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mucode_agent.cli.options import RUNNING, Fields, command
from mucode_agent.cli.output import command_line, progress
from mucode_agent.cli.train_loop import (
    DropOverlap,
    Evaluation,
    export_adapter,
    generator,
    installed,
    kept_apart,
    loop,
    problems_of,
)
from mucode_agent.runs.running import Running
from mucode_agent.training.settings import EvidenceSettings, HeldOutShare, VerifierSettings
from mucode_agent.types import ProblemError
from mucode_agent.verifiers import DEFAULT

EVIDENCE = Fields(*EvidenceSettings.model_fields)

train = typer.Typer(
    name="train", help="Trains on labelled traces: a verifier, a generator, or both in rounds.", no_args_is_help=True
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
    *,
    base: Annotated[
        str | None,
        typer.Option(
            help="Train a language model from this checkpoint instead: a directory, a hub id or an embedded model."
        ),
    ] = None,
    language_model: Annotated[
        str,
        typer.Option(
            help="For the evidence verifier: a verifier (as for `solve --verifier`) that adds its logit as a feature."
        ),
    ] = "none",
    evidence: Annotated[EvidenceSettings, EVIDENCE],
    held_out: Annotated[
        list[Path] | None, typer.Option(help="Traces of other problems, for calibration; default: a share of --traces.")
    ] = None,
    share: Annotated[HeldOutShare, Fields("held_out_share")],
    evaluation: Evaluation = None,
    drop_overlap: DropOverlap = False,
    settings: Annotated[VerifierSettings, Fields(*VerifierSettings.model_fields, learning_rate=1e-5, batch_size=8)],
) -> None:
    """Train a verifier on labelled programs, and measure it on problems that it did not see.

    Without --base, in minutes: the evidence verifier, a JSON card, which compares the programs' behaviour. With --base:
    a language model that reads each program, calibrated on held-out problems; a checkpoint with its card.
    """
    if base is None:
        _write_card(
            traces,
            out,
            evidence,
            running,
            language_model=language_model,
            evaluation=evaluation,
            drop_overlap=drop_overlap,
        )
        return
    from mucode_agent.training.data import generators_of, read_attempts
    from mucode_agent.training.examples import held_out as part

    with installed("training", "train"):
        from mucode_agent.training.fit import end_processes
        from mucode_agent.training.verifier import train_verifier
    console = progress()
    data = read_attempts(traces)
    if held_out:
        calibration = read_attempts(held_out)
    else:
        data, calibration = part(data, share.held_out_share, settings.seed)
    problems = problems_of(evaluation)
    apart = [*(entry.problem for entry in calibration), *problems]
    data = kept_apart(data, apart, drop=drop_overlap, console=console)
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
    *,
    verifier: Annotated[str, typer.Option(help="The evidence verifier to calibrate: evidence or CARD.json.")] = DEFAULT,
    evidence: Annotated[EvidenceSettings, EVIDENCE],
    keep_weights: Annotated[
        bool,
        typer.Option(
            "--keep-weights",
            help="Measure the unchanged verifier, and add the traces' generator to those for which it holds.",
        ),
    ] = False,
) -> None:
    """Rescale an evidence verifier's P(correct) to another generator's programs: same order, new probabilities."""
    _write_card(traces, out, evidence, running, calibrated=verifier, keep_weights=keep_weights)


def _write_card(
    traces: Sequence[Path],
    out: Path,
    settings: EvidenceSettings,
    running: Running,
    *,
    calibrated: str | None = None,
    keep_weights: bool = False,
    language_model: str = "none",
    evaluation: Sequence[str] | None = None,
    drop_overlap: bool = False,
) -> None:
    """Fits a card, calibrates an earlier one, or measures it unchanged."""
    from mucode_agent.files import write_whole
    from mucode_agent.training.data import generators_of, read_attempts
    from mucode_agent.verifiers import load_verifier
    from mucode_agent.verifiers.evidence import EvidenceVerifier

    with installed("fitting a verifier", "train"):
        from mucode_agent.training.evidence import Origin, card_of, recalibrated, with_behaviour, with_measured
    if out.suffix != ".json":
        raise ProblemError(f"--out must be a .json file for an evidence verifier, got {out}; or give --base")
    scorer = None if language_model == "none" else load_verifier(language_model)
    earlier = load_verifier(calibrated) if calibrated is not None else None
    if earlier is not None and not isinstance(earlier, EvidenceVerifier):
        raise ProblemError(
            f"only an evidence verifier can be calibrated, and {calibrated!r} is none; give its CARD.json"
        )
    console = progress()
    data = read_attempts(traces)
    data = kept_apart(data, problems_of(evaluation), drop=drop_overlap, console=console)
    with contextlib.closing(running.open_for_any([entry.problem for entry in data])) as place:
        data = with_behaviour(data, place)
    console.print(f"{len(data)} problems, {sum(len(entry.attempts) for entry in data)} programs", markup=False)
    made = command_line()
    data_named = settings.source or ", ".join(path.name for path in traces)
    origin = Origin(made=made, data=data_named, generators=[*generators_of(traces), *settings.also_known_as])
    if earlier is None:
        named = None if scorer is None else language_model
        card = card_of(data, origin, precision=settings.precision, language_model=named, scorer=scorer)
    elif keep_weights:
        card = with_measured(earlier.card, data, origin, scorer=earlier.language_model)
    else:
        card = recalibrated(earlier.card, data, origin, precision=settings.precision, scorer=earlier.language_model)
    write_whole(out, card.model_dump_json(indent=1) + "\n")
    console.print(str(card), markup=False)
