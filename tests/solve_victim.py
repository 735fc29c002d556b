"""A solve in a process of its own, for tests that pause, kill and resume it: solve_victim.py DIRECTORY MODE.

ask and approve: two halves of a solve with a person's approval. hang-N: the Nth call of the sandbox never returns.
resume: goes on where the thread stands. endless: a candidate of the local sandbox that never ends.
endless-CALL: the same by that call, in a process where SIGTERM raises.
"""

import json
import signal
import sqlite3
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from fakes import RuleSandbox, ScriptedModel, fenced
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

from mucode_agent import JsonlTrace, LocalSandbox, create_solver
from mucode_agent.types import ExecutionReport, Job

GOOD = "def f(x):\n    return x + 1"
PROBLEM = {"id": "inc", "prompt": "Add one.", "entry_point": "f", "public_tests": ["assert f(1) == 2"]}
THREAD: Any = {"configurable": {"thread_id": "1"}}


def note(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text + "\n")


def noting_model(path: Path) -> ScriptedModel:
    """Writes down each seed that it is asked for; no two replies are equal."""

    def reply(_: object, options: dict[str, Any]) -> str:
        note(path, str(options["seed"]))
        return fenced(f"def f(x):\n    return {options['seed']}")

    return ScriptedModel(replies=reply)


class HangingSandbox(RuleSandbox):
    """Writes a line at each turn's first job, and hangs in the given one."""

    def __init__(self, path: Path, hang_at: int) -> None:
        super().__init__(lambda _: False)
        self.path, self.hang_at = path, hang_at

    def submit(self, job: Job) -> Future[ExecutionReport]:
        if len(self.jobs) % 2 == 0:
            note(self.path, "turn")
            if len(self.jobs) // 2 + 1 == self.hang_at:
                time.sleep(3600)
        return super().submit(job)


class NotingSandbox(LocalSandbox):
    """Writes down when a program is running."""

    def __init__(self, path: Path) -> None:
        super().__init__(workers=1)
        self.path = path

    def submit(self, job: Job) -> Future[ExecutionReport]:
        future = super().submit(job)
        note(self.path, "running")
        return future


def ask(directory: Path, saver: SqliteSaver) -> None:
    graph = approving(saver)
    assert "__interrupt__" in graph.invoke({"problem": PROBLEM}, THREAD)


def approve(directory: Path, saver: SqliteSaver) -> None:
    print(json.dumps(approving(saver).invoke(Command(resume=True), THREAD)["solution"]))


def approving(saver: SqliteSaver) -> Any:
    sandbox = RuleSandbox(lambda code: "x + 1" in code)
    replies = [fenced("def f(x): return x"), fenced(GOOD)]
    return create_solver(ScriptedModel(replies=replies), sandbox=sandbox, n=1, approve=True, checkpointer=saver)


def noting(directory: Path, saver: SqliteSaver, hang_at: int) -> Any:
    model, trace = noting_model(directory / "drawn"), JsonlTrace(directory / "trace.jsonl")
    sandbox = HangingSandbox(directory / "executing", hang_at)
    return create_solver(model, sandbox=sandbox, n=2, max_turns=3, trace=trace, checkpointer=saver)


def hang(directory: Path, saver: SqliteSaver, at: int) -> None:
    noting(directory, saver, at).invoke({"problem": PROBLEM}, THREAD, durability="sync")


def resume(directory: Path, saver: SqliteSaver) -> None:
    print(json.dumps(noting(directory, saver, 0).invoke(None, THREAD, durability="sync")["solution"]))


def endless(directory: Path, saver: SqliteSaver) -> None:
    endless_solver(directory).invoke(ENDLESS)


ENDLESS: Any = {"problem": {**PROBLEM, "limits": {"time_s": 600}}}


def endless_solver(directory: Path) -> Any:
    model = ScriptedModel(replies=[fenced("def f(x):\n    while True: pass")])
    return create_solver(model, sandbox=NotingSandbox(directory / "executing"), n=1)


def raising(call: Callable[[Any], object]) -> Callable[[Path, SqliteSaver], None]:
    def endless(directory: Path, saver: SqliteSaver) -> None:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
        call(endless_solver(directory))

    return endless


MODES: dict[str, Callable[[Path, SqliteSaver], None]] = {
    "ask": ask,
    "approve": approve,
    "hang-1": lambda directory, saver: hang(directory, saver, 1),
    "hang-2": lambda directory, saver: hang(directory, saver, 2),
    "hang-3": lambda directory, saver: hang(directory, saver, 3),
    "resume": resume,
    "endless": endless,
    "endless-stream": raising(lambda graph: list(graph.stream(ENDLESS, stream_mode="custom"))),
    "endless-batch": raising(lambda graph: graph.batch([ENDLESS, ENDLESS], return_exceptions=True)),
    "endless-batch_as_completed": raising(lambda graph: list(graph.batch_as_completed([ENDLESS, ENDLESS]))),
}

if __name__ == "__main__":
    place = Path(sys.argv[1])
    connection = sqlite3.connect(place / "checkpoints.sqlite", check_same_thread=False)
    MODES[sys.argv[2]](place, SqliteSaver(connection))
    connection.close()
