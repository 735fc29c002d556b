"""The graphs that `langgraph dev` serves: the embedded model in the local sandbox, both started at first use."""

from mucode_agent.graphs.embed import create_solver_subagent
from mucode_agent.graphs.solver import create_solver
from mucode_agent.models.embedded import DEFAULT_MODEL

graph = create_solver(DEFAULT_MODEL)
"""`{"problem": …}` in, `{"solution": …}` out."""

chat = create_solver_subagent(DEFAULT_MODEL, name="mucode-chat")["runnable"]
"""`{"messages": […]}` in and out; the last human message is the task."""
