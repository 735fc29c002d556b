"""Checks a benchmark: runs every reference solution on its own public and private tests, in the real sandbox."""

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

from mucode_agent.evaluation.tables import Table
from mucode_agent.problems import docstring_tests
from mucode_agent.runs.config import Benchmark
from mucode_agent.tools.sandbox import run
from mucode_agent.types import CodeTest, ExecutionReport, InfrastructureError, Problem, Record, Sandbox

BATCH = 64
"""Problems between two progress messages."""

Finding = Literal["no reference", "no tests", "public test fails", "private test fails", "needs judge: together"]


class ReferenceFailure(Record):
    """A problem with a reference that does not pass, and why."""

    problem_id: str
    finding: Finding
    cause: str


class Check(Record):
    """The results for every problem of a benchmark."""

    benchmark: str
    split: str
    problems: int
    passed: int
    """Number of references that pass all their tests (at least one)."""
    failures: tuple[ReferenceFailure, ...]
    """One for each other problem."""
    judged_together: int
    """Problems with a reference that was judged in its own process, because their `judge` says so."""
    without_public_tests: tuple[str, ...]
    """Problems without public tests: only a verifier's probability can accept candidates, and feedback is weak."""
    without_private_tests: tuple[str, ...]
    """Problems without private tests: only the public tests judge."""


def check_references(benchmark: Benchmark, sandbox: Sandbox, progress: Callable[[int], None] = lambda _: None) -> Check:
    """Runs every reference; `progress` gets the number done. Raises InfrastructureError if the sandbox fails."""
    failures: list[ReferenceFailure] = []
    for start in range(0, len(benchmark.problems), BATCH):
        batch = benchmark.problems[start : start + BATCH]
        runnable = [p for p in batch if p.reference is not None and (p.public_tests or p.private_tests)]
        reports = run(sandbox, [problem.judge_job(problem.reference or "") for problem in runnable])
        found = {p.id: _failure_of(p, report) for p, report in zip(runnable, reports, strict=True)}
        found |= _needing_together(sandbox, [(p, failing) for p in runnable if (failing := found[p.id]) is not None])
        for problem in batch:
            failure = found[problem.id] if problem.id in found else _unrunnable(problem)
            if failure is not None:
                failures.append(failure)
        progress(start + len(batch))
    return Check(
        benchmark=benchmark.name,
        split=benchmark.split,
        problems=len(benchmark.problems),
        passed=len(benchmark.problems) - len(failures),
        failures=tuple(failures),
        judged_together=sum(problem.judge == "together" for problem in benchmark.problems),
        without_public_tests=tuple(problem.id for problem in benchmark.problems if not problem.public_tests),
        without_private_tests=tuple(problem.id for problem in benchmark.problems if not problem.private_tests),
    )


def without_false_examples(benchmark: Benchmark, sandbox: Sandbox) -> Benchmark:
    """The benchmark without wrong docstring examples; the paper split stays unchanged. See `sound_examples`."""
    if benchmark.split != "fixed":
        return benchmark
    return benchmark.model_copy(update={"problems": sound_examples(benchmark.problems, sandbox)})


def sound_examples(problems: Sequence[Problem], sandbox: Sandbox) -> tuple[Problem, ...]:
    """The problems without the docstring examples that their own reference fails.

    Warns of each. Other public tests are the publisher's, and stay. Raises InfrastructureError if the sandbox fails.
    """
    derived = ((problem, _derived(problem)) for problem in problems if problem.reference is not None)
    known = [(problem, examples) for problem, examples in derived if examples]
    reports = run(sandbox, [problem.job(problem.reference or "") for problem, _ in known])
    sound: dict[str, Problem] = {}
    for (problem, examples), report in zip(known, reports, strict=True):
        if report.status == "infra":
            raise InfrastructureError(f"the reference of {problem.id} could not be run: {report.error}")
        results = {test: result.status for test, result in zip(problem.public_tests, report.results, strict=False)}
        failed = [test for test in examples if results.get(test) in ("wrong_answer", "exception")]
        for test in failed:
            named = problem.id or "the problem"
            warnings.warn(f"{named}: the reference fails {test.code!r} of its docstring; left out", stacklevel=3)
        if failed:
            kept = tuple(test for test in problem.public_tests if test not in failed)
            sound[problem.id] = problem.model_copy(update={"public_tests": kept})
    return tuple(sound.get(problem.id, problem) for problem in problems)


def _derived(problem: Problem) -> list[CodeTest]:
    """The public tests that are examples of the docstring."""
    if problem.entry_point is None:
        return []
    examples = set(docstring_tests(problem.prompt, problem.entry_point))
    return [test for test in problem.public_tests if isinstance(test, CodeTest) and test in examples]


def _needing_together(sandbox: Sandbox, failing: list[tuple[Problem, ReferenceFailure]]) -> dict[str, ReferenceFailure]:
    """The references that pass in the program's own process, with their failure in the judge's process."""
    apart = [(problem, failure) for problem, failure in failing if problem.judge == "apart"]
    jobs = [p.judge_job(p.reference or "").model_copy(update={"judge": "together"}) for p, _ in apart]
    return {
        problem.id: failure.model_copy(update={"finding": "needs judge: together"})
        for (problem, failure), report in zip(apart, run(sandbox, jobs), strict=True)
        if report.passed and report.judge == "together"
    }


def check_table(check: Check) -> Table:
    """The totals, then every failure with its cause."""
    lacking = [
        f"{len(ids)} without {kind} tests"
        + (f" ({', '.join(ids[:30])}{', …' if len(ids) > 30 else ''})" if ids else "")
        for kind, ids in (("public", check.without_public_tests), ("private", check.without_private_tests))
    ]
    together = [f"{check.judged_together} judged together with their programs"] if check.judged_together else []
    return Table(
        title=f"{check.benchmark}, split {check.split}: {check.passed} of {check.problems} references pass all tests",
        note=f"{'; '.join([*lacking, *together])}.",
        columns=("problem", "finding", "cause"),
        rows=tuple((failure.problem_id, failure.finding, failure.cause) for failure in check.failures),
    )


def _unrunnable(problem: Problem) -> ReferenceFailure:
    if problem.reference is None:
        return ReferenceFailure(problem_id=problem.id, finding="no reference", cause="the row holds no solution to run")
    return ReferenceFailure(problem_id=problem.id, finding="no tests", cause="nothing judges an answer")


def _failure_of(problem: Problem, report: ExecutionReport) -> ReferenceFailure | None:
    if report.passed:
        return None
    if report.status == "infra":
        raise InfrastructureError(f"the reference of {problem.id} could not be run: {report.error}")
    failed = next((i for i, result in enumerate(report.results) if result.status != "passed"), 0)
    public = failed < len(problem.public_tests)
    return ReferenceFailure(
        problem_id=problem.id,
        finding="public test fails" if public else "private test fails",
        cause=_cause(report),
    )


def _cause(report: ExecutionReport) -> str:
    failure = report.first_failure
    if failure is None:
        return f"{report.status}: {report.error}"
    values = f"expected {failure.expected}, got {failure.actual}" if failure.expected or failure.actual else ""
    test = failure.test.strip()
    error_shows_test = bool(failure.error) and failure.error[:60] in test  # an assert's own message
    parts = [failure.error, values, f"in {test}" if test and not error_shows_test else ""]
    return _short(f"{failure.status}: {'; '.join(part for part in parts if part)}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else f"{line[:297]}..."
