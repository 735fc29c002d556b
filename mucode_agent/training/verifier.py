"""Trains a verifier: R(x, y) on the base of a generator, from labelled attempts (paper, section 3.2).

The resulting directory is a plain checkpoint, which transformers and vLLM load directly, with the card next to it.
"""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mucode_agent.metrics import pairwise_accuracy
from mucode_agent.models.checkpoints import best_device, quiet
from mucode_agent.training.bases import base_sha256, reading
from mucode_agent.training.calibrate import calibrated_card
from mucode_agent.training.data import ProblemAttempts, data_sha256
from mucode_agent.training.examples import Group, groups, without_overlap
from mucode_agent.training.fit import (
    Fitted,
    begin,
    fit,
    hold_training,
    is_main_process,
    merged,
    place,
    seed_everything,
    trainable,
    whole,
    write_card,
    writing,
)
from mucode_agent.training.settings import GROUP, Loss, VerifierSettings
from mucode_agent.types import Problem, ProblemError, Record
from mucode_agent.verifiers.calibration import Platt, fit_platt
from mucode_agent.verifiers.card import CARD, VerifierCard, read_verifier_card, start_logit
from mucode_agent.verifiers.scoring import pad_token, padded
from mucode_agent.verifiers.text import text_digest, verifier_text


class Trained(Record):
    """A trained verifier, and its training."""

    directory: Path
    card: VerifierCard
    fitted: Fitted | None
    """None if the directory was finished before."""
    groups: int
    too_long: int

    def __str__(self) -> str:
        fitted, quality = self.fitted, self.card.quality
        parts = [str(self.directory), "finished before"]
        if fitted is not None:
            loss = "no step" if fitted.loss is None else f"loss {fitted.loss:.4f}"
            rate = fitted.tokens / fitted.seconds if fitted.seconds else 0.0
            parts[1:] = [f"{self.groups} groups", f"{fitted.steps} steps", loss, f"{rate:.0f} tokens/s"]
            if self.card.start is not None:
                parts.append("started from the generator's log-probabilities")
        if self.too_long:
            parts.append(f"{self.too_long} programs left out: too long")
        if quality is not None:
            parts += [
                f"{name} {value:.3f}"
                for name, value in (
                    ("pairs", quality.pairwise_accuracy),
                    ("AUC", quality.auc),
                    ("ECE", quality.expected_error),
                )
                if value is not None
            ]
        return " · ".join(parts)


