"""What a verifier is taught, checked by value: groups, pairs, the loss, and problems that must not be trained on."""

import math
import random
from typing import Any

import pytest
import torch

from mucode_agent.graphs.selection import normal_form
from mucode_agent.training.data import Attempt, ProblemAttempts, data_sha256
from mucode_agent.training.examples import groups, held_out, overlap
from mucode_agent.training.settings import GROUP
from mucode_agent.training.verifier import group_losses
from mucode_agent.types import Candidate, ExecutionReport, Problem, Sample, TestResult


def attempt(code: str, correct: bool, *, passed: bool | None = None, solve: str = "s") -> Attempt:
    ok = correct if passed is None else passed
    report = ExecutionReport(
        status="passed" if ok else "wrong_answer", results=(TestResult(status="passed" if ok else "wrong_answer"),)
    )
    candidate = Candidate(turn=1, index=0, sample=Sample(text=code, seed=0), code=code, report=report)
    return Attempt(solve=solve, turns=(), candidate=candidate, form=normal_form(code), correct=correct)


def entry(id_: str, right: int, wrong: int, prompt: str = "") -> ProblemAttempts:
    attempts = [attempt(f"right = {i}", True) for i in range(right)]
    attempts += [attempt(f"wrong = {i}", False) for i in range(wrong)]
    return ProblemAttempts(problem=Problem(id=id_, prompt=prompt or f"Task {id_}."), attempts=tuple(attempts))


def test_pairs_are_every_right_and_wrong_program_of_one_problem() -> None:
    [group] = groups([entry("a", 2, 3)], loss="bt")
    assert sorted(group.codes) == ["right = 0", "right = 1", "wrong = 0", "wrong = 1", "wrong = 2"]
    pairs = [(group.codes[i], group.codes[j]) for i, j in group.pairs]
    assert len(pairs) == len(set(pairs)) == 6
    assert all(y.startswith("right") and z.startswith("wrong") for y, z in pairs)


def test_programs_that_differ_in_layout_only_count_once() -> None:
    twice = ProblemAttempts(
        problem=Problem(id="a", prompt="Task."),
        attempts=(attempt("x = 1", True), attempt("x  =  1  # same", True, solve="t"), attempt("x = 2", False)),
    )
    [group] = groups([twice], loss="bt")
    assert sorted(group.codes) == ["x = 1", "x = 2"]


def test_problems_without_both_kinds_teach_through_bce_alone() -> None:
    data = [entry("all-right", 3, 0), entry("all-wrong", 0, 3), entry("both", 1, 1)]
    assert [group.problem_id for group in groups(data, loss="bt")] == ["both"]
    assert {group.problem_id for group in groups(data, loss="bce")} == {"all-right", "all-wrong", "both"}
    assert {group.problem_id for group in groups(data, loss="bt+bce")} == {"all-right", "all-wrong", "both"}


@pytest.mark.parametrize(("right", "wrong"), [(1, 40), (20, 20), (40, 3), (9, 0), (5, 4)])
def test_groups_are_bounded_balanced_and_hold_no_program_twice(right: int, wrong: int) -> None:
    found = groups([entry("a", right, wrong)], loss="bce", per_problem=16)
    codes = [code for group in found for code in group.codes]
    assert len(codes) == len(set(codes)) == min(16, right + wrong)
    assert all(len(group.codes) <= GROUP for group in found)
    kept = sum(label for group in found for label in group.labels)
    assert kept == min(right, max(8, 16 - wrong))
    if right and wrong:
        assert sum(bool(group.pairs) for group in found) >= min(len(found), right, wrong)


def test_the_groups_depend_on_data_and_seed_not_on_the_order_of_attempts() -> None:
    data = [entry("a", 12, 12), entry("b", 3, 9)]
    mixed = []
    for each in reversed(data):
        attempts = list(each.attempts)
        random.Random(5).shuffle(attempts)
        mixed.append(each.model_copy(update={"attempts": tuple(attempts)}))
    assert groups(data, loss="bt", per_problem=8, seed=1) == groups(mixed, loss="bt", per_problem=8, seed=1)
    assert groups(data, loss="bt", per_problem=8, seed=1) != groups(data, loss="bt", per_problem=8, seed=2)
    assert data_sha256(data) == data_sha256(mixed[::-1])


