"""A user's file under mypy --strict: a wrong option is an error, a right one is not."""

import re
import sys
from pathlib import Path

import pytest

api = pytest.importorskip("mypy.api")

USER = """
from mucode_agent import Budget, Settings, Solver, create_solver, create_solver_subagent, create_solver_tool

with create_solver("smollm2", n=3, max_turns=2, selector="tests", budget=Budget(tokens=9), temperature=None) as solver:
    answer: Solver = solver
    solution = solver.invoke({"problem": {"prompt": "Add one."}}, context={"n": 2, "partial": True})
solver.invoke({"problem": {}}, context=Settings(n=1))
solver.close()
create_solver_tool("smollm2", n=3, approve=False)
create_solver_subagent("smollm2", seed=7)

create_solver("smollm2", m=3)  # wrong
create_solver("smollm2", n="3")  # wrong
create_solver("smollm2", selector="best")  # wrong
create_solver(7)  # wrong
create_solver_tool("smollm2", turns=3)  # wrong
create_solver_subagent("smollm2", seed="7")  # wrong
solver.invoke({"problem": {}}, context={"m": 2})  # wrong
solver.invoke({"task": {}})  # wrong
"""


def test_a_wrong_option_is_a_type_error_and_a_right_one_is_none(tmp_path: Path) -> None:
    file = tmp_path / "user.py"
    file.write_text(USER)
    options = ["--strict", "--config-file", "", "--cache-dir", str(tmp_path / "cache"), "--follow-imports", "silent"]
    options += ["--python-executable", sys.executable, "--ignore-missing-imports"]
    shown, stderr, _ = api.run([*options, str(file)])
    assert not stderr
    wrong = {number for number, line in enumerate(USER.splitlines(), 1) if line.endswith("# wrong")}
    assert {int(number) for number in re.findall(r"user\.py:(\d+): error", shown)} == wrong, shown
