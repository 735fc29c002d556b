"""Rollouts: what a shard holds, and that each is made once, whatever ends its makers."""

import contextlib
import fcntl
import importlib.util
import json
import os
import random
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_victim import CountingSandbox, Quiet, SeededModel, benchmark, evaluate
from fakes import BrokenSandbox, RuleSandbox, ScriptedModel, fenced
from rollout_victim import rollouts
from waiting import until

from mucode_agent.models.load import load_model
from mucode_agent.runs.cluster import Tools, make_shard, make_shards_on_ray
from mucode_agent.runs.config import Benchmark
from mucode_agent.runs.directory import RunDirectory, read_config
from mucode_agent.runs.reading import read_shards
from mucode_agent.runs.retry import Failure, unfinished
from mucode_agent.runs.running import Running
from mucode_agent.tools.local import LocalSandbox
from mucode_agent.training.data import read_attempts, state
from mucode_agent.training.rollouts import open_rollouts, weights_digest
from mucode_agent.types import CodeTest, InfrastructureError, Problem, ProblemError
from mucode_agent.verifiers import NoVerifier

VICTIM = Path(__file__).parent / "rollout_victim.py"
TIMES = {"time_s", "wall_s", "seconds", "memory_mb"}

DOUBLE = Problem(
    id="Made/double",
    prompt="Double x.",
    entry_point="f",
    public_tests=(CodeTest(code="assert f(1) == 2"),),
    private_tests=(CodeTest(code="assert f(5) == 10"),),
)


def made(*problems):
    return Benchmark(name="made", split="fixed", testless=False, problems=problems)


def timeless(value):
    if isinstance(value, dict):
        return {key: timeless(below) for key, below in value.items() if key not in TIMES}
    return [timeless(below) for below in value] if isinstance(value, list) else value


def outcome(directory):
    """Every shard by its place, without times."""
    files = sorted(Path(directory).glob("shards/*/*"))
    return json.dumps({str(file.relative_to(directory)): timeless(json.loads(file.read_text())) for file in files})


def start_worker(directory, log, kill_at=0, pause=0.0):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(VICTIM), str(directory), str(log), str(kill_at), str(pause)]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("rollouts") / "whole"
    assert rollouts(directory) == []
    return outcome(directory)


# --- what a shard holds --------------------------------------------------------------------------------------------


def test_a_trajectory_feeds_back_its_own_program_and_ends_where_the_public_tests_pass(tmp_path):
    bodies = ["x", "2", "x * 2", "x", "0"]
    model = ScriptedModel(replies=[fenced(f"def f(x):\n    return {body}") for body in bodies])

    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        rollouts(tmp_path / "run", model=model, sandbox=sandbox, tasks=made(DOUBLE), max_turns=2, concurrency=1)

    [entry] = read_attempts([tmp_path / "run"])
    assert entry.problem == DOUBLE
    assert [a.candidate.code.partition("return ")[2] for a in entry.attempts] == bodies
    assert [a.candidate.turn for a in entry.attempts] == [1, 2, 1, 1, 2]
    assert [a.correct for a in entry.attempts] == [False, False, True, False, False]
    assert [[turn.best.code for turn in a.turns] for a in entry.attempts] == [
        [],
        [entry.attempts[0].candidate.code],
        [],
        [],
        [entry.attempts[3].candidate.code],
    ]
    assert [state(entry.problem, a.turns) for a in entry.attempts] == model.seen


def test_a_program_that_passes_the_public_tests_alone_ends_its_trajectory_and_is_labelled_wrong(tmp_path):
    model = ScriptedModel(replies=[fenced("def f(x):\n    return 2")])

    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        rollouts(tmp_path / "run", model=model, sandbox=sandbox, tasks=made(DOUBLE), per_problem=2)

    [(_, shard)] = read_shards(tmp_path / "run")
    assert [len(solve.candidates) for solve in shard.solves] == [1, 1]
    [judgement] = shard.judgements
    assert (judgement.status, judgement.tests_passed, judgement.tests) == ("wrong_answer", 1, 2)
    assert shard.right() == {"rollout": 0.0}


