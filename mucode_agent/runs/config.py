"""What a run is asked: a list of problems, and with what. What determines its results is its identity."""

import contextlib
import hashlib
import importlib.metadata
import platform
from typing import Literal, get_args

from mucode_agent.types import Problem, Record

Split = Literal["fixed", "paper"]
SPLITS: tuple[Split, ...] = get_args(Split)


class Benchmark(Record):
    """A named list of problems with unique ids."""

    name: str
    """As asked for, e.g. `mbpp:mbpp_validation.jsonl`."""
    split: Split
    testless: bool
    problems: tuple[Problem, ...]

    @property
    def sha256(self) -> str:
        """Of every problem, tests included: two runs with the same digest were asked and judged alike."""
        digest = hashlib.sha256()
        for problem in self.problems:
            digest.update(problem.model_dump_json().encode("utf-8", "surrogatepass") + b"\n")
        return digest.hexdigest()


_PACKAGES = ("mucode-agent", "langgraph", "langchain-core", "langchain-openai", "pydantic", "torch", "transformers")


def environment() -> dict[str, str]:
    """Versions that take part, so that somebody else can stand where this run stood."""
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
