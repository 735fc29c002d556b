"""`evaluate run | check | compare | report` as a person meets them: a real sandbox, and a server on loopback."""

import io
import json
import signal
import subprocess
import sys
import threading

import pytest
from chat_server import ChatServer
from fakes import fenced
from rich.console import Console
from typer.testing import CliRunner
from waiting import until

from mucode_agent.cli.evaluate import app
from mucode_agent.runs.progress import Tally, duration, watching
from mucode_agent.types import InfrastructureError, ProblemError, Sample

DOUBLE = {
    "id": "double",
    "prompt": "Double x.",
    "public_tests": ["assert double(1) == 2"],
    "private_tests": ["assert double(3) == 6"],
    "reference": "def double(x):\n    return 2 * x",
}
SQUARE = {
    "id": "square",
    "prompt": "Square x.",
    "public_tests": ["assert square(2) == 4"],
    "private_tests": ["assert square(3) == 9"],
    "reference": "def square(x):\n    return x * x",
}
WRONG = DOUBLE | {"id": "wrong", "reference": "def double(x):\n    return x + 1"}


def reply(prompt, seed):
    """Right on `double` with every third seed; on `square` it passes the public test only."""
    if "square" in prompt:
        return fenced("def square(x):\n    return x + x")
    return fenced("def double(x):\n    return 2 * x" if seed % 3 == 0 else f"def double(x):\n    return {seed}")