def train_verifier(
    data: Sequence[ProblemAttempts],
    *,
    base: str,
    out: Path,
    held_out: Sequence[ProblemAttempts] = (),
    evaluation: Sequence[Problem] = (),
    generators: Sequence[str] = (),
    settings: VerifierSettings | None = None,
    console: Console | None = None,
) -> Trained:
    """Trains on `data` from `base`, calibrates on `held_out`, and writes checkpoint, card and README into `out`.

    Continues from the last checkpoint if `out` holds the same training, and returns at once if that is finished.

    Args:
        data: Attempts at training problems, labelled by all tests.
        base: A checkpoint directory or hub id; in the paper, the generator's own base.
        out: A new directory, or that of the same training.
        held_out: Attempts at other problems, for calibration and quality; without them the verifier has no probability.
        evaluation: Problems that training data must not contain, in addition to those held out.
        generators: The generators of the held-out programs; see `models.identity`.
        settings: Loss, rates, sizes.
        console: Where progress is printed; standard error unless given.

    Raises:
        ProblemError: The data hold no usable example, contain an evaluation problem, or `out` holds something else.
    """
    settings = settings or VerifierSettings()
    apart = [*(entry.problem for entry in held_out), *evaluation]
    without_overlap([entry.problem for entry in data], apart, drop=False)
    sha256, held_sha256 = data_sha256(data), data_sha256(held_out) if held_out else None
    identity = {
        "kind": "verifier",
        "base": base,
        "base_sha256": base_sha256(base),
        "data_sha256": sha256,
        "held_out_sha256": held_sha256,
        "text": text_digest(),
        **settings.model_dump(mode="json", exclude={"save_steps"}),
    }
    begun = (out / "training.json").exists()
    if begun:
        begin(out, identity)
    examples = groups(
        data,
        loss=settings.loss,
        per_problem=settings.per_problem,
        near_misses=settings.near_misses,
        seed=settings.seed,
    )
    if (out / CARD).exists() and (card := read_verifier_card(out)) is not None:
        return Trained(directory=out, card=card, fitted=None, groups=len(examples), too_long=0)
    model, tokenizer = _base(base, settings)
    encode = _encoder({entry.problem.id: entry.problem for entry in data}, tokenizer)
    start = _start(data) if settings.start == "logprob" else None
    encoded, too_long = _within(examples, encode, settings, start)
    if not encoded:
        remedy = "raise max_tokens" if too_long else "give more traces, or loss bce"
        raise ProblemError(
            f"the data hold no problem with right and wrong programs of at most {settings.max_tokens} tokens, so there "
            f"is nothing to compare; {remedy}"
        )
    if not begun:  # unusable settings or data leave no directory behind
        begin(out, identity)
    pad, rates = pad_token(tokenizer), _set_head(model, encoded, settings, from_zero=start is not None)
    model = trainable(model, settings, task="SEQ_CLS")
    with hold_training(out):
        fitted = fit(
            model,
            encoded,
            collate=lambda batch: collated(batch, pad),
            loss=lambda net, batch: group_losses(
                _read(net, batch["input_ids"], batch["attention_mask"]) + batch["starts"],
                batch["groups"],
                settings.loss,
                settings.l2,
            ),
            directory=out,
            settings=settings,
            rates=rates,
            report=_quality_line(held_out, tokenizer, pad, start) if held_out else None,
            console=console,
        )
        model = whole(model, lambda: trainable(_base(base, settings)[0], settings, task="SEQ_CLS"))
        card = VerifierCard(
            base=base,
            text=text_digest(),
            loss=settings.loss,
            seed=settings.seed,
            training={**settings.model_dump(mode="json"), "programs": sum(len(e.ids) for e in encoded)},
            data_sha256=sha256,
            calibration_sha256=held_sha256,
            generators=tuple(generators),
            start=start,
        )
        if is_main_process():
            _save(merged(model), tokenizer, out)
            if held_out:
                card = calibrated_card(card, out, held_out)
            write_card(out, CARD, card, readme(card))
    return Trained(directory=out, card=card, fitted=fitted, groups=len(encoded), too_long=too_long)


# --- the loss ------------------------------------------------------------------------------------------------------


class Encoded(Record):
    """A group as tokens."""

    ids: tuple[tuple[int, ...], ...]
    labels: tuple[bool, ...]
    starts: tuple[float, ...]
    """The logit that each program starts from; see `VerifierCard.start`."""


def collated(batch: Sequence[Encoded], pad: int) -> dict[str, Any]:
    """All programs of a batch's groups as one padded matrix (B, L) with the logits that they start from, (B,).

    `groups` has the rows of each group.
    """
    ids, mask = padded([list(row) for example in batch for row in example.ids], pad)
    starts = torch.tensor([start for example in batch for start in example.starts])
    return {"input_ids": ids, "attention_mask": mask, "starts": starts, "groups": [example.labels for example in batch]}


