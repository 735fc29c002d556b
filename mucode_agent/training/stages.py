"""A long run as stages: each has a directory, and a file next to it with its results once it is finished."""

import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Console

from mucode_agent.files import parsed, write_whole
from mucode_agent.runs.progress import duration
from mucode_agent.types import Record


class Stage(Record):
    """The result of a finished stage, in numbers and words."""

    facts: dict[str, Any]
    """Numbers, the same for the same seeds."""
    words: str
    """One line for a person."""
    seconds: float
    """Seconds of the start that finished it."""


_STAGE = TypeAdapter(Stage)
Work = Callable[[Path], tuple[dict[str, Any], str]]
"""Fills or continues a directory, and returns the facts and the words of its stage."""


class Stages:
    """Runs stages in order, skips finished ones, and reports the progress of the whole."""

    def __init__(self, directory: Path, plan: Sequence[str], console: Console) -> None:
        """`plan` names the stages, `round-1/rollouts` and so on, in the order in which they will be run."""
        self.directory, self.plan, self.console = directory, list(plan), console
        self._seconds: dict[str, float] = {}

    def run(self, name: str, work: Work) -> Stage:
        """The stage's outcome. Its file is written last, so a stage without one is continued."""
        place = self.directory / name
        number = self.plan.index(name) + 1
        file = place.with_name(f"{place.name}.json")
        head = f"[{number}/{len(self.plan)}] {name.replace('/', ', ')}"
        if file.exists():
            stage = parsed(_STAGE, file.read_bytes(), str(file))
            self._took(name, stage)
            self._tell(f"{head} · finished before · {stage.words}")
            return stage
        self._tell(f"{head}{self._left(number)}")
        started = time.monotonic()
        place.parent.mkdir(parents=True, exist_ok=True)
        facts, words = work(place)
        stage = Stage(facts=facts, words=words, seconds=time.monotonic() - started)
        self._took(name, stage)
        write_whole(file, json.dumps(stage.model_dump(mode="json"), indent=2) + "\n")
        self._tell(f"{head} · {words} · {duration(stage.seconds)}")
        return stage

    def _took(self, name: str, stage: Stage) -> None:
        self._seconds[name.rpartition("/")[2]] = stage.seconds

    def _left(self, number: int) -> str:
        """Estimated time of this and the later stages, from the last stage of each kind; empty until known."""
        kinds = [name.rpartition("/")[2] for name in self.plan[number - 1 :]]
        if any(kind not in self._seconds for kind in kinds):
            return ""
        return f" · about {duration(sum(self._seconds[kind] for kind in kinds))} left"

    def _tell(self, text: str) -> None:
        self.console.print(text, markup=False, soft_wrap=True)
