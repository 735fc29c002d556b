"""`langgraph dev` serves the graph offline: one solve through its HTTP API, with nothing that blocks the event loop."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langgraph.pregel.remote import RemoteGraph
from langgraph_sdk import get_sync_client
from waiting import until

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("langgraph_api") is None, reason="needs `pip install 'langgraph-cli[inmem]'`"
)

ROOT = Path(__file__).parents[1]
PROBLEM = {"id": "inc", "prompt": "Add one.", "entry_point": "f", "public_tests": ["assert f(1) == 2"]}
GRAPH = """
from fakes import ScriptedModel, fenced
from mucode_agent.graphs.embed import create_solver_subagent
from mucode_agent.graphs.solver import create_solver

replies = [fenced("def f(x): return x"), fenced("def f(x): return x + 1")]
graph = create_solver(ScriptedModel(replies=replies), n=1)
chat = create_solver_subagent(ScriptedModel(replies=replies), n=1)["runnable"]
"""


@contextmanager
def server(directory: Path) -> Iterator[str]:
    """The address of `langgraph dev` for the langgraph.json of a directory."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "tests", directory)))
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "LANGGRAPH_NO_VERSION_CHECK": "true",
        "LANGSMITH_TRACING": "false",
    }
    command = [sys.executable, "-m", "langgraph_cli", "dev", "--no-browser", "--no-reload", "--port", str(port)]
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=directory, env=environment, stdout=log, stderr=log, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        until(lambda: process.poll() is not None or _answers(f"{address}/ok"))
        assert process.poll() is None, (directory / "log").read_text()
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


def solve(address: str) -> dict[str, Any]:
    body = json.dumps({"assistant_id": "mucode", "input": {"problem": PROBLEM}}).encode()
    request = urllib.request.Request(f"{address}/runs/wait", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request) as response:
        answer: dict[str, Any] = json.loads(response.read())
    return answer


def test_langgraph_dev_solves_a_problem_and_a_chat_over_http_without_blocking(tmp_path: Path) -> None:
    (tmp_path / "graph.py").write_text(GRAPH)
    config = {"dependencies": ["."], "graphs": {"mucode": "./graph.py:graph", "chat": "./graph.py:chat"}}
    (tmp_path / "langgraph.json").write_text(json.dumps(config))
    said = {"messages": [{"role": "user", "content": [{"type": "text", "text": "Write f.\nassert f(1) == 2"}]}]}
    with server(tmp_path) as address:
        answer = solve(address)
        with get_sync_client(url=address) as client:
            answered = RemoteGraph("chat", sync_client=client).invoke(said)
    assert "solution" in answer, answer
    assert (answer["solution"]["solved"], answer["solution"]["turns"]) == (True, 2)
    assert "The code passes all tests." in answered["messages"][-1]["content"]
    assert answered["structured_response"]["solved"]
    assert "BlockingError" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("graph", ["mucode", "mucode-chat"])
def test_our_langgraph_json_names_graphs_that_exist(graph: str) -> None:
    path, name = json.loads((ROOT / "langgraph.json").read_text())["graphs"][graph]["path"].split(":")
    script = f"import runpy; runpy.run_path({str(ROOT / path)!r})[{name!r}].get_graph()"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.real
def test_langgraph_dev_serves_our_langgraph_json(tmp_path: Path) -> None:
    config = json.loads((ROOT / "langgraph.json").read_text())
    for graph in config["graphs"].values():
        graph["path"] = str(ROOT / graph["path"])
    (tmp_path / "langgraph.json").write_text(json.dumps(config))
    with server(tmp_path) as address:
        assert solve(address)["solution"]["usage"]["candidates"] >= 1
