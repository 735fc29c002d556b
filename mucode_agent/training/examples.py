"""A verifier's training examples: distinct programs of one problem, with the pairs to compare. Pure functions.

The paper's pairs (section 3.2, eq. 3) are right and wrong programs of one problem. A program that is in several pairs
is read once: pairs come in groups, and a group's loss is the mean over its pairs (InstructGPT, Ouyang et al. 2022,
section 3.5, argues the same for over-fitting).
"""

import difflib
import hashlib
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence

from mucode_agent.training.data import Attempt, ProblemAttempts
from mucode_agent.training.settings import GROUP, Loss
from mucode_agent.types import Problem, ProblemError, Record, Sample

NEAR = 0.8
"""Least share of common content words for which two statements count as one problem."""


class Group(Record):
    """Distinct programs of one problem."""

    problem_id: str
    codes: tuple[str, ...]
    labels: tuple[bool, ...]
    samples: tuple[Sample, ...]
    """The generator's log-probability of each program."""

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Indices of (right, wrong), every combination."""
        return [(i, j) for i, y in enumerate(self.labels) if y for j, z in enumerate(self.labels) if not z]


def groups(
    data: Iterable[ProblemAttempts],
    *,
    loss: Loss,
    per_problem: int = 2 * GROUP,
    near_misses: bool = False,
    seed: int = 0,
) -> list[Group]:
    """The training examples: per problem at most `per_problem` distinct programs, right and wrong ones in balance.

    With `bt` alone, problems with only right or only wrong programs are left out, because they give no pair. With
    `near_misses` the wrong programs kept are those that pass the most public tests and are most similar to a right one;
    else they are drawn at random. Same data and seed, same groups, whatever the order of the attempts.
    """
    found: list[Group] = []
    for entry in sorted(data, key=lambda entry: entry.problem.id):
        chance = random.Random(f"{seed}/{entry.problem.id}")  # noqa: S311
        attempts = sorted(entry.distinct(), key=lambda attempt: attempt.form)
        chance.shuffle(attempts)
        right = [attempt for attempt in attempts if attempt.correct]
        wrong = [attempt for attempt in attempts if not attempt.correct]
        if not (right and wrong) and loss == "bt":
            continue
        if near_misses and right:
            wrong.sort(key=lambda attempt: _nearness(attempt, right), reverse=True)
        most = max(per_problem // 2, per_problem - min(len(right), len(wrong)))
        right, wrong = right[:most], wrong[:most]
        found += [_group(entry.problem, part) for part in _parts(right, wrong)]
    return found


def overlap(training: Sequence[Problem], evaluation: Sequence[Problem]) -> list[tuple[str, str]]:
    """Pairs of ids (training, evaluation) of one and the same problem: nearly equal statements, or equal tests.

    Statements are compared as bags of their content words, without the entry point's name, numbers and punctuation.
    Tests are compared without the entry point's name; at least two, and half of either problem's tests, must agree.
    """
    known = [(problem.id, _words(problem), _tests(problem)) for problem in evaluation]
    found = []
    for problem in training:
        mine, tests = _words(problem), _tests(problem)
        found += [(problem.id, id_) for id_, words, others in known if _alike(mine, words) or _same(tests, others)]
    return found


def without_overlap(training: Sequence[Problem], evaluation: Sequence[Problem], *, drop: bool) -> set[str]:
    """Ids of the training problems that are not in the evaluation set.

    Raises ProblemError naming those that do, unless they are to be dropped.
    """
    common = overlap(training, evaluation)
    if common and not drop:
        common_ids = ", ".join(f"{mine} (is {theirs})" for mine, theirs in common[:8])
        raise ProblemError(
            f"{len({mine for mine, _ in common})} training problems are also in an evaluation set, equal or nearly "
            f"so: {common_ids}; leave them out with --drop-overlap, or problems.drop_overlap = true"
        )
    return {problem.id for problem in training} - {mine for mine, _ in common}


def held_out(
    data: Sequence[ProblemAttempts], share: float, seed: int
) -> tuple[list[ProblemAttempts], list[ProblemAttempts]]:
    """The data split by problem, (training, held out); the part depends only on the problem's id and the seed."""
    if not 0 <= share < 1:
        raise ProblemError(f"the held-out share must be at least 0 and less than 1, got {share}")
    cut = int(share * (1 << 32))

    def out(entry: ProblemAttempts) -> bool:
        return int.from_bytes(hashlib.sha256(f"{seed}/{entry.problem.id}".encode()).digest()[:4]) < cut

    return [entry for entry in data if not out(entry)], [entry for entry in data if out(entry)]


def _group(problem: Problem, attempts: Sequence[Attempt]) -> Group:
    return Group(
        problem_id=problem.id,
        codes=tuple(attempt.candidate.code for attempt in attempts),
        labels=tuple(attempt.correct for attempt in attempts),
        samples=tuple(attempt.candidate.sample for attempt in attempts),
    )


def _parts(right: list[Attempt], wrong: list[Attempt]) -> list[list[Attempt]]:
    """Groups of at most GROUP programs, right and wrong ones spread evenly over them."""
    count = -(-(len(right) + len(wrong)) // GROUP)
    return [right[part::count] + wrong[count - 1 - part :: count] for part in range(count)]


def _nearness(attempt: Attempt, right: Sequence[Attempt]) -> tuple[float, float]:
    report = attempt.candidate.report
    passed = report.tests_passed / len(report.results) if report and report.results else 0.0
    matcher = difflib.SequenceMatcher(b=attempt.candidate.code, autojunk=False)
    ratios = []
    for other in right[:GROUP]:
        matcher.set_seq1(other.candidate.code)
        ratios.append(matcher.quick_ratio())
    return passed, max(ratios)


_STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as be by find for from function given if in is it of on or python return that the this to using "
        "which whether with write you your",
    )
)


def _words(problem: Problem) -> Counter[str]:
    text = problem.prompt.replace(problem.entry_point or "\0", " ")
    return Counter(word for word in re.findall(r"[a-z]+", text.lower()) if word not in _STOP_WORDS)


def _tests(problem: Problem) -> set[str]:
    tests = (*problem.public_tests, *problem.private_tests)
    texts = (test.model_dump_json().replace(problem.entry_point or "\0", "f") for test in tests)
    return {re.sub(r"\s+", "", text) for text in texts}


def _alike(a: Counter[str], b: Counter[str]) -> bool:
    either = (a | b).total()
    return either > 0 and (a & b).total() / either >= NEAR


def _same(a: set[str], b: set[str]) -> bool:
    shared = len(a & b)
    return shared >= min(2, len(a), len(b)) > 0 and shared >= max(len(a), len(b)) / 2
