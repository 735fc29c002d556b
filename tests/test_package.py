"""The package as a whole: what importing it costs, which way imports point, and that its names are there."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import mucode_agent

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mucode_agent"
HEAVY = (
    "torch",
    "transformers",
    "numpy",
    "scipy",
    "langchain_openai",
    "langchain",
    "openai",
    "e2b",
    "vllm",
    "matplotlib",
    "pyarrow",
    "ray",
    "fastapi",
    "uvicorn",
    "mcp",
    "trl",
    "inspect_ai",
    "verifiers",
)
LAYERS = [
    {"types"},
    {"problems", "prompts", "wording", "syntax", "extraction", "probes", "traces", "tools", "models", "verifiers"},
    {"graphs"},
    {"training", "evaluation"},
    {"adapters"},
    {"cli"},
    {"__main__", "__init__"},
]
"""From the ground up: a part imports from its own layer and from those below it."""


def layer(part: str) -> int:
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


def imported_parts(source: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(source.read_text())))
    names = [n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and n.level == 0]
    names += [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    return {name.split(".")[1] for name in names if name.startswith("mucode_agent.")}


@pytest.mark.parametrize("source", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(source: Path) -> None:
    part = source.relative_to(PACKAGE).parts[0].removesuffix(".py")
    upward = {other for other in imported_parts(source) if layer(other) > layer(part)}
    assert not upward, f"{source} imports from above: {upward}"


@pytest.mark.parametrize("module", ["mucode_agent", "mucode_agent.cli", "mucode_agent.graphs.studio"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_every_public_name_is_there() -> None:
    for name in mucode_agent.__all__:
        assert getattr(mucode_agent, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = mucode_agent.nothing


def test_the_version_is_the_projects() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == mucode_agent.__version__


def test_every_relative_link_of_the_documents_leads_somewhere() -> None:
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
