"""The solver as a node of your own graph: it reads your key `problem` and writes your key `solution`."""

import json
from pathlib import Path
from typing import Any, TypedDict

from langgraph.graph import END, START, StateGraph

from mucode_agent import ScriptedModel, create_solver

WRONG, RIGHT = (f"```python\ndef is_palindrome(s):\n    return {t} == {t}[::-1]\n```" for t in ("s", "s.lower()"))
MODEL = ScriptedModel(replies=[WRONG, RIGHT])  # or "qwen0.5b", or any LangChain chat model


class State(TypedDict, total=False):
    ticket: str
    problem: dict[str, Any]
    solution: dict[str, Any]
    comment: str


def read(state: State) -> State:
    return {"problem": json.loads(Path(state["ticket"]).read_text())}


def comment(state: State) -> State:
    solution = state["solution"]
    return {"comment": f"{'Solved' if solution['solved'] else 'Not solved'} in turn {solution['turns']}."}


graph = StateGraph(State)
graph.add_node("read", read)
graph.add_node("solve", create_solver(MODEL, n=1, max_turns=3))
graph.add_node("comment", comment)
graph.add_edge(START, "read")
graph.add_edge("read", "solve")
graph.add_edge("solve", "comment")
graph.add_edge("comment", END)
agent = graph.compile()

if __name__ == "__main__":
    state = agent.invoke({"ticket": str(Path(__file__).with_name("palindrome.json"))})
    print(state["comment"])
    print(state["solution"]["best"]["code"])
