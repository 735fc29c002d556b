"""How untrusted programs are run: the same options for every command, and a word where no test can judge."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from command_line import mucode
from fakes import fenced

from mucode_agent.cli import evaluate, execute, serve, solve, traces, train, train_loop
from mucode_agent.cli.options import flag
from mucode_agent.cli.output import EXIT_CODES, NOT_SOLVED, SOLVED, UNJUDGED
from mucode_agent.runs.running import Running
from mucode_agent.training.config import LoopConfig
from mucode_agent.types import CodeTest, Job, Problem

COMMANDS = (
    solve.solve,
    execute.execute,
    evaluate.run,
    evaluate.check,
    traces.rollout,
    train_loop.loop,
    train.verifier,
    train.calibrate,
    serve.serve,
    serve.mcp,
)
CODE = "def echo(x):\n    print(x)\n    return x"
PUBLIC = "assert echo(3) == 3"
PRINTS = (
    "import io, contextlib as c\nwith c.redirect_stdout(io.StringIO()) as b: echo(3)\nassert b.getvalue() == '3\\n'"
)
"""A test that can judge only in the program's own process."""
LOOP = {"base": "b", "problems": {"train": "t", "validation": "v"}}


@pytest.mark.parametrize("field", Running.model_fields)
@pytest.mark.parametrize("function", COMMANDS, ids=lambda function: function.__name__)
def test_every_command_that_runs_programs_takes_the_same_options(function: Callable[..., None], field: str) -> None:
    parameter = inspect.signature(function).parameters[field]
    offered = parameter.annotation.__metadata__[0]
    assert flag(field) in (offered.default, *offered.param_decls)
    assert parameter.default == (Running.model_fields[field].default or None)


def test_the_limit_and_judge_take_the_place_of_a_problems_own() -> None:
    problem = Problem(prompt="Echo.", entry_point="echo", public_tests=(CodeTest(code=PUBLIC),))
    asked = Running(timeout=2.5, judge="together").problem(problem)

    assert (asked.limits.time_s, asked.judge) == (2.5, "together")
    assert asked.limits.memory_mb == problem.limits.memory_mb
    assert Running().problem(problem) == problem


@pytest.mark.parametrize(("judge", "status"), [(None, "unjudged"), ("together", "passed")])
def test_a_server_sets_them_on_every_job(judge: Any, status: str) -> None:
    sandbox = Running(judge=judge).open_for_any()
    try:
        job = Job(code=CODE, entry_point="echo", tests=(CodeTest(code=PRINTS),))
        assert sandbox.submit(job).result(60).status == status
    finally:
        sandbox.close()


def test_a_training_takes_them_as_keys_and_is_the_same_training_without_them() -> None:
    given = {**LOOP, "require_isolation": "strong", "timeout": 2.0, "judge": "together"}
    plain, asked = LoopConfig.model_validate(LOOP), LoopConfig.model_validate(given)

    assert (asked.require_isolation, asked.timeout, asked.judge) == ("strong", 2.0, "together")
    assert asked.identity() == plain.identity()  # what they change stands in the digests of the problems
    assert {"require_isolation", "timeout", "judge"}.isdisjoint(plain.identity())


def test_a_training_preloads_what_its_problems_tests_import() -> None:
    problem = Problem(prompt="p", entry_point="f", public_tests=(CodeTest(code="import pydantic\nassert f(1) == 1"),))
    assert LoopConfig.model_validate(LOOP).packages([problem]) == ("pydantic",)


# --- programs that no test can judge -------------------------------------------------------------------------------


def written(tmp_path: Path, public: str) -> Path:
    path = tmp_path / "problem.jsonl"
    row = {"id": "echo", "prompt": "Echo.", "entry_point": "echo", "public_tests": [public], "private_tests": [PRINTS]}
    path.write_text(json.dumps(row) + "\n")
    return path


@pytest.mark.parametrize(
    ("public", "options", "code", "words"),
    [
        (PUBLIC, (), UNJUDGED, "accepted, but the private tests cannot judge the answer: "),
        (PUBLIC, ("--judge", "together"), SOLVED, ""),
        ("assert echo(3) == 4", (), NOT_SOLVED, "not solved"),
    ],
)
def test_an_accepted_answer_that_private_tests_cannot_judge_is_not_called_wrong(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    public: str,
    options: tuple[str, ...],
    code: int,
    words: str,
) -> None:
    with ChatServer(lambda prompt, seed: fenced(CODE)) as server:
        model = f"openai:any@{server.url}"
        path = written(tmp_path, public)
        assert mucode(monkeypatch, "solve", path, "--model", model, "--n", 1, "--turns", 1, *options) == code

    out, err = capsys.readouterr()
    assert out.strip() == CODE
    assert err.startswith(words)
    assert ("not solved" in err) == (code == NOT_SOLVED)
    assert ("--judge together" in err) == (code == UNJUDGED)
    assert code in EXIT_CODES


def test_rollout_says_how_many_programs_no_test_could_judge(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = written(tmp_path, PUBLIC)
    with ChatServer(lambda prompt, seed: fenced(CODE)) as server:
        common = ("--model", f"openai:any@{server.url}", "--per-problem", 2, "--turns", 1, "--out")
        assert mucode(monkeypatch, "rollout", f"jsonl:{path}", *common, tmp_path / "run") == 0
        printed = capsys.readouterr().err
        assert mucode(monkeypatch, "rollout", f"jsonl:{path}", *common, tmp_path / "other", "--judge", "together") == 0
        judged = capsys.readouterr().err

    assert "1 of 1 programs, of 1 problems, are unjudged" in printed
    assert "evaluate check" in printed
    assert "unjudged" not in judged
