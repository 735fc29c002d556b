"""The solver as a tool of a tool-calling agent. Needs `pip install "mucode-agent[langchain]"`."""

from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from mucode_agent import ScriptedModel, create_solver_tool

CODER = ScriptedModel(replies=["```python\ndef add(a, b):\n    return a + b\n```"])  # or "qwen0.5b"
TASK = {"prompt": "Write add(a, b), which adds two numbers.", "tests": ["assert add(1, 2) == 3"]}


CALL = {"name": "solve_coding_problem", "args": TASK, "id": "1"}
# Plays the agent's model: it calls the tool once, then answers. Replace it by your own chat model.
CHAT = ScriptedModel(replies=[AIMessage("", tool_calls=[CALL]), "Here is add, tested."], tools=True)

agent = create_agent(CHAT, tools=[create_solver_tool(CODER, n=1)])

if __name__ == "__main__":
    state = agent.invoke({"messages": [{"role": "user", "content": "I need a function that adds."}]})
    for message in state["messages"]:
        message.pretty_print()
