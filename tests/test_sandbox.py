"""The local sandbox: what its verdicts say, and that running costs no trust."""

import asyncio
import threading

import pytest
from e2b_server import KEY, E2BServer

from mucode_agent.tools.local import LocalSandbox
from mucode_agent.tools.sandbox import arun, load_sandbox, run
from mucode_agent.types import ExecutionReport, Job, Limits, ProblemError, Sandbox, StdioTest

QUICK = Limits(time_s=0.5, memory_mb=128)


WORKERS = 2  # of the fixture `sandbox`


def judge(sandbox: LocalSandbox, code: str, *tests: str, **fields) -> ExecutionReport:
    return sandbox.submit(Job(code=code, tests=tests, **fields)).result()


def test_it_is_a_sandbox(sandbox):
    assert isinstance(sandbox, Sandbox)


def test_a_right_program_passes(sandbox):
    report = judge(sandbox, "def f(x):\n    return x + 1", "assert f(1) == 2", "assert f(2) == 3")
    assert report.passed
    assert [result.test for result in report.results] == ["assert f(1) == 2", "assert f(2) == 3"]


def test_check_is_called_with_the_entry_point(sandbox):
    test = "def check(candidate):\n    assert candidate(2) == 3"
    assert judge(sandbox, "def f(x):\n    return x + 1", test, entry_point="f").passed
    assert judge(sandbox, "def f(x):\n    return x", test, entry_point="f").results[0].test == "assert f(2) == 3"


def test_a_wrong_answer_shows_both_values(sandbox):
    result = judge(sandbox, "def f(x):\n    return [x]", "assert f(1) == [2]").results[0]
    assert (result.status, result.test, result.expected, result.actual) == (
        "wrong_answer",
        "assert f(1) == [2]",
        "[2]",
        "[1]",
    )


def test_a_loop_shows_the_call_that_failed(sandbox):
    test = "def check(candidate):\n    for x in range(5):\n        assert candidate(x) == x % 3"
    result = judge(sandbox, "def f(x):\n    return x", test, entry_point="f").results[0]
    assert (result.test, result.expected, result.actual) == ("assert f(3) == 0", "0", "3")


def test_an_exception_carries_the_programs_own_lines(sandbox):
    code = "def g(x):\n    return x / 0\ndef f(x):\n    return g(x)"
    result = judge(sandbox, code, "assert f(1) == 2", setup="import math\n\n").results[0]
    assert result.status == "exception"
    assert result.error == "ZeroDivisionError: division by zero"
    assert result.traceback == ("line 4, in f: return g(x)", "line 2, in g: return x / 0")


def test_each_way_to_fail_has_its_name(sandbox):
    cases = {
        "def f(:": "syntax_error",
        "def f(x):\n    return '\0'": "syntax_error",
        "def g(x): return 1": "missing_entry_point",
        "def f(x):\n    while True: pass": "timeout",
        "def f(x):\n    return [0] * 10**9": "memory",
        "def f(x):\n    print('x' * 10**7)": "output_limit",
        "def f(x):\n    return 'x' * 10**7": "output_limit",
        "import sys\ndef f(x):\n    sys.exit(0)": "early_exit",
        "import os\nos._exit(0)": "early_exit",
        "import ctypes\ndef f(x):\n    ctypes.string_at(0)": "early_exit",
        "1 / 0": "exception",
        "def f(x): return 1": "wrong_answer",
    }
    reports = run(
        sandbox, [Job(code=code, tests=("assert f(1) == 2", "assert f(1) == 2"), limits=QUICK) for code in cases]
    )
    assert {code: report.status for code, report in zip(cases, reports, strict=True)} == cases


def test_the_signal_is_named(sandbox):
    report = judge(sandbox, "import ctypes\ndef f(x):\n    ctypes.string_at(0)", "assert f(1) == 2")
    assert "SIGSEGV" in report.results[0].error


