"""The directory of a run: one shard per problem, written once, by any number of workers.

    config.json            what determines the results; where and when the first worker started
    problems.jsonl         the problems with all their tests
    shards/ab/<key>.json   a problem's solves with the verdicts on all tests; the key names what determines them
    drawn/<key>.jsonl      every completion for an unfinished shard, written before it is used
    locks/<key>            held by the worker that makes the shard
    results.json           the figures of an evaluation

A shard is written atomically and never changed. A lock is released when its process ends; the next worker then starts
from the completions already drawn. Workers on several machines need a file system whose `flock` works across them.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from mucode_agent.files import (
    Journal,
    as_lines,
    check_same,
    check_unused,
    check_version,
    claim_file,
    digest,
    lock_file,
    parsed,
    read_bytes,
    read_rows,
    remedy,
    write_whole,
)
from mucode_agent.graphs.selection import normal_form
from mucode_agent.runs.config import RUN_VERSION, ArmName, Benchmark, Config
from mucode_agent.traces import CandidateRow, DecisionRow, ProblemRow, TraceRow
from mucode_agent.types import Candidate, InfrastructureError, Problem, ProblemError, Record, Sample, Solution, Status


class DrawnRow(Record):
    """One answered request to the generator."""

    state: str
    """Digest of the messages and sampling settings. With a sample's seed it identifies a draw."""
    samples: tuple[Sample, ...]
    seconds: float
    """From the request to its answer."""


class Judgement(Record):
    """The verdict on one program, by all tests of its problem. Never seen by a solver."""

    problem_id: str
    program: str
    """`selection.normal_form` of the code."""
    status: Status
    tests_passed: int
    tests: int
    error: str

    @property
    def correct(self) -> bool:
        return self.status == "passed"

    @property
    def judged(self) -> bool:
        """Whether the program could be judged: neither the sandbox nor the test failed."""
        return self.status not in ("infra", "unjudged")


class Solve(Record):
    """One finished solve, from its trace."""

    arm: ArmName = "rollout"
    run_id: str
    problem_id: str
    settings: dict[str, Any]
    candidates: tuple[Candidate, ...]
    """Candidates in the order drawn."""
    decisions: tuple[DecisionRow, ...]

    @property
    def solution(self) -> Solution:
        solution = self.decisions[-1].solution
        if solution is None:
            raise ValueError(f"the solve {self.run_id} has no solution: it is not finished")
        return solution


class Shard(Record):
    """A problem's complete solves, with every distinct program judged."""

    run_version: Literal[2] = RUN_VERSION
    key: str
    problem_id: str
    solves: tuple[Solve, ...]
    """Solves by arm, each arm by seed."""
    judgements: tuple[Judgement, ...]
    """Verdicts on public and private tests, by normal form, in the order first drawn."""

    def right(self) -> dict[str, float]:
        """By arm, the share of its judged answers that pass all tests; 0 if none was judged."""
        verdicts = {row.program: row.correct for row in self.judgements if row.judged} | {"": False}
        found: dict[str, list[bool]] = {}
        for solve in self.solves:
            form = normal_form(solve.solution.code) if solve.solution.code else ""
            found.setdefault(solve.arm, []).extend([verdicts[form]] if form in verdicts else [])
        return {arm: sum(answers) / len(answers) if answers else 0.0 for arm, answers in found.items()}


def finished_solves(rows: Sequence[TraceRow]) -> list[Solve]:
    """One solve per run id that has a solution; of several records the first counts."""
    problems: dict[str, ProblemRow] = {}
    candidates: dict[str, dict[tuple[int, int], Candidate]] = {}
    decisions: dict[str, list[DecisionRow]] = {}
    for row in rows:
        match row:
            case ProblemRow():
                problems.setdefault(row.run_id, row)
            case CandidateRow():
                key = (row.candidate.turn, row.candidate.index)
                candidates.setdefault(row.run_id, {}).setdefault(key, row.candidate)
            case DecisionRow():
                recorded = decisions.setdefault(row.run_id, [])
                if not recorded or recorded[-1].solution is None:
                    recorded.append(row)
    return [
        Solve(
            run_id=run_id,
            problem_id=row.problem.id,
            settings=row.settings,
            candidates=tuple(candidates[run_id].values()),
            decisions=tuple(decisions[run_id]),
        )
        for run_id, row in problems.items()
        if run_id in decisions and decisions[run_id][-1].solution is not None
    ]


_SHARD = TypeAdapter(Shard)
_CONFIG = TypeAdapter(Config)
_DRAWN = TypeAdapter(DrawnRow)
_PROBLEMS = TypeAdapter(Problem)
_REMAKE = "remove it and run the same command, which makes it again"


