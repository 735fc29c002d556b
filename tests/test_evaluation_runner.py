"""A run of a benchmark: what it keeps, what it never shows, and how it goes on after anything."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation_victim import Quiet, SeededModel, benchmark, evaluate
from fakes import BrokenSandbox, RuleSandbox, ScriptedModel

from mucode_agent.evaluation.report import write_report
from mucode_agent.evaluation.runner import arms
from mucode_agent.files import Journal
from mucode_agent.graphs.settings import StatedSettings
from mucode_agent.runs.reading import judgements_of, read_shards, read_solves
from mucode_agent.types import InfrastructureError, ProblemError

VICTIM = Path(__file__).parent / "evaluation_victim.py"


def passes(code):
    return "return 3" in code


def outcome(directory):
    """results.json without its times."""
    results = json.loads((Path(directory) / "results.json").read_text())
    del results["timing"]
    return json.dumps(results)


def whole_run(directory, **options):
    evaluate(directory, **{"model": SeededModel(), "sandbox": RuleSandbox(passes)} | options)
    write_report(directory)
    return outcome(directory)


class FailingModel(SeededModel):
    """Fails on every draw in `failing`, counted from 1."""

    failing: set[int]
    draws: int = 0

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.draws += 1
        if self.draws in self.failing:
            raise ConnectionError("connection refused")
        return super()._generate(messages, stop, run_manager, **kwargs)


def dead_after_20():
    return FailingModel(failing=set(range(20, 10_000)))


# --- what a run does -----------------------------------------------------------------------------------------------


def test_every_candidate_of_every_arm_is_judged(tmp_path):
    whole_run(tmp_path / "run")

    solves = read_solves(tmp_path / "run")
    judged = judgements_of(shard for _, shard in read_shards(tmp_path / "run"))

    assert len(solves) == 3 * len(benchmark().problems)
    programs = {(solve.problem_id, candidate.code) for solve in solves for candidate in solve.candidates}
    assert len(judged) >= len({problem for problem, _ in programs})
    assert all(solve.solution.problem_id == solve.problem_id for solve in solves)
    assert write_report(tmp_path / "run")[0].unfinished == ()


def test_private_tests_never_reach_the_model_or_the_trace(tmp_path):
    seen = []
    model = SeededModel(before=lambda messages, *_: seen.append(str(messages)))

    evaluate(tmp_path / "run", model=model, sandbox=RuleSandbox(passes))

    assert seen
    assert "secret" not in "".join(seen)
    assert "secret" not in "".join(path.read_text() for path in (tmp_path / "run").glob("shards/*/*.json"))
    assert "secret" in (tmp_path / "run" / "problems.jsonl").read_text()


def test_the_judgement_runs_public_and_private_tests_apart_from_the_solver(tmp_path):
    sandbox = RuleSandbox(passes)

    evaluate(tmp_path / "run", model=SeededModel(), sandbox=sandbox)

    assert {len(job.tests) for job in sandbox.jobs} == {1, 2}


def test_the_larger_search_pays_only_for_samples_that_the_smaller_has_not_drawn(tmp_path):
    both, independent_alone = Quiet(), Quiet()

    evaluate(tmp_path / "both", model=SeededModel(), sandbox=RuleSandbox(passes), watch=both, greedy=False)
    evaluate(
        tmp_path / "turns",
        model=SeededModel(),
        sandbox=RuleSandbox(passes),
        watch=independent_alone,
        greedy=False,
        independent=False,
    )

    turns = {solve.problem_id: solve for solve in read_solves(tmp_path / "turns")}
    assert len(both.samples) - len(independent_alone.samples) == 3 * len(turns)  # 6 samples, 3 of them shared
    for solve in read_solves(tmp_path / "both"):
        if solve.settings["max_turns"] == 1:
            first_turn = [c.sample.text for c in turns[solve.problem_id].candidates if c.turn == 1]
            assert [c.sample.text for c in solve.candidates[:3]] == first_turn


def test_a_finished_run_draws_and_runs_nothing_again(tmp_path):
    before, sandbox = whole_run(tmp_path / "run"), RuleSandbox(passes)
    watch = Quiet()

    evaluate(tmp_path / "run", model=FailingModel(failing=set(range(999))), sandbox=sandbox, watch=watch)
    write_report(tmp_path / "run")

    assert (watch.samples, sandbox.jobs) == ([], [])
    assert len(watch.done) == len(benchmark().problems)
    assert outcome(tmp_path / "run") == before


def test_results_do_not_depend_on_how_many_problems_are_in_flight(tmp_path):
    assert whole_run(tmp_path / "one", concurrency=1) == whole_run(tmp_path / "many", concurrency=16)


def test_the_arms_are_those_that_differ():
    def names(**options):
        which = {name: options.pop(name, True) for name in ("greedy", "independent")}
        return [(arm.name, arm.n, arm.max_turns) for arm in arms(StatedSettings(**options), **which)]

    assert names() == [("greedy", 1, 3), ("turns", 5, 3), ("independent", 15, 1)]
    assert names(max_turns=1) == [("greedy", 1, 1), ("turns", 5, 1)]
    assert names(n=1, temperature=0) == [("greedy", 1, 3)]
    assert names(greedy=False, independent=False) == [("turns", 5, 3)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"n": 0}, "n must be at least"),
        ({"n": 2000, "max_turns": 3}, "n must be at most 4096, got 6000"),
        ({"approve": True}, "approve is for a single solve"),
        ({"partial": True}, "partial is for a single solve"),
    ],
)
def test_settings_that_no_run_can_have_never_reach_the_directory(tmp_path, options, sentence):
    with pytest.raises(ProblemError, match=sentence):
        evaluate(tmp_path / "run", model=SeededModel(), sandbox=RuleSandbox(passes), **options)

    assert not (tmp_path / "run").exists()


# --- killed, and gone on -------------------------------------------------------------------------------------------


def test_killed_again_and_again_the_run_ends_with_the_same_bytes_and_no_candidate_drawn_twice(tmp_path):
    directory, log = tmp_path / "killed", tmp_path / "draws"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    kills = 0
    for kill_at in (2, 9, 30, 50, 0):
        command = [sys.executable, str(VICTIM), str(directory), str(log), str(kill_at)]
        finished = subprocess.run(command, env=environment, check=False, capture_output=True, timeout=120)
        kills += finished.returncode == -signal.SIGKILL
        assert finished.returncode in (0, -signal.SIGKILL), finished.stderr.decode()

    whole_run(tmp_path / "whole")
    assert kills >= 3
    assert outcome(directory) == outcome(tmp_path / "whole")
    draws = log.read_text().splitlines()
    in_flight = 3 * 3  # problems at once, requests of each: what a kill can take with it
    assert len(draws) - len(set(draws)) <= kills * in_flight
    drawn = {
        (solve.problem_id, candidate.turn, candidate.sample.seed, solve.settings["temperature"])
        for solve in read_solves(directory)
        for candidate in solve.candidates
    }
    assert len(set(draws)) == len(drawn)
    assert list(directory.glob("drawn/*")) == []


def test_a_killed_run_pays_for_no_completion_again_that_it_had_written_down(tmp_path):
    alone, drawn = {"greedy": False, "independent": False}, []
    with pytest.raises(InfrastructureError):
        evaluate(tmp_path / "run", model=dead_after_20(), sandbox=RuleSandbox(passes), **alone)
    kept = [json.loads(line) for path in (tmp_path / "run").glob("drawn/*") for line in path.read_text().splitlines()]
    seeds = {sample["seed"] for row in kept for sample in row["samples"]}

    whole_run(tmp_path / "run", model=SeededModel(before=lambda messages, seed, _: drawn.append(seed)), **alone)

    assert seeds
    assert not seeds & set(drawn)
    assert outcome(tmp_path / "run") == whole_run(tmp_path / "whole", **alone)


def test_half_a_last_completion_is_drawn_anew(tmp_path):
    before = whole_run(tmp_path / "whole")
    with pytest.raises(InfrastructureError):
        evaluate(tmp_path / "run", model=dead_after_20(), sandbox=RuleSandbox(passes))
    for path in (tmp_path / "run").glob("drawn/*"):
        path.write_bytes(path.read_bytes()[:-25])

    assert whole_run(tmp_path / "run") == before


def test_a_damaged_journal_is_refused_with_its_line(tmp_path):
    with pytest.raises(InfrastructureError):
        evaluate(tmp_path / "run", model=dead_after_20(), sandbox=RuleSandbox(passes))
    path = next(path for path in (tmp_path / "run").glob("drawn/*") if path.stat().st_size)
    path.write_bytes(b"{}\n" + path.read_bytes())

    with pytest.raises(ProblemError, match=rf"{path.name}, line 1 is damaged or of another version: state is missing"):
        whole_run(tmp_path / "run")


# --- whose results these are ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"model_name": "other"}, 'model was "seeded", now "other"'),
        ({"n": 4}, "arms.turns.n was 3, now 4"),
        ({"temperature": 0.2}, "arms.turns.temperature was 0.7, now 0.2"),
        ({"max_tokens": 9}, "max_tokens was 1024, now 9"),
        ({"selector": "tests"}, 'selector was "tests+verifier", now "tests"'),
        ({"accept_threshold": 0.5}, "accept_threshold was null, now 0.5"),
        ({"tasks": benchmark(5)}, "problems was 6, now 5; benchmark_sha256 was"),
    ],
)
def test_another_run_never_reuses_the_results_of_this_one(tmp_path, change, sentence):
    whole_run(tmp_path / "run")

    with pytest.raises(ProblemError, match="holds results of another run: ") as caught:
        whole_run(tmp_path / "run", **change)
    assert sentence in str(caught.value)
    assert str(caught.value).endswith("give another directory, or the old settings")


def test_other_wording_of_the_prompts_is_another_run(tmp_path):
    whole_run(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = json.loads(path.read_text())
    config["identity"]["prompt"] = "an older digest"
    path.write_text(json.dumps(config))

    with pytest.raises(ProblemError, match='prompt was "an older digest", now'):
        whole_run(tmp_path / "run")


def test_two_processes_share_a_run_and_no_draw_is_made_twice(tmp_path):
    log = tmp_path / "draws"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(VICTIM), str(tmp_path / "run"), str(log), "0"]

    runs = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) for _ in range(2)]
    complaints = [run.communicate(timeout=280)[1].decode() for run in runs]

    assert [run.returncode for run in runs] == [0, 0], complaints
    draws = log.read_text().splitlines()
    assert len(draws) == len(set(draws))
    assert outcome(tmp_path / "run") == whole_run(tmp_path / "whole")


def test_a_directory_that_holds_something_else_is_not_touched(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")

    with pytest.raises(ProblemError, match=r"is no run directory and holds thesis\.txt"):
        whole_run(tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_start_killed_before_its_configuration_was_written_is_begun_again(tmp_path):
    (tmp_path / "problems.jsonl").write_text("")
    (tmp_path / "lock").write_text("1")

    assert '"finished": 6' in whole_run(tmp_path)


# --- what fails ----------------------------------------------------------------------------------------------------


def test_a_server_that_dies_ends_the_run_with_everything_saved_and_the_same_command_goes_on(tmp_path):
    with pytest.raises(InfrastructureError, match="connection refused") as caught:
        evaluate(tmp_path / "run", model=dead_after_20(), sandbox=RuleSandbox(passes))

    assert "run the same command to continue" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert any(path.stat().st_size for path in (tmp_path / "run").glob("drawn/*.jsonl"))
    assert whole_run(tmp_path / "run") == whole_run(tmp_path / "never died")


def test_a_server_that_returns_is_waited_for(tmp_path):
    watch = Quiet()

    failures = evaluate(
        tmp_path / "run",
        model=FailingModel(failing={5, 6, 7}),
        sandbox=RuleSandbox(passes),
        watch=watch,
        patience=60,
        concurrency=1,
    )

    write_report(tmp_path / "run")
    assert failures == []
    assert any("connection refused" in cause for cause in watch.waits)
    assert outcome(tmp_path / "run") == whole_run(tmp_path / "never died")


class OneTooLong(SeededModel):
    """Refuses the prompt of one problem, as a server does whose context is too short."""

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        if "number 2" in messages[0].content:
            raise ProblemError("the prompt does not fit the context of the model")
        return super()._generate(messages, stop, run_manager, **kwargs)


def test_one_impossible_problem_does_not_stop_the_others_and_is_named(tmp_path):
    failures = evaluate(tmp_path / "run", model=OneTooLong(), sandbox=RuleSandbox(passes))

    assert [(failure.problem_id, "does not fit" in failure.cause) for failure in failures] == [("Made/2", True)]
    assert write_report(tmp_path / "run")[0].unfinished == ("Made/2",)


def test_a_broken_sandbox_is_no_verdict(tmp_path):
    with pytest.raises(InfrastructureError, match="the worker could not start"):
        evaluate(tmp_path / "run", model=SeededModel(), sandbox=BrokenSandbox())

    assert list((tmp_path / "run").glob("shards/*/*")) == []


class FlakyJudge(RuleSandbox):
    """Cannot judge the first program on all tests; everything else is judged."""

    def __init__(self):
        super().__init__(passes)
        self.broken = True

    def _report(self, job):
        if len(job.tests) > 1 and self.broken:
            self.broken = False
            return BrokenSandbox()._report(job)
        return super()._report(job)


def test_a_program_that_could_not_be_judged_is_judged_again(tmp_path):
    evaluate(tmp_path / "run", model=SeededModel(), sandbox=FlakyJudge(), patience=60)

    write_report(tmp_path / "run")
    assert outcome(tmp_path / "run") == whole_run(tmp_path / "sound")


def test_a_model_that_writes_no_code_is_wrong_and_nothing_breaks(tmp_path):
    evaluate(tmp_path / "run", model=ScriptedModel(replies=["I would rather not. 🙃"]), sandbox=RuleSandbox(passes))

    results, _ = write_report(tmp_path / "run")

    assert all(arm.accuracy[-1].value == 0 for arm in results.arms)
    assert judgements_of(shard for _, shard in read_shards(tmp_path / "run")) == {}


def test_a_full_disk_ends_a_run_before_it_draws_on_for_nothing(tmp_path):
    draws = []
    model = SeededModel(before=lambda *_: draws.append(1))
    sound = whole_run(tmp_path / "sound")
    first = max((tmp_path / "sound" / name).stat().st_size for name in ("config.json", "problems.jsonl"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (first + 200, hard))
    try:
        with pytest.raises(InfrastructureError, match=r"File too large.* free room"):
            evaluate(tmp_path / "run", model=model, sandbox=RuleSandbox(passes), patience=3600)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    in_vain = len(draws)
    draws.clear()
    evaluate(tmp_path / "run", model=model, sandbox=RuleSandbox(passes))
    write_report(tmp_path / "run")
    assert outcome(tmp_path / "run") == sound
    assert in_vain < len(draws)


def test_a_full_disk_loses_nothing_that_was_there(tmp_path):
    from pydantic import TypeAdapter

    from mucode_agent.types import Score

    journal = Journal(tmp_path / "rows.jsonl", TypeAdapter(Score))
    journal.append([Score(logit=1.0)])
    size = journal.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, hard))
    try:
        with pytest.raises(InfrastructureError, match="everything up to here is saved: free room"):
            journal.append([Score(logit=2.0)] * 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    journal.append([Score(logit=3.0)])
    journal.close()
    assert [json.loads(line)["logit"] for line in journal.path.read_text().splitlines()] == [1.0, 3.0]
