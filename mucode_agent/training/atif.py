"""Solves in ATIF, harbor's Agent Trajectory Interchange Format: prompts, replies and feedback, turn by turn.

A step of the agent is a turn: its best candidate's reply, with the tokens of all its candidates. The format:
https://harborframework.com/docs/trajectory-format; version 1.8 as of harbor 0.26.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from mucode_agent import __version__
from mucode_agent.runs.directory import Solve
from mucode_agent.training.data import ProblemAttempts, state, trajectory_of
from mucode_agent.types import Turn

ATIF_VERSION = "ATIF-v1.8"


def atif(traces: Iterable[tuple[ProblemAttempts, list[Solve]]]) -> Iterator[dict[str, Any]]:
    """One trajectory per finished solve."""
    for entry, solves in traces:
        verdicts = {(a.solve, a.candidate.turn, a.candidate.index): a.correct for a in entry.attempts}
        for solve in solves:
            yield _trajectory(entry, solve, verdicts)


def _trajectory(entry: ProblemAttempts, solve: Solve, verdicts: dict[tuple[str, int, int], bool]) -> dict[str, Any]:
    turns, solution = trajectory_of(solve).turns, solve.solution
    asked = [str(m.text) for m in state(entry.problem, turns[:-1]) if m.type != "ai"]
    steps: list[dict[str, Any]] = [{"source": "user", "message": text} for text in asked[: len(asked) - len(turns) + 1]]
    for number, turn in enumerate(turns):
        if number:
            steps.append({"source": "user", "message": asked[len(asked) - len(turns) + number]})
        steps.append(_answer(solve, turn, verdicts))
    return {
        "schema_version": ATIF_VERSION,
        "session_id": solve.run_id,
        "agent": {
            "name": "mucode_agent",
            "version": __version__,
            "model_name": str(solve.settings.get("model", "")),
            "extra": {"settings": solve.settings},
        },
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps, start=1)],
        "final_metrics": {
            "total_prompt_tokens": solution.usage.prompt_tokens,
            "total_completion_tokens": solution.usage.completion_tokens,
            "total_steps": len(steps),
        },
        "extra": {
            "problem_id": entry.problem.id,
            "solved": solution.solved,
            "correct": verdicts.get((solve.run_id, solution.best.turn, solution.best.index)),
            "stop_reason": solution.stop_reason,
            "code": solution.code,
        },
    }


def _answer(solve: Solve, turn: Turn, verdicts: dict[tuple[str, int, int], bool]) -> dict[str, Any]:
    best, report = turn.best, turn.best.report
    drawn = [candidate.sample for candidate in solve.candidates if candidate.turn == best.turn]
    return {
        "source": "agent",
        "message": best.sample.text,
        "llm_call_count": len(drawn),
        "metrics": {
            "prompt_tokens": sum(sample.prompt_tokens for sample in drawn),
            "completion_tokens": sum(sample.completion_tokens for sample in drawn),
        },
        "extra": {
            "candidates": turn.candidates,
            "public_status": report.status if report else None,
            "correct": verdicts.get((solve.run_id, best.turn, best.index)),
            "probability": best.score.probability if best.score else None,
        },
    }
