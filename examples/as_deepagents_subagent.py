"""The solver as a sub-agent of deepagents. Needs `pip install deepagents`."""

from deepagents import create_deep_agent
from langchain_core.messages import AIMessage

from mucode_agent import ScriptedModel, create_solver_subagent

CODER = ScriptedModel(replies=["```python\ndef add(a, b):\n    return a + b\n```"])  # or "qwen0.5b"
TASK = "Write add(a, b), which adds two numbers.\nassert add(1, 2) == 3"


CALL = {"name": "task", "args": {"description": TASK, "subagent_type": "coder"}, "id": "1"}
# Plays the agent's model: it delegates the task, then answers. Replace it by your own chat model.
CHAT = ScriptedModel(replies=[AIMessage("", tool_calls=[CALL]), "Here is add, tested."], tools=True)

agent = create_deep_agent(CHAT, subagents=[create_solver_subagent(CODER, n=1)])

if __name__ == "__main__":
    state = agent.invoke({"messages": [{"role": "user", "content": "I need a function that adds."}]})
    for message in state["messages"]:
        message.pretty_print()
