"""What is published beside the code: one version, a site that builds, a notebook that runs, a wheel that solves."""

import importlib.util
import json
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest

import mucode_agent

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

SOLVE = """
import sys
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from mucode_agent import create_solver

class Mine(BaseChatModel):
    @property
    def _llm_type(self):
        return "mine"

    def _generate(self, messages, stop=None, run_manager=None, **options):
        code = "```python\\ndef inc(x):\\n    return x + 1\\n```"
        return ChatResult(generations=[ChatGeneration(message=AIMessage(code))])

problem = {"prompt": "Write inc(x), which adds one.", "public_tests": ["assert inc(1) == 2"]}
with create_solver(Mine(), n=2) as solver:
    print(solver.invoke({"problem": problem})["solution"]["solved"])
heavy = ("torch", "transformers", "numpy", "openai", "fastapi", "mcp", "langchain")
print([name for name in heavy if name in sys.modules])
"""


def run(command: list[str], directory: Path = ROOT) -> str:
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_place_names_the_same_version() -> None:
    cited = re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    logged = re.search(r"^## (\S+) – (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert cited is not None
    assert logged is not None
    assert mucode_agent.__version__ == PROJECT["version"] == cited[1] == logged[1]
    assert f"date-released: {logged[2]}" in (ROOT / "CITATION.cff").read_text()


def test_the_workflow_tests_every_python_that_is_named() -> None:
    named = re.findall(r":: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.MULTILINE)
    assert f"python: {json.dumps(named)}" in (ROOT / ".github/workflows/test.yml").read_text()


def test_every_link_of_llms_txt_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "llms.txt").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert {link for link in links if link.startswith("docs/")} == {
        f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md") if page.name != "README.md"
    }


def test_the_site_builds_without_a_warning_and_shows_every_page(tmp_path: Path) -> None:
    if importlib.util.find_spec("material") is None:
        pytest.skip("needs `pip install mkdocs-material`")
    run([sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)])
    nav = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert f"- {page.name}" in nav
        assert (tmp_path / ("" if page.stem == "README" else page.stem) / "index.html").exists()


def test_the_notebook_runs() -> None:
    notebook: dict[str, Any] = json.loads((ROOT / "examples/first_solve.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    shown = run([sys.executable, "-c", "\n".join(cells)])
    assert "True in turn 2" in shown
    assert "s.lower() == s.lower()[::-1]" in shown
    assert "wrong_answer assert is_palindrome('Level') == True False" in shown
    assert not any(cell.get("outputs") for cell in notebook["cells"])


@pytest.mark.real
def test_a_wheel_with_core_dependencies_alone_solves_with_a_users_own_model(tmp_path: Path) -> None:
    run([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)])
    [wheel] = tmp_path.glob("mucode_agent-*.whl")
    venv.create(tmp_path / "empty", with_pip=True)
    python = str(tmp_path / "empty/bin/python")
    run([python, "-m", "pip", "install", "--quiet", str(wheel)], tmp_path)
    assert run([python, "-c", SOLVE], tmp_path).splitlines() == ["True", "[]"]
    installed = json.loads(run([python, "-m", "pip", "list", "--format", "json"], tmp_path))
    assert not {"torch", "numpy", "openai", "fastapi", "mcp"} & {package["name"] for package in installed}
    for command in ("--help", "serve --help", "mcp --help", "traces score --help", "schema"):
        run([str(tmp_path / "empty/bin/mucode-agent"), *command.split()], tmp_path)
    refused = subprocess.run([python, "-m", "mucode_agent", "serve"], capture_output=True, text=True, check=False)
    assert (refused.returncode, "pip install 'mucode-agent[serve]'" in refused.stderr) == (2, True)
