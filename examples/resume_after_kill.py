"""A solve is killed in its second turn and continues from its checkpoint. Needs
`pip install langgraph-checkpoint-sqlite`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.checkpoint.sqlite import SqliteSaver

from mucode_agent import ScriptedModel, create_solver

RIGHT = "```python\ndef is_palindrome(s):\n    return s.lower() == s.lower()[::-1]\n```"


def power_cut(messages: list[BaseMessage], _: object) -> str:
    """A model that kills its process at the second request."""
    print(f"asked, {len(messages)} messages", flush=True)
    if len(messages) > 1:
        os.kill(os.getpid(), 9)
    return "wrong"


def solve(database: str, given: Any, model: ScriptedModel) -> dict[str, Any]:
    with SqliteSaver.from_conn_string(database) as saver:
        solver = create_solver(model, n=1, max_turns=3, checkpointer=saver)
        thread: Any = {"configurable": {"thread_id": "ticket-17"}}
        # durability="sync" writes each step before the next one starts.
        return solver.invoke(given, thread, durability="sync")["solution"]


def main() -> None:
    problem = json.loads(Path(__file__).with_name("palindrome.json").read_text())
    if len(sys.argv) > 1:
        solve(sys.argv[1], {"problem": problem}, ScriptedModel(replies=power_cut))
        return
    with tempfile.TemporaryDirectory() as directory:
        database = f"{directory}/solves.sqlite"
        killed = subprocess.run([sys.executable, __file__, database], check=False)
        print(f"killed by signal {-killed.returncode}")
        solution = solve(database, None, ScriptedModel(replies=[RIGHT]))  # None: continue the thread
        print(f"solved: {solution['solved']}, turns: {solution['turns']}")


if __name__ == "__main__":
    main()
