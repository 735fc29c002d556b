"""Labels, made outside the graph by every distinct program of a problem on all its tests; and complete solves."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from mucode_agent.graphs.selection import normal_form
from mucode_agent.runs.directory import Judgement
from mucode_agent.tools.sandbox import arun
from mucode_agent.traces import CandidateRow, DecisionRow, ProblemRow, TraceRow
from mucode_agent.types import Candidate, ExecutionReport, InfrastructureError, Problem, Sandbox


def distinct_programs(candidates: Iterable[Candidate]) -> dict[str, str]:
    """Code by normal form; a reply without a program is left out."""
    return {normal_form(candidate.code): candidate.code for candidate in candidates if candidate.code}


async def judge(
    sandbox: Sandbox, problem: Problem, programs: Mapping[str, str], keep: Callable[[list[Judgement]], None]
) -> None:
    """Passes the verdicts on `programs` (code by normal form), by public and private tests, to `keep`.

    If the sandbox fails, the verdicts so far are kept, then InfrastructureError is raised.
    """
    reports = await arun(sandbox, [problem.judge_job(code) for code in programs.values()])
    judgements = [_judgement(problem.id, form, report) for form, report in zip(programs, reports, strict=True)]
    if sound := [judgement for judgement in judgements if judgement.status != "infra"]:
        keep(sound)
    if broken := [judgement for judgement in judgements if judgement.status == "infra"]:
        raise InfrastructureError(
            f"{len(broken)} of {len(judgements)} programs of {problem.id} could not be judged: {broken[0].error}"
        )


class WholeSolves:
    """A trace sink that holds the rows of a solve until it is complete, so two records of it are never mixed."""

    def __init__(self, finish: Callable[[list[TraceRow]], None]) -> None:
        """`finish` gets the rows of each finished solve in which the sandbox never failed."""
        self._finish = finish
        self._rows: dict[str, list[TraceRow]] = {}

    def write(self, rows: Sequence[TraceRow]) -> None:
        """Raises InfrastructureError, and drops the solve, if a candidate could not be run."""
        for row in rows:
            if isinstance(row, ProblemRow):
                self._rows[row.run_id] = []
            self._rows[row.run_id].append(row)
            if isinstance(row, DecisionRow) and row.solution is not None:
                solve_rows = self._rows.pop(row.run_id)
                _check_run(solve_rows)
                self._finish(solve_rows)


def _check_run(rows: Sequence[TraceRow]) -> None:
    for row in rows:
        report = row.candidate.report if isinstance(row, CandidateRow) else None
        if report is not None and report.status == "infra":
            raise InfrastructureError(f"a candidate could not be run on its public tests: {report.error}")


def _judgement(problem_id: str, program: str, report: ExecutionReport) -> Judgement:
    failure = report.first_failure
    return Judgement(
        problem_id=problem_id,
        program=program,
        status=report.status,
        tests_passed=report.tests_passed,
        tests=len(report.results),
        error=(failure.error if failure else report.error),
    )