def test_every_distinct_program_is_judged_once_on_all_tests(tmp_path):
    sandbox = RuleSandbox(lambda code: "return 3" in code)

    rollouts(tmp_path / "run", sandbox=sandbox)

    judged = [job.code for job in sandbox.jobs if len(job.tests) == 2]
    for _, shard in read_shards(tmp_path / "run"):
        programs = {candidate.code for solve in shard.solves for candidate in solve.candidates}
        assert len(shard.judgements) == len({row.program for row in shard.judgements}) <= len(programs)
    assert len(judged) == sum(len(shard.judgements) for _, shard in read_shards(tmp_path / "run"))


def test_trajectory_k_is_the_solve_with_the_seed_plus_k(tmp_path):
    rollouts(tmp_path / "three", per_problem=3)
    rollouts(tmp_path / "two", per_problem=2, seed=1)

    for (_, three), (_, two) in zip(read_shards(tmp_path / "three"), read_shards(tmp_path / "two"), strict=True):
        assert [solve.settings["seed"] for solve in three.solves] == [0, 1, 2]
        assert [solve.run_id for solve in three.solves[1:]] == [solve.run_id for solve in two.solves]
        assert [s.text for s in samples(three.solves[1:])] == [s.text for s in samples(two.solves)]


def samples(solves):
    return [candidate.sample for solve in solves for candidate in solve.candidates]


def test_private_tests_and_references_never_reach_the_model_or_a_shard(tmp_path):
    seen = []
    model = SeededModel(before=lambda messages, *_: seen.append(str(messages)))
    problem = DOUBLE.model_copy(update={"private_tests": (CodeTest(code="assert f(2) == 'a private secret'"),)})

    rollouts(tmp_path / "run", model=model, tasks=made(problem.model_copy(update={"reference": "a private secret"})))

    assert seen
    assert "secret" not in "".join(seen)
    assert "secret" not in outcome(tmp_path / "run")


def test_the_shards_do_not_depend_on_how_many_trajectories_are_in_flight(tmp_path, undisturbed):
    for concurrency in (1, 50):
        rollouts(tmp_path / str(concurrency), concurrency=concurrency)
        assert outcome(tmp_path / str(concurrency)) == undisturbed


def test_the_watch_hears_of_every_sample_and_of_the_share_of_correct_trajectories(tmp_path):
    watch = Quiet()

    rollouts(tmp_path / "run", watch=watch)

    shards = [shard for _, shard in read_shards(tmp_path / "run")]
    assert len(watch.samples) == sum(len(solve.candidates) for shard in shards for solve in shard.solves)
    assert watch.done == {shard.problem_id: shard.right() for shard in shards}
    assert 0 < sum(shard.right()["rollout"] for shard in shards) < len(shards)


# --- resumed, killed, shared ---------------------------------------------------------------------------------------


