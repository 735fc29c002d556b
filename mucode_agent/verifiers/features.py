"""The features of the evidence verifier: facts on each candidate, compared with the others of its turn. Pure functions.

No model reads a program's text here. A candidate's own signals enter twice: as the difference to the group's mean,
which orders the group, and as that mean, which shows how hard the problem is. Shares are shrunk by half a candidate, so
they are defined in a group of one too.
"""

import ast
import functools
import hashlib
import math
from collections import Counter
from collections.abc import Sequence
from typing import Final

from mucode_agent.probes import shown_calls
from mucode_agent.syntax import parse
from mucode_agent.types import Candidate, Problem

Evidence = tuple[str, ...]
"""The kinds of evidence that a group has, in the order of KINDS. They decide which weights apply."""

KINDS: Final = ("tests", "behaviour", "logprobs", "model")
"""Reports on public tests · outcomes on probes · the generator's log-probabilities · a language-model verifier's
logit."""

LARGEST: Final = 8
"""Larger groups count as this large, because the weights were not fitted on larger ones."""

_OWN: Final = {
    "": ("duplicates", "cut_off"),
    "tests": ("tests_passed", "tests_share"),
    "behaviour": ("agreement", "identical", "failures", "nones"),
    "logprobs": ("reply_mean", "reply_sum", "code_mean", "code_sum"),
    "model": ("model_logit",),
}
_GROUP: Final = {"": ("size", "turn"), "behaviour": ("largest_cluster", "clusters", "shown_inputs")}


def feature_names(evidence: Evidence) -> tuple[str, ...]:
    """The features that a group with this evidence has, in the order of `features`' columns."""
    kinds = ("", *evidence)
    own = [name for kind in kinds for name in _OWN.get(kind, ())]
    group = [name for kind in kinds for name in _GROUP.get(kind, ())]
    return (*(f"{name} - group" for name in own), *(f"group {name}" for name in own), *group)


def evidence_of(candidates: Sequence[Candidate], logits: Sequence[float] | None = None) -> Evidence:
    """The kinds that these candidates have: tests if any candidate was judged, the others if every program has them."""
    programs = [candidate for candidate in candidates if candidate.code]
    has = {
        "tests": any(candidate.report is not None and candidate.report.results for candidate in candidates),
        "behaviour": any(any(_outcomes(candidate)) for candidate in programs),
        "logprobs": bool(programs) and all(candidate.sample.likelihood is not None for candidate in programs),
        "model": logits is not None,
    }
    return tuple(kind for kind in KINDS if has[kind])


def features(
    problem: Problem, candidates: Sequence[Candidate], evidence: Evidence, logits: Sequence[float] | None = None
) -> list[list[float]]:
    """One row per candidate, one column per `feature_names(evidence)`. `logits` are a language-model verifier's.

    If all replies of a group are the same text, it counts as one candidate: a generator that repeats itself, as at
    temperature 0, shows no agreement.
    """
    size = len(candidates)
    if size > 1 and len({candidate.sample.text for candidate in candidates}) == 1:
        return features(problem, candidates[:1], evidence, logits and logits[:1]) * size
    columns: dict[str, list[float]] = {}
    forms = [normal_form(candidate.code) if candidate.code else f"none {i}" for i, candidate in enumerate(candidates)]
    counts = Counter(forms)
    columns["duplicates"] = [_share(counts[form] - 1, size) for form in forms]
    columns["cut_off"] = [float(candidate.sample.finish_reason == "length") for candidate in candidates]
    group: dict[str, float] = {
        "size": math.log(min(size, LARGEST)),
        "turn": float(candidates[0].turn - 1) if candidates else 0.0,
    }
    if "tests" in evidence:
        columns["tests_passed"] = [float(c.report is not None and c.report.passed) for c in candidates]
        columns["tests_share"] = [_tests_share(candidate) for candidate in candidates]
    if "behaviour" in evidence:
        behaviour, of_group = _behaviour([_outcomes(candidate) for candidate in candidates], _peers(candidates))
        columns |= behaviour
        group |= of_group
        group["shown_inputs"] = float(problem.entry_point is None or bool(shown_calls(problem)))
    if "logprobs" in evidence:
        columns |= _likelihood(candidates)
    if "model" in evidence:
        assert logits is not None
        columns["model_logit"] = list(logits)
    own = [name for kind in ("", *evidence) for name in _OWN.get(kind, ())]
    means = {name: math.fsum(columns[name]) / size for name in own}
    shared = [group[name] for kind in ("", *evidence) for name in _GROUP.get(kind, ())]
    return [
        [*(columns[name][i] - means[name] for name in own), *(means[name] for name in own), *shared]
        for i in range(size)
    ]


