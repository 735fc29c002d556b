"""Small stand-ins behind our protocols: models that answer by rule, a sandbox that knows its verdicts, verifiers of one
rule. `ScriptedModel` is the one that we ship.
"""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage

from mucode_agent.models.scripted import ScriptedModel
from mucode_agent.types import Candidate, ExecutionReport, Job, Problem, Sample, Score, TestResult

__all__ = [
    "BrokenSandbox",
    "CountingSandbox",
    "LengthVerifier",
    "RuleSandbox",
    "ScriptedModel",
    "SeededModel",
    "candidates_of",
    "fenced",
]


def fenced(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```\n"


class SeededModel(ScriptedModel):
    """The reply depends on the messages, the seed and the temperature alone, as of a server that honours seeds."""

    replies: Any = ()
    model: str = "SeededModel"
    native_n: bool = False
    before: Any = None
    """Called with messages, seed and temperature before each draw."""

    def _reply(self, messages: list[BaseMessage], options: dict[str, Any]) -> AIMessage:
        seed, temperature = options["seed"], options.get("temperature")
        if self.before is not None:
            self.before(messages, seed, temperature)
        text = "".join(str(message.content) for message in messages)
        value = random.Random(f"{text}/{seed}/{temperature}").randrange(12)
        return AIMessage(
            fenced(f"def f(x):\n    return {value}  # {'é' * value}"),
            usage_metadata={"input_tokens": 7, "output_tokens": value, "total_tokens": 7 + value},
        )


class RuleSandbox:
    """Judges by a rule on the code, without running it."""

    isolation = "none"

    def __init__(self, passes: Callable[[str], bool]) -> None:
        self.passes = passes
        self.jobs: list[Job] = []

    def submit(self, job: Job) -> Future[ExecutionReport]:
        self.jobs.append(job)
        future: Future[ExecutionReport] = Future()
        future.set_result(self._report(job))
        return future

    def _report(self, job: Job) -> ExecutionReport:
        status = "passed" if self.passes(job.code) else "wrong_answer"
        if not job.tests:
            return ExecutionReport(status="unjudged")
        return ExecutionReport(status=status, results=tuple(TestResult(status=status) for _ in job.tests))

    def close(self) -> None:
        pass


class CountingSandbox(RuleSandbox):
    """Passes programs that return 3; calls `before` at each job."""

    def __init__(self, before: Callable[[], Any]) -> None:
        super().__init__(lambda code: "return 3" in code)
        self.before = before

    def submit(self, job: Job) -> Future[ExecutionReport]:
        self.before()
        return super().submit(job)


class BrokenSandbox(RuleSandbox):
    def __init__(self) -> None:
        super().__init__(lambda _: False)

    def _report(self, job: Job) -> ExecutionReport:
        return ExecutionReport(status="infra", error="the worker could not start")


class LengthVerifier:
    """Prefers long programs; P(correct) grows with length where it is calibrated, on programs of `generators`."""

    name = "length"
    accept_threshold: float | None = None

    def __init__(self, *generators: str, calibrated: bool = False) -> None:
        self.calibrated_on = generators if generators or calibrated else None
        self.seen: list[tuple[Problem, tuple[Candidate, ...]]] = []

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        self.seen.append((problem, tuple(candidates)))
        return [
            Score(
                logit=float(len(c.code)),
                probability=None if self.calibrated_on is None else min(1.0, len(c.code) / 100),
            )
            for c in candidates
        ]


def candidates_of(
    codes: Sequence[str], behaviour: Sequence[Sequence[str]] = (), logprobs: Sequence[float] = (), turn: int = 1
) -> list[Candidate]:
    """One candidate per program, with what it did on probes, and a mean log-probability, where these are given."""
    return [
        Candidate(
            turn=turn,
            index=i,
            sample=Sample(
                text=fenced(code), seed=i, completion_tokens=10, logprob=10 * logprobs[i] if logprobs else None
            ),
            code=code,
            report=ExecutionReport(status="unjudged", behaviour=tuple(behaviour[i])) if behaviour else None,
        )
        for i, code in enumerate(codes)
    ]