def test_tests_after_the_programs_death_are_skipped(sandbox):
    code = "import os\ndef f(x):\n    return 2 if x == 1 else os._exit(3)"
    report = judge(sandbox, code, *["assert f(1) == 2", "assert f(2) == 2", "assert f(1) == 2"])
    assert [result.status for result in report.results] == ["passed", "early_exit", "skipped"]
    assert "exit code 3" in report.results[1].error


def test_no_test_is_no_pass(sandbox):
    assert judge(sandbox, "x = 1").status == "unjudged"
    assert judge(sandbox, "x = 1", "assert 1 == 1").status == "unjudged"
    assert judge(sandbox, "def f(x): return 1", "def check(candidate): pass", entry_point="f").status == "unjudged"
    assert judge(sandbox, "1 / 0").status == "exception"


def test_a_broken_test_is_unjudged(sandbox):
    assert judge(sandbox, "def f(x): return 1", "assert f(1) ==").status == "unjudged"
    assert judge(sandbox, "def f(x): return 1", "import nowhere\nassert f(1) == 1").status == "unjudged"


def test_stdio_programs_run_as_main_in_a_process_each(sandbox):
    code = "import sys\nif __name__ == '__main__':\n    print(sum(map(int, sys.stdin.read().split())))  "
    tests = (
        StdioTest(stdin="1 2", stdout="3"),
        StdioTest(stdin="4\n5\n", stdout="9  \n\n"),
        StdioTest(stdin="1", stdout="2"),
    )
    report = sandbox.submit(Job(code=code, tests=tests)).result()
    assert [result.status for result in report.results] == ["passed", "passed", "wrong_answer"]
    assert (report.results[2].expected, report.results[2].actual) == ("2", "1\n")


def test_a_program_may_exit_with_zero_and_not_with_one(sandbox):
    tests = (StdioTest(stdin="", stdout="hello"),)
    assert sandbox.submit(Job(code="import sys\nprint('hello')\nsys.exit()", tests=tests)).result().passed
    assert (
        sandbox.submit(Job(code="import sys\nprint('hello')\nsys.exit(1)", tests=tests)).result().status == "early_exit"
    )
    assert sandbox.submit(Job(code="print('hello')\n1 / 0", tests=tests)).result().status == "exception"


def test_async_callers_get_the_same_verdicts(sandbox):
    jobs = [Job(code=f"def f(x): return {n}", tests=("assert f(0) == 3",)) for n in range(5)]
    reports = asyncio.run(arun(sandbox, jobs))
    assert [report.passed for report in reports] == [False, False, False, True, False]


def test_cancelling_kills_the_program():
    sandbox = LocalSandbox(workers=1)
    endless = sandbox.submit(Job(code="while True: pass", tests=("assert x == 1",), limits=Limits(time_s=3000)))
    queued = sandbox.submit(Job(code="while True: pass", limits=Limits(time_s=3000)))
    assert endless.cancel()
    assert queued.cancel()
    assert sandbox.submit(Job(code="x = 1", tests=("assert x == 1",))).result().passed
    sandbox.close()


def test_a_cancelled_task_kills_the_program():
    sandbox = LocalSandbox(workers=1)
    forever = Job(code="while True: pass", limits=Limits(time_s=3000))

    async def main() -> ExecutionReport:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(arun(sandbox, [forever]), 0.3)
        return (await arun(sandbox, [Job(code="x = 1", tests=("assert x == 1",))]))[0]

    assert asyncio.run(main()).passed
    sandbox.close()


def test_constructing_starts_nothing():
    before = threading.active_count()
    sandbox = LocalSandbox()
    assert threading.active_count() == before
    sandbox.close()
    sandbox.close()
    with pytest.raises(RuntimeError, match="closed"):
        sandbox.submit(Job(code="x = 1"))


def test_closing_cancels_what_waits():
    sandbox = LocalSandbox(workers=1)
    futures = [sandbox.submit(Job(code="while True: pass", limits=Limits(time_s=3000))) for _ in range(3)]
    sandbox.close()
    assert all(future.cancelled() for future in futures)


