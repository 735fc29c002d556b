"""Solves that LangSmith and OpenTelemetry recorded, taken in: the same rows as our own trace, and nothing made up."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from documents import snippets
from fakes import RuleSandbox, ScriptedModel, fenced
from langchain_core.tracers import LangChainTracer
from langsmith import Client
from langsmith_server import langsmith

from mucode_agent import create_solver
from mucode_agent.problems import read_problem
from mucode_agent.runs.directory import finished_solves
from mucode_agent.traces import CandidateRow, DecisionRow, MemoryTrace, ProblemRow, read_trace
from mucode_agent.training.data import generators_of, read_attempts, stream_traces
from mucode_agent.training.export import trl_sft
from mucode_agent.training.imports import import_traces, read_import, recorded
from mucode_agent.training.observed import read_runs
from mucode_agent.training.rescore import rescored
from mucode_agent.types import ProblemError
from mucode_agent.verifiers import load_verifier

GOOD, BAD, WORSE = (f"def f(x):\n    return x {rest}" for rest in ("+ 1", "- 0", "- 1"))
PROBLEM = {
    "id": "inc",
    "prompt": "Add one.",
    "entry_point": "f",
    "public_tests": ["assert f(1) == 2"],
    "private_tests": ["assert f(2) == 3"],
}
PUBLIC = PROBLEM | {"private_tests": []}


def place(*_: Any) -> RuleSandbox:
    return RuleSandbox(lambda code: "x + 1" in code)


def solve(problem: dict[str, Any], **config: Any) -> MemoryTrace:
    """Two turns of two candidates: wrong ones, then a right one."""
    trace = MemoryTrace()
    model = ScriptedModel(replies=list(map(fenced, (BAD, WORSE, GOOD, BAD))), native_n=True)
    graph = create_solver(model, sandbox=place(), verifier="agreement", trace=trace, n=2, max_turns=2)
    graph.invoke({"problem": problem}, config)
    return trace


def queried(client: Client, trace_id: str, file: Path) -> None:
    """As docs/rollouts.md has it."""
    [code] = snippets("rollouts.md")
    code = code.replace("Client()", "client").replace('"runs.jsonl"', repr(str(file)))
    code = code.replace('export("…", "…")', f'export("project", "{trace_id}")').replace(
        "from langsmith import Client", ""
    )
    exec(code, {"client": client})


@pytest.fixture(scope="module")
def langsmiths(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, MemoryTrace]:
    """What LangChain's tracer sent to LangSmith of a solve, as the client's `list_runs` gives it; and our own trace."""
    file = tmp_path_factory.mktemp("langsmith") / "runs.jsonl"
    with langsmith() as server:
        client = Client(api_url=server.url, api_key="none")
        tracer = LangChainTracer(client=client)
        trace = solve(PROBLEM, callbacks=[tracer])
        tracer.wait_for_futures()
        client.flush()
        assert tracer.latest_run is not None
        trace_id = tracer.latest_run.trace_id
        with warnings.catch_warnings(action="ignore"):  # `list_runs` goes in 2027
            runs = list(client.list_runs(trace_id=trace_id))
        file.write_text("".join(run.model_dump_json() + "\n" for run in runs))
        queried(client, str(trace_id), file.with_name("queried.jsonl"))
        client.cleanup()
    return file, trace


def rewritten(file: Path, change: Any, out: Path) -> Path:
    runs = [change(json.loads(line)) for line in file.read_text().splitlines()]
    out.write_text("".join(json.dumps(run) + "\n" for run in runs if run))
    return out


def bare(rows: Any) -> list[Any]:
    """Rows without what only the solver knows: names of model, verifier and wording, beside the settings."""
    return [row.model_copy(update={"settings": {}}) if isinstance(row, ProblemRow) else row for row in rows]


def test_what_langsmith_lists_gives_the_rows_of_our_own_trace(langsmiths: Any, tmp_path: Path) -> None:
    file, trace = langsmiths
    found = import_traces([file], tmp_path / "in", opened=place)
    assert bare(read_trace(tmp_path / "in" / "trace.jsonl")) == bare(trace.rows)
    assert (found.solves, found.unfinished, found.candidates, found.unlabelled) == (1, 0, 4, 0)
    kept, mine = (
        next(row.settings for row in rows if isinstance(row, ProblemRow))
        for rows in (read_trace(tmp_path / "in" / "trace.jsonl"), trace.rows)
    )
    assert {"n", "max_turns", "seed"} <= kept.keys()
    assert all(mine[key] == value for key, value in kept.items() if key != "model")


def test_imported_solves_are_labelled_scored_and_exported_as_our_own(langsmiths: Any, tmp_path: Path) -> None:
    import_traces([langsmiths[0]], tmp_path / "in", opened=place)
    [entry] = read_attempts([tmp_path / "in"])
    assert [(a.candidate.turn, len(a.turns), a.correct, a.source) for a in entry.attempts] == [
        (1, 0, False, "import"), (1, 0, False, "import"), (2, 1, True, "import"), (2, 1, False, "import"),
    ]  # fmt: skip
    assert entry.problem == read_problem(PROBLEM)
    assert [len(turn) for turn in rescored(stream_traces([tmp_path / "in"]), load_verifier("agreement"))] == [2, 2]
    assert len(list(trl_sft(read_attempts([tmp_path / "in"])))) == 1
    assert generators_of([tmp_path / "in"]) == list(read_import(tmp_path / "in").models)


def test_no_label_is_made_up_where_the_private_tests_are_not_recorded(langsmiths: Any, tmp_path: Path) -> None:
    def without_private(run: dict[str, Any]) -> dict[str, Any]:
        if "private_tests" in (run.get("inputs") or {}).get("problem", {}) and "run_id" not in run["inputs"]:
            return {}  # the root and the first node, the only ones to which the caller's problem came
        return run

    file = rewritten(langsmiths[0], without_private, tmp_path / "runs.jsonl")
    found = import_traces([file], tmp_path / "in", opened=place)
    assert (found.solves, found.unlabelled) == (1, 4)
    assert read_attempts([tmp_path / "in"])[0].attempts == ()
    import_traces([file], tmp_path / "known", [read_problem(PROBLEM)], opened=place)
    assert len(read_attempts([tmp_path / "known"])[0].attempts) == 4
    other = read_problem(PUBLIC | {"prompt": "Add two."})
    with pytest.raises(ProblemError, match="the recorded problem 'inc' is not the one of this id"):
        import_traces([file], tmp_path / "other", [other], opened=place)
    assert not (tmp_path / "other").exists()


def test_of_model_calls_alone_only_first_turns_are_learnt_from(langsmiths: Any, tmp_path: Path) -> None:
    file = rewritten(langsmiths[0], lambda run: run if run["run_type"] == "llm" else None, tmp_path / "runs.jsonl")
    with pytest.raises(ProblemError, match=r"hold no solve, only 2 model calls of problems that are not known.*--prob"):
        import_traces([file], tmp_path / "in", opened=place)
    found = import_traces([file], tmp_path / "in", [read_problem(PROBLEM)], opened=place)
    assert (found.solves, found.unfinished, found.candidates) == (0, 1, 4)
    rows = list(read_trace(tmp_path / "in" / "trace.jsonl"))
    assert not [row for row in rows if isinstance(row, DecisionRow)]
    assert [row.candidate.report for row in rows if isinstance(row, CandidateRow)] == [None] * 4
    assert [row.candidate.code for row in rows if isinstance(row, CandidateRow)] == [BAD, WORSE, GOOD, BAD]
    [entry] = read_attempts([tmp_path / "in"])
    assert [(a.candidate.turn, a.correct) for a in entry.attempts] == [(1, False), (1, False)]
    assert finished_solves(rows) == []


def test_runs_of_the_newer_query_are_the_same(langsmiths: Any) -> None:
    file, trace = langsmiths
    assert bare(recorded(read_runs(file.with_name("queried.jsonl")), {}).rows) == bare(trace.rows)


def test_runs_with_their_children_inside_are_the_same(langsmiths: Any, tmp_path: Path) -> None:
    runs = [json.loads(line) for line in langsmiths[0].read_text().splitlines()]
    [root] = [run for run in runs if run["parent_run_id"] is None]
    root["child_runs"] = [run for run in runs if run is not root]
    nested = tmp_path / "run.json"
    nested.write_text(json.dumps({"runs": [root]}, indent=1))
    assert bare(recorded(read_runs(nested), {}).rows) == bare(recorded(read_runs(langsmiths[0]), {}).rows)


def test_files_of_one_name_are_told_apart_and_one_given_twice_counts_once(langsmiths: Any, tmp_path: Path) -> None:
    """Also where only model calls are recorded, and another file repeats them."""
    calls = rewritten(langsmiths[0], lambda run: run if run["run_type"] == "llm" else None, tmp_path / "runs.jsonl")
    for name in ("monday", "tuesday"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "runs.jsonl").write_text(calls.read_text())
    files = [tmp_path / "monday/runs.jsonl", tmp_path / "tuesday/runs.jsonl", tmp_path / "monday/../monday/runs.jsonl"]
    import_traces([calls], tmp_path / "once", [read_problem(PROBLEM)], opened=place)
    found = import_traces(files, tmp_path / "in", [read_problem(PROBLEM)], opened=place)
    assert list(read_import(tmp_path / "in").files) == ["monday/runs.jsonl", "tuesday/runs.jsonl"]
    assert list(read_import(tmp_path / "once").files) == ["runs.jsonl"]
    assert found.candidates == 4
    assert (tmp_path / "in/trace.jsonl").read_bytes() == (tmp_path / "once/trace.jsonl").read_bytes()


# --- OpenTelemetry -------------------------------------------------------------------------------------------------


def otlp(file: Path, attributes: Any) -> Path:
    """LangSmith's runs as a collector's file exporter writes spans: a batch a line, under somebody's names."""

    def value(held: Any) -> dict[str, Any]:
        if isinstance(held, bool):
            return {"boolValue": held}
        return {"intValue": str(held)} if isinstance(held, int) else {"stringValue": held}

    lines = []
    for line in file.read_text().splitlines():
        run = json.loads(line)
        kept = {key: held for key, held in attributes(run).items() if held is not None}
        span = {
            "traceId": run["trace_id"].replace("-", ""),
            "spanId": run["id"][:16],
            "name": run["name"],
            "attributes": [{"key": key, "value": value(held)} for key, held in kept.items()],
        }
        lines.append(json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}))
    out = file.parent / "spans.jsonl"
    out.write_text("\n".join(lines))
    return out


