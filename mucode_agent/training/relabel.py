"""A generator's training rows: states paired with answers. Pure functions.

`mucode` is step 5 of the paper's algorithm 1: every state of a problem, from any turn and round, is paired with the
expert's program. The other methods are its baselines, and the variant of the authors' released code.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import get_args

from mucode_agent.models.chat import plain_messages
from mucode_agent.training.data import Attempt, ProblemAttempts, Trajectory, state
from mucode_agent.training.expert import Logits, expert, finals, logit_of
from mucode_agent.training.settings import ExpertSettings, Method, RelabelSettings
from mucode_agent.types import Record, Turn

METHODS: dict[Method, str] = {
    "mucode": "every visited state → the expert's program (paper, section 3.3)",
    "authors": "the authors' code: every state of right trajectories → their own final program, "
    "and of the `top` highest-scored wrong ones → the expert's",
    "rft-single": "rejection fine-tuning, single turn: the problem → each right first-turn program",
    "rft-multi": "rejection fine-tuning, multi-turn: each state of a right trajectory → what it wrote there (paper)",
    "rft-relabelled": "each state of a right trajectory → its own final program (the authors' RFT)",
    "rft-verifier": "as rft-multi, of the `top` trajectories of a problem that the verifier scores highest (RFT_LV)",
}
if set(METHODS) != set(get_args(Method)):
    raise AssertionError("every method has its words")


class Message(Record):
    """One message, as chat templates read it."""

    role: str
    content: str


class Row(Record):
    """The generator's prompt, and the answer that it should give."""

    problem_id: str
    messages: tuple[Message, ...]
    answer: str
    correct: bool
    """Whether the answer's program passes all tests. Used in reports only, not in training."""
    weight: float = 1.0
    """Weight in training: its answer's own weight, times the visits of its state."""


def answer_text(code: str) -> str:
    """The reply that inference asks for: the program alone, in one fenced block."""
    body = code.strip("\n")
    fence = "```"
    while fence in body:  # a fence in a docstring must not end the block
        fence += "`"
    return f"{fence}python\n{body}\n{fence}"


def relabelled(
    data: Iterable[ProblemAttempts], logits: Logits, settings: RelabelSettings, expert_settings: ExpertSettings
) -> list[Row]:
    """The rows of every problem, in the order of the problems. Equal rows appear once.

    If states are relabelled (`mucode`, `authors`), a row's weight counts the visits of its state: the paper's data set
    has a state once for each visit, the first state of a problem once for each trajectory.

    Raises ProblemError if a score is needed that `logits` does not have.
    """
    pairs = _PAIRS[settings.method]
    rows: list[Row] = []
    for entry in data:
        found: dict[str, Row] = {}
        for turns, attempt in pairs(entry, logits, settings, expert_settings):
            row = _row(entry, turns, attempt)
            key = _key(row)
            if key not in found:
                found[key] = row
            elif settings.method in _BY_VISITS:
                found[key] = row.model_copy(update={"weight": found[key].weight + row.weight})
        rows += _capped(list(found.values()), entry.problem.id, settings)
    return rows


