"""The package as a whole: what importing it costs, which way imports point, and that its names are there."""

import ast
import graphlib
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
GROUND = "types calls syntax files"
BELOW_GRAPHS = f"{GROUND} problems program extraction prompts wording probes traces models tools verifiers"
IMPORTS = {
    part: set(others.split())
    for part, others in {
        "types": "",
        "console": "",
        "calls": "",
        "syntax": "",
        "files": "types",
        "wording": "types",
        "problems": GROUND,
        "prose": f"{GROUND} problems",
        "program": GROUND,
        "extraction": f"{GROUND} program",
        "probes": GROUND,
        "prompts": f"{GROUND} program extraction wording",
        "traces": GROUND,
        "models": f"{GROUND} console",
        "tools": f"{GROUND} problems prompts",
        "verifiers": f"{GROUND} models probes prompts wording",
        "graphs": f"{BELOW_GRAPHS} prose",
        "metrics": "types",
        "runs": f"{BELOW_GRAPHS} graphs metrics",
        "evaluation": f"{BELOW_GRAPHS} graphs metrics runs",
        "training": f"{BELOW_GRAPHS} console graphs metrics runs evaluation",
        "adapters": f"{BELOW_GRAPHS} graphs runs evaluation",
        "cli": f"{BELOW_GRAPHS} console graphs runs evaluation training adapters",
        "__main__": "cli",
        "__init__": f"{BELOW_GRAPHS} graphs",
    }.items()
}
"""What each part of the package may import, beside itself."""
OF_EVALUATION = {"benchmarks", "check", "comparison", "figures", "report", "results", "runner", "tables"}
"""What training takes of evaluation: problems and their check, its validation on them, how their figures are shown."""


def imported_modules(source: Path) -> set[str]:
    """Modules of the package that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(source.read_text())))
    names = [alias.name for n in nodes if isinstance(n, ast.Import) for alias in n.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return {name for name in names if name in MODULES}


def module_name(source: Path) -> str:
    return ".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(source): source for source in sorted(PACKAGE.rglob("*.py"))}


@pytest.mark.parametrize("module", MODULES)
def test_a_part_imports_only_what_the_table_lists(module: str) -> None:
    part = "__init__" if module == "mucode_agent" else module.split(".")[1]
    others = {name.split(".")[1] for name in imported_modules(MODULES[module]) if name != "mucode_agent"}
    assert others <= IMPORTS[part] | {part}, f"{module} imports {sorted(others - IMPORTS[part] - {part})}"


def test_training_takes_of_evaluation_only_benchmarks_their_check_and_validation() -> None:
    imported = {name for module in MODULES if "training" in module for name in imported_modules(MODULES[module])}
    found = {name.split(".")[2] for name in imported if name.startswith("mucode_agent.evaluation.")}
    assert found <= OF_EVALUATION


def test_no_circle_of_imports() -> None:
    # Names that `mucode_agent` itself offers are loaded at first use.
    graph = {name: imported_modules(source) - {name, "mucode_agent"} for name, source in MODULES.items()}
    del graph["mucode_agent"]
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


@pytest.mark.parametrize("module", ["mucode_agent", "mucode_agent.cli.app", "mucode_agent.graphs.studio"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_the_command_line_starts_without_langgraph_and_without_any_adapter() -> None:
    names = ("langgraph", "langchain_core", "mucode_agent.adapters.openai_server", "mucode_agent.adapters.mcp_server")
    code = f"import sys, mucode_agent.cli.app; print(*[name for name in {names!r} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
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
