"""Reads runs of any version, for figures and for training."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

from mucode_agent.files import RESTORE
from mucode_agent.runs.config import Config
from mucode_agent.runs.directory import (
    Judgement,
    RunDirectory,
    Shard,
    Solve,
    held_identity,
    read_config,
    read_problems,
)
from mucode_agent.runs.earlier import EarlierEvaluation, EarlierRollouts
from mucode_agent.types import Problem, ProblemError


class StoredRun(Protocol):
    """A run, finished or not."""

    @property
    def config(self) -> Config: ...

    def shard(self, problem: Problem) -> Shard | None:
        """The shard; None if it does not exist yet. Raises ProblemError naming a damaged file."""
        ...


def read_run(directory: Path) -> StoredRun:
    """Raises ProblemError if the directory holds no run, or one of a version that cannot be read."""
    held = held_identity(directory)
    try:
        if "store_version" in held:
            return EarlierEvaluation(directory)
        if "rollout_version" in held:
            return EarlierRollouts(directory)
    except (KeyError, TypeError, AttributeError):
        raise ProblemError(f"{directory / 'config.json'} is damaged; {RESTORE}") from None
    return RunDirectory(directory, read_config(directory))


def read_shards(directory: Path) -> Iterator[tuple[Problem, Shard | None]]:
    """Each problem with its shard, or None if that does not exist yet. Raises ProblemError naming a damaged file."""
    run = read_run(directory)
    for problem in read_problems(directory):
        yield problem, run.shard(problem)


def read_solves(directory: Path) -> list[Solve]:
    """Every finished solve. Raises ProblemError."""
    return [solve for _, shard in read_shards(directory) if shard is not None for solve in shard.solves]


def judgements_of(shards: Iterable[Shard]) -> dict[tuple[str, str], Judgement]:
    """Verdicts by problem and program."""
    return {(row.problem_id, row.program): row for shard in shards for row in shard.judgements}
