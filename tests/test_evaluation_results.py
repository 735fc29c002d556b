"""From rows to figures: what the tables say is what the rows say."""

import json
import os
import random

import pytest
from synthetic_run import ARMS, N, T, identity, judgement, problems, shard_of, solve_rows, solves_of, write_run

from mucode_agent.evaluation.comparison import compare_runs, read_results
from mucode_agent.evaluation.report import write_report
from mucode_agent.evaluation.results import RULES, compute
from mucode_agent.evaluation.tables import tables
from mucode_agent.files import write_whole
from mucode_agent.graphs.selection import normal_form, rank_key
from mucode_agent.metrics import best_of_k
from mucode_agent.runs.config import Arm, Benchmark
from mucode_agent.runs.directory import finished_solves, read_config, read_problems
from mucode_agent.runs.reading import read_solves
from mucode_agent.types import ProblemError


def made(count=6, *, arms=ARMS, seed=1, **changes):
    """Identity, problems, solves and judgements of a made-up run."""
    benchmark = Benchmark(name="made-up", split="fixed", testless=False, problems=problems(count))
    labels, solves = {}, []
    for problem in benchmark.problems:
        rng = random.Random(f"{seed}/{problem.id}")
        for arm in arms:
            solves += solves_of(problem, arm, rng, labels)
    judged = {key: judgement(*key, right) for key, right in labels.items()}
    return identity(benchmark, arms=arms, **changes), benchmark.problems, solves, judged


def arm_of(results, name):
    return next(arm for arm in results.arms if arm.arm.name == name)


def right(problem, candidate, judged):
    return judged[problem.id, normal_form(candidate.code)].correct


def test_accuracy_counts_answers_that_pass_all_tests():
    asked, tasks, solves, judged = made()

    results = compute(asked, tasks, solves, judged)

    for name in ("greedy", "turns"):
        answers = [s.solution.best for task in tasks for s in solves if s.run_id == f"{task.id}-{name}"]
        expected = [right(task, answer, judged) for task, answer in zip(tasks, answers, strict=True)]
        assert arm_of(results, name).accuracy[-1].value == pytest.approx(sum(expected) / len(tasks))


def test_accuracy_at_a_turn_is_that_of_a_search_cut_there():
    asked, tasks, solves, judged = made(20)

    first_turn = compute(asked, tasks, solves, judged)
    by_hand = []
    for task in tasks:
        solve = next(s for s in solves if s.run_id == f"{task.id}-turns")
        decision = solve.decisions[0].decision
        selected = next(c for c in solve.candidates if (c.turn, c.index) == (1, decision.selected))
        by_hand.append(right(task, selected, judged))

    assert arm_of(first_turn, "turns").accuracy[0].value == pytest.approx(sum(by_hand) / len(tasks))


def test_independent_samples_stop_at_the_first_accepted_wave_like_a_search_with_turns():
    asked, tasks, solves, judged = made(20)

    arm = arm_of(compute(asked, tasks, solves, judged), "independent")

    by_hand = []
    for task in tasks:
        pool = next(s for s in solves if s.run_id == f"{task.id}-independent").candidates
        accepted = [any(c.report.passed for c in pool[:end]) for end in (N, 2 * N, 3 * N)]
        by_hand.append(N * (1 + sum(not done for done in accepted[:-1])))
    assert arm.candidates[-1] == pytest.approx(sum(by_hand) / len(tasks))
    assert len(arm.accuracy) == T
    assert arm.candidates[0] == N


def test_the_selectors_curves_are_best_of_k_over_the_independent_samples():
    asked, tasks, solves, judged = made()

    curves = compute(asked, tasks, solves, judged).best_of_k.curves

    pools = [next(s for s in solves if s.run_id == f"{task.id}-independent").candidates for task in tasks]
    for rule in ("tests", "verifier", "tests+verifier", "random"):
        expected = [
            best_of_k([rank_key(c, rule) for c in pool], [right(task, c, judged) for c in pool], 4)
            for task, pool in zip(tasks, pools, strict=True)
        ]
        assert curves[rule][3].value == pytest.approx(sum(expected) / len(tasks))


def test_a_majority_among_all_samples_tells_nothing_to_the_best_of_fewer():
    asked, tasks, solves, judged = made(6)

    def agreeing(solve):
        voted = [c.model_copy(update={"agreement": float(right_of(c, solve, judged))}) for c in solve.candidates]
        return solve.model_copy(update={"candidates": tuple(voted)})

    voted = compute(asked, tasks, [agreeing(solve) for solve in solves], judged)

    assert voted.best_of_k == compute(asked, tasks, solves, judged).best_of_k


def right_of(candidate, solve, judged):
    return judged[solve.problem_id, normal_form(candidate.code)].correct


def test_no_rule_beats_the_oracle_and_all_rules_agree_on_one_sample():
    asked, tasks, solves, judged = made(10)

    curves = compute(asked, tasks, solves, judged).best_of_k.curves

    assert set(curves) == set(RULES)
    for rule in RULES:
        assert curves[rule][0].value == pytest.approx(curves["random"][0].value)
        assert all(a.value <= b.value + 1e-12 for a, b in zip(curves[rule], curves["oracle"], strict=True))


