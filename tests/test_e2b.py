"""E2B's own client against a loopback server: our verdicts, and no machine left behind whatever happens."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from e2b_server import KEY, E2BServer
from waiting import until

from mucode_agent.tools.e2b import DOLLARS_PER_CPU_S, DOLLARS_PER_GIB_S, E2BSandbox
from mucode_agent.types import ExecutionReport, Job, Limits, ProblemError, Sandbox, StdioTest

ADD = Job(code="def add(a, b):\n    return a + b", entry_point="add", tests=("assert add(1, 2) == 3",))
WRONG = ADD.model_copy(update={"code": "def add(a, b):\n    return a - b"})
ECHO = Job(code="print(input())", tests=(StdioTest(stdin="hello\n", stdout="hello"),))
BRISK = {"backoff_s": 0.01, "creations_per_s": 1000.0}


@pytest.fixture
def server() -> Iterator[E2BServer]:
    with E2BServer() as server:
        yield server


def make(server: E2BServer, **options: Any) -> E2BSandbox:
    given = {**BRISK, "machines": 1, "api_key": KEY, "retries": 0, **options}
    return E2BSandbox(api_url=server.url, sandbox_url=server.url, **given)


@pytest.fixture
def sandbox(server: E2BServer) -> Iterator[E2BSandbox]:
    sandbox = make(server)
    yield sandbox
    sandbox.close()


def judged(sandbox: Sandbox, *jobs: Job) -> list[ExecutionReport]:
    return [future.result(120) for future in [sandbox.submit(job) for job in jobs]]


# --- verdicts


def test_it_is_a_sandbox(sandbox: E2BSandbox) -> None:
    assert isinstance(sandbox, Sandbox)


def test_the_runner_inside_gives_the_verdicts(sandbox: E2BSandbox) -> None:
    right, wrong, echo = judged(sandbox, ADD, WRONG, ECHO)

    assert (right.status, echo.status) == ("passed", "passed")
    assert (wrong.status, wrong.results[0].expected, wrong.results[0].actual) == ("wrong_answer", "3", "-1")


def test_an_early_exit_is_no_pass(sandbox: E2BSandbox) -> None:
    exits = ["import os\nos._exit(0)", "raise SystemExit", "import os\nos.abort()"]

    reports = judged(sandbox, *[ADD.model_copy(update={"code": code}) for code in exits])

    assert {report.status for report in reports} == {"early_exit"}


def test_the_isolation_says_what_the_runner_has_inside(sandbox: E2BSandbox) -> None:
    assert sandbox.isolation == "microVM"
    [report] = judged(sandbox, ADD)

    assert report.isolation.startswith("microVM+")
    assert sandbox.isolation == report.isolation


def test_reports_larger_than_one_message_come_whole(sandbox: E2BSandbox) -> None:
    job = Job(code="print('µ' * 100_000)", tests=(StdioTest(stdin="", stdout="y"),))

    reports = judged(sandbox, *[job] * 20)

    assert {report.status for report in reports} == {"wrong_answer"}


# --- machines


def test_a_machine_has_no_internet_dies_at_its_timeout_and_says_whose_it_is(
    server: E2BServer, sandbox: E2BSandbox
) -> None:
    judged(sandbox, ADD)

    [machine] = server.created
    assert machine.body["allow_internet_access"] is False
    assert not machine.body.get("autoPause")
    assert machine.body["metadata"]["process"] == str(os.getpid())


def test_one_machine_serves_many_batches_and_its_life_is_prolonged(server: E2BServer, sandbox: E2BSandbox) -> None:
    for _ in range(3):
        judged(sandbox, ADD)

    [machine] = server.created
    assert len(machine.timeouts) == 3
    assert sum("remote.py" in command for command in machine.commands) == 3


def test_jobs_go_in_batches(server: E2BServer, sandbox: E2BSandbox) -> None:
    reports = judged(sandbox, *[ADD] * 60)

    assert all(report.passed for report in reports)
    assert sum("remote.py" in command for command in server.created[0].commands) <= 6


def test_tests_do_not_stay_in_the_machine(server: E2BServer, sandbox: E2BSandbox) -> None:
    judged(sandbox, ADD)

    assert list(server.created[0].root.rglob("*.json")) == []


def test_work_spreads_over_machines_up_to_their_number(server: E2BServer) -> None:
    sandbox = make(server, machines=3, batch=4)
    judged(sandbox, *[ADD] * 48)
    sandbox.close()

    assert 2 <= server.peak <= 3


def test_a_worn_machine_is_replaced(server: E2BServer) -> None:
    sandbox = make(server, jobs_per_machine=2, batch=1)
    judged(sandbox, *[ADD] * 5)
    sandbox.close()

    assert len(server.created) == 3
    assert server.peak == 1


def test_an_idle_machine_is_closed_and_work_opens_another(server: E2BServer) -> None:
    sandbox = make(server, idle_s=0.05)
    judged(sandbox, ADD)
    until(lambda: not server.machines)
    assert [report.status for report in judged(sandbox, ADD)] == ["passed"]
    sandbox.close()


def test_machines_are_created_no_faster_than_allowed(server: E2BServer) -> None:
    sandbox = make(server, jobs_per_machine=1, batch=1, creations_per_s=5)
    judged(sandbox, *[ADD] * 3)
    sandbox.close()

    first, second, third = [machine.started for machine in server.created]
    assert second - first > 0.15
    assert third - second > 0.15


def test_the_cost_is_counted_and_logged(server: E2BServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    sandbox = make(server)
    assert sandbox.usage.dollars == 0

    judged(sandbox, ADD)
    sandbox.close()

    usage = sandbox.usage
    assert usage.machines == 1
    assert usage.seconds > 0
    assert usage.dollars == pytest.approx(usage.seconds * (2 * DOLLARS_PER_CPU_S + DOLLARS_PER_GIB_S / 2))
    assert "1 machines" in caplog.text
    assert sandbox.usage == usage


# --- faults


def test_without_a_key_the_message_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("E2B_API_KEY", raising=False)

    with pytest.raises(ProblemError, match="E2B_API_KEY"):
        E2BSandbox()


def test_a_refused_key_is_the_callers_problem_and_asked_once(server: E2BServer) -> None:
    sandbox = make(server, api_key="wrong")
    futures = [sandbox.submit(ADD)]

    with pytest.raises(ProblemError, match="E2B refused the key"):
        futures[0].result(60)
    with pytest.raises(ProblemError, match="E2B refused the key"):
        sandbox.submit(ADD)
    sandbox.close()
    assert len(server.keys) <= 2


def test_a_missing_template_is_the_callers_problem(server: E2BServer) -> None:
    server.create_statuses = [404]
    sandbox = make(server, template="none")

    with pytest.raises(ProblemError, match="check template and plan"):
        sandbox.submit(ADD).result(60)
    sandbox.close()


@pytest.mark.parametrize("status", [429, 503, 500, 502])
def test_a_busy_service_is_asked_again(server: E2BServer, status: int) -> None:
    server.create_statuses = [status] * 3
    sandbox = make(server)

    assert [report.status for report in judged(sandbox, ADD)] == ["passed"]
    sandbox.close()


def test_a_service_that_stays_busy_is_infra(server: E2BServer) -> None:
    server.create_statuses = [503] * 1000
    sandbox = make(server)

    [report] = judged(sandbox, ADD)
    sandbox.close()

    assert report.status == "infra"
    assert "ServiceBusyException" in report.error


def test_a_full_account_does_the_work_on_the_machines_it_gets() -> None:
    with E2BServer(most=1) as server:
        sandbox = make(server, machines=3, batch=2)
        reports = judged(sandbox, *[ADD] * 16)
        sandbox.close()
        left = list(server.machines)

    assert {report.status for report in reports} == {"passed"}
    assert (server.peak, left) == (1, [])


@pytest.mark.parametrize("fault", ["drop_streams", "die_before_commands", "garble_commands"])
def test_a_machine_that_fails_is_replaced_and_its_jobs_run_again(
    server: E2BServer, sandbox: E2BSandbox, fault: str
) -> None:
    setattr(server, fault, 2)

    reports = judged(sandbox, ADD, WRONG)

    assert [report.status for report in reports] == ["passed", "wrong_answer"]
    assert len(server.created) == 3
    assert len(server.machines) == 1


def test_a_machine_that_dies_between_batches_is_replaced(server: E2BServer, sandbox: E2BSandbox) -> None:
    judged(sandbox, ADD)
    server.end(server.created[0])

    assert [report.status for report in judged(sandbox, ADD)] == ["passed"]
    assert len(server.created) == 2


def test_a_machine_that_fails_every_time_is_infra_and_never_a_verdict(server: E2BServer, sandbox: E2BSandbox) -> None:
    server.drop_streams = 1 << 30

    reports = judged(sandbox, ADD, WRONG)

    assert [report.status for report in reports] == ["infra", "infra"]
    assert all("3 attempts" in report.error for report in reports)


def test_a_job_that_brings_machines_down_fails_alone(server: E2BServer, sandbox: E2BSandbox) -> None:
    server.kill_on = "POISON"
    poison = ADD.model_copy(update={"code": "x = 'POISON'"})

    reports = judged(sandbox, *[ADD] * 30, poison, *[ADD] * 30)

    assert [report.status for report in reports].count("passed") == 60
    assert reports[30].status == "infra"


def test_a_creation_whose_answer_is_lost_leaves_no_machine(server: E2BServer) -> None:
    server.drop_creations = 1
    sandbox = make(server)
    judged(sandbox, ADD)
    assert len(server.machines) == 2

    sandbox.close()

    assert not server.machines


def test_machines_of_a_killed_process_on_this_host_are_ended(server: E2BServer, sandbox: E2BSandbox) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    mine = {"mucode_agent": "1", "host": sandbox._tags["host"]}
    orphan = server.add({"templateID": "t", "metadata": {**mine, "process": str(gone.pid)}})
    living = server.add({"templateID": "t", "metadata": {**mine, "process": str(os.getpid())}})
    foreign = server.add({"templateID": "t", "metadata": {**mine, "process": str(gone.pid), "host": "other"}})

    judged(sandbox, ADD)

    assert orphan.id not in server.machines
    assert {living.id, foreign.id} <= server.machines.keys()


# --- the end


def test_close_kills_every_machine_and_cancels_what_waits(server: E2BServer) -> None:
    server.hang_commands = 1 << 30
    sandbox = make(server, machines=2, batch=1)
    futures = [sandbox.submit(ADD) for _ in range(6)]
    until(lambda: sum(len(machine.processes) for machine in server.created) >= 4)

    sandbox.close()
    sandbox.close()

    assert not server.machines
    assert all(future.cancelled() for future in futures)
    with pytest.raises(RuntimeError, match="closed"):
        sandbox.submit(ADD)


def test_cancelling_all_of_a_batch_closes_its_machine(server: E2BServer, sandbox: E2BSandbox) -> None:
    server.hang_commands = 1
    future = sandbox.submit(ADD)
    until(lambda: any("--nonce" in command for each in server.created for command in each.commands))

    assert future.cancel()

    assert [report.status for report in judged(sandbox, ADD)] == ["passed"]
    assert server.created[0].id not in server.machines


def test_two_users_share_nothing(server: E2BServer) -> None:
    sandboxes = [make(server), make(server)]
    found: dict[int, list[ExecutionReport]] = {}

    def use(number: int) -> None:
        found[number] = judged(sandboxes[number], *[ADD, WRONG] * 5)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sandboxes[0].close()

    assert [[report.status for report in found[number]] for number in range(2)] == [["passed", "wrong_answer"] * 5] * 2
    assert len(server.machines) == 1
    assert [report.status for report in judged(sandboxes[1], ADD)] == ["passed"]
    sandboxes[1].close()


def test_a_process_that_ends_without_close_leaves_no_machine(server: E2BServer, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from mucode_agent.tools.e2b import E2BSandbox\n"
        "from mucode_agent.types import Job\n"
        f"sandbox = E2BSandbox(api_key={KEY!r}, api_url={server.url!r}, sandbox_url={server.url!r})\n"
        "print(sandbox.submit(Job(code='def f(): return 1', tests=('assert f() == 1',))).result().status)\n"
    )

    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)

    assert (done.stdout, done.returncode) == ("passed\n", 0), done.stderr
    assert len(server.created) == 1
    assert not server.machines


def test_importing_this_package_imports_no_client() -> None:
    code = "import sys, mucode_agent.tools.e2b; print(*sys.modules)"

    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split()

    assert "mucode_agent.tools.e2b" in loaded
    assert not {"e2b", "e2b_code_interpreter"} & set(loaded)


# --- the real service


@pytest.mark.real
@pytest.mark.enable_socket
@pytest.mark.skipif(not os.environ.get("E2B_API_KEY"), reason="needs E2B_API_KEY")
def test_the_real_service_gives_the_same_verdicts() -> None:
    sandbox = E2BSandbox(machines=1)
    slow = Job(code="while True: pass", tests=(StdioTest(stdin="", stdout=""),), limits=Limits(time_s=1))
    try:
        reports = judged(sandbox, ADD, WRONG, ECHO, slow, *[ADD] * 100)
        isolation, usage = sandbox.isolation, sandbox.usage
    finally:
        sandbox.close()

    assert [report.status for report in reports[:4]] == ["passed", "wrong_answer", "passed", "timeout"]
    assert all(report.passed for report in reports[4:])
    assert isolation.startswith("microVM+")
    assert usage.dollars < 0.05
