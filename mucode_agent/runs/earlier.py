"""Reads runs in the two forms of version 1 (an evaluation's rows, rollouts' shards) as runs of today's form."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from mucode_agent.files import check_version, digest, parsed, read_bytes, read_rows
from mucode_agent.graphs.settings import Settings
from mucode_agent.runs.config import RUN_VERSION, Arm, Config
from mucode_agent.runs.directory import Judgement, Shard, Solve, finished_solves, held_identity
from mucode_agent.traces import TraceRow
from mucode_agent.types import Problem

_CONFIG = TypeAdapter(Config)
_SHARD = TypeAdapter(Shard)
_JUDGEMENTS = TypeAdapter(Judgement)
_TRACE: TypeAdapter[Any] = TypeAdapter(TraceRow)
_PLACES = ("benchmark", "split", "testless", "problems", "benchmark_sha256", "model", "verifier", "prompt")


class EarlierEvaluation:
    """trace.jsonl holds the rows of every finished solve, judgements.jsonl every program's verdict."""

    def __init__(self, directory: Path) -> None:
        held = _checked(directory, "store_version")
        search = {name: value for name, value in held.items() if name in Settings.model_fields}
        arms = [
            {"group": arm.pop("wave", None), "trust_calibration": True, **search, **arm}
            for arm in map(dict, held["arms"])
        ]
        self.config = _config(directory, held, arms)
        finished, self._judgements = read_finished(directory)
        self._solves = {problem_id: list(self._of_arms(solves)) for problem_id, solves in finished.items()}

    def _of_arms(self, solves: Iterable[Solve]) -> Iterator[Solve]:
        for solve in solves:
            if arm := next((arm for arm in self.config.identity.arms if _belongs(solve, arm)), None):
                yield solve.model_copy(update={"arm": arm.name})

    def shard(self, problem: Problem) -> Shard | None:
        """Includes problems that some arms have not finished, because their solves were drawn and judged."""
        solves = self._solves.get(problem.id)
        if not solves:
            return None
        verdicts = {row.program: row for row in self._judgements.get(problem.id, [])}
        return Shard(key="", problem_id=problem.id, solves=tuple(solves), judgements=tuple(verdicts.values()))


class EarlierRollouts:
    """shards/ab/<key>.json, with another key."""

    def __init__(self, directory: Path) -> None:
        held = _checked(directory, "rollout_version")
        policy: dict[str, Any] = held["policy"]
        arm = {name: value for name, value in policy.items() if name in Arm.model_fields}
        arms = [{"name": "rollout", "repeats": policy["per_problem"], **arm}]
        self.config = _config(directory, held | policy, arms, weights=policy["weights"])
        self._directory, self._policy = directory, policy

    def shard(self, problem: Problem) -> Shard | None:
        key = digest({"problem": problem.model_dump(mode="json"), "policy": self._policy})
        path = self._directory / "shards" / key[:2] / f"{key}.json"
        if not path.exists():
            return None
        data = read_bytes(path)
        check_version(path, data, "rollout_version", 1)
        return parsed(_SHARD, data, str(path), wrong="is damaged", extra="ignore")


def read_finished(directory: Path) -> tuple[dict[str, list[Solve]], dict[str, list[Judgement]]]:
    """By problem, the finished solves in trace.jsonl and the verdicts in judgements.jsonl. Raises ProblemError."""
    solves: dict[str, list[Solve]] = {}
    judgements: dict[str, list[Judgement]] = {}
    for solve in finished_solves(list(_rows(directory / "trace.jsonl", _TRACE))):
        solves.setdefault(solve.problem_id, []).append(solve)
    for row in _rows(directory / "judgements.jsonl", _JUDGEMENTS):
        judgements.setdefault(row.problem_id, []).append(row)
    return solves, judgements


def _checked(directory: Path, field: str) -> dict[str, Any]:
    held = held_identity(directory)
    check_version(directory / "config.json", json.dumps(held).encode(), field, 1)
    return held


def _config(directory: Path, held: dict[str, Any], arms: list[dict[str, Any]], **more: Any) -> Config:
    path = directory / "config.json"
    identity = {"run_version": RUN_VERSION, "arms": arms, **more, **{name: held.get(name) for name in _PLACES}}
    whole = json.loads(read_bytes(path)) | {"identity": identity}
    return parsed(_CONFIG, json.dumps(whole).encode(), str(path))


def _belongs(solve: Solve, arm: Arm) -> bool:
    settings = solve.settings
    return (settings["n"], settings["max_turns"], settings["temperature"]) == (arm.n, arm.max_turns, arm.temperature)


def _rows(path: Path, form: TypeAdapter[Any]) -> Any:
    return read_rows(path, form, needed_for=f"{path.parent} is no whole run")