def test_without_a_verifier_no_figure_claims_one():
    asked, tasks, solves, judged = made(verifier="none", selector="tests")

    results = compute(asked, tasks, solves, judged)

    assert results.verifier is None
    assert set(results.best_of_k.curves) == {"random", "tests", "oracle"}


def test_the_equal_compute_baseline_stands_beside_the_turns():
    asked, tasks, solves, judged = made()

    names = [item.name for item in compute(asked, tasks, solves, judged).comparisons]

    assert f"turns at equal compute (at most {N * T} candidates)" in names


def test_a_greedy_run_alone_has_no_curves_and_still_a_report(tmp_path):
    results, page = write_report(write_run(tmp_path / "run", count=4, arms=ARMS[:1]))

    assert (results.best_of_k, results.verifier) == (None, None)
    assert [item.name for item in results.comparisons] == ["feedback, greedy"]
    assert "best-of-k" not in page.read_text()


def test_a_single_turn_run_has_curves_from_its_only_turn(tmp_path):
    arm = Arm(name="turns", n=4, max_turns=1, temperature=0.7)

    results, _ = write_report(write_run(tmp_path / "run", count=4, arms=(arm,)))

    assert results.best_of_k.samples == 4
    assert len(results.arms[0].accuracy) == 1


def test_figures_are_over_the_problems_finished_in_every_arm():
    asked, tasks, solves, judged = made(6)
    cut = [s for s in solves if s.run_id != "Made/3-independent"]

    results = compute(asked, tasks, cut, judged)

    assert (results.finished, results.unfinished) == (5, ("Made/3",))
    assert "Made/3" not in results.outcomes


def test_a_solve_whose_programs_are_not_all_judged_is_unfinished():
    asked, tasks, solves, judged = made(4)
    lacking = {key: value for key, value in judged.items() if key != next(k for k in judged if k[0] == "Made/2")}

    assert compute(asked, tasks, solves, lacking).unfinished == ("Made/2",)


def test_nothing_finished_is_no_result():
    asked, tasks, _, judged = made(2)

    assert compute(asked, tasks, [], judged) is None


def test_a_solve_told_twice_counts_once_as_it_was_first_told():
    labels, task, arm = {}, problems(1)[0], ARMS[1]
    first = solve_rows(task, arm, random.Random(1), labels)
    again = solve_rows(task, arm, random.Random(2), labels)

    solves = finished_solves([*first, *again])

    assert solves == finished_solves(first)


def test_a_solve_without_its_end_is_not_finished():
    rows = solve_rows(problems(1)[0], ARMS[1], random.Random(1), {})

    assert finished_solves(rows[:-1]) == []


def test_a_run_read_from_disk_gives_the_same_results_as_its_rows(tmp_path):
    write_run(tmp_path / "run", count=5)

    results, _ = write_report(tmp_path / "run")

    assert read_results(tmp_path / "run") == results
    assert results.finished == len(read_problems(tmp_path / "run")) == 5
    assert len(read_solves(tmp_path / "run")) == 15


def test_results_of_the_same_rows_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name, count=5)
        write_report(tmp_path / name)

    for file in ("results.json", "report.md", "report.html", "figures/turns.svg", "figures/best-of-k.svg"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_report_shows_the_command_where_there_is_one(tmp_path):
    for name, command in (("known", "evaluate run made-up"), ("unknown", "")):
        write_run(tmp_path / name, count=5, command=command)
        write_report(tmp_path / name)

    pages = {
        n: [(tmp_path / n / f"report.{kind}").read_text() for kind in ("md", "html")] for n in ("known", "unknown")
    }
    assert all("evaluate run made-up" in page for page in pages["known"])
    assert "```" not in pages["unknown"][0]
    assert "command</" in pages["known"][1]
    assert "command</" not in pages["unknown"][1]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_files_have_the_rights_that_the_user_asks_for(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_whole(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_row_of_endless_depth_is_no_traceback(tmp_path):
    (tmp_path / "config.json").write_text('{"identity": ' + "[" * 100_000)
    with pytest.raises(ProblemError, match="no configuration of a run"):
        read_config(tmp_path)


# --- comparing runs ------------------------------------------------------------------------------------------------


def run_at(path, **changes):
    write_run(path, **changes)
    write_report(path)
    return path


def test_a_clear_gain_between_two_runs_is_shown_and_a_small_one_is_not(tmp_path):
    weak = read_results(run_at(tmp_path / "weak", count=60, ability=0.2))
    strong = read_results(run_at(tmp_path / "strong", count=60, ability=0.7, seed=1))
    same = read_results(run_at(tmp_path / "same", count=60, ability=0.2, seed=2))

    gain = {item.name: item.difference.verdict for item in compare_runs(weak, strong)}
    none = {item.name: item.difference.verdict for item in compare_runs(weak, same)}

    assert gain["greedy"] == "B is better"
    assert none["greedy"] == "no difference shown"
    assert {"turns", "independent", f"best-of-{N} tests", f"best-of-{N} oracle"} <= set(gain)


def test_runs_on_different_problems_are_not_compared(tmp_path):
    a, b = run_at(tmp_path / "a", count=4), run_at(tmp_path / "b", count=5)

    with pytest.raises(ProblemError, match=r"different problems: A of made-up \(4 problems, split fixed\), B of"):
        compare_runs(read_results(a), read_results(b))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"results_version": 99}', "results_version 99, this version of mucode_agent reads 2"),
        (b"{", "holds no results of a run"),
        (b"[]", "holds no results of a run"),
        (b"\xff", "holds no results of a run"),
        (b'{"results_version": 1}', "make it again with `evaluate report`"),
        (b'{"results_version": 2}', "is damaged or of another version"),
    ],
)
def test_a_results_file_that_cannot_be_read_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "results.json"
    path.write_bytes(content)

    with pytest.raises(ProblemError, match=sentence):
        read_results(path)