def rows_sha256(rows: Iterable[Row]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(row.model_dump_json().encode() + b"\n")
    return digest.hexdigest()


_Pairs = Iterator[tuple[tuple[Turn, ...], Attempt]]


def _mucode(entry: ProblemAttempts, logits: Logits, settings: RelabelSettings, how: ExpertSettings) -> _Pairs:
    best = expert(entry, logits, how)
    if best is not None:
        for trajectory in entry.trajectories:
            states = trajectory.states if settings.last_state else _prefixes(trajectory)
            yield from ((turns, best) for turns in states)


def _authors(entry: ProblemAttempts, logits: Logits, settings: RelabelSettings, how: ExpertSettings) -> _Pairs:
    best, ends = expert(entry, logits, how), finals(entry)
    wrong = [t for t in _by_score(entry, logits) if not ends[t.solve].correct]
    relabelled = {trajectory.solve for trajectory in wrong[: settings.top]}
    for trajectory in entry.trajectories:
        own = ends.get(trajectory.solve)
        if own is not None and own.correct:
            yield from ((turns, own) for turns in _prefixes(trajectory))
        elif best is not None and trajectory.solve in relabelled:
            yield from ((turns, best) for turns in _prefixes(trajectory))


def _rft_single(entry: ProblemAttempts, logits: Logits, settings: RelabelSettings, how: ExpertSettings) -> _Pairs:
    del logits, settings, how
    yield from (((), attempt) for attempt in entry.attempts if attempt.candidate.turn == 1 and attempt.correct)


def _rft_multi(entry: ProblemAttempts, logits: Logits, settings: RelabelSettings, how: ExpertSettings) -> _Pairs:
    del logits, settings, how
    ends = finals(entry)
    for trajectory in entry.trajectories:
        if (end := ends.get(trajectory.solve)) is not None and end.correct:
            yield from _own(entry, trajectory)


def _rft_relabelled(entry: ProblemAttempts, logits: Logits, settings: RelabelSettings, how: ExpertSettings) -> _Pairs:
    del logits, settings, how
    ends = finals(entry)
    for trajectory in entry.trajectories:
        if (end := ends.get(trajectory.solve)) is not None and end.correct:
            yield from ((turns, end) for turns in _prefixes(trajectory))


def _rft_verifier(entry: ProblemAttempts, logits: Logits, settings: RelabelSettings, how: ExpertSettings) -> _Pairs:
    del how
    for trajectory in _by_score(entry, logits)[: settings.top]:
        yield from _own(entry, trajectory)


_PAIRS: dict[Method, Callable[[ProblemAttempts, Logits, RelabelSettings, ExpertSettings], _Pairs]] = {
    "mucode": _mucode,
    "authors": _authors,
    "rft-single": _rft_single,
    "rft-multi": _rft_multi,
    "rft-relabelled": _rft_relabelled,
    "rft-verifier": _rft_verifier,
}


_BY_VISITS = frozenset[Method]({"mucode", "authors"})


def _prefixes(trajectory: Trajectory) -> list[tuple[Turn, ...]]:
    """The states in which the trajectory wrote something."""
    return [trajectory.turns[:turn] for turn in range(len(trajectory.turns))]


def _own(entry: ProblemAttempts, trajectory: Trajectory) -> _Pairs:
    """Each state of a trajectory with the program that was fed back after it, right or wrong."""
    by_place = {(a.candidate.turn, a.candidate.index): a for a in entry.attempts if a.solve == trajectory.solve}
    for number, turn in enumerate(trajectory.turns):
        attempt = by_place.get((turn.best.turn, turn.best.index))
        if attempt is not None:  # a reply without a program is not an answer to learn
            yield trajectory.turns[:number], attempt


def _by_score(entry: ProblemAttempts, logits: Logits) -> list[Trajectory]:
    """Trajectories with a final program, the one that the verifier scores highest first."""
    ends = finals(entry)
    scored = [t for t in entry.trajectories if t.solve in ends]

    def order(trajectory: Trajectory) -> tuple[float, int, str, str]:
        end = ends[trajectory.solve]
        return -logit_of(entry, end, logits), len(end.candidate.code), end.form, trajectory.solve

    return sorted(scored, key=order)


def _row(entry: ProblemAttempts, turns: Sequence[Turn], attempt: Attempt) -> Row:
    messages = tuple(Message.model_validate(message) for message in plain_messages(state(entry.problem, turns)))
    return Row(
        problem_id=entry.problem.id,
        messages=messages,
        answer=answer_text(attempt.candidate.code),
        correct=attempt.correct,
        weight=attempt.weight,
    )


def _key(row: Row) -> str:
    return json.dumps([[message.content for message in row.messages], row.answer])


def _capped(rows: list[Row], problem_id: str, settings: RelabelSettings) -> list[Row]:
    if settings.per_problem is None or len(rows) <= settings.per_problem:
        return rows
    order = sorted(range(len(rows)), key=lambda i: _key(rows[i]))  # whatever order the trajectories came in
    random.Random(f"{settings.seed}/{problem_id}").shuffle(order)  # noqa: S311
    first = min(len(row.messages) for row in rows)
    order.sort(key=lambda i: len(rows[i].messages) > first)
    kept = set(order[: settings.per_problem])
    return [row for number, row in enumerate(rows) if number in kept]
