"""Prints every event of a solve as it happens, then the answer. docs/graph.md lists the events."""

import json
from pathlib import Path

from mucode_agent import ScriptedModel, create_solver

WRONG, RIGHT = (f"```python\ndef is_palindrome(s):\n    return {t} == {t}[::-1]\n```" for t in ("s", "s.lower()"))
MODEL = ScriptedModel(replies=[WRONG, RIGHT])  # or "qwen0.5b", or any LangChain chat model

if __name__ == "__main__":
    solver = create_solver(MODEL, n=1, max_turns=3)
    problem = json.loads(Path(__file__).with_name("palindrome.json").read_text())
    # From inside a parent graph, add subgraphs=True: the namespace then precedes each item.
    for mode, item in solver.stream({"problem": problem}, stream_mode=["custom", "values"]):
        if mode == "custom":
            print(item.pop("event").ljust(28), *(f"{key}={value}" for key, value in item.items()))
    print(item["solution"]["best"]["code"])
