"""Finished solves made up from a seed: what a run's rows look like, with no model and no sandbox."""

import random
from pathlib import Path

from mucode_agent.graphs.selection import best_over_turns, normal_form, select
from mucode_agent.runs.config import Arm, Benchmark, Config, Identity
from mucode_agent.runs.directory import Judgement, Shard, finished_solves, open_run
from mucode_agent.traces import CandidateRow, DecisionRow, ProblemRow
from mucode_agent.types import (
    Candidate,
    CodeTest,
    Decision,
    ExecutionReport,
    Problem,
    Sample,
    Score,
    Solution,
    TestResult,
    Usage,
)

N, T = 5, 3
COMMAND = "python -m mucode_agent evaluate run made-up"

ARMS = (
    Arm(name="greedy", n=1, max_turns=T, temperature=0.0),
    Arm(name="turns", n=N, max_turns=T, temperature=0.7),
    Arm(name="independent", n=N * T, max_turns=1, temperature=0.7, group=N),
)


def problems(count):
    return tuple(
        Problem(
            id=f"Made/{number}",
            prompt=f"Write f{number}(x).",
            entry_point="f",
            public_tests=(CodeTest(code="assert f(1) == 1"), CodeTest(code="assert f(2) == 2")),
            private_tests=(CodeTest(code="assert f(3) == 3"),),
        )
        for number in range(count)
    )


def identity(benchmark, *, arms=ARMS, model="made-up-model", verifier="made-up", seed=0, selector="tests+verifier"):
    return Identity(
        benchmark=benchmark.name,
        split=benchmark.split,
        testless=False,
        problems=len(benchmark.problems),
        benchmark_sha256=benchmark.sha256,
        model=model,
        verifier=verifier,
        prompt="0123456789ab",
        arms=tuple(arm.model_copy(update={"selector": selector, "seed": seed}) for arm in arms),
    )


def report(passed):
    results = tuple(
        TestResult(status="passed")
        if ok
        else TestResult(status="wrong_answer", test="assert f(2) == 2", expected="2", actual="3")
        for ok in passed
    )
    return ExecutionReport(status="passed" if all(passed) else "wrong_answer", results=results)


def candidate(rng, turn, index, *, ability, seed, extra=""):
    right = rng.random() < ability
    public = right or rng.random() < 0.15
    code = (
        f"def f(x):\n    return x  # {rng.randrange(4)}\n"
        if right
        else f"def f(x):\n    return {rng.randrange(10**6)}\n"
    )
    code = code.replace("return", f"y = {int(public)}\n    return", 1) + extra
    logit = rng.gauss(1.5 if right else -0.5, 1)
    return Candidate(
        turn=turn,
        index=index,
        sample=Sample(text=f"Here:\n```python\n{code}```", seed=seed, completion_tokens=30, prompt_tokens=index == 0),
        code=code,
        report=report((True, public)),
        score=Score(logit=logit, probability=1 / (1 + 2.718281828**-logit)),
    ), right


def solve_rows(problem, arm, rng, labels, *, selector="tests+verifier", ability=0.4, extra=""):
    """The rows of one solve; `labels` learns what each program is worth."""
    run_id = f"{problem.id}-{arm.name}"
    settings = {"n": arm.n, "max_turns": arm.max_turns, "temperature": arm.temperature}
    rows = [ProblemRow(run_id=run_id, problem=problem.public(), settings=settings)]
    bests, usage = [], Usage()
    for turn in range(1, arm.max_turns + 1):
        drawn = []
        for index in range(arm.n):
            made, right = candidate(rng, turn, index, ability=ability, seed=index, extra=extra)
            labels.setdefault((problem.id, normal_form(made.code)), right)
            drawn.append(made)
        selected = select(drawn, selector)
        bests.append(drawn[selected])
        usage = usage.plus(seconds=1.0, samples=[made.sample for made in drawn])
        accepted, last = drawn[selected].report.passed, turn == arm.max_turns
        decision = Decision(
            action="accept" if accepted else "stop" if last else "next_turn",
            reason="the best candidate passes all public tests"
            if accepted
            else "the best candidate fails public tests",
            turn=turn,
            drawn=len(drawn),
            selected=selected,
            stop_reason="accepted" if accepted else "max_turns" if last else None,
        )
        solution = None
        if accepted or last:
            solution = Solution(
                problem_id=problem.id,
                solved=accepted,
                best=bests[-1] if accepted else best_over_turns(bests, selector),
                stop_reason=decision.stop_reason,
                turns=turn,
                usage=usage,
            )
        rows += [CandidateRow(run_id=run_id, problem_id=problem.id, candidate=made) for made in drawn]
        rows.append(DecisionRow(run_id=run_id, problem_id=problem.id, decision=decision, solution=solution))
        if solution:
            break
    return rows


def solves_of(problem, arm, *arguments, **options):
    """The solve that `solve_rows` tells of."""
    return [
        solve.model_copy(update={"arm": arm.name})
        for solve in finished_solves(solve_rows(problem, arm, *arguments, **options))
    ]


def judgement(problem_id, program, right):
    return Judgement(
        problem_id=problem_id,
        program=program,
        status="passed" if right else "wrong_answer",
        tests_passed=3 if right else 2,
        tests=3,
        error="",
    )


def write_run(directory, *, count=12, seed=0, ability=0.4, extra="", command=COMMAND, **changes):
    """A run directory as `evaluate run` leaves it, without results and report."""
    benchmark = Benchmark(name="made-up", split="fixed", testless=False, problems=problems(count))
    asked = identity(benchmark, seed=seed, **changes)
    config = Config(
        identity=asked,
        command=command,
        started="2026-01-02T03:04:05+00:00",
        isolation="none",
        environment={"python": "3.11"},
    )
    run = open_run(Path(directory), config, benchmark)
    for problem in benchmark.problems:
        rng, labels, solves = random.Random(f"{seed}/{problem.id}"), {}, []
        for arm in asked.arms:
            solves += solves_of(problem, arm, rng, labels, ability=ability, extra=extra)
        rows = tuple(judgement(*key, right) for key, right in labels.items())
        run.write(Shard(key=run.key(problem), problem_id=problem.id, solves=tuple(solves), judgements=rows))
    return directory


def shard_of(directory, problem_id):
    """The file of a problem's shard."""
    return next(path for path in Path(directory).glob("shards/*/*.json") if f'"{problem_id}"' in path.read_text()[:200])