def agreement(outcomes: Sequence[Sequence[str]]) -> list[float]:
    """For each candidate the mean over inputs of the share of the others with the same result, shrunk (Σ + ½) / k.

    An exception, a time-out and an unknown outcome agree with nothing. Inputs on which fewer than half of the
    candidates return are ignored, because they are most likely invalid.
    """
    return _behaviour(outcomes, [True] * len(outcomes))[0]["agreement"]


@functools.lru_cache(maxsize=4096)
def normal_form(code: str) -> str:
    """A digest that programs share if only layout and comments differ; of the text if it does not parse."""
    try:
        text = ast.dump(parse(code))
    except SyntaxError:
        text = code
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _share(others: float, size: int) -> float:
    return (others + 0.5) / size


def _tests_share(candidate: Candidate) -> float:
    report = candidate.report
    return report.tests_passed / len(report.results) if report is not None and report.results else 0.0


def _outcomes(candidate: Candidate) -> tuple[str, ...]:
    return candidate.report.behaviour if candidate.report is not None else ()


def _returned(outcome: str) -> bool:
    return outcome.startswith("=") or outcome == "None"


def _peers(candidates: Sequence[Candidate]) -> list[bool]:
    """The candidates whose behaviour votes: those that pass the most public tests; all if there are no tests."""
    passed = [candidate.report.tests_passed if candidate.report is not None else 0 for candidate in candidates]
    return [count == max(passed) for count in passed]


def _behaviour(
    outcomes: Sequence[Sequence[str]], peers: Sequence[bool]
) -> tuple[dict[str, list[float]], dict[str, float]]:
    inputs = max(map(len, outcomes), default=0)
    table = [[*row, *[""] * (inputs - len(row))] for row in outcomes]
    voters = [row for row, votes in zip(table, peers, strict=True) if votes]
    returned = [sum(_returned(row[j]) for row in voters) for j in range(inputs)]
    valid = [j for j in range(inputs) if 2 * returned[j] >= len(voters) and returned[j]]
    counts = [Counter(row[j] for row in voters) for j in valid]
    rows = [[row[j] for j in valid] for row in table]
    whole = Counter(tuple(row) for row, votes in zip(rows, peers, strict=True) if votes and any(map(_returned, row)))
    columns: dict[str, list[float]] = {"agreement": [], "identical": [], "failures": [], "nones": []}
    known = max(len(valid), 1)
    for row, votes in zip(rows, peers, strict=True):
        size = len(voters) + (not votes)
        same = sum(count[cell] - votes for cell, count in zip(row, counts, strict=True) if _returned(cell)) / known
        columns["agreement"].append(_share(same, size))
        columns["identical"].append(_share(max(whole[tuple(row)] - votes, 0), size))
        columns["failures"].append(sum(bool(cell) and not _returned(cell) for cell in row) / known)
        columns["nones"].append(sum(cell == "None" for cell in row) / known)
    group = {
        "largest_cluster": max(columns["identical"], default=0.0),
        "clusters": math.log(max(len({tuple(row) for row, votes in zip(rows, peers, strict=True) if votes}), 1)),
    }
    return columns, group


def _likelihood(candidates: Sequence[Candidate]) -> dict[str, list[float]]:
    """The value; for a reply without a program, which may have none, the lowest of the others'."""
    known = [candidate.sample.likelihood for candidate in candidates]
    columns: dict[str, list[float]] = {name: [] for name in _OWN["logprobs"]}
    for found in known:
        if found is not None:
            reply, tokens, code, code_tokens = found
            for name, value in zip(columns, (reply / tokens, reply, code / code_tokens, code), strict=True):
                columns[name].append(value)
    lowest = {name: min(values) for name, values in columns.items()}
    full: dict[str, list[float]] = {}
    for name, values in columns.items():
        rest = iter(values)
        full[name] = [next(rest) if found is not None else lowest[name] for found in known]
    return full