def test_a_finished_directory_draws_and_runs_nothing_again(tmp_path, undisturbed):
    rollouts(tmp_path / "run")
    watch, sandbox = Quiet(), RuleSandbox(lambda _: False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/shards/*/*")}

    rollouts(tmp_path / "run", watch=watch, sandbox=sandbox)

    assert (watch.samples, sandbox.jobs) == ([], [])
    assert watch.done == {problem.id: {} for problem in benchmark().problems}
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/shards/*/*")} == before
    assert outcome(tmp_path / "run") == undisturbed


def test_killed_at_ten_random_moments_the_shards_are_those_of_the_undisturbed_run(tmp_path, undisturbed):
    log, kills, chance = tmp_path / "draws", 0, random.Random(7)

    for kill_at in [*(chance.randrange(1, 40) for _ in range(10)), 0]:
        finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/shards/*/*.json")}
        worker = start_worker(tmp_path / "run", log, kill_at)
        _, complaint = worker.communicate(timeout=60)
        kills += worker.returncode == -signal.SIGKILL
        assert worker.returncode in (0, -signal.SIGKILL), complaint.decode()
        assert finished.items() <= {path: path.stat().st_mtime_ns for path in tmp_path.glob("run/shards/*/*")}.items()

    assert kills >= 3
    assert outcome(tmp_path / "run") == undisturbed


def test_two_workers_share_a_directory_and_no_draw_is_made_twice(tmp_path, undisturbed):
    log = tmp_path / "draws"

    workers = [start_worker(tmp_path / "run", log, pause=0.02) for _ in range(2)]
    complaints = [worker.communicate(timeout=60)[1].decode() for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0], complaints
    draws = log.read_text().splitlines()
    assert len(draws) == len(set(draws))
    assert outcome(tmp_path / "run") == undisturbed
    assert list(tmp_path.glob("run/locks/*")) == []


def test_what_a_killed_worker_held_is_taken_over_by_the_other(tmp_path, undisturbed):
    log = tmp_path / "draws"

    killed = start_worker(tmp_path / "run", log, pause=60)
    until(log.exists)  # its first draws are under way, so it holds locks
    other = start_worker(tmp_path / "run", tmp_path / "draws of the other")
    until((tmp_path / "draws of the other").exists)
    killed.kill()
    killed.communicate(timeout=60)
    assert list(tmp_path.glob("run/locks/*")) != []
    _, complaint = other.communicate(timeout=60)

    assert (killed.returncode, other.returncode) == (-signal.SIGKILL, 0), complaint.decode()
    assert outcome(tmp_path / "run") == undisturbed


def test_a_shard_that_another_worker_holds_is_waited_for(tmp_path, undisturbed):
    rollouts(tmp_path / "run")
    shard = next(tmp_path.glob("run/shards/*/*.json"))
    text = shard.read_text()
    shard.unlink()
    lock = tmp_path / "run" / "locks" / shard.stem
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        worker = start_worker(tmp_path / "run", tmp_path / "draws")
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(timeout=6)
        shard.write_text(text)
    _, complaint = worker.communicate(timeout=60)

    assert worker.returncode == 0, complaint.decode()
    assert not (tmp_path / "draws").exists()
    assert outcome(tmp_path / "run") == undisturbed


def test_half_a_shard_of_a_killed_writer_is_swept_away_by_the_next(tmp_path, undisturbed):
    rollouts(tmp_path / "run")
    shard = next(tmp_path.glob("run/shards/*/*.json"))
    shard.rename(shard.with_name(f".{shard.name}.half"))

    rollouts(tmp_path / "run")

    assert outcome(tmp_path / "run") == undisturbed


# --- failures ------------------------------------------------------------------------------------------------------


class FailingModel(SeededModel):
    """Fails on every fifth draw."""

    model: str = "SeededModel"
    draws: int = 0

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.draws += 1
        if self.draws % 5 == 0:
            raise ConnectionError("connection refused")
        return super()._generate(messages, stop, run_manager, **kwargs)


class FlakySandbox(CountingSandbox):
    """Its every seventh job fails."""

    def __init__(self):
        self.failed = 0
        super().__init__(lambda: None)

    def _report(self, job):
        if len(self.jobs) % 7 == 0:
            self.failed += 1
            return BrokenSandbox()._report(job)
        return super()._report(job)


def test_a_failing_model_or_sandbox_is_borne_and_leaves_no_mark_on_a_label(tmp_path, undisturbed):
    sandbox, watch = FlakySandbox(), Quiet()

    failures = rollouts(tmp_path / "run", model=FailingModel(), sandbox=sandbox, watch=watch, patience=5.0)
    failures = failures and rollouts(tmp_path / "run", sandbox=CountingSandbox(lambda: None))

    assert failures == []
    assert sandbox.failed
    assert watch.waits
    assert outcome(tmp_path / "run") == undisturbed


def test_a_dead_sandbox_ends_the_run_with_what_is_saved(tmp_path):
    with pytest.raises(InfrastructureError, match=r"worker could not start.* Everything finished is saved in .*run;"):
        rollouts(tmp_path / "run", sandbox=BrokenSandbox())

    assert list(tmp_path.glob("run/shards/*/*")) == []
    assert list(tmp_path.glob("run/locks/*")) == []


def test_a_full_disk_ends_in_one_sentence_and_nothing_half_written(tmp_path, undisturbed):
    rollouts(tmp_path / "run", tasks=benchmark(6))
    for shard in tmp_path.glob("run/shards/*/*.json"):
        shard.unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(InfrastructureError, match=r"cannot write .*\.jsonl?: File too large; .*free room"):
            rollouts(tmp_path / "run", patience=60.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)

    assert list(tmp_path.glob("run/shards/*/*")) == []
    assert list(tmp_path.glob("run/locks/*")) == []
    rollouts(tmp_path / "run")
    assert outcome(tmp_path / "run") == undisturbed


def test_an_interrupted_worker_ends_at_once_and_leaves_no_lock(tmp_path, undisturbed):
    worker = start_worker(tmp_path / "run", tmp_path / "draws", pause=0.2)
    until((tmp_path / "draws").exists)
    worker.send_signal(signal.SIGINT)
    worker.communicate(timeout=30)

    assert worker.returncode != 0
    assert list(tmp_path.glob("run/locks/*")) == []
    rollouts(tmp_path / "run")
    assert outcome(tmp_path / "run") == undisturbed


def test_an_evaluations_directory_takes_no_rollouts(tmp_path):
    evaluate(tmp_path / "run", model=SeededModel(), sandbox=RuleSandbox(lambda _: True))

    with pytest.raises(ProblemError, match="holds results of another run: model was "):
        rollouts(tmp_path / "run")


def test_a_problem_that_cannot_be_used_is_named_and_the_others_are_made(tmp_path):
    broken = DOUBLE.model_copy(update={"id": "Made/broken", "public_tests": (CodeTest(code="assert True"),)})
    model = ScriptedModel(replies=[fenced("def f(x):\n    return 2 * x")])

    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        failures = rollouts(tmp_path / "run", model=model, sandbox=sandbox, tasks=made(broken, DOUBLE))

    assert [failure.problem_id for failure in failures] == ["Made/broken"]
    assert [shard and shard.right() for _, shard in read_shards(tmp_path / "run")] == [None, {"rollout": 1.0}]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"per_problem": 4}, r"arms\.rollout\.repeats was 3, now 4"),
        ({"max_turns": 3}, "max_turns was 2, now 3"),
        ({"weights": "round-1"}, 'weights was "", now "round-1"'),
        ({"temperature": 0.2}, r"temperature was 0\.7, now 0\.2"),
        ({"tasks": benchmark(5)}, "problems was 6, now 5; benchmark_sha256 was"),
    ],
)
def test_rollouts_of_another_policy_or_other_problems_are_refused_by_what_differs(tmp_path, change, sentence):
    rollouts(tmp_path / "run")

    with pytest.raises(ProblemError, match=sentence):
        rollouts(tmp_path / "run", **change)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"per_problem": 0}, "per_problem must be at least 1, got 0"),
        ({"max_turns": 0}, "max_turns must be at least"),
        ({"temperature": -1.0}, "temperature must be at least"),
    ],
)
def test_settings_out_of_range_never_reach_the_directory(tmp_path, change, sentence):
    with pytest.raises(ProblemError, match=sentence):
        rollouts(tmp_path / "run", **change)

    assert not (tmp_path / "run").exists()


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(ProblemError, match=r"is no run directory and holds thesis\.tex"):
        rollouts(tmp_path)

    assert [path.name for path in tmp_path.iterdir() if path.name != "lock"] == ["thesis.tex"]


