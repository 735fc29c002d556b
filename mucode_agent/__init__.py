"""Multi-turn code generation that runs its code and learns which attempt is right: µCODE as a LangGraph component.

The names are listed in the order of the flow. Each loads at first use, so importing the package is cheap.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mucode_agent.graphs.embed import add_solver, create_solver_subagent, create_solver_tool
    from mucode_agent.graphs.settings import Options, Settings
    from mucode_agent.graphs.solver import Solver, build_solver, create_solver
    from mucode_agent.models.load import load_model
    from mucode_agent.models.scripted import ScriptedModel
    from mucode_agent.problems import load_problem, read_problem
    from mucode_agent.tools.langchain import create_run_python, create_run_tests
    from mucode_agent.tools.local import LocalSandbox
    from mucode_agent.traces import JsonlTrace, MemoryTrace, read_trace
    from mucode_agent.types import (
        Budget,
        Candidate,
        CodeTest,
        ContextOverflowError,
        ExecutionReport,
        InfrastructureError,
        Job,
        Limits,
        MucodeError,
        Problem,
        ProblemError,
        Review,
        Sandbox,
        Score,
        Solution,
        StdioTest,
        Verifier,
    )
    from mucode_agent.verifiers import NoVerifier

_HOMES = {
    "mucode_agent.types": (
        "Problem", "CodeTest", "StdioTest", "Limits", "Job", "ExecutionReport", "Sandbox", "Score", "Verifier",
        "Candidate", "Budget", "Review", "Solution", "MucodeError", "ProblemError", "ContextOverflowError",
        "InfrastructureError",
    ),
    "mucode_agent.problems": ("load_problem", "read_problem"),
    "mucode_agent.models.load": ("load_model",),
    "mucode_agent.models.scripted": ("ScriptedModel",),
    "mucode_agent.tools.local": ("LocalSandbox",),
    "mucode_agent.tools.langchain": ("create_run_python", "create_run_tests"),
    "mucode_agent.verifiers": ("NoVerifier",),
    "mucode_agent.graphs.settings": ("Settings", "Options"),
    "mucode_agent.graphs.solver": ("create_solver", "build_solver", "Solver"),
    "mucode_agent.graphs.embed": ("add_solver", "create_solver_tool", "create_solver_subagent"),
    "mucode_agent.traces": ("JsonlTrace", "MemoryTrace", "read_trace"),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.2.0"
__all__ = [  # noqa: RUF022 - in the order of the flow
    "Problem", "CodeTest", "StdioTest", "Limits", "load_problem", "read_problem",
    "load_model", "ScriptedModel", "Job", "ExecutionReport", "Sandbox", "LocalSandbox",
    "Score", "Verifier", "NoVerifier", "Candidate", "Budget", "Review", "Settings", "Options",
    "create_solver", "build_solver", "Solver", "Solution",
    "add_solver", "create_solver_tool", "create_solver_subagent", "create_run_python", "create_run_tests",
    "JsonlTrace", "MemoryTrace", "read_trace", "MucodeError", "ProblemError", "ContextOverflowError",
    "InfrastructureError",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value
