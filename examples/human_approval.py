"""A person approves the code before it is accepted, by LangGraph's interrupt and a checkpointer."""

import json
import sys
from pathlib import Path
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from mucode_agent import ScriptedModel, create_solver

ONE, TWO = (f"```python\ndef is_palindrome(s):\n    return {body}\n```"
            for body in ("s.upper() == s.upper()[::-1]", "s.lower() == s.lower()[::-1]"))  # fmt: skip
MODEL = ScriptedModel(replies=[ONE, TWO])  # or "qwen0.5b", or any LangChain chat model


def review(question: dict[str, Any]) -> dict[str, Any]:
    """The person's answer: empty means yes; anything else is the reason for no, which the model reads."""
    print(f"{question['reason']}:\n{question['code']}")
    print("Enter to accept, or say what is wrong: ", end="", flush=True)
    comment = sys.stdin.readline().strip()
    return {"approved": not comment, "comment": comment}


if __name__ == "__main__":
    solver = create_solver(MODEL, n=1, max_turns=3, approve=True, checkpointer=InMemorySaver())
    problem = json.loads(Path(__file__).with_name("palindrome.json").read_text())
    thread: Any = {"configurable": {"thread_id": "ticket-17"}}
    state: Any = solver.invoke({"problem": problem}, thread)
    while "__interrupt__" in state:
        state = solver.invoke(Command(resume=review(state["__interrupt__"][0].value)), thread)
    print(f"{state['solution']['stop_reason']} in turn {state['solution']['turns']}")
