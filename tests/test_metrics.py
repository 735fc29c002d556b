"""The statistics against brute force over every subset and order, and against scipy."""

import math
import statistics
from itertools import combinations, permutations

import pytest
from pydantic import ValidationError

from mucode_agent.metrics import (
    Difference,
    auc,
    best_of_k,
    bootstrap_mean,
    calibration,
    compare,
    mcnemar,
    pairwise_accuracy,
    pass_at_k,
    proportion,
)


def every_subset_and_order(ranking, correct, k):
    """Best-of-k by enumeration: every k-subset, every order of its members, the first of the best wins."""
    outcomes = []
    for subset in combinations(range(len(ranking)), k):
        for order in permutations(subset):
            best = max(order, key=lambda i: ranking[i])  # max keeps the first of equals
            outcomes.append(correct[best])
    return sum(outcomes) / len(outcomes)


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    ("ranking", "correct"),
    [
        ([5, 4, 3, 2, 1], [True, False, True, False, False]),
        ([1, 2, 3, 4, 5], [True, False, True, False, False]),
        ([2, 2, 2, 1, 1], [True, False, False, True, False]),
        ([0, 0, 0, 0, 0], [True, True, False, False, False]),
        ([1, 0, 1, 0, 1], [False, False, False, False, False]),
        ([3, 1, 3, 2, 1], [True, True, True, True, True]),
    ],
)
def test_best_of_k_is_the_mean_over_every_subset_and_every_order_of_ties(ranking, correct, k):
    keys = [(value,) for value in ranking]

    assert best_of_k(keys, correct, k) == pytest.approx(every_subset_and_order(keys, correct, k), abs=1e-12)


def test_best_of_k_does_not_depend_on_the_order_in_which_samples_arrive():
    keys, correct = [(1, 0.5), (1, 0.5), (0, 0.9), (1, 0.2)], [True, False, False, True]
    expected = best_of_k(keys, correct, 3)

    for order in permutations(range(4)):
        assert best_of_k([keys[i] for i in order], [correct[i] for i in order], 3) == expected


def test_best_of_k_without_a_preference_is_the_mean_and_with_the_labels_is_pass_at_k():
    correct = [True, False, False, True, False, False, False]

    for k in range(1, 8):
        assert best_of_k([(0,)] * 7, correct, k) == pytest.approx(2 / 7)
        assert best_of_k([(label,) for label in correct], correct, k) == pytest.approx(pass_at_k(2, 7, k))


def test_best_of_k_without_ties_is_the_published_sum_over_ranks():
    correct = [False, True, True, False, True, False]  # in rank order
    n, keys = 6, [(-i,) for i in range(6)]

    for k in range(1, 7):
        published = sum(math.comb(n - 1 - i, k - 1) / math.comb(n, k) * correct[i] for i in range(n))
        assert best_of_k(keys, correct, k) == pytest.approx(published)


@pytest.mark.parametrize("correct", range(6))
def test_pass_at_k_is_the_share_of_subsets_with_a_right_answer(correct):
    labels = [i < correct for i in range(5)]

    for k in range(1, 6):
        subsets = list(combinations(labels, k))
        assert pass_at_k(correct, 5, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_k_is_exact_with_thousands_of_samples():
    assert pass_at_k(1, 10_000, 5_000) == 0.5
    assert pass_at_k(10_000, 10_000, 1) == 1.0


@pytest.mark.parametrize("k", [0, 4, -1])
def test_k_outside_the_samples_is_refused(k):
    with pytest.raises(ValueError, match=f"k must be between 1 and the 3 samples, got {k}"):
        pass_at_k(1, 3, k)
    with pytest.raises(ValueError, match=f"got {k}"):
        best_of_k([(0,)] * 3, [True] * 3, k)


@pytest.mark.parametrize(("successes", "n"), [(0, 1), (0, 164), (1, 3), (68, 164), (101, 164), (164, 164), (250, 500)])
def test_wilson_interval_agrees_with_scipy(successes, n):
    from scipy.stats import binomtest

    expected = binomtest(successes, n).proportion_ci(method="wilson")
    estimate = proportion([1.0] * successes + [0.0] * (n - successes))

    assert estimate.value == pytest.approx(successes / n)
    assert (estimate.low, estimate.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_an_interval_always_holds_its_value():
    for value in (0.0, 1.0, 1e-17, 1 - 1e-16, 1 / 3):
        estimate = proportion([value] * 7)
        assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_wilson_is_never_narrower_than_the_bootstrap_for_fractional_outcomes():
    values = [0.1, 0.9, 0.4, 0.5, 0.7, 0.2] * 20
    low, high = bootstrap_mean(values)

    estimate = proportion(values)

    assert estimate.low < low < high < estimate.high


@pytest.mark.parametrize("values", [[], [1.5], [-0.1], [float("nan")]])
def test_outcomes_outside_zero_and_one_are_refused(values):
    with pytest.raises(ValueError, match=r"at least one outcome|between 0 and 1"):
        proportion(values)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (0, 1), (1, 1), (3, 9), (9, 3), (5, 5), (0, 6), (40, 71)])
