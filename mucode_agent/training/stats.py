"""Counts over traces, and one problem's trajectories turn by turn."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from pydantic import Field

from mucode_agent.evaluation.tables import Table
from mucode_agent.prompts import outcome, task
from mucode_agent.runs.directory import Solve
from mucode_agent.training.data import Attempt, ProblemAttempts
from mucode_agent.types import Candidate, Record


class TurnStats(Record):
    """The attempts of one turn. Later turns have harder problems: those that failed before."""

    turn: int
    attempts: int
    correct: int

    @property
    def share(self) -> float:
        return self.correct / self.attempts


class TraceStats(Record):
    """Counts over directories of traces."""

    stats_version: int = 1
    problems: int = 0
    trajectories: int = 0
    """Solves."""
    replies: int = 0
    """Completions drawn."""
    without_program: int = 0
    attempts: int = 0
    """Labelled programs: replies with a program and a verdict, and programs that users judged."""
    by_source: dict[str, int] = Field(default_factory=dict)
    correct: int = 0
    distinct_programs: int = 0
    """Distinct programs, by normal form within each problem."""
    distinct_correct: int = 0
    all_pass: int = 0
    """Problems with only correct attempts; they give no preference pair."""
    all_fail: int = 0
    """Problems without a correct attempt; they give no expert's answer."""
    mixed: int = 0
    unattempted: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    turns: tuple[TurnStats, ...] = ()


def trace_stats(traces: Iterable[tuple[ProblemAttempts, Sequence[Solve]]]) -> TraceStats:
    counts: Counter[str] = Counter()
    sources: Counter[str] = Counter()
    turns: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    for entry, solves in traces:
        distinct, drawn = entry.distinct(), [candidate for solve in solves for candidate in solve.candidates]
        right = sum(attempt.correct for attempt in entry.attempts)
        for attempt in entry.attempts:
            turns[attempt.candidate.turn][0] += 1
            turns[attempt.candidate.turn][1] += attempt.correct
        sources.update(attempt.source for attempt in entry.attempts)
        counts.update(
            problems=1,
            trajectories=len(solves),
            replies=len(drawn),
            without_program=sum(not candidate.code for candidate in drawn),
            attempts=len(entry.attempts),
            correct=right,
            distinct_programs=len(distinct),
            distinct_correct=sum(attempt.correct for attempt in distinct),
            prompt_tokens=sum(candidate.sample.prompt_tokens for candidate in drawn),
            completion_tokens=sum(candidate.sample.completion_tokens for candidate in drawn),
        )
        counts[_kind(right, len(entry.attempts))] += 1
    rates = tuple(TurnStats(turn=turn, attempts=n, correct=right) for turn, (n, right) in sorted(turns.items()))
    return TraceStats(**counts, by_source=dict(sources), turns=rates)


def stats_tables(stats: TraceStats) -> list[Table]:
    of_problems = [("all attempts correct", stats.all_pass), ("some", stats.mixed), ("none", stats.all_fail)]
    counted = [
        ("problems", stats.problems),
        *((f"  {words}", count) for words, count in of_problems),
        ("  without attempts", stats.unattempted),
        ("trajectories", stats.trajectories),
        ("replies", stats.replies),
        ("  without a program", stats.without_program),
        ("labelled attempts", stats.attempts),
        *((f"  of {source}s", count) for source, count in sorted(stats.by_source.items())),
        ("  correct", stats.correct),
        ("distinct programs", stats.distinct_programs),
        ("  correct", stats.distinct_correct),
        ("prompt tokens", stats.prompt_tokens),
        ("completion tokens", stats.completion_tokens),
    ]
    by_turn = [(f"turn {t.turn}", f"{t.attempts:,}", f"{t.correct:,}", f"{100 * t.share:.1f}") for t in stats.turns]
    return [
        Table(
            title="Traces",
            note="Programs are distinct by normal form within each problem.",
            columns=("", "count"),
            rows=tuple((words, f"{count:,}") for words, count in counted),
        ),
        Table(
            title="Attempts by turn",
            note="A later turn has only problems that failed the public tests before.",
            columns=("", "attempts", "correct", "%"),
            rows=tuple(by_turn),
        ),
    ]


def trajectories_as_text(entry: ProblemAttempts, solves: Sequence[Solve]) -> Iterator[str]:
    """The lines that show every trajectory of a problem, turn by turn. Output of models and tests is shown as text."""
    labels = {(attempt.solve, attempt.candidate.turn, attempt.candidate.index): attempt for attempt in entry.attempts}
    yield from _block(f"problem {entry.problem.id}", task(entry.problem))
    for number, solve in enumerate(solves):
        settings = solve.settings
        said = f"{settings['model']}, seed {settings['seed']}, temperature {settings['temperature']}"
        yield _visible(f"── trajectory {number} · {said} · {solve.solution.stop_reason}")
        yield ""
        for candidate in solve.candidates:
            label = labels.get((solve.run_id, candidate.turn, candidate.index))
            yield from _block(_heading(candidate, label), candidate.sample.text)
            yield from _block(_public(candidate), outcome(candidate.report))
    for attempt in entry.attempts:
        if attempt.source == "user":
            word = "accepted" if attempt.correct else "rejected"
            yield from _block(f"── by users · {word}, weight {attempt.weight:g}", attempt.candidate.code)


def _heading(candidate: Candidate, label: Attempt | None) -> str:
    sample = candidate.sample
    verdict = "no verdict" if label is None else "correct" if label.correct else "wrong"
    place = f"turn {candidate.turn}" + (f", candidate {candidate.index}" if candidate.index else "")
    return f"{place} · {sample.completion_tokens} tokens · {sample.finish_reason or 'ended'} · {verdict}"


def _public(candidate: Candidate) -> str:
    report = candidate.report
    if report is None:
        return "public tests · not run"
    return f"public tests · {report.status}, {report.tests_passed} of {len(report.results)} passed"


def _block(heading: str, text: str) -> Iterator[str]:
    yield _visible(heading)
    for line in text.split("\n"):
        yield f"    {_visible(line)}"
    yield ""


def _visible(line: str) -> str:
    """Control and formatting characters as escapes, so a model's output cannot control the terminal."""
    return "".join(
        character if character == "\t" or unicodedata.category(character)[0] != "C" else _escape(character)
        for character in line
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _kind(right: int, attempts: int) -> str:
    if not attempts:
        return "unattempted"
    return "all_pass" if right == attempts else "mixed" if right else "all_fail"
