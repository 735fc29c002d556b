"""Attempts in the shapes that other trainers read: TRL's prompt-completion and preference rows, OpenAI's, Parquet.

A prompt is rendered as in inference, so a model trained elsewhere sees here the prompts that it was trained on. The
shapes: https://huggingface.co/docs/trl/dataset_formats, https://platform.openai.com/docs/guides/supervised-fine-tuning.
"""

import itertools
import json
import os
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from langchain_core.messages import BaseMessage

from mucode_agent.files import remedy, replacing
from mucode_agent.training.data import Attempt, ProblemAttempts, state
from mucode_agent.types import InfrastructureError, ProblemError

Format = Literal["trl-sft", "trl-preference", "openai", "parquet", "atif"]
FORMATS: tuple[Format, ...] = get_args(Format)

EXPORT_VERSION = 1
"""Version of the Parquet table's columns; its schema's metadata has it as `mucode_agent.export_version`."""

_ROLES = {"human": "user", "ai": "assistant", "system": "system"}
_BATCH = 2048

Message = dict[str, str]
Row = dict[str, Any]


def chat(messages: Iterable[BaseMessage]) -> list[Message]:
    """Messages as chat templates read them."""
    return [{"role": _ROLES[message.type], "content": str(message.content)} for message in messages]


def trl_sft(data: Iterable[ProblemAttempts]) -> Iterator[Row]:
    """Each correct reply with the state it was drawn in; a program once per state."""
    for prompt, attempt in _correct(data):
        yield {"prompt": prompt, "completion": [_reply(attempt)]}


def openai(data: Iterable[ProblemAttempts]) -> Iterator[Row]:
    """The same rows as whole conversations."""
    for prompt, attempt in _correct(data):
        yield {"messages": [*prompt, _reply(attempt)]}


def trl_preference(data: Iterable[ProblemAttempts], *, pairs: int = 32, seed: int = 0) -> Iterator[Row]:
    """A right and a wrong reply to the problem alone, with distinct programs; at most `pairs` per problem.

    Correctness depends on the problem only (paper, section 3.5), so replies of any turn are compared. Pairs are drawn
    without replacement; the same seed draws the same pairs.
    """
    if pairs < 1:
        raise ProblemError(f"pairs must be at least 1, got {pairs}")
    for entry in data:
        programs = sorted(entry.distinct(), key=lambda attempt: attempt.form)
        right = [attempt for attempt in programs if attempt.correct]
        wrong = [attempt for attempt in programs if not attempt.correct]
        count = len(right) * len(wrong)
        chance = random.Random(f"{seed}/{entry.problem.id}")  # noqa: S311 - a reproducible choice, no secret
        prompt = chat(state(entry.problem, ()))
        for number in chance.sample(range(count), min(pairs, count)):
            chosen, rejected = right[number // len(wrong)], wrong[number % len(wrong)]
            yield {"prompt": prompt, "chosen": [_reply(chosen)], "rejected": [_reply(rejected)]}


def flat(data: Iterable[ProblemAttempts]) -> Iterator[Row]:
    """Every attempt as one row of plain columns."""
    for entry in data:
        for attempt in entry.attempts:
            candidate, report, score = attempt.candidate, attempt.candidate.report, attempt.candidate.score
            yield {
                "problem_id": entry.problem.id,
                "source": attempt.source,
                "solve": attempt.solve,
                "turn": candidate.turn,
                "index": candidate.index,
                "prompt": chat(state(entry.problem, attempt.turns)),
                "completion": candidate.sample.text,
                "code": candidate.code,
                "form": attempt.form,
                "correct": attempt.correct,
                "weight": attempt.weight,
                "public_status": report.status if report else None,
                "public_passed": report.tests_passed if report else None,
                "public_tests": len(report.results) if report else None,
                "seed": candidate.sample.seed,
                "prompt_tokens": candidate.sample.prompt_tokens,
                "completion_tokens": candidate.sample.completion_tokens,
                "logprob": candidate.sample.logprob,
                "finish_reason": candidate.sample.finish_reason,
                "score_logit": score.logit if score else None,
                "score_probability": score.probability if score else None,
            }


def write_jsonl(rows: Iterable[Row], path: Path) -> int:
    """Writes the file atomically; returns the number of rows. Raises ProblemError if there is none."""
    with _replacing(path) as file:
        count = 0
        for count, row in enumerate(rows, start=1):  # noqa: B007 - counts
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")
        _some(count)
    return count


def write_parquet(rows: Iterable[Row], path: Path) -> int:
    """Like `write_jsonl`, for the rows of `flat`. Raises ProblemError if pyarrow is not installed."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ProblemError("Parquet needs pyarrow: pip install 'mucode-agent[parquet]'") from error
    schema = _schema(pyarrow)
    count = 0
    with _replacing(path) as file, parquet.ParquetWriter(file, schema) as writer:
        waiting = iter(rows)
        while batch := list(itertools.islice(waiting, _BATCH)):
            writer.write_table(pyarrow.Table.from_pylist(batch, schema=schema))
            count += len(batch)
        _some(count)
    return count


def _schema(pyarrow: Any) -> Any:
    text, whole, real = pyarrow.string(), pyarrow.int64(), pyarrow.float64()
    message = pyarrow.struct([("role", text), ("content", text)])
    columns = [
        ("problem_id", text),
        ("source", text),
        ("solve", text),
        ("turn", whole),
        ("index", whole),
        ("prompt", pyarrow.list_(message)),
        ("completion", text),
        ("code", text),
        ("form", text),
        ("correct", pyarrow.bool_()),
        ("weight", real),
        ("public_status", text),
        ("public_passed", whole),
        ("public_tests", whole),
        ("seed", whole),
        ("prompt_tokens", whole),
        ("completion_tokens", whole),
        ("logprob", real),
        ("finish_reason", text),
        ("score_logit", real),
        ("score_probability", real),
    ]
    return pyarrow.schema(columns, metadata={"mucode_agent.export_version": str(EXPORT_VERSION)})


def _correct(data: Iterable[ProblemAttempts]) -> Iterator[tuple[list[Message], Attempt]]:
    for entry in data:
        seen: set[tuple[str, ...]] = set()
        for attempt in entry.attempts:
            if not attempt.correct:
                continue
            prompt = chat(state(entry.problem, attempt.turns))
            key = (attempt.form, *(message["content"] for message in prompt))
            if key not in seen:
                seen.add(key)
                yield prompt, attempt


def _reply(attempt: Attempt) -> Message:
    return {"role": "assistant", "content": attempt.candidate.sample.text}


def _some(count: int) -> None:
    if not count:
        raise ProblemError("there is nothing to export: no attempt in these directories fits the format")


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well. Raises InfrastructureError."""
    if path.exists() and not path.is_file():
        raise ProblemError(f"cannot write {path}: it is no plain file; give another path")
    if not os.access(path.parent, os.W_OK):
        raise ProblemError(f"cannot write {path}: no writable {path.parent}; give a path in a writable directory")
    try:
        with replacing(path) as file:
            yield file
    except OSError as error:
        raise InfrastructureError(f"cannot write {path}: {error.strerror}; {remedy(error)}, then run again") from error
