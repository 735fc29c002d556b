"""A user's file under mypy --strict and pyright: a wrong option is an error, a right one is not."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PLACES = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
PYRIGHT = shutil.which("basedpyright", path=PLACES) or shutil.which("pyright", path=PLACES)

USER = """
from collections.abc import Sequence
from typing import TypedDict

from langgraph.graph import StateGraph
from langgraph.types import RetryPolicy

from mucode_agent import Budget, Candidate, LocalSandbox, MemoryTrace, Problem, Score, ScriptedModel, Settings, Solver
from mucode_agent import Verifier, add_solver, create_solver, create_solver_subagent, create_solver_tool, load_model

class Mine:
    name = "mine"
    calibrated_on = None
    accept_threshold = None

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        return [Score(logit=float(len(candidate.code))) for candidate in candidates]

mine: Verifier = Mine()
model = ScriptedModel(replies=["a", OSError("lost")])
create_solver(model, verifier=Mine(), sandbox=LocalSandbox(workers=1), trace=MemoryTrace())

with create_solver("smollm2", n=3, max_turns=2, selector="tests", budget=Budget(tokens=9), temperature=None) as solver:
    answer: Solver = solver
    solution = solver.invoke({"problem": {"prompt": "Add one."}}, context={"n": 2, "partial": True})
solver.invoke({"problem": {}}, context=Settings(n=1))
solver.close()
create_solver_tool("smollm2", n=3, approve=False)
create_solver_subagent("smollm2", seed=7)

class Parent(TypedDict):
    problem: dict[str, object]

graph = StateGraph(Parent)
add_solver(graph, answer, node="code", retry_policy=RetryPolicy(), timeout=60.0)
load_model("smollm2", temperature=0.2, max_tokens=64, timeout=5)

create_solver("smollm2", m=3)  # wrong
create_solver("smollm2", n="3")  # wrong
create_solver("smollm2", selector="best")  # wrong
create_solver(7)  # wrong
create_solver("smollm2", verifier=3)  # wrong
create_solver("smollm2", sandbox=3)  # wrong
create_solver_tool("smollm2", turns=3)  # wrong
create_solver_subagent("smollm2", seed="7")  # wrong
solver.invoke({"problem": {}}, context={"m": 2})  # wrong
solver.invoke({"task": {}})  # wrong
add_solver(graph, answer, retries=3)  # wrong
add_solver(graph, "solver")  # wrong
load_model("smollm2", temperature="low")  # wrong
load_model("smollm2", tokens=64)  # wrong
"""


WRONG = {number for number, line in enumerate(USER.splitlines(), 1) if line.endswith("# wrong")}


def test_mypy_calls_a_wrong_option_an_error_and_a_right_one_none(tmp_path: Path) -> None:
    api = pytest.importorskip("mypy.api")
    file = tmp_path / "user.py"
    file.write_text(USER)
    options = ["--strict", "--config-file", "", "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"]
    options += ["--python-executable", sys.executable, "--ignore-missing-imports"]
    shown, stderr, _ = api.run([*options, str(file)])
    assert not stderr
    assert {int(number) for number in re.findall(r"user\.py:(\d+): error", shown)} == WRONG, shown


@pytest.mark.skipif(PYRIGHT is None, reason="needs `pip install basedpyright`")
def test_pyright_calls_a_wrong_option_an_error_and_a_right_one_none(tmp_path: Path) -> None:
    file = tmp_path / "user.py"
    file.write_text(USER)
    command = [str(PYRIGHT), "--pythonpath", sys.executable, "--level", "error", "--outputjson", str(file)]
    shown = json.loads(subprocess.run(command, capture_output=True, check=False, cwd=tmp_path).stdout)
    assert {found["range"]["start"]["line"] + 1 for found in shown["generalDiagnostics"]} == WRONG, shown