def test_an_unknown_sandbox_is_named():
    with pytest.raises(ProblemError, match="'docker'"):
        load_sandbox("docker")


def test_e2b_gets_the_number_of_workers_and_is_strong_as_such(monkeypatch):
    pytest.importorskip("e2b_code_interpreter")
    job = Job(code="def f(x): return x + 1", tests=("assert f(1) == 2",))
    with E2BServer() as server:
        for name, value in {"API_KEY": KEY, "API_URL": server.url, "SANDBOX_URL": server.url}.items():
            monkeypatch.setenv(f"E2B_{name}", value)
        sandbox = load_sandbox("e2b", workers=1, require="strong")
        try:
            reports = run(sandbox, [job] * 130)  # three batches: two machines would share them
        finally:
            sandbox.close()
        assert {report.status for report in reports} == {"passed"}
        assert server.peak == 1
    with pytest.raises(ProblemError, match="machines"):
        load_sandbox("e2b", workers=0)


def test_a_test_takes_its_names_from_its_own_source(sandbox):
    assert not judge(sandbox, "def abs(x): return 0\ndef f(x): return 7.0", "assert abs(f(1) - 2) < 1e-6").passed
    assert not judge(
        sandbox,
        "def helper(x): return x\ndef f(x): return 5",
        "assert helper(f(1)) == 5",
        setup="def helper(x): return 1",
    ).passed
    assert judge(sandbox, "def sum(a, b): return a + b", "assert sum(1, 2) == 3").passed


def test_a_value_that_keeps_the_judge_busy_is_a_timeout(sandbox):
    test = "def check(candidate):\n    n = candidate(1)\n    while n: pass"
    report = judge(sandbox, "def f(x): return 1", test, "assert f(1) == 1", entry_point="f", limits=Limits(time_s=0.1))
    assert [result.status for result in report.results] == ["timeout", "skipped"]


def test_standard_error_is_no_output(sandbox):
    code = "import sys\nprint('out')\nprint('err', file=sys.stderr)"
    report = sandbox.submit(Job(code=code, tests=(StdioTest(stdin="", stdout="out"),))).result()
    assert (report.status, report.stdout, report.stderr) == ("passed", "out\n", "err\n")


def test_what_both_streams_print_counts_as_output(sandbox):
    half = "import sys\nsys.stdout.write('x' * 40_000)\nsys.stderr.write('x' * 40_000)"
    tests = (StdioTest(stdin="", stdout="x"),)
    assert sandbox.submit(Job(code=half, tests=tests, limits=Limits(output_kb=64))).result().status == "output_limit"
    assert sandbox.submit(Job(code=half, tests=tests, limits=Limits(output_kb=96))).result().status == "wrong_answer"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_printing_beyond_the_limit_is_named_however_it_ends(sandbox, stream):
    flood = f"import sys\nprint('x' * 10**7, file=sys.{stream})\n"
    swallowed = f"import sys\ntry:\n    print('x' * 10**7, file=sys.{stream}, flush=True)\nexcept OSError:\n    pass\n"
    function = f"def f(x):\n    {swallowed.replace(chr(10), chr(10) + '    ')}return 2"
    jobs = [Job(code=code, tests=(StdioTest(stdin="", stdout=""),)) for code in (flood, swallowed)]
    jobs += [Job(code=code, tests=("assert f(1) == 2",)) for code in (function, f"{flood}\ndef f(x): return 2")]
    assert [report.status for report in run(sandbox, jobs)] == ["output_limit"] * 4


def test_a_script_that_fails_says_no_more_than_its_exit_code(sandbox):
    tests = (StdioTest(stdin="", stdout=""),)
    result = sandbox.submit(Job(code="import sys\nsys.exit(3)", tests=tests)).result().results[0]
    assert result.error == "the program ended with exit code 3"