def test_near_misses_prefer_wrong_programs_that_pass_public_tests_and_look_right() -> None:
    right = "def f(x):\n    return x + 1"
    attempts = [attempt(right, True), attempt("def f(x):\n    return x + 2", False, passed=True)]
    attempts += [attempt(f"import os\nprint({i})", False, passed=False) for i in range(30)]
    data = [ProblemAttempts(problem=Problem(id="a", prompt="Task."), attempts=tuple(attempts))]
    [group] = groups(data, loss="bt", per_problem=2, near_misses=True)
    assert set(group.codes) == {right, "def f(x):\n    return x + 2"}


def test_the_held_out_problems_are_others_and_the_same_every_time() -> None:
    data = [entry(str(i), 1, 1) for i in range(300)]
    training, out = held_out(data, 0.2, seed=0)
    assert len(training) + len(out) == 300
    assert 35 <= len(out) <= 90
    assert held_out(data[::-1], 0.2, seed=0)[1] == out[::-1]
    assert held_out(data, 0.2, seed=1)[1] != out


# --- the loss ------------------------------------------------------------------------------------------------------


def sigma(x: float) -> float:
    return 1 / (1 + math.exp(-x))


@pytest.mark.parametrize(
    ("loss", "l2", "expected"),
    [
        ("bt", 0.0, -(math.log(sigma(2.0 - 1.0)) + math.log(sigma(2.0 + 1.0))) / 2),
        ("bce", 0.0, -(math.log(sigma(2.0)) + math.log(1 - sigma(1.0)) + math.log(1 - sigma(-1.0))) / 3),
        ("bt", 0.1, -(math.log(sigma(2.0 - 1.0)) + math.log(sigma(2.0 + 1.0))) / 2 + 0.1 * (4 + 1 + 1) / 3),
    ],
)
def test_the_loss_of_a_group_is_the_papers_mean_over_its_pairs_or_programs(
    loss: Any, l2: float, expected: float
) -> None:
    logits = torch.tensor([2.0, 1.0, -1.0, 7.0])
    found = group_losses(logits, [(True, False, False), (True,)], loss, l2)
    assert found[0].item() == pytest.approx(expected, rel=1e-5)
    alone = {"bt": l2 * 49, "bce": -math.log(sigma(7.0))}[loss]
    assert found[1].item() == pytest.approx(alone, rel=1e-4, abs=1e-6)


def test_bt_plus_bce_is_their_sum() -> None:
    logits, labels = torch.tensor([0.3, -0.2]), [(True, False)]
    parts = [group_losses(logits, labels, loss)[0] for loss in ("bt", "bce")]
    assert group_losses(logits, labels, "bt+bce")[0] == pytest.approx(sum(parts))


def test_the_loss_falls_when_right_rises_above_wrong() -> None:
    losses = [group_losses(torch.tensor([gap, 0.0]), [(True, False)], "bt")[0].item() for gap in (-1.0, 0.0, 1.0)]
    assert losses == sorted(losses, reverse=True)


# --- contamination -------------------------------------------------------------------------------------------------


def problem(id_: str, prompt: str, *tests: str, entry_point: str = "f") -> Problem:
    return Problem(id=id_, prompt=prompt, entry_point=entry_point, public_tests=tests)


def test_an_evaluation_problem_is_found_under_another_name_and_wording() -> None:
    evaluation = [
        problem("eval", "Write a function to interchange the first and last elements in a list.", "assert f(1)")
    ]
    reworded = problem("train", "Write a python function to interchange first and last elements in a given list.")
    assert overlap([reworded], evaluation) == [("train", "eval")]


def test_an_evaluation_problem_is_found_by_its_tests() -> None:
    tests = ["assert f([1, 2]) == 3", "assert f([]) == 0", "assert f([5]) == 5"]
    evaluation = [problem("eval", "Sum a list.", *tests)]
    renamed = [test.replace("f(", "total (").replace(" (", "(") for test in tests]
    assert overlap([problem("train", "Add all up, quickly.", *renamed, entry_point="total")], evaluation) == [
        ("train", "eval")
    ]


def test_problems_that_share_words_or_one_trivial_test_are_two() -> None:
    evaluation = [
        problem("eval", "Write a function to find even numbers from a mixed list.", "assert f(1) == 1", "assert f(2)")
    ]
    other = problem(
        "train", "Write a function to find odd numbers from a mixed list.", "assert f(1) == 1", "assert f(3)"
    )
    assert overlap([other], evaluation) == []
