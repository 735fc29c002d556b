"""Every example runs, and README shows nothing that does not exist."""

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from documents import DOCS, snippets
from fakes import ScriptedModel, fenced

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


def test_the_first_python_of_readme_and_of_the_site_prints_what_readme_shows(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With a scripted model; the real one gives the same program."""
    [shown] = re.findall(r"^```\n(True .*?)^```", README, re.MULTILINE | re.DOTALL)
    for code, expected in ((blocks("python")[0], shown), (snippets("README.md")[0], shown.removeprefix("True "))):
        model = ScriptedModel(replies=[fenced("def inc(x):\n    return x + 1")])
        scripted, count = re.subn(r'create_solver\("[^"]+"', "create_solver(model", code)
        assert count == 1  # else the test would fetch the real model
        exec(scripted, {"model": model})
        assert capsys.readouterr().out == expected


def test_the_snippet_of_the_sandboxs_page_runs() -> None:
    pytest.importorskip("numpy")
    page: dict[str, Any] = {}
    exec(snippets("sandbox.md")[0], page)
    assert page["report"].passed


def test_the_snippet_of_the_graphs_page_runs() -> None:
    exec(snippets("graph.md")[0], {})  # ends with an assert


def test_a_test_runs_the_python_of_every_page() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    pages = [page.name for page in DOCS.glob("*.md") if snippets(page.name)]
    assert pages
    assert [page for page in pages if f'snippets("{page}")' not in sources] == []


PAGES = [*ROOT.glob("*.md"), *DOCS.glob("*.md"), ROOT / "tests/README.md", *(ROOT / "examples").rglob("*.md")]


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub and mkdocs make them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file_or_a_heading(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", prose) if "://" not in link]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