def run(*arguments):
    """The command's outcome; its failures are raised, as the command line's `main` meets them."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)


def written(tmp_path, *rows, name="set.jsonl"):
    path = tmp_path / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"jsonl:{path}"


@pytest.fixture(scope="module")
def server():
    with ChatServer(reply) as made:
        yield made


def evaluated(tmp_path, server, *options, output="run"):
    return run(
        "run",
        written(tmp_path, DOUBLE, SQUARE),
        "--model",
        f"vllm:m@{server.url}",
        "--output",
        tmp_path / output,
        "--n",
        "3",
        "--turns",
        "2",
        *options,
    )


def test_a_run_prints_its_tables_and_writes_its_report(tmp_path, server):
    outcome = evaluated(tmp_path, server)

    assert outcome.exit_code == 0
    assert "Accuracy by turn" in outcome.stdout
    assert "2/2" in outcome.stderr
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["outcomes"]["square"] == {
        "greedy": 0.0,
        "turns": 0.0,
        "independent": 0.0,
        "best-of-3 random": 0.0,
        "best-of-3 tests": 0.0,
        "best-of-3 verifier": 0.0,
        "best-of-3 tests+verifier": 0.0,
        "best-of-3 oracle": 0.0,
    }
    assert results["arms"][1]["accepted"]["value"] >= 0.5  # `square` is accepted for its public test, and wrong
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "report.html",
        "report.md",
        "figures",
        "config.json",
    }


def test_without_running_tests_nothing_but_the_end_is_judged_by_them(tmp_path, server):
    outcome = evaluated(tmp_path, server, "--tests", "none", "--verifier", "agreement")

    assert outcome.exit_code == 0
    asked = [json.loads(line) for line in (tmp_path / "run" / "problems.jsonl").read_text().splitlines()]
    assert [len(problem["public_tests"]) for problem in asked] == [0, 0]
    assert [len(problem["private_tests"]) for problem in asked] == [2, 2]
    assert all("Your code should satisfy these tests:" in problem["prompt"] for problem in asked)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["arms"][1]["accepted"]["value"] == 0


def test_one_request_asks_for_all_candidates_of_a_state(tmp_path, server):
    server.requests.clear()

    evaluated(tmp_path, server)

    assert {body.get("n", 1) for body in server.requests} == {1, 3}
    assert all(body["model"] == "m" for body in server.requests)


def test_the_conversation_only_grows_so_that_prefix_caches_hit(tmp_path, server):
    server.requests.clear()

    evaluated(tmp_path, server, "--no-independent")

    second_turns = [body["messages"] for body in server.requests if len(body["messages"]) == 3]
    first_turns = [body["messages"] for body in server.requests if len(body["messages"]) == 1]
    assert second_turns
    assert all(messages[:1] in first_turns for messages in second_turns)


def test_a_dead_server_is_one_sentence_and_what_was_finished_is_reported(tmp_path, server):
    evaluated(tmp_path, server, "--no-independent")
    server.failing = True
    try:
        with pytest.raises(InfrastructureError, match="run the same command to continue") as caught:
            run(
                "run",
                written(tmp_path, DOUBLE, SQUARE),
                "--model",
                f"vllm:m@{server.url}",
                "--output",
                tmp_path / "other",
                "--patience",
                "0",
            )
    finally:
        server.failing = False
    assert "\n" not in str(caught.value)
    assert evaluated(tmp_path, server, "--no-independent").exit_code == 0


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_at_once_with_130_and_goes_on_later(tmp_path, signum):
    held = threading.Event()

    def slow(prompt, seed):
        if "square" in prompt:
            held.wait(30)
        return reply(prompt, seed)

    with ChatServer(slow) as server:
        command = [sys.executable, "-m", "mucode_agent", "evaluate", "run", written(tmp_path, DOUBLE, SQUARE)]
        command += ["--model", f"vllm:m@{server.url}", "--output", str(tmp_path / "run"), "--n", "3", "--turns", "2"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until(lambda: any((tmp_path / "run").glob("shards/*/*.json")))  # `double` is finished
        assert process.poll() is None
        process.send_signal(signum)
        out, err = process.communicate(timeout=60)
        held.set()

        assert process.returncode == 130
        assert b"Traceback" not in err
        assert b"Share of 1 problems" in out
        assert evaluated(tmp_path, server).exit_code in (0, None)


def test_check_passes_sound_references(tmp_path):
    outcome = run("check", written(tmp_path, DOUBLE, SQUARE))

    assert outcome.exit_code == 0
    assert "2 of 2 references pass all tests" in outcome.stdout


def test_check_names_what_fails_and_exits_with_1(tmp_path):
    nothing = {"id": "none", "prompt": "p", "public_tests": ["assert f(1)"]}

    outcome = run("check", written(tmp_path, DOUBLE, WRONG, nothing))

    assert outcome.exit_code == 1
    assert "1 of 3 references pass all tests" in outcome.stdout
    assert "private test fails" in outcome.stdout
    assert "wrong_answer: expected 6, got 4" in outcome.stdout
    assert "no reference" in outcome.stdout
    assert "1 without private tests (none)" in outcome.stdout


def test_every_humaneval_reference_passes_its_public_and_private_tests():
    outcome = run("check", "humaneval")

    assert "164 of 164 references pass all tests" in outcome.stdout
    assert outcome.exit_code == 0


def test_compare_says_when_nothing_is_shown(tmp_path, server):
    evaluated(tmp_path, server, output="a")
    evaluated(tmp_path, server, "--seed", "5", output="b")

    outcome = run("compare", tmp_path / "a", tmp_path / "b")
    as_json = json.loads(run("compare", "--json", tmp_path / "a", tmp_path / "b").stdout)

    assert "no difference shown" in outcome.stdout
    assert "B is better" not in outcome.stdout
    assert {item["name"] for item in as_json} >= {"greedy", "turns", "independent"}


def test_compare_lists_the_answers_that_differ_in_text(tmp_path, server):
    evaluated(tmp_path, server, output="a")
    evaluated(tmp_path, server, "--seed", "5", output="b")

    greedy = run("compare", "--answers", "greedy", tmp_path / "a", tmp_path / "b").stdout
    itself = run("compare", "--answers", "greedy", tmp_path / "a", tmp_path / "a").stdout

    assert "1 of 2 replies are the same text" in greedy  # the server's `double` depends on the seed
    assert "double" in greedy
    assert "2 of 2 replies are the same text" in itself
    with pytest.raises(ProblemError, match="answers must be of one of greedy, turns, independent, got 'best'"):
        run("compare", "--answers", "best", tmp_path / "a", tmp_path / "b")


def test_report_is_made_anew_from_the_rows(tmp_path, server):
    evaluated(tmp_path, server)
    before = (tmp_path / "run" / "report.html").read_bytes()
    for name in ("report.html", "report.md", "results.json"):
        (tmp_path / "run" / name).unlink()

    table = run("report", tmp_path / "run", "--markdown", "--output", tmp_path / "page.html").stdout

    assert (tmp_path / "page.html").read_bytes() == before
    assert "| search |" in table


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "humaneval", "--model", "nonsense"], "names no model"),
        (["run", "humanevil", "--model", "smollm2"], "unknown benchmark"),
        (["run", "humaneval", "--model", "smollm2", "--selector", "best"], "--selector must be"),
        (["run", "humaneval", "--model", "smollm2", "--tests", "some"], "--tests must be run or none, got 'some'"),
        (
            ["run", "humaneval", "--model", "smollm2", "--concurrency", "0"],
            "--concurrency must be",
        ),
        (
            ["run", "humaneval", "--model", "smollm2", "--patience", "nan"],
            "--patience must be",
        ),
        (["run", "humaneval", "--model", "smollm2", "--n", "0"], "n must be at least 1"),
        (["run", "humaneval", "--model", "smollm2", "--turns", "0"], "--turns must be at least"),
        (["check", "mbpp:nothing.jsonl"], "No such file"),
        (["check", "humaneval", "--split", "paper"], "example_test"),
        (["compare", "nowhere", "nowhere"], "cannot read"),
        (["report", "nowhere"], "is no run directory"),
    ],
)
def test_bad_input_is_one_sentence(arguments, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ProblemError) as caught:
        run(*arguments)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


# --- progress ------------------------------------------------------------------------------------------------------


def test_progress_tells_done_accuracy_speed_and_time_left():
    times = iter([0.0, 10.0])
    tally = Tally(4, lambda _: None, clock=lambda: next(times))
    tally.drawn([Sample(text="", seed=0, completion_tokens=50)])
    tally.finished("a", {"greedy": False, "turns": True})

    assert str(tally) == "1/4 · turns 100.0 % [20.7, 100.0] · 5 tokens/s · 0:30 left · 0:10"


def test_problems_of_an_earlier_start_do_not_shorten_the_time_left():
    times = iter([0.0, 10.0])
    tally = Tally(4, lambda _: None, clock=lambda: next(times))
    tally.finished("a", {"turns": True})
    tally.finished("b", {"turns": False})

    assert "left" not in str(tally)


def test_where_there_is_no_terminal_progress_is_plain_lines():
    out = io.StringIO()
    with watching(1, Console(file=out)) as tally:
        tally.waiting("the server [red]is[/red] away", 2.0)
        tally.waiting("the server [red]is[/red] away", 2.0)
        tally.finished("a", {"turns": True})

    lines = out.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("waiting 2 s: the server [red]is[/red] away")
    assert lines[1].startswith("1/1 · turns 100.0 %")
    assert "\x1b" not in out.getvalue()


def test_a_terminal_gets_a_live_line():
    out = io.StringIO()
    with watching(2, Console(file=out, force_terminal=True)) as tally:
        tally.finished("a", {"turns": True})

    assert "\x1b" in out.getvalue()


def test_durations_read_as_clocks_do():
    assert [duration(seconds) for seconds in (0, 59.6, 61, 3600, 36061)] == [
        "0:00",
        "1:00",
        "1:01",
        "1:00:00",
        "10:01:01",
    ]