def group_losses(logits: Tensor, batch: Sequence[Sequence[bool]], loss: Loss, l2: float = 0.0) -> Tensor:
    """The loss of each group, (G,); `logits` (B,) has the groups' programs in sequence.

    `bt`: mean over the group's (right, wrong) pairs of -log σ(R⁺ - R⁻), eq. 3; 0 for a group without pairs.
    `bce`: mean over its programs of the cross-entropy, eq. 2 with its sign corrected.
    `l2` weighs the mean squared logit.
    """
    losses = []
    start = 0
    for labels in batch:
        scores = logits[start : start + len(labels)]
        start += len(labels)
        right = torch.tensor(labels, device=logits.device)
        total = 0.0 * scores.sum()
        if "bt" in loss and right.any() and not right.all():
            total = total - logsigmoid(scores[right].unsqueeze(1) - scores[~right].unsqueeze(0)).mean()
        if "bce" in loss:
            total = total + binary_cross_entropy_with_logits(scores, right.float())
        if l2:
            total = total + l2 * scores.square().mean()
        losses.append(total)
    return torch.stack(losses)


# --- its parts -----------------------------------------------------------------------------------------------------


def _base(base: str, settings: VerifierSettings) -> tuple[Any, Any]:
    """The classifier with a new head, seeded, and its tokenizer."""
    seed_everything(settings.seed)
    with reading(base) as path:
        tokenizer = AutoTokenizer.from_pretrained(path)
        # LoRA does not change the base, so bfloat16 is enough; trained weights need float32's small steps.
        dtype = torch.bfloat16 if settings.lora_rank else torch.float32
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1, dtype=dtype)
    model.config.pad_token_id = pad_token(tokenizer)
    return model.to(place()), tokenizer


def _set_head(
    model: Any, encoded: Sequence[Encoded], settings: VerifierSettings, *, from_zero: bool
) -> dict[str, float]:
    """Sets the head's weights; returns the factor of its learning rate.

    Logits start and move on the same scale for every base: hidden states differ a hundredfold in scale.
    """
    scale = _hidden_scale(model.to(best_device()), encoded)
    model.to(place())
    if from_zero:
        torch.nn.init.zeros_(model.score.weight)
    else:
        torch.nn.init.normal_(model.score.weight, std=(model.score.in_features + 1) ** -0.5 / scale)
    return {_head(settings): 1 / scale}


def _head(settings: VerifierSettings) -> str:
    """Suffix of the name of the head's trained weights."""
    return "score.modules_to_save.default.weight" if settings.lora_rank else "score.weight"


_MEASURED = 8
"""Programs."""


def _hidden_scale(model: Any, encoded: Sequence[Encoded]) -> float:
    """Root mean square of the head's inputs, over some programs."""
    squares: list[float] = []
    with torch.inference_mode():
        for ids in [row for example in encoded for row in example.ids][:_MEASURED]:
            tokens = torch.tensor([ids], device=model.device)
            hidden = model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[0, -1].float()
            squares.append(hidden.square().mean().item())
    return math.sqrt(max(sum(squares) / len(squares), 1e-12))


def _encoder(problems: dict[str, Problem], tokenizer: Any) -> Callable[[str, str], list[int]]:
    def encode(problem_id: str, code: str) -> list[int]:
        ids: list[int] = tokenizer(verifier_text(problems[problem_id], code))["input_ids"]
        return ids

    return encode


def _start(data: Sequence[ProblemAttempts]) -> Platt | None:
    """Maps mean log-probability to log-odds, fitted on distinct programs; None if it carries no information."""
    known = [
        (mean, a.correct) for e in data for a in e.distinct() if (mean := a.candidate.sample.mean_logprob) is not None
    ]
    try:
        return fit_platt([mean for mean, _ in known], [correct for _, correct in known])
    except ProblemError:
        return None


def _within(
    examples: Sequence[Group],
    encode: Callable[[str, str], list[int]],
    settings: VerifierSettings,
    start: Platt | None,
) -> tuple[list[Encoded], int]:
    """The groups as tokens, without programs that are too long, and the number of those."""
    kept, too_long = [], 0
    for group in examples:
        rows = [
            (tuple(encode(group.problem_id, code)), label, start_logit(start, sample))
            for code, label, sample in zip(group.codes, group.labels, group.samples, strict=True)
        ]
        fitting = [row for row in rows if len(row[0]) <= settings.max_tokens]
        too_long += len(rows) - len(fitting)
        if fitting and (settings.loss != "bt" or len({label for _, label, _ in fitting}) == 2):
            ids, labels, starts = zip(*fitting, strict=True)
            kept.append(Encoded(ids=ids, labels=labels, starts=starts))
    return kept, too_long