def test_a_damaged_shard_is_named(tmp_path):
    rollouts(tmp_path / "run")
    shard = next(tmp_path.glob("run/shards/*/*.json"))
    shard.write_text(shard.read_text()[:50])

    with pytest.raises(ProblemError, match=rf"{shard.name} is damaged: .*; remove it and run the same command"):
        read_attempts([tmp_path / "run"])
    shard.unlink()
    rollouts(tmp_path / "run")
    assert read_attempts([tmp_path / "run"])


def test_a_shard_under_the_name_of_another_is_refused(tmp_path):
    rollouts(tmp_path / "run")
    one, other = sorted(tmp_path.glob("run/shards/*/*.json"))[:2]
    one.write_bytes(other.read_bytes())

    with pytest.raises(ProblemError, match=rf"{one.name} holds the shard {other.stem}, of another problem"):
        read_attempts([tmp_path / "run"])


def test_lost_problems_are_told_and_written_again(tmp_path):
    rollouts(tmp_path / "run")
    before, path = read_attempts([tmp_path / "run"]), tmp_path / "run" / "problems.jsonl"
    path.write_bytes(path.read_bytes()[:-3])

    with pytest.raises(ProblemError, match=r"problems\.jsonl holds \d+ whole rows of \d+; remove it and run"):
        read_attempts([tmp_path / "run"])
    path.unlink()
    rollouts(tmp_path / "run")
    assert read_attempts([tmp_path / "run"]) == before


