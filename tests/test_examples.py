"""Every example runs, and README shows nothing that does not exist."""

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from mucode_agent import read_problem

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()

EXAMPLES = {
    "embed_as_subgraph.py": ["Solved in turn 2.", "def is_palindrome"],
    "as_tool.py": ["The code passes all tests.", "Here is add, tested."],
    "as_deepagents_subagent.py": ['"solved": true', "Here is add, tested."],
    "stream_to_terminal.py": ["mucode.routed", "action=accept", "def is_palindrome"],
    "human_approval.py": ["Enter to accept", "accepted in turn 2"],
    "serve_sse.py": [],  # see test_serve.py
    "resume_after_kill.py": ["asked, 1 messages", "killed by signal 9", "solved: True, turns: 2"],
}
"""What each prints, in order."""
NEEDS = {"as_deepagents_subagent.py": "deepagents", "serve_sse.py": "starlette"}


def run(command: list[str], stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name: str) -> None:
    if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
        pytest.skip(f"needs `pip install {NEEDS[name]}`")
    shown = run([sys.executable, f"examples/{name}"], stdin="Use lower().\n\n")
    for words in EXAMPLES[name]:
        assert words in shown
        shown = shown.partition(words)[2]


def test_no_example_is_left_out() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


def test_every_example_fits_a_screen() -> None:
    assert all(len(path.read_text().splitlines()) < 60 for path in (ROOT / "examples").glob("*.py"))


def test_the_example_problem_is_one() -> None:
    assert read_problem(json.loads((ROOT / "examples/problem.json").read_text())).public_tests


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


COMMANDS = [
    shlex.split(line, comments=True)[3:]
    for block in blocks("bash")
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("python -m mucode_agent ")
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_of_readme_has_the_options_that_it_shows(command: list[str]) -> None:
    options = [word for word in command if word.startswith("--")]
    places = [word for word in command if not word.startswith("-")]
    for depth in (2, 1):
        named = places[:depth]
        done = subprocess.run(
            [sys.executable, "-m", "mucode_agent", *named, "--help"],
            capture_output=True,
            text=True,
            check=False,
            env={"COLUMNS": "200", "PATH": "", "TERM": "dumb"},
        )
        if done.returncode == 0 and all(option in done.stdout for option in options):
            return
    pytest.fail(f"mucode_agent {' '.join(command)}: {done.stdout}{done.stderr}")


@pytest.mark.parametrize("code", blocks("python"))
def test_the_python_of_readme_compiles_and_imports_what_exists(code: str) -> None:
    tree = ast.parse(code)
    imports = [ast.unparse(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    run([sys.executable, "-c", "\n".join(imports)])
