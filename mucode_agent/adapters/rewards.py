"""Rewards for reinforcement learning from tests in the sandbox, with TRL's and verl's signatures. Imports neither.

The signatures: https://huggingface.co/docs/trl/grpo_trainer#using-a-custom-reward-function and verl 0.9's
`custom_reward_function`. prime-rl trains on environments of verifiers: see `examples/verifiers_environment`.
"""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mucode_agent.extraction import extract_code
from mucode_agent.problems import read_problem
from mucode_agent.tools.sandbox import load_sandbox, run
from mucode_agent.types import ExecutionReport, InfrastructureError, Job, Problem, ProblemError, Sandbox

Reward = Callable[..., list[float | None]]


def create_reward(sandbox: str | Sandbox = "local", *, column: str = "tests", partial: bool = False) -> Reward:
    """A reward function for `GRPOTrainer(reward_funcs=…)`: 1.0 if a completion passes its row's tests, else 0.0.

    The completions of a batch are judged in parallel. The reward is None, which TRL leaves out of a group's mean, if
    the sandbox is broken or the tests cannot judge any program. A program that cannot be judged because of what it did
    itself gets 0.0 (`ExecutionReport.judged`).

    Args:
        sandbox: Where programs run; closed with the function if it is a string.
        column: The dataset's column with each row's tests: a list of asserts or of objects with stdin and stdout, or a
            whole problem, whose private tests count too; or the JSON text of one of these. For a list of tests, the
            columns `entry_point` and `setup` are read if the dataset has them.
        partial: Return the share of tests passed instead, in [0, 1].

    Raises:
        ProblemError: When called: the dataset has no such column, or a row's tests cannot be used.
    """
    place = load_sandbox(sandbox) if isinstance(sandbox, str) else sandbox

    def tests_pass(prompts: Sequence[Any], completions: Sequence[Any], **columns: Any) -> list[float | None]:
        del prompts
        if column not in columns:
            known = ", ".join(name for name, values in columns.items() if isinstance(values, list))
            raise ProblemError(
                f"the dataset has no column {column!r}, only {known}: add it, or name another in column="
            )
        rows = zip(
            completions,
            columns[column],
            columns.get("entry_point") or [None] * len(completions),
            columns.get("setup") or [None] * len(completions),
            strict=True,
        )
        jobs = [_job(text_of(completion), *given) for completion, *given in rows]
        reports = iter(run(place, [job for job in jobs if job is not None]))
        return [0.0 if job is None else reward_of(next(reports), partial=partial) for job in jobs]

    return tests_pass


def create_verl_reward(sandbox: str | Sandbox = "local", *, partial: bool = False) -> Callable[..., float]:
    """A `compute_score` for verl; `ground_truth` has the form of a row in `create_reward`'s column.

    verl has no missing reward, so a completion that cannot be judged raises InfrastructureError.
    """
    reward = create_reward(sandbox, column="tests", partial=partial)

    def compute_score(
        data_source: str, solution_str: str, ground_truth: Any, extra_info: Mapping[str, Any] | None = None, **_: Any
    ) -> float:
        info = extra_info or {}
        columns = {name: [info[name]] for name in ("entry_point", "setup") if info.get(name)}
        [score] = reward([None], [solution_str], tests=[ground_truth], **columns)
        if score is None:
            raise InfrastructureError(
                f"a completion of {data_source} could not be judged: see `python -m mucode_agent doctor`, and "
                "`evaluate check` for its tests"
            )
        return score

    return compute_score


def text_of(completion: Any) -> str:
    """The text of a completion: a string, or the last of its messages, as text or parts."""
    if isinstance(completion, str):
        return completion
    content = completion[-1]["content"] if completion else ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text") or "" for part in content or ())


def reward_of(report: ExecutionReport, *, partial: bool = False) -> float | None:
    """The reward for a report; None if the sandbox failed or the tests cannot judge any program."""
    if not report.judged:
        return None
    if partial:
        return report.tests_passed / len(report.results) if report.results else 0.0
    return float(report.passed)


def _job(text: str, tests: Any, entry_point: str | None, setup: str | None) -> Job | None:
    """None if the completion contains no program."""
    given = tests if isinstance(tests, str) else json.dumps(tests, sort_keys=True, default=list)
    problem = _problem(given, entry_point, setup)
    code = extract_code(text, problem.entry_point)
    return problem.judge_job(code) if code else None


@functools.lru_cache(maxsize=4096)
def _problem(given: str, entry_point: str | None, setup: str | None) -> Problem:
    """Cached, because a group's completions share it."""
    try:
        held = json.loads(given)
    except ValueError:
        if given.lstrip().startswith(("{", "[")):
            raise ProblemError(f"a row's tests are no JSON: {given[:80]!r}") from None
        held = [given]  # one test's source
    if isinstance(held, dict):  # a column of structs has null for missing fields
        return read_problem({name: value for name, value in held.items() if value is not None})
    if not isinstance(held, list) or not held:
        raise ProblemError(f"a row's tests must be a list of at least one, got {given[:80]}")
    row = {"prompt": "The task of a row.", "public_tests": held, "entry_point": entry_point, "setup": setup or ""}
    return read_problem(row)