class RunDirectory:
    """An open directory. Use `open_run`."""

    def __init__(self, directory: Path, config: Config) -> None:
        self.directory, self.config = directory, config
        self._draws = config.identity.draws

    def key(self, problem: Problem) -> str:
        """The key of a problem's shard: a digest of everything that determines it."""
        return digest({"problem": problem.model_dump(mode="json"), **self._draws})

    def path(self, key: str) -> Path:
        return self.directory / "shards" / key[:2] / f"{key}.json"

    def exists(self, key: str) -> bool:
        return self.path(key).exists()

    def keys(self) -> set[str]:
        """The keys of the existing shards."""
        return {path.stem for path in (self.directory / "shards").glob("??/[!.]*.json")}

    def shard(self, problem: Problem) -> Shard | None:
        """The shard; None if it does not exist yet. Raises ProblemError naming a damaged file."""
        key = self.key(problem)
        return read_shard(self.path(key)) if self.exists(key) else None

    def claim(self, key: str) -> AbstractContextManager[bool]:
        """Whether this caller may make the shard, until the end of the block; see `files.claim_file`."""
        return claim_file(self.directory / "locks" / key)

    @contextmanager
    def drawn(self, key: str) -> Iterator[Journal[DrawnRow]]:
        """The completions for a claimed shard."""
        with closing(Journal(self._drawn(key), _DRAWN)) as journal:
            yield journal
            if not journal.rows:
                self.forget_drawn(key)

    def write(self, shard: Shard) -> None:
        """Writes the shard to disk, atomically, and removes its journal. Raises InfrastructureError."""
        path = self.path(shard.key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            for half in path.parent.glob(f".{path.name}.*"):  # left by a killed writer, whose lock we hold now
                half.unlink(missing_ok=True)
        except OSError as error:
            raise InfrastructureError(
                f"cannot write {path}: {error.strerror}; {remedy(error)}, then run again"
            ) from error
        write_whole(path, shard.model_dump_json() + "\n")
        self.forget_drawn(shard.key)

    def forget_drawn(self, key: str) -> None:
        """The completions of an existing shard."""
        self._drawn(key).unlink(missing_ok=True)

    def _drawn(self, key: str) -> Path:
        return self.directory / "drawn" / f"{key}.jsonl"


def open_run(directory: Path, config: Config, benchmark: Benchmark) -> RunDirectory:
    """The directory, created if it is new, continued if it has the same identity. Others may have it open too.

    Raises ProblemError if it holds results of another identity (the message says what differs), or something else.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with lock_file(directory / "lock", wait=True):  # only while it is created
            new = not (directory / "config.json").exists()
            if new:
                check_unused(directory)
            else:
                held = read_config(directory)
                check_same(held.identity.compared(), config.identity.compared(), directory)
                config = held
            if new or not (directory / "problems.jsonl").exists():
                write_whole(directory / "problems.jsonl", as_lines(benchmark.problems))
            if new:
                write_whole(directory / "config.json", config.model_dump_json(indent=2) + "\n")
            for part in ("shards", "drawn", "locks"):
                (directory / part).mkdir(exist_ok=True)
    except OSError as error:
        raise ProblemError(f"cannot write into {directory}: {error.strerror}; give another directory") from None
    return RunDirectory(directory, config)


# --- reading -------------------------------------------------------------------------------------------------------


def read_config(directory: Path) -> Config:
    """Raises ProblemError if the directory holds no run of this version."""
    path, identity = directory / "config.json", held_identity(directory)
    if {"store_version", "rollout_version"} & identity.keys():
        raise ProblemError(
            f"{directory} was written by an earlier version of mucode_agent: it can be read, but not continued; give "
            "another directory, or finish it with the version that began it"
        )
    if "run_version" not in identity:
        raise ProblemError(f"{path} is no configuration of a run; give the directory of a run")
    check_version(path, json.dumps(identity).encode(), "run_version", RUN_VERSION)
    return parsed(_CONFIG, read_bytes(path), str(path))


def held_identity(directory: Path) -> dict[str, Any]:
    """The configuration in config.json; empty if the file has none. Raises ProblemError if there is no such file."""
    data = read_bytes(directory / "config.json", f"{directory} is no run directory")
    try:
        identity = json.loads(data)["identity"]
    except (ValueError, KeyError, TypeError, RecursionError):
        identity = None
    return identity if isinstance(identity, dict) else {}


def read_problems(directory: Path) -> list[Problem]:
    """Raises ProblemError if the file is damaged, or holds fewer problems than the run has."""
    path = directory / "problems.jsonl"
    problems = list(read_rows(path, _PROBLEMS, needed_for=f"{directory} is no whole run"))
    begun = (directory / "config.json").exists()  # not in a directory of `traces import`
    asked = held_identity(directory).get("problems", len(problems)) if begun else len(problems)
    if len(problems) != asked:
        raise ProblemError(
            f"{path} holds {len(problems)} whole rows of {asked}; remove it and run the command that began the "
            "directory again"
        )
    return problems


def read_shard(path: Path) -> Shard:
    """Raises ProblemError if the file is damaged or of another version."""
    data = read_bytes(path, remedy="make it readable")
    check_version(path, data, "run_version", RUN_VERSION)
    shard = parsed(_SHARD, data, str(path), wrong="is damaged", remedy=_REMAKE, extra="ignore")
    if shard.key != path.stem:
        raise ProblemError(f"{path} holds the shard {shard.key}, of another problem; {_REMAKE}")
    return shard
