"""The configuration that determines a run's results: problems, generator, and how each problem is searched."""

import contextlib
import datetime
import hashlib
import importlib.metadata
import platform
from typing import Annotated, Any, Literal, Self, cast, get_args

from pydantic import ConfigDict, Field

from mucode_agent.graphs.settings import Options, Settings, StatedSettings
from mucode_agent.types import Problem, Record

RUN_VERSION: Literal[2] = 2

Split = Literal["fixed", "paper"]
SPLITS: tuple[Split, ...] = get_args(Split)

ArmName = Literal["greedy", "turns", "independent", "rollout"]
ARM_NAMES: tuple[ArmName, ...] = ("greedy", "turns", "independent")
"""Of an evaluation."""


class Benchmark(Record):
    """A named list of problems with unique ids."""

    name: str
    """As given by the caller, e.g. `mbpp:mbpp_validation.jsonl`."""
    split: Split
    testless: bool
    problems: tuple[Problem, ...]

    @property
    def sha256(self) -> str:
        """Digest of all problems with their tests: runs with the same digest have the same prompts and judgements."""
        digest = hashlib.sha256()
        for problem in self.problems:
            digest.update(problem.model_dump_json().encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()


class Pace(Record):
    """Concurrency, and how long to wait for a failing part. It does not influence results."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    concurrency: Annotated[int, Field(ge=1)] = 16
    """Concurrent solves, one per seed of a problem; problems that are being judged are extra."""
    patience: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Seconds without any success after which a failing model, sandbox or verifier ends the run."""


class Arm(StatedSettings):
    """One way to search for an answer to every problem, and how often to repeat it."""

    name: ArmName
    repeats: Annotated[int, Field(ge=1)] = 1
    """Number of solves per problem. Solve k has the seed `seed + k`."""
    group: Annotated[int, Field(ge=1)] | None = None
    """Independent samples are counted in groups of this size, the size of a turn."""

    @classmethod
    def of(cls, name: ArmName, search: StatedSettings, *, repeats: int = 1, group: int | None = None) -> Self:
        return cls.model_validate({"name": name, "repeats": repeats, "group": group, **search.options()})

    def solve_settings(self, k: int) -> Options:
        """The settings of solve k, as the `context` of its call."""
        settings = {field: getattr(self, field) for field in Settings.model_fields}
        return cast("Options", settings | {"seed": self.seed + k})


class Identity(Record):
    """What determines the results. A directory holds results of one identity only."""

    run_version: Literal[2] = RUN_VERSION
    benchmark: str
    split: Split
    testless: bool
    problems: int
    benchmark_sha256: str
    model: str
    """The generator's name."""
    weights: str = ""
    """Identifies the weights if the model's name does not; else empty."""
    verifier: str
    prompt: str
    """Digest of the wording that generators see."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]

    @property
    def draws(self) -> dict[str, Any]:
        """What determines the solves of one problem."""
        return self.model_dump(mode="json", include={"model", "weights", "verifier", "prompt", "arms"})

    def compared(self) -> dict[str, Any]:
        """The JSON form, with the arms by name."""
        dumped = self.model_dump(mode="json")
        return dumped | {"arms": {arm["name"]: arm for arm in dumped["arms"]}}


class Config(Record):
    """An identity, with where and when its run was started."""

    identity: Identity
    command: str
    started: str
    """Local time, ISO 8601."""
    isolation: str
    """The isolation layers of candidate programs where the run was started."""
    environment: dict[str, str]
    """Versions of Python, the platform and the packages involved."""


def now() -> str:
    """Local time, ISO 8601."""
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


_PACKAGES = ("mucode-agent", "langgraph", "langchain-core", "langchain-openai", "pydantic", "torch", "transformers")


def environment() -> dict[str, str]:
    """Versions of what the run uses, for reproducing it."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def reason_against(search: Settings) -> str | None:
    """Why no run can have these settings; None if it can."""
    if not search.approve and not search.partial:
        return None
    name = "approve" if search.approve else "partial"
    return f"{name} is for a single solve: a run asks no person, and retries what failed; leave it out"
