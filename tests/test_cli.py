"""The command line as a user meets it: output, exit codes, one clear sentence for every failure."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import mucode
from fakes import fenced
from openai_server import ChatServer, serve
from processes import alive, busy_programs, descendants
from terminal import at_terminal
from waiting import until

from mucode_agent.cli.output import BAD_INPUT, INFRASTRUCTURE, INTERRUPTED, NOT_SOLVED, READER_GONE, SOLVED
from mucode_agent.cli.solve import SolveOutput
from mucode_agent.models.embedded import EMBEDDED
from mucode_agent.traces import CandidateRow, read_trace

GOOD, BAD = "def inc(x):\n    return x + 1\n", "def inc(x):\n    return x\n"
PROBLEM: dict[str, Any] = {
    "id": "inc",
    "prompt": "Add one.",
    "entry_point": "inc",
    "public_tests": ["assert inc(1) == 2", "assert inc(-1) == 0"],
}


@pytest.fixture
def problem(tmp_path: Path) -> Path:
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(PROBLEM))
    return path


@pytest.fixture
def good() -> Iterator[ChatServer]:
    with serve([fenced(BAD), fenced(GOOD)]) as server:
        yield server


def test_the_solution_is_printed_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Path, good: ChatServer
) -> None:
    assert mucode(monkeypatch, "solve", problem, "--model", good.url, "--n", 2) == SOLVED
    assert capsys.readouterr() == (GOOD, "")


def test_json_is_one_documented_object(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Path, good: ChatServer
) -> None:
    assert mucode(monkeypatch, "solve", problem, "--model", good.url, "--n", 1, "--json") == SOLVED
    out, err = capsys.readouterr()
    result = SolveOutput.model_validate_json(out)
    assert (json.loads(out)["schema_version"], err) == (1, "")
    assert (result.solved, result.code, result.solution.turns) == (True, GOOD.strip(), 2)
    assert result.solution.usage.completion_tokens == 10


def test_the_best_attempt_is_printed_with_what_still_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Path
) -> None:
    with serve([fenced(BAD)]) as server:
        code = mucode(monkeypatch, "solve", problem, "--model", server.url, "--n", 2, "--turns", 2)
    out, err = capsys.readouterr()
    assert (code, out) == (NOT_SOLVED, BAD)
    assert "Failing test: assert inc(1) == 2\nExpected: 2\nActual: 1" in err


def test_an_answer_that_fails_private_tests_is_not_solved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, good: ChatServer
) -> None:
    path = tmp_path / "p.json"
    path.write_text(json.dumps({**PROBLEM, "private_tests": ["assert inc(41) == 41"]}))
    assert mucode(monkeypatch, "solve", path, "--model", good.url, "--n", 2) == NOT_SOLVED
    assert "assert inc(41) == 41" in capsys.readouterr().err


def test_the_trace_holds_every_candidate(
    monkeypatch: pytest.MonkeyPatch, problem: Path, tmp_path: Path, good: ChatServer
) -> None:
    trace = tmp_path / "trace.jsonl"
    mucode(monkeypatch, "solve", problem, "--model", good.url, "--n", 2, "--trace", trace)
    assert sum(isinstance(row, CandidateRow) for row in read_trace(trace)) == 2


def test_output_goes_whole_to_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Path, tmp_path: Path, good: ChatServer
) -> None:
    output = tmp_path / "out.py"
    assert mucode(monkeypatch, "solve", problem, "--model", good.url, "--n", 2, "--output", output) == SOLVED
    assert output.read_text() == GOOD
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.py", "problem.json"]


def test_a_problem_without_tests_needs_a_verifier_that_gives_probabilities(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "p.json").write_text(json.dumps({**PROBLEM, "public_tests": []}))
    assert mucode(monkeypatch, "solve", tmp_path / "p.json", "--verifier", "none") == BAD_INPUT
    assert "has no tests and the verifier 'none' gives no probability" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (None, "cannot read"),
        ("{", "is not JSON"),
        ({**PROBLEM, "prompt": 3}, "field prompt"),
        ({**PROBLEM, "prompt": ""}, "field prompt"),
        ({**PROBLEM, "public_tests": ["assert ("]}, "public_tests[0] does not parse"),
    ],
)
def test_a_bad_problem_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, row: Any, words: str
) -> None:
    path = tmp_path / "p.json"
    if row is not None:
        path.write_text(row if isinstance(row, str) else json.dumps(row))
    assert mucode(monkeypatch, "solve", path) == BAD_INPUT
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--n", "0"], "--n must be at least 1, got 0"),
        (["--turns", "0"], "--turns must be at least 1, got 0"),
        (["--model", "gpt"], "'gpt' names no model"),
        (["--selector", "best"], "--selector must be"),
        (["--sandbox", "docker"], "no sandbox is called 'docker'"),
        (["--timeout", "0"], "--timeout must be more than 0, got 0"),
        (["--request-timeout", "0"], "a request's timeout must be a number of seconds above 0, got 0"),
        (["--request-timeout", "nan"], "a request's timeout must be a number of seconds above 0, got nan"),
        (["--require-isolation", "full"], "--require-isolation must be 'any' or 'strong', got"),
        (["--output", "/nowhere/x.py"], "cannot write /nowhere/x.py"),
        (["--trace", "/nowhere/x.jsonl"], "cannot write the trace /nowhere/x.jsonl"),
    ],
)
def test_a_bad_option_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Path, options: list[str], words: str
) -> None:
    assert mucode(monkeypatch, "solve", problem, *options) == BAD_INPUT
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err


def test_a_dead_server_is_an_infrastructure_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Path
) -> None:
    assert mucode(monkeypatch, "solve", problem, "--model", "vllm:m@http://127.0.0.1:9/v1") == INFRASTRUCTURE
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "http://127.0.0.1:9/v1 failed" in err


def test_a_slow_server_is_waited_for_as_long_as_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Path
) -> None:
    with serve([fenced(GOOD)], delay_s=60) as server:
        options = ["--model", f"vllm:m@{server.url}", "--request-timeout", "0.2"]
        assert mucode(monkeypatch, "solve", problem, *options) == INFRASTRUCTURE
        assert len(server.requests) == 3
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "raise the timeout" in err


def test_a_server_that_gives_no_completion_is_an_infrastructure_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Path
) -> None:
    with serve([fenced(GOOD)], fewer=1) as server:
        assert mucode(monkeypatch, "solve", problem, "--model", server.url, "--n", 1) == INFRASTRUCTURE
    assert f"model 'scripted' at {server.url} failed" in capsys.readouterr().err


@pytest.mark.parametrize("reply", ["I cannot do that.", "", fenced("def other(x):\n    return x + 1")])
def test_an_answer_without_the_entry_point_is_not_solved(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Path, reply: str
) -> None:
    with serve([reply]) as server:
        assert mucode(monkeypatch, "solve", problem, "--model", server.url, "--n", 1, "--turns", 1) == NOT_SOLVED
    err = capsys.readouterr().err
    assert "does not define the function" in err


def test_unicode_survives_the_whole_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "µ.json"
    path.write_text(json.dumps({"prompt": "Grüße 🙂", "public_tests": ["assert hi() == 'Grüße 🙂\\u2028'"]}))
    code = "def hi():\n    return 'Grüße 🙂\u2028'\n"
    with serve([fenced(code)]) as server:
        assert mucode(monkeypatch, "solve", path, "--model", server.url, "--n", 1) == SOLVED
    assert capsys.readouterr().out == code


def test_standard_input_is_a_problem_too(good: ChatServer) -> None:
    command = [sys.executable, "-m", "mucode_agent", "solve", "-", "--model", good.url, "--n", "2"]
    run = subprocess.run(command, input=json.dumps(PROBLEM), capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (SOLVED, GOOD, "")


def test_the_schema_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert mucode(monkeypatch, "schema") == 0
    assert json.loads(capsys.readouterr().out)["title"] == "problem.json"


def test_the_doctor_names_every_layer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code = mucode(monkeypatch, "doctor")
    out = capsys.readouterr().out
    assert all(layer in out for layer in ("namespaces", "landlock", "seccomp", "rlimits", "verdicts", "isolation"))
    assert code == (INFRASTRUCTURE if " NO " in out else 0)


def test_the_doctor_says_which_weights_are_there_and_downloads_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("MUCODE_CACHE", str(tmp_path))
    mucode(monkeypatch, "doctor")
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("weights")]
    assert [line.split()[2] for line in printed] == [f"{name}:" for name in EMBEDDED]
    assert all("not in" in line and "MB" in line for line in printed)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("sent", "foreground"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_IGN),  # a shell's job in the background
    ],
)
def test_an_interrupted_solve_leaves_no_process_and_no_file(
    request: pytest.FixtureRequest, tmp_path: Path, problem: Path, sent: signal.Signals, foreground: signal.Handlers
) -> None:
    endless = fenced("def inc(x):\n    while True: pass")
    output = tmp_path / "out.py"
    with serve([endless]) as server:
        command = ["solve", problem, "--model", server.url, "--n", "1", "--timeout", "60", "--output", output]
        run = subprocess.Popen(
            [sys.executable, "-m", "mucode_agent", *map(str, command)],
            stderr=subprocess.PIPE,
            preexec_fn=lambda: signal.signal(signal.SIGINT, foreground),
        )
        request.addfinalizer(run.kill)
        until(lambda: busy_programs(run.pid))
        below = set(descendants(run.pid))
        run.send_signal(sent)
        _, err = run.communicate(timeout=30)
    assert run.returncode == INTERRUPTED, err
    assert err == b"mucode_agent: interrupted; nothing was left running\n"
    until(lambda: not alive(below), seconds=10)
    assert not output.exists()
    assert {path.name for path in tmp_path.iterdir()} == {"problem.json"}


def test_at_a_terminal_the_line_counts_the_seconds_while_the_model_draws(problem: Path) -> None:
    with serve([fenced(GOOD)], delay_s=2.5) as server:
        command = [sys.executable, "-m", "mucode_agent", "solve", problem, "--model", server.url, "--n", 1]
        code, written = at_terminal(command)
    assert code == SOLVED
    assert "turn 1 · 0/1 candidates run 0:00:01" in written
    assert "solved in turn 1 of 1 · 2 of 2 public tests pass · P(correct)" in written.replace("\r\n", " ")


def test_at_a_terminal_a_sentence_replaces_the_line_that_is_shown() -> None:
    script = (
        "from mucode_agent.cli.output import progress\n"
        "from mucode_agent.console import messages\n"
        "from mucode_agent.runs.progress import watching\n"
        "with watching(3, progress()): messages().print('a sentence')\n"
    )
    code, written = at_terminal([sys.executable, "-c", script])
    assert (code, "0/3" in written, "\r\x1b[2Ka sentence\r\n" in written) == (0, True, True)


def test_no_file_is_asked_to_be_two_things(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], problem: Path
) -> None:
    before = problem.read_text()
    assert mucode(monkeypatch, "solve", problem, "--output", problem) == BAD_INPUT
    assert "are the same file" in capsys.readouterr().err
    assert mucode(monkeypatch, "solve", problem, "--trace", problem) == BAD_INPUT
    assert problem.read_text() == before


def test_output_follows_links_keeps_modes_and_writes_through_to_a_pipe(
    monkeypatch: pytest.MonkeyPatch, problem: Path, tmp_path: Path, good: ChatServer
) -> None:
    target, link, pipe = tmp_path / "target.py", tmp_path / "link.py", tmp_path / "pipe"
    target.write_text("old")
    target.chmod(0o640)
    link.symlink_to(target)
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    for output in (link, pipe):
        assert mucode(monkeypatch, "solve", problem, "--model", good.url, "--n", 2, "--output", output) == SOLVED
    assert (target.read_text(), target.stat().st_mode & 0o777, link.is_symlink()) == (GOOD, 0o640, True)
    assert os.read(reader, 4096).decode() == GOOD
    os.close(reader)


def test_a_reader_that_leaves_early_is_no_failed_solve(problem: Path, good: ChatServer) -> None:
    command = [sys.executable, "-m", "mucode_agent", "solve", str(problem), "--model", good.url, "--n", "2"]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert run.stdout is not None
    run.stdout.close()
    assert run.wait(timeout=60) == READER_GONE
    assert run.stderr is not None
    assert run.stderr.read() == b""
    run.stderr.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("serve", "--port", "99999"), "invalid value for '--port'"),
        (("serve", "--port=abc"), "got 'abc'"),
        (("mcp", "--port", "-1"), "got '-1'"),
        (("solve",), "missing argument"),
        (("solve", "x", "--nope"), "no such option: --nope"),
        (("evaluate", "nonsense"), "no such command 'nonsense'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    assert mucode(monkeypatch, *arguments) == BAD_INPUT
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert "--help`" in err