def test_what_no_problem_can_be_tried_with_is_the_callers_mistake():
    wrong = [Failure(problem_id=name, cause="no such model", mistake=True) for name in "ab"]
    assert isinstance(unfinished(wrong, 2, "2 of 2"), ProblemError)
    assert str(unfinished(wrong, 2, "2 of 2")) == "no such model"
    for failures in (wrong[:1], [wrong[0], Failure(problem_id="b", cause="down")]):
        assert isinstance(unfinished(failures, 2, "told"), InfrastructureError)


@pytest.mark.parametrize("version", [1, 3])
def test_a_shard_or_directory_of_another_version_is_refused_in_one_sentence(tmp_path, version):
    rollouts(tmp_path / "run")
    shard, config = next(tmp_path.glob("run/shards/*/*.json")), tmp_path / "run" / "config.json"
    sentence = rf"has run_version {version}, this version of mucode_agent reads 2; use the version that wrote it"

    shard.write_text(json.dumps(json.loads(shard.read_text()) | {"run_version": version, "more": 1}))
    with pytest.raises(ProblemError, match=sentence):
        read_attempts([tmp_path / "run"])
    held = json.loads(config.read_text())
    config.write_text(json.dumps({**held, "identity": held["identity"] | {"run_version": version}}))
    for use in (lambda: rollouts(tmp_path / "run"), lambda: read_attempts([tmp_path / "run"])):
        with pytest.raises(ProblemError, match=sentence):
            use()


def test_weights_on_this_machine_name_themselves(tmp_path):
    class Located(SeededModel):
        model: str

    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"first")
    first = weights_digest(Located(model=str(tmp_path / "weights")))
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"second")
    second = weights_digest(Located(model=str(tmp_path / "weights")))

    assert len({first, second, ""}) == 3
    assert weights_digest(Located(model="org/name")) == weights_digest(SeededModel()) == ""


# --- on a cluster --------------------------------------------------------------------------------------------------


def test_finished_rollouts_ask_nothing_of_a_cluster(tmp_path):
    rollouts(tmp_path / "run")
    run = RunDirectory(tmp_path / "run", read_config(tmp_path / "run"))
    tools = Tools(directory=tmp_path / "run", model="none", verifier="none", running=Running(), patience=0.0)
    watch = Quiet()

    assert make_shards_on_ray(run, benchmark().problems, tools, watch) == []
    assert watch.done == {problem.id: {} for problem in benchmark().problems}
    with pytest.raises(ProblemError, match="workers must be at least 1, got 0"):
        make_shards_on_ray(run, (), tools, watch, workers=0)


def test_a_task_makes_the_shard_that_a_worker_makes_and_tells_an_outage_from_a_bad_problem(tmp_path):
    run = open_rollouts(
        made(DOUBLE),
        tmp_path / "run",
        model=load_model("openai:scripted@http://127.0.0.1:9/v1"),
        sandbox=RuleSandbox(lambda _: True),
        verifier=NoVerifier(),
    )
    url = "openai:scripted@http://127.0.0.1:9/v1"  # discard: nobody answers there
    tools = Tools(directory=run.directory, model=url, verifier="none", running=Running(), patience=0.0)

    returned = make_shard(tools.model_dump(mode="json"), DOUBLE.model_dump(mode="json"))

    assert returned["outage"]
    assert "start the server" in returned["failure"]
    assert (returned["outcomes"], returned["tokens"]) == ({}, 0)
    assert not run.exists(run.key(DOUBLE))


@pytest.mark.real
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
def test_ray_tasks_make_every_shard_once_though_one_of_their_processes_is_killed(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "HOME": str(tmp_path)}
    command = [sys.executable, str(VICTIM.with_name("ray_victim.py")), str(tmp_path / "run")]

    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)

    assert done.returncode == 0, done.stderr
    returned = json.loads(done.stdout.splitlines()[-1])
    assert returned["failures"] == []
    assert len(returned["killed"]) == 1
    assert returned["makers"] > 1
    assert len(list(tmp_path.glob("run/shards/*/*.json"))) == 12
    assert set(returned["finished"].values()) == {1}
    twice = {number: count for number, count in returned["requests"].items() if count != 3}
    assert len(returned["requests"]) == 12
    assert len(twice) <= 1, "only what the killed process had begun is begun again"
    assert all(3 < count <= 6 for count in twice.values())