def _read(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    """Logits (B,) in float32. Keys and values are not kept: they are not needed, and prevent compilation of a block."""
    logits: Tensor = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return logits.squeeze(-1).float()


_REPORTED_PROBLEMS = 24


def _quality_line(
    held_out: Sequence[ProblemAttempts], tokenizer: Any, pad: int, start: Platt | None
) -> Callable[[Any], str]:
    """Pairwise accuracy on some held-out problems, during training."""
    both = [e for e in held_out if len({attempt.correct for attempt in e.attempts}) > 1][:_REPORTED_PROBLEMS]
    rows = []
    for entry in both:
        distinct = entry.distinct()[:GROUP]
        ids = [tokenizer(verifier_text(entry.problem, a.candidate.code))["input_ids"] for a in distinct]
        starts = torch.tensor([start_logit(start, a.candidate.sample) for a in distinct])
        rows.append((ids, starts, [attempt.correct for attempt in distinct]))

    def words(model: Any) -> str:
        device, training = next(model.parameters()).device, model.training
        model.train(False)
        scored = []
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16):
            for ids, starts, labels in rows:
                tokens, mask = padded(ids, pad)
                logits = _read(model, tokens.to(device), mask.to(device)) + starts.to(device)
                scored.append((logits.tolist(), labels))
        model.train(training)
        found = pairwise_accuracy(scored)
        return f"held-out pairs {100 * found.value:.1f} %" if found else "no held-out pairs"

    return words


def _save(model: Any, tokenizer: Any, out: Path) -> None:
    """The checkpoint, in the dtype that scores are computed in."""
    if hasattr(model.config, "problem_type"):
        model.config.problem_type = "multi_label_classification"  # servers then map one logit by a sigmoid
    with writing(out), quiet():
        model.to(torch.bfloat16).save_pretrained(out)
        tokenizer.save_pretrained(out)


def readme(card: VerifierCard) -> str:
    """The model card for people."""
    lines = [
        "# A µCODE verifier",
        "",
        "R(x, y): one logit for a problem and one program, higher for programs that are more likely right.",
        "",
        f"- base: `{card.base}` · loss: {card.loss} · seed {card.seed}",
        f"- training data: sha256 `{card.data_sha256[:16]}`",
        f"- input wording: `{card.text}` (`mucode_agent.verifiers.text`)",
        f"- programs of: {', '.join(card.generators) or 'not said'}",
    ]
    if (platt := card.calibration) is not None:
        config = json.dumps({"logit_mean": round(platt.mean, 6), "logit_sigma": round(platt.sigma, 6)})
        lines += [
            f"- calibration: P(correct) = sigmoid((logit - {platt.mean:.4f}) / {platt.sigma:.4f})",
            "- served: `vllm serve DIRECTORY --runner pooling`; this package requests raw logits and calibrates them.",
        ]
        if card.start is None:
            lines.append(f"  For other clients the server can do it: `--pooler-config '{config}'`")
        else:
            lines.append(
                "- the logit of the program's mean log-probability under its generator, (mean - "
                f"{card.start.mean:.4f}) / {card.start.sigma:.4f}, is added to what the weights compute"
            )
    if (quality := card.quality) is not None:
        lines += ["", "| held-out | |", "|---|---|", f"| problems | {quality.problems} |"]
        for name in ("candidates", "right", "pairwise_accuracy", "auc", "brier", "expected_error", "isotonic_brier"):
            value = getattr(quality, name)
            if value is not None:
                lines.append(f"| {name.replace('_', ' ')} | {value if isinstance(value, int) else f'{value:.3f}'} |")
        if quality.brier is not None:
            lines += ["", "![reliability](reliability.png)"]
    return "\n".join(lines) + "\n"
