"""Two runs side by side, paired by problem."""

import json
from itertools import zip_longest
from pathlib import Path

from pydantic import TypeAdapter

from mucode_agent.evaluation.results import RESULTS_VERSION, Comparison, Results
from mucode_agent.evaluation.tables import Table
from mucode_agent.files import parsed, read_bytes
from mucode_agent.graphs.selection import normal_form
from mucode_agent.metrics import compare
from mucode_agent.runs.config import ArmName
from mucode_agent.runs.reading import read_solves
from mucode_agent.types import Candidate, ProblemError

_RESULTS = TypeAdapter(Results)


def read_results(path: Path) -> Results:
    """The results of a run directory, or of a results.json. Raises ProblemError."""
    file = path / "results.json" if path.is_dir() else path
    data = read_bytes(file, remedy="give a directory that `evaluate run` wrote")
    try:
        version = json.loads(data)["results_version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ProblemError(f"{file} holds no results of a run; make them again with `evaluate report`") from None
    if version != RESULTS_VERSION:
        raise ProblemError(
            f"{file} has results_version {version}, this version of mucode_agent reads {RESULTS_VERSION}; "
            "make it again with `evaluate report`, or use the version that wrote it"
        )
    return parsed(_RESULTS, data, str(file))


def compare_runs(a: Results, b: Results) -> list[Comparison]:
    """Every figure that both runs have, over the problems that both finished. Raises ProblemError if there is none."""
    if a.identity.benchmark_sha256 != b.identity.benchmark_sha256:
        raise ProblemError(
            f"the runs are of different problems: A of {_asked(a)}, B of {_asked(b)}; "
            "compare runs with the same benchmark, split, variant and limit"
        )
    common = [problem for problem in a.outcomes if problem in b.outcomes]
    if not common:
        raise ProblemError("the runs have finished no problem in common; let them finish more, then compare")
    figures = [figure for figure in a.outcomes[common[0]] if figure in b.outcomes[common[0]]]
    if not figures:
        raise ProblemError("the runs have no figure in common; run both with a search that the other has")
    return [
        Comparison(
            name=figure,
            a=a.identity.model,
            b=b.identity.model,
            difference=compare([a.outcomes[p][figure] for p in common], [b.outcomes[p][figure] for p in common]),
        )
        for figure in figures
    ]


def answers_table(a: Path, b: Path, arm: ArmName) -> Table:
    """The answers of two runs that differ in text, with the first line that differs.

    Greedy answers of one model on two engines should agree; rounding separates them if two tokens are almost equally
    likely. Raises ProblemError if a directory has no finished solve of the arm.
    """
    first, second = _answers(a, arm), _answers(b, arm)
    common = [problem for problem in first if problem in second]
    if not common:
        raise ProblemError(f"the runs have finished no problem of the search {arm} in common")
    differing = [problem for problem in common if first[problem].sample.text != second[problem].sample.text]
    programs = sum(normal_form(first[problem].code) == normal_form(second[problem].code) for problem in common)
    return Table(
        title=f"Answers of {arm}: {len(common) - len(differing)} of {len(common)} replies are the same text",
        note=f"{programs} of {len(common)} programs are the same up to layout. A is {a}. B is {b}.",
        columns=("problem", "program", "first line of A that differs", "the same line of B"),
        rows=tuple(_parting(problem, first[problem], second[problem]) for problem in differing),
    )


def _answers(directory: Path, arm: ArmName) -> dict[str, Candidate]:
    return {solve.problem_id: solve.solution.best for solve in read_solves(directory) if solve.arm == arm}


def _parting(problem: str, a: Candidate, b: Candidate) -> tuple[str, ...]:
    same = normal_form(a.code) == normal_form(b.code)
    pairs = zip_longest(a.sample.text.splitlines(), b.sample.text.splitlines(), fillvalue="(nothing)")
    lines = next((pair for pair in pairs if pair[0] != pair[1]), ("(white space)", "(white space)"))
    return (problem, "same" if same else "differs", *(line.strip()[:80] for line in lines))


def _asked(results: Results) -> str:
    identity = results.identity
    variant = f"split {identity.split}{', testless' if identity.testless else ''}"
    return f"{identity.benchmark} ({identity.problems} problems, {variant})"
