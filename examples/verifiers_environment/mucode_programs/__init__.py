"""One program per problem, rewarded where it passes all tests in mucode_agent's sandbox."""

from collections.abc import Iterator
from typing import Any

import verifiers.v1 as vf

from mucode_agent import InfrastructureError, Problem
from mucode_agent.adapters.rewards import reward_of
from mucode_agent.evaluation.benchmarks import load_benchmark
from mucode_agent.extraction import extract_code
from mucode_agent.prompts import outcome, render
from mucode_agent.tools.sandbox import SharedSandbox, arun

__all__ = ["ProgramsTaskset"]

SANDBOX = SharedSandbox()


class ProgramData(vf.TaskData):
    problem: dict[str, Any]
    """In JSON form, private tests included: the model sees the prompt alone."""


class ProgramTask(vf.Task[ProgramData]):
    @vf.reward
    async def tests_pass(self, trace: vf.Trace) -> float:
        problem = Problem.model_validate(self.data.problem)
        code = extract_code(trace.last_reply, problem.entry_point)
        return await self._judged(problem, code) if code else 0.0

    async def validate(self, runtime: vf.Runtime) -> bool | None:
        del runtime
        problem = Problem.model_validate(self.data.problem)
        return await self._judged(problem, problem.reference) == 1.0 if problem.reference else None

    async def _judged(self, problem: Problem, code: str) -> float:
        [report] = await arun(SANDBOX, [problem.judge_job(code)])
        if (reward := reward_of(report)) is None:
            raise InfrastructureError(f"{problem.id} could not be judged: {outcome(report)}")
        return reward


class ProgramsConfig(vf.TasksetConfig):
    problems: str = "humaneval"
    """A benchmark as of `evaluate run`: humaneval, mbpp:FILE, jsonl:FILE, …"""


class ProgramsTaskset(vf.Taskset[ProgramTask, ProgramsConfig]):
    def load(self) -> Iterator[ProgramTask]:
        for problem in load_benchmark(self.config.problems).problems:
            prompt = "\n\n".join(str(message.text) for message in render(problem.public(), ()))
            data = ProgramData(id=problem.id, prompt=prompt, problem=problem.model_dump(mode="json"))
            yield ProgramTask(data, self.config.task)
