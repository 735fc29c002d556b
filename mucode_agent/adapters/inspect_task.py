"""For `inspect eval` of inspect_ai: a task for any benchmark, a scorer by our sandbox, our solver around its model.

https://inspect.aisi.org.uk: a task is a dataset, a solver that answers, and a scorer that judges the answers.
"""

from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageAssistant, ChatMessageSystem, ChatMessageUser, Model, get_model
from inspect_ai.scorer import CORRECT, INCORRECT, Score, Scorer, Target, accuracy, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver
from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import Runnable, RunnableLambda

from mucode_agent.adapters import apart
from mucode_agent.evaluation.benchmarks import load_benchmark
from mucode_agent.extraction import extract_code
from mucode_agent.graphs.embed import response_of
from mucode_agent.graphs.solver import create_solver
from mucode_agent.prompts import outcome, render
from mucode_agent.tools.sandbox import arun, load_sandbox
from mucode_agent.types import Problem, ProblemError, Solution


@task
def programs(problems: str, limit: int | None = None) -> Task:
    """A benchmark as for `evaluate run` (`humaneval`, `mbpp:FILE`, `jsonl:FILE`, …), with one program per problem.

    A sample's metadata contains the problem. Its private tests judge, and are never shown to the model.
    """
    found = load_benchmark(problems, limit=limit).problems
    samples = [
        Sample(
            id=problem.id,
            input="\n\n".join(str(message.text) for message in render(problem.public(), ())),
            metadata={"problem": problem.model_dump(mode="json")},
        )
        for problem in found
    ]
    return Task(dataset=MemoryDataset(samples, name=problems), solver=generate(), scorer=sandbox_tests())


@scorer(metrics=[accuracy(), stderr()])
def sandbox_tests(sandbox: str = "local") -> Scorer:
    """Correct if the program in the answer passes all tests; unscored if it could not be judged."""
    place = load_sandbox(sandbox)

    async def score(state: TaskState, target: Target) -> Score:
        del target
        problem = _problem(state)
        code = extract_code(state.output.completion, problem.entry_point)
        if not code:
            return Score(value=INCORRECT, explanation="The answer holds no Python code.")
        [report] = await apart(arun(place, [problem.judge_job(code)]))
        details = {"report": report.model_dump(mode="json")}
        if not report.judged:
            return Score.unscored(reason="scoring_failed", explanation=outcome(report), metadata=details)
        value = CORRECT if report.passed else INCORRECT
        return Score(value=value, answer=code, explanation=outcome(report), metadata=details)

    return score


@solver
def mucode(
    model: str | None = None, n: int = 5, max_turns: int = 3, verifier: str = "evidence", seed: int = 0
) -> Solver:
    """µCODE around the evaluated model, or around the model string `model`: the answer is its best program."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        del generate
        problem, generator = _problem(state).public(), model or _asking(get_model())
        with create_solver(generator, n=n, max_turns=max_turns, verifier=verifier, seed=seed) as graph:
            given: Any = {"problem": problem.model_dump(mode="json")}
            answer = await apart(graph.ainvoke(given))
        solution = Solution.model_validate(answer["solution"])
        text, response = response_of(problem, solution)
        state.messages.append(ChatMessageAssistant(content=text))
        state.output.completion = text
        state.metadata["mucode"] = response
        return state

    return solve


def _problem(state: TaskState) -> Problem:
    if "problem" not in state.metadata:
        raise ProblemError(f"sample {state.sample_id} has no metadata 'problem': give a problem in JSON form there")
    return Problem.model_validate(state.metadata["problem"])


def _asking(model: Model) -> Runnable[Any, AIMessage]:
    """Inspect's model as a generator, with its own settings, limits and log."""

    async def ask(messages: list[AnyMessage]) -> AIMessage:
        output = await model.generate([_ROLES[message.type](content=str(message.text)) for message in messages])
        spent = output.usage
        usage: Any = spent and {
            "input_tokens": spent.input_tokens,
            "output_tokens": spent.output_tokens,
            "total_tokens": spent.total_tokens,
        }
        facts = {"finish_reason": output.stop_reason, "model_name": output.model}
        return AIMessage(output.completion, usage_metadata=usage or None, response_metadata=facts)

    return RunnableLambda(_only_async, ask, name=str(model))


_ROLES: dict[str, type[ChatMessage]] = {
    "human": ChatMessageUser,
    "ai": ChatMessageAssistant,
    "system": ChatMessageSystem,
}


def _only_async(_: list[AnyMessage]) -> AIMessage:
    raise ProblemError("a model of inspect_ai answers in an event loop only: use ainvoke")