def of_langsmith(run: dict[str, Any]) -> dict[str, Any]:
    metadata = run["extra"]["metadata"]
    return {
        "gen_ai.prompt": json.dumps(run["inputs"]),
        "gen_ai.completion": json.dumps(run["outputs"]),
        **{f"langsmith.metadata.{key}": held for key, held in metadata.items() if isinstance(held, int | str)},
    }


def of_openinference(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "input.value": json.dumps(run["inputs"]),
        "output.value": json.dumps(run["outputs"]),
        "metadata": json.dumps(run["extra"]["metadata"]),
        "llm.model_name": "scripted" if run["run_type"] == "llm" else None,
    }


@pytest.mark.parametrize("attributes", [of_langsmith, of_openinference])
def test_spans_of_the_graph_give_the_rows_of_our_own_trace(langsmiths: Any, tmp_path: Path, attributes: Any) -> None:
    file, trace = langsmiths
    found = recorded(read_runs(otlp(file, attributes)), {})
    assert bare(found.rows) == bare(trace.rows)
    assert found.problems == (read_problem(PROBLEM),)


def test_a_genai_span_of_a_model_call_gives_its_replies_and_tokens(langsmiths: Any, tmp_path: Path) -> None:
    def genai(run: dict[str, Any]) -> dict[str, Any]:
        if run["run_type"] != "llm":
            return {}
        texts = [part["text"] for part in run["outputs"]["generations"][0]]
        said = [
            {"role": "assistant", "parts": [{"type": "text", "content": t}], "finish_reason": "stop"} for t in texts
        ]
        metadata = {f"metadata.{key}": held for key, held in run["extra"]["metadata"].items() if key[:6] == "mucode"}
        return metadata | {"gen_ai.output.messages": json.dumps(said), "gen_ai.request.model": "m"}

    found = recorded(read_runs(otlp(langsmiths[0], genai)), {"inc": read_problem(PROBLEM)})
    candidates = [row.candidate for row in found.rows if isinstance(row, CandidateRow)]
    assert [candidate.code for candidate in candidates] == [BAD, WORSE, GOOD, BAD]
    assert {candidate.sample.finish_reason for candidate in candidates} == {"stop"}
    assert found.models == ("m",)


