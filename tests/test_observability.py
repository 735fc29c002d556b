"""What LangChain's callbacks, LangSmith's and OpenTelemetry's among them, learn of a solve."""

import asyncio
from typing import Any

import pytest
from documents import fits_a_screen, snippets
from fakes import RuleSandbox, ScriptedModel, fenced
from langchain_core.callbacks import BaseCallbackHandler, UsageMetadataCallbackHandler
from langchain_openai import ChatOpenAI
from openai_server import serve
from pydantic import SecretStr

from mucode_agent import create_solver

GOOD, BAD = "def f(x):\n    return x + 1", "def f(x):\n    return x"
PROBLEM = {"id": "inc", "prompt": "Add one.", "entry_point": "f", "public_tests": ["assert f(1) == 2"]}


class Listener(BaseCallbackHandler):
    """Keeps what callbacks say of each model call: name, tags and our metadata."""

    run_inline = True

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str], dict[str, Any]]] = []

    def on_chat_model_start(self, *_: Any, tags: Any, metadata: Any, name: str = "", **more: Any) -> None:
        ours = {key.removeprefix("mucode_"): value for key, value in metadata.items() if key.startswith("mucode_")}
        self.calls.append((name, tags, ours))


def solver(*replies: str, native_n: bool = True, **settings: Any) -> Any:
    model = ScriptedModel(replies=list(map(fenced, replies)), native_n=native_n)
    place = RuleSandbox(lambda code: "x + 1" in code)
    return create_solver(model, sandbox=place, verifier="none", **{"n": 2, "max_turns": 2, **settings})


@pytest.mark.parametrize("run_async", [False, True])
@pytest.mark.parametrize("native_n", [False, True])
def test_each_model_call_says_which_candidate_of_which_turn_it_draws(run_async: bool, native_n: bool) -> None:
    listener, graph = Listener(), solver(BAD, BAD, BAD, BAD, native_n=native_n)
    config: Any = {"callbacks": [listener], "metadata": {"mine": 1}, "tags": ["mine"], "max_concurrency": 1}
    given = {"problem": PROBLEM}
    _ = asyncio.run(graph.ainvoke(given, config)) if run_async else graph.invoke(given, config)
    assert {name for name, _, _ in listener.calls} == {"mucode.generate"}
    assert all({"mucode", "mine"} <= set(tags) for _, tags, _ in listener.calls)
    assert all(about["problem_id"] == "inc" and about["run_id"] for _, _, about in listener.calls)
    drawn = [(about["turn"], about["candidate"]) for _, _, about in listener.calls]
    assert drawn == ([(1, 0), (2, 0)] if native_n else [(1, 0), (1, 1), (2, 0), (2, 1)])


def test_a_second_wave_goes_on_counting() -> None:
    listener, graph = Listener(), solver(BAD, native_n=False, wave=1, max_turns=1, n=3)
    graph.invoke({"problem": PROBLEM}, {"callbacks": [listener]})
    assert [about["candidate"] for _, _, about in listener.calls] == [0, 1, 2]


def test_a_request_of_probes_has_its_own_name() -> None:
    listener, graph = Listener(), solver(GOOD, max_turns=1, proposed_probes=2)
    graph.invoke({"problem": PROBLEM}, {"callbacks": [listener]})
    assert [name for name, _, _ in listener.calls] == ["mucode.propose", "mucode.generate"]


@pytest.mark.parametrize("run_async", [False, True])
def test_langchains_usage_handler_counts_what_the_solution_says(run_async: bool) -> None:
    with serve([fenced(BAD), fenced(GOOD)]) as server:
        model = ChatOpenAI(base_url=server.url, model="scripted", api_key=SecretStr("none"))
        graph = create_solver(model, sandbox=RuleSandbox(lambda code: "x + 1" in code), verifier="none", n=2)
        tokens, given = UsageMetadataCallbackHandler(), {"problem": PROBLEM}
        config: Any = {"callbacks": [tokens]}
        state: Any = asyncio.run(graph.ainvoke(given, config)) if run_async else graph.invoke(given, config)  # type: ignore[arg-type]
    spent = state["solution"]["usage"]
    [counted] = tokens.usage_metadata.values()
    assert (counted["input_tokens"], counted["output_tokens"]) == (spent["prompt_tokens"], spent["completion_tokens"])
    assert counted["output_tokens"] == 5 * spent["candidates"]


def test_the_page_says_what_is_true(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("opentelemetry.sdk", reason="pip install 'langsmith[otel]'")
    page: dict[str, Any] = {"model": ScriptedModel(replies=[fenced("def inc(x):\n    return x + 1")])}
    for code in snippets("observability.md"):
        # The exporter's default is the stdout of the moment in which it was imported.
        code = code.replace("SpanExporter()", "SpanExporter(out=__import__('sys').stdout)")
        exec(code.replace('"smollm2"', "model"), page)
    page["client"].cleanup()
    page["provider"].shutdown()
    shown = capsys.readouterr().out
    assert "'candidates': 2" in shown
    assert '"name": "mucode.generate"' in shown
    assert '"langsmith.metadata.mucode_turn": 1' in shown
    assert fits_a_screen("observability.md")
