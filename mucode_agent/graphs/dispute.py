"""Feedback where there are no tests: an input on which a turn's programs disagree, and what the selected one returns.

The feedback does not say which program is right, since nobody knows. Behaviour on probes is stored as digests. So the
selected program runs once more, on a test that expects a value which no program returns: the failure shows the value.
"""

from collections.abc import Sequence

from mucode_agent.types import Candidate, CodeTest, ExecutionReport, Job, Problem, StdioTest

_NO_VALUE = "a value that no program returns"


def disputed_input(probes: Sequence[str], candidates: Sequence[Candidate], best: Candidate) -> str:
    """The probe on which most others return something else than `best`, the first of equals; empty if there is none.

    A probe on which fewer than half of the programs return is most likely an invalid input.
    """
    known = {c.index: c.report.behaviour for c in candidates if c.report is not None and c.report.behaviour}
    if best.index not in known:
        return ""

    def against(place: int) -> int:
        outcomes = {index: row[place] for index, row in known.items() if place < len(row)}
        returning = {index: outcome for index, outcome in outcomes.items() if _returned(outcome)}
        if best.index not in outcomes or not outcomes[best.index] or 2 * len(returning) < len(known):
            return 0
        return sum(outcome != outcomes[best.index] for outcome in returning.values())

    place = max(range(len(probes)), key=against, default=None)
    return "" if place is None or not against(place) else probes[place]


def revealing_job(problem: Problem, code: str, probe: str) -> Job:
    """`code` with a test that fails and so shows what it returns, or prints, for `probe`."""
    test = (
        StdioTest(stdin=probe, stdout=_NO_VALUE)
        if problem.entry_point is None
        else CodeTest(code=f"assert {probe} == {_NO_VALUE!r}")
    )
    return problem.job(code).model_copy(update={"tests": (test,)})


def shown_result(report: ExecutionReport) -> str:
    """The value in the report of a `revealing_job`, in words; empty if it is unknown."""
    failure = report.first_failure
    if failure is None or failure.status in ("unjudged", "infra", "skipped"):
        return ""
    if failure.status == "wrong_answer":
        return failure.actual.strip("\n")
    return failure.error or failure.status.replace("_", " ")


def _returned(outcome: str) -> bool:
    return outcome.startswith("=") or outcome == "None"
