"""The directory of rollouts: one shard per problem, written once, by any number of workers.

    config.json            what determines the trajectories, and where and when the first worker began
    problems.jsonl         the problems as they were asked and judged
    shards/ab/<key>.json   a problem's trajectories with the verdicts on all tests; the key names problem and policy
    locks/<key>            held by the worker that is making the shard

A shard appears whole or not at all, and is never changed. A lock ends with its process, however that ends, so what a
killed worker had begun is begun again by the next. Workers on several machines need a file system whose `flock` reaches
all of them.
"""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from mucode_agent.files import (
    as_lines,
    check_same,
    check_unused,
    check_version,
    claim_file,
    digest,
    lock_file,
    parsed,
    write_whole,
)
from mucode_agent.graphs.selection import Selector, normal_form
from mucode_agent.runs.config import Benchmark, Split
from mucode_agent.runs.store import Judgement, Solve, read_identified, read_problems
from mucode_agent.types import InfrastructureError, Problem, ProblemError, Record, StatedSampling

ROLLOUT_VERSION: Literal[1] = 1


class Policy(StatedSampling):
    """What determines the trajectories of a problem: generator, words, settings and seed."""

    model: str
    """The generator's name, without the address of a server: any that serves it may draw."""
    weights: str
    """Names the weights where the model's name does not; empty where it does."""
    verifier: str
    prompt: str
    """Digest of the wording that generators see."""
    per_problem: int
    """Trajectories of each problem (K). Trajectory k is the solve with the seed `seed + k`."""
    max_turns: int
    n: int
    """Candidates per turn; 1 in the paper's algorithm 1, where every candidate is fed back."""
    selector: Selector
    seed: int


class RolloutIdentity(Record):
    """Whose trajectories a directory takes: one policy's on one list of problems."""

    rollout_version: Literal[1] = ROLLOUT_VERSION
    benchmark: str
    split: Split
    testless: bool
    problems: int
    benchmark_sha256: str
    policy: Policy


class RolloutConfig(Record):
    """An identity, with where and when its rollouts were begun."""

    identity: RolloutIdentity
    command: str
    started: str
    """Local time, ISO 8601."""
    isolation: str
    """The layers that hold candidate programs where the first worker runs."""
    environment: dict[str, str]
    """Versions of Python, the platform and the packages that take part."""


class Shard(Record):
    """A problem's trajectories, whole, with every distinct program judged."""

    rollout_version: Literal[1] = ROLLOUT_VERSION
    key: str
    problem_id: str
    solves: tuple[Solve, ...]
    """By seed."""
    judgements: tuple[Judgement, ...]
    """On public and private tests, by normal form, in the order first drawn. Never seen by a solver."""

    @property
    def correct(self) -> float:
        """Share of the trajectories with a judged answer whose answer passes all tests; 0 where none was judged."""
        right = {row.program for row in self.judgements if row.correct}
        unknown = {row.program for row in self.judgements if not row.judged}
        forms = [normal_form(solve.solution.code) if solve.solution.code else "" for solve in self.solves]
        judged = [form for form in forms if form not in unknown]
        return sum(form in right for form in judged) / len(judged) if judged else 0.0


_SHARD = TypeAdapter(Shard)
_REMAKE = "remove it, and run the same `rollout` again, which makes it again"
_CONFIG = TypeAdapter(RolloutConfig)


class ShardDirectory:
    """An open directory of rollouts. Use `open_shards`."""

    def __init__(self, directory: Path, config: RolloutConfig) -> None:
        self.directory, self.config = directory, config

    def key(self, problem: Problem) -> str:
        """Names the shard of a problem by everything that determines it."""
        return shard_key(problem, self.config.identity.policy)

    def path(self, key: str) -> Path:
        return self.directory / "shards" / key[:2] / f"{key}.json"

    def exists(self, key: str) -> bool:
        return self.path(key).exists()

    def keys(self) -> set[str]:
        """Of the shards that are there."""
        return {path.stem for path in (self.directory / "shards").glob("??/[!.]*.json")}

    def read(self, problem: Problem) -> Shard | None:
        """None where it is not made yet. Raises ProblemError naming a damaged file."""
        path = self.path(self.key(problem))
        return read_shard(path) if path.exists() else None

    def write(self, shard: Shard) -> None:
        """On disk when this returns, or not there. Raises InfrastructureError."""
        path = self.path(shard.key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for half in path.parent.glob(f".{path.name}.*"):  # of a writer that was killed: we hold its lock now
                half.unlink(missing_ok=True)
        except OSError as error:
            raise InfrastructureError(f"cannot write {path}: {error.strerror}; free room, then run again") from error
        write_whole(path, shard.model_dump_json() + "\n")

    def claim(self, key: str) -> AbstractContextManager[bool]:
        """Whether the shard is this caller's to make, until the end of the block; see `files.claim_file`."""
        return claim_file(self.directory / "locks" / key)


def open_shards(directory: Path, config: RolloutConfig, benchmark: Benchmark) -> ShardDirectory:
    """The directory, begun if it is new, gone on with if it holds the same identity. Others may have it open too.

    Raises ProblemError where it holds trajectories of another identity (the message says what differs), or something
    else.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with lock_file(directory / "lock", wait=True):  # for as long as it takes to begin
            if (directory / "config.json").exists():
                held = read_rollout_config(directory)
                check_same(held.identity.model_dump(mode="json"), config.identity.model_dump(mode="json"), directory)
                config = held
            else:
                check_unused(directory)
            if not (directory / "problems.jsonl").exists():
                write_whole(directory / "problems.jsonl", as_lines(benchmark.problems))
            if not (directory / "config.json").exists():
                write_whole(directory / "config.json", config.model_dump_json(indent=2) + "\n")
            (directory / "shards").mkdir(exist_ok=True)
            (directory / "locks").mkdir(exist_ok=True)
    except OSError as error:
        raise ProblemError(f"cannot write into {directory}: {error.strerror}; give another directory") from None
    return ShardDirectory(directory, config)


def shard_key(problem: Problem, policy: Policy) -> str:
    return digest({"problem": problem.model_dump(mode="json"), "policy": policy.model_dump(mode="json")})


def holds_rollouts(directory: Path) -> bool:
    """Whether a directory is one of rollouts, of whatever version."""
    try:
        return "rollout_version" in json.loads((directory / "config.json").read_bytes())["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_rollout_config(directory: Path) -> RolloutConfig:
    """Raises ProblemError where the directory holds no rollouts, or those of another version."""
    return read_identified(directory, _CONFIG, "rollout_version", ROLLOUT_VERSION, "rollout")


def read_shards(directory: Path) -> Iterator[tuple[Problem, Shard | None]]:
    """Each problem with its shard, None where that is not made yet. Raises ProblemError naming a damaged file."""
    shards = ShardDirectory(directory, read_rollout_config(directory))
    for problem in read_problems(directory):
        yield problem, shards.read(problem)


def read_shard(path: Path) -> Shard:
    """Raises ProblemError where the file is damaged or of another version."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProblemError(f"cannot read the shard {path}: {error.strerror}; make it readable") from None
    check_version(path, data, "rollout_version", ROLLOUT_VERSION)
    shard = parsed(_SHARD, data, str(path), wrong="is damaged", remedy=_REMAKE, extra="ignore")
    if shard.key != path.stem:
        raise ProblemError(f"{path} holds the shard {shard.key}, of another problem; {_REMAKE}")
    return shard