def test_a_run_without_results_says_how_to_get_them(tmp_path):
    with pytest.raises(ProblemError, match="give a directory that `evaluate run` wrote"):
        read_results(tmp_path)


# --- directories ---------------------------------------------------------------------------------------------------


def test_a_run_of_another_version_is_refused(tmp_path):
    path = write_run(tmp_path / "run", count=2) / "config.json"
    config = json.loads(path.read_text())
    config["identity"]["run_version"] = 7
    path.write_text(json.dumps(config))

    with pytest.raises(ProblemError, match="run_version 7, this version of mucode_agent reads 2"):
        write_report(tmp_path / "run")


def test_a_damaged_shard_is_named(tmp_path):
    path = shard_of(write_run(tmp_path / "run", count=2), "Made/1")
    path.write_bytes(path.read_bytes()[:-40])

    with pytest.raises(ProblemError, match=rf"{path.name} is damaged: .*; remove it and run the same command"):
        write_report(tmp_path / "run")


def test_a_problem_without_its_shard_is_unfinished(tmp_path):
    shard_of(write_run(tmp_path / "run", count=3), "Made/2").unlink()

    assert write_report(tmp_path / "run")[0].unfinished == ("Made/2",)


# --- programs that could not be judged -----------------------------------------------------------------------------


def unjudged(judged, *keys):
    """The judgements, with those of `keys` unknown."""
    return judged | {key: judged[key].model_copy(update={"status": "unjudged"}) for key in keys}


def answers_of(solves, task):
    return {(task.id, normal_form(solve.solution.best.code)) for solve in solves if solve.problem_id == task.id}


def test_an_unjudged_program_that_is_no_answer_takes_nothing_out_of_the_figures():
    asked, tasks, solves, judged = made(6)
    others = {key for key, row in judged.items() if key[0] == tasks[0].id and not row.correct}
    others -= answers_of(solves, tasks[0])
    assert others

    results = compute(asked, tasks, solves, unjudged(judged, *others))

    assert (results.finished, results.unfinished, results.unjudged) == (6, (), ())
    for name in ("greedy", "turns", "independent"):
        assert arm_of(results, name).accuracy == arm_of(compute(asked, tasks, solves, judged), name).accuracy


def test_a_problem_with_an_unjudged_answer_is_in_no_figure_and_counted_aloud():
    asked, tasks, solves, judged = made(6)
    odd, others = tasks[0], tasks[1:]

    results = compute(asked, tasks, solves, unjudged(judged, *answers_of(solves, odd)))
    without = compute(asked, others, [solve for solve in solves if solve.problem_id != odd.id], judged)

    assert (results.finished, results.unfinished, results.unjudged) == (5, (), (odd.id,))
    assert arm_of(results, "turns").unjudged == 1
    assert odd.id not in results.outcomes
    for name in ("greedy", "turns", "independent"):
        assert arm_of(results, name).accuracy == arm_of(without, name).accuracy
    assert "1 more problems are in no figure" in tables(results)[0].note
    assert "83.3% of the one shown" in tables(results)[0].note


def test_a_run_whose_tests_judge_no_answer_is_one_sentence():
    asked, tasks, solves, judged = made(2)
    with pytest.raises(ProblemError, match=r"tests of all 2 finished problems judge no answer, the first of Made/0"):
        compute(asked, tasks, solves, unjudged(judged, *judged))


def test_the_verifier_is_measured_on_programs_that_could_be_judged():
    asked, tasks, solves, judged = made(6)
    key = next(iter(judged))

    results = compute(asked, tasks, solves, unjudged(judged, key))

    assert results.verifier.candidates < compute(asked, tasks, solves, judged).verifier.candidates


def test_no_run_directory_is_one_sentence(tmp_path):
    with pytest.raises(ProblemError, match="is no run directory"):
        write_report(tmp_path)