def test_langsmiths_own_spans_are_read_as_the_sdk_writes_them(tmp_path: Path) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="pip install 'langsmith[otel]'")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    client = Client(api_key="none", otel_tracer_provider=provider, tracing_mode="otel")
    trace = solve(PROBLEM, callbacks=[LangChainTracer(client=client)])
    client.flush()
    file = tmp_path / "spans.json"
    file.write_text("\n".join(span.to_json() for span in kept.get_finished_spans()))
    client.cleanup()
    provider.shutdown()
    assert bare(recorded(read_runs(file), {}).rows) == bare(trace.rows)


def test_openinferences_own_spans_are_read_in_both_forms(tmp_path: Path) -> None:
    """As Arize Phoenix and its collectors get them: the SDK's JSON, and OTLP."""
    instrumentation = pytest.importorskip(
        "openinference.instrumentation.langchain", reason="pip install openinference-instrumentation-langchain"
    )
    from google.protobuf.json_format import MessageToDict
    from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    instrumentation.LangChainInstrumentor().instrument(tracer_provider=provider)
    try:
        trace = solve(PROBLEM)
    finally:
        instrumentation.LangChainInstrumentor().uninstrument()
        provider.shutdown()
    spans = kept.get_finished_spans()
    sdk, otlp_json, calls = tmp_path / "spans.json", tmp_path / "otlp.json", tmp_path / "calls.json"
    sdk.write_text("\n".join(span.to_json() for span in spans))
    otlp_json.write_text(json.dumps(MessageToDict(encode_spans(spans))))
    calls.write_text("\n".join(span.to_json() for span in spans if span.name == "mucode.generate"))
    for file in (sdk, otlp_json):
        found = recorded(read_runs(file), {})
        assert bare(found.rows) == bare(trace.rows)
        assert found.problems == (read_problem(PROBLEM),)
        assert found.models == ("scripted",)
    alone = recorded(read_runs(calls), {"inc": read_problem(PROBLEM)})
    assert [row.candidate.code for row in alone.rows if isinstance(row, CandidateRow)] == [BAD, WORSE, GOOD, BAD]


# --- what is no export ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no run"),
        ("{", "line 1: is no JSON"),
        ('{"a": 1}', "an object with the keys a, no run"),
        ("[1]", "holds '1', which is no run"),
        ("\n\nnonsense", "line 3: is no JSON"),
        ("[" * 100_000, "is no JSON"),
    ],
)
def test_a_file_that_is_no_export_is_told_in_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "runs.json"
    file.write_text(text)
    with pytest.raises(ProblemError, match=words) as caught:
        read_runs(file)
    assert "\n" not in str(caught.value)
    assert "langsmith's client listed" in str(caught.value)


def test_runs_of_another_agent_are_no_solve(tmp_path: Path) -> None:
    file = tmp_path / "runs.json"
    file.write_text(json.dumps({"id": "1", "run_type": "chain", "inputs": {"messages": []}, "outputs": None}))
    with pytest.raises(ProblemError, match="hold no solve"):
        import_traces([file], tmp_path / "in", opened=place)
    assert not (tmp_path / "in").exists()
