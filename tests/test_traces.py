"""The trace on disk: whole lines, once each, by any number of writers."""

import json
import multiprocessing
import resource
from pathlib import Path

import pytest

from mucode_agent.traces import DecisionRow, JsonlTrace, ProblemRow, read_trace, run_id
from mucode_agent.types import Decision, InfrastructureError, Problem, ProblemError

PROBLEM = Problem(prompt="Add. µ \u2028 line", entry_point="f")


def row(number: int) -> DecisionRow:
    decision = Decision(action="draw", reason="why not", turn=1, drawn=number, selected=0)
    return DecisionRow(run_id="r", problem_id="p", decision=decision)


def test_rows_saved_are_loaded_equal(tmp_path: Path) -> None:
    rows = [ProblemRow(run_id="r", problem=PROBLEM, settings={"n": 5}), row(1), row(2)]
    JsonlTrace(tmp_path / "t.jsonl").write(rows)
    assert list(read_trace(tmp_path / "t.jsonl")) == rows


def test_a_torn_last_line_is_passed_over_and_mended_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    JsonlTrace(path).write([row(1)])
    with path.open("ab") as file:
        file.write(b'{"kind":"deci')
    assert list(read_trace(path)) == [row(1)]
    JsonlTrace(path).write([row(2)])
    assert list(read_trace(path)) == [row(1), row(2)]


def test_rows_written_twice_are_read_once(tmp_path: Path) -> None:
    JsonlTrace(tmp_path / "t.jsonl").write([row(1), row(1), row(2)])
    assert list(read_trace(tmp_path / "t.jsonl")) == [row(1), row(2)]


def write_many(path: str, start: int) -> None:
    trace = JsonlTrace(path)
    for number in range(start, start + 50):
        trace.write([row(number)])


def test_several_processes_share_one_trace(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(tmp_path / "t.jsonl"), 50 * i)) for i in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = list(read_trace(tmp_path / "t.jsonl"))
    assert sorted(r.decision.drawn for r in rows if isinstance(r, DecisionRow)) == list(range(150))


def test_a_row_of_another_version_is_named_by_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"kind": "problem", "trace_version": 99}\n')
    with pytest.raises(ProblemError, match="line 1 is no trace row of version 1"):
        list(read_trace(tmp_path / "t.jsonl"))


def test_fields_of_a_newer_version_are_passed_over_at_every_depth(tmp_path: Path) -> None:
    JsonlTrace(tmp_path / "t.jsonl").write([row(1)])
    line = json.loads((tmp_path / "t.jsonl").read_text())
    line["newer"], line["decision"]["newer"] = 1, {"a": 2}
    (tmp_path / "t.jsonl").write_text(json.dumps(line, separators=(",", ":")) + "\n")
    assert list(read_trace(tmp_path / "t.jsonl")) == [row(1)]


def test_an_unwritable_place_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="cannot write the trace"):
        JsonlTrace(tmp_path / "no" / "t.jsonl")


def write_beyond(path: str, limit: int, outcome: "multiprocessing.Queue[str]") -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        JsonlTrace(path).write([row(number) for number in range(100)])
    except InfrastructureError as error:
        outcome.put(str(error))


def test_a_full_disk_leaves_the_trace_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    JsonlTrace(path).write([row(1)])
    context = multiprocessing.get_context("spawn")
    outcome = context.Queue()
    writer = context.Process(target=write_beyond, args=(str(path), path.stat().st_size + 100, outcome))
    writer.start()
    assert "File too large; free room, then resume" in outcome.get(timeout=30)
    writer.join()
    assert list(read_trace(path)) == [row(1)]


def test_a_run_is_named_by_what_determines_it() -> None:
    assert run_id(PROBLEM, {"seed": 0}) == run_id(PROBLEM, {"seed": 0})
    assert run_id(PROBLEM, {"seed": 0}) != run_id(PROBLEM, {"seed": 1})


def test_a_file_that_is_no_trace_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "precious.json"
    path.write_text('{"precious": 1}')
    with pytest.raises(ProblemError, match="something else than a trace"):
        JsonlTrace(path)
    assert path.read_text() == '{"precious": 1}'
