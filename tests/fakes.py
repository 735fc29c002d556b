"""Small stand-ins behind our protocols: scripted models, a sandbox that knows its verdicts, verifiers of one rule."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field

from mucode_agent.types import Candidate, ExecutionReport, Job, Problem, Sample, Score, TestResult


def fenced(code: str) -> str:
    return f"Here it is:\n```python\n{code}\n```\n"


class ScriptedModel(BaseChatModel):
    """Replies in order, over all turns; remembers what it was asked for each reply. The last reply repeats.

    The n samples of a turn come in one request, so their order never depends on threads.
    """

    native_n: bool = True
    replies: list[str]
    seen: list[list[BaseMessage]] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        *,
        n: int = 1,
        seed: int = 0,
        **kwargs: Any,
    ) -> ChatResult:
        replies = [self.replies[min(len(self.seen) + i, len(self.replies) - 1)] for i in range(n)]
        self.seen += [messages] * n
        self.seeds += range(seed, seed + n)
        usage = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}
        return ChatResult(
            generations=[ChatGeneration(message=AIMessage(reply, usage_metadata=usage)) for reply in replies]
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