def test_mcnemar_doubles_the_tail_of_a_fair_coin(only_a, only_b):
    n = only_a + only_b
    tail = sum(math.comb(n, i) for i in range(min(only_a, only_b) + 1)) / 2**n

    assert mcnemar(only_a, only_b) == pytest.approx(min(1.0, 2 * tail))


def test_bootstrap_interval_is_that_of_the_normal_where_there_are_many_values():
    values = [1.0, 0.0, 0.0, -1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0] * 12
    mean, half = statistics.mean(values), 1.96 * statistics.pstdev(values) / math.sqrt(len(values))

    assert bootstrap_mean(values) == pytest.approx((mean - half, mean + half), abs=0.01)
    assert bootstrap_mean([0.25]) == (0.25, 0.25)


def test_bootstrap_repeats_with_its_seed_and_only_with_it():
    values = [i % 7 / 7 for i in range(50)]

    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_a_gain_inside_the_interval_is_no_difference_shown():
    a = [1, 0, 0, 0, 1, 0, 0, 1, 0, 0]
    b = [1, 1, 0, 0, 1, 0, 0, 0, 1, 0]

    difference = compare(a, b)

    assert difference.value == pytest.approx(0.1)
    assert (difference.only_a, difference.only_b) == (1, 2)
    assert difference.verdict == "no difference shown"


def test_three_wins_of_three_are_no_difference_shown_though_the_bootstrap_cannot_vary():
    difference = compare([0, 0, 0], [1, 1, 1])

    assert (difference.low, difference.high) == (1.0, 1.0)
    assert difference.p_value == pytest.approx(0.25)
    assert difference.verdict == "no difference shown"


def test_a_clear_gain_is_shown_and_points_the_right_way():
    a, b = [0] * 30 + [1] * 10, [1] * 25 + [0] * 5 + [1] * 10

    assert compare(a, b).verdict == "B is better"
    assert compare(b, a).verdict == "A is better"
    assert compare(a, a).verdict == "no difference shown"


def test_fractional_outcomes_are_compared_without_mcnemar():
    assert compare([0.5, 0.25], [0.75, 1.0]).p_value is None


def test_runs_on_different_numbers_of_problems_are_not_paired():
    with pytest.raises(ValueError, match="same problems in both runs, got 2 and 3"):
        compare([0, 1], [0, 1, 1])


def test_auc_is_the_share_of_pairs_in_the_right_order_ties_counting_half():
    scores = [0.1, 0.4, 0.4, 0.8, 0.9, 0.4, 0.2, 0.9]
    labels = [False, True, False, True, True, False, False, False]
    right = [s for s, label in zip(scores, labels, strict=True) if label]
    wrong = [s for s, label in zip(scores, labels, strict=True) if not label]
    pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]

    assert auc(scores, labels) == pytest.approx(sum(pairs) / len(pairs))


def test_auc_needs_both_kinds():
    assert auc([0.1, 0.2], [True, True]) is None
    assert auc([], []) is None


def test_pairwise_accuracy_takes_no_credit_for_telling_easy_problems_from_hard_ones():
    easy = ([9.0, 9.0], [True, False])
    hard = ([1.0, 1.0], [True, False])
    one_sided = ([5.0], [True])

    estimate = pairwise_accuracy([easy, hard, one_sided])

    assert (estimate.value, estimate.n) == (0.5, 2)
    assert pairwise_accuracy([one_sided]) is None


def test_calibration_of_honest_and_of_boastful_probabilities():
    honest = calibration([0.0] * 10 + [1.0] * 10, [False] * 10 + [True] * 10)
    boastful = calibration([1.0] * 20, [True] * 10 + [False] * 10)

    assert (honest.brier, honest.expected_error) == (0.0, 0.0)
    assert (boastful.brier, boastful.expected_error) == (0.5, 0.5)
    assert calibration([], []) is None


def test_equal_probabilities_are_never_parted_by_their_labels():
    result = calibration([0.5] * 100, [False, True] * 50)

    assert [bar.count for bar in result.bins] == [100]
    assert result.expected_error == pytest.approx(0.0)


def test_a_difference_is_saved_and_loaded_equal():
    difference = compare([0, 1, 0], [1, 1, 0])

    assert Difference.model_validate_json(difference.model_dump_json()) == difference
    with pytest.raises(ValidationError):
        difference.value = 3
