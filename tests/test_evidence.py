"""The evidence verifier: its features, its weights, its fit and its card."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import LengthVerifier, candidates_of

from mucode_agent.training.data import Attempt, ProblemAttempts
from mucode_agent.training.evidence import (
    Origin,
    acceptance,
    card_of,
    cross_fitted,
    fit_evidence,
    fold_verifiers,
    pools_of,
    recalibrated,
    with_measured,
)
from mucode_agent.types import Candidate, ExecutionReport, Problem, ProblemError, TestResult
from mucode_agent.verifiers import load_verifier
from mucode_agent.verifiers.card import calibration_mismatch
from mucode_agent.verifiers.evidence import (
    Acceptance,
    EvidenceCard,
    EvidenceVerifier,
    read_evidence_card,
    shipped_card,
)
from mucode_agent.verifiers.features import agreement, evidence_of, feature_names, features, normal_form

PROBLEM = Problem(id="p", prompt="Add one. >>> f(1)", entry_point="f")


def table(candidates: list[Candidate]) -> list[dict[str, float]]:
    kinds = evidence_of(candidates)
    return [dict(zip(feature_names(kinds), row, strict=True)) for row in features(PROBLEM, candidates, kinds)]


def judged_by_tests(candidate: Candidate, passed: int, tests: int = 2) -> Candidate:
    results = tuple(TestResult(status="passed" if i < passed else "wrong_answer") for i in range(tests))
    status = "passed" if passed == tests else "wrong_answer"
    behaviour = candidate.report.behaviour if candidate.report else ()
    report = ExecutionReport(status=status, results=results, behaviour=behaviour)
    return candidate.model_copy(update={"report": report})


# --- features ------------------------------------------------------------------------------------------------------


def test_agreement_counts_the_others_input_by_input() -> None:
    rows = [["= a", "= x"], ["= a", "= y"], ["= a", "= x"], ["= b", "raise ValueError"]]
    shares = [(others + 0.5) / 4 for others in ((2 + 1) / 2, (2 + 0) / 2, (2 + 1) / 2, 0)]
    assert agreement(rows) == pytest.approx(shares)


def test_exceptions_timeouts_and_unknown_outcomes_agree_with_nothing() -> None:
    for outcome in ("raise ValueError", "timeout", ""):
        assert agreement([["= a", outcome], ["= b", outcome], ["= c", "= d"], ["= e", "= f"]]) == pytest.approx(
            [0.125] * 4
        )


def test_an_input_on_which_most_candidates_fail_says_nothing() -> None:
    assert agreement([["= a", "= x"], ["= a", "timeout"], ["= b", "timeout"]]) == agreement([["= a"], ["= a"], ["= b"]])


def test_a_lone_candidate_agrees_with_nobody_and_is_no_error() -> None:
    [row] = table(candidates_of(["x"], [["= a"]], [-1.0]))
    assert row["group agreement"] == 0.5
    assert row["agreement - group"] == 0
    assert agreement([]) == []


def test_none_is_an_outcome_of_its_own() -> None:
    rows = table(candidates_of(list("abc"), [["None"], ["None"], ["= a"]]))
    assert rows[0]["agreement - group"] > 0
    assert rows[0]["nones - group"] == pytest.approx(1 / 3)


def test_where_there_are_tests_only_those_that_pass_most_of_them_vote() -> None:
    candidates = candidates_of(list("abcd"), [["= right"], ["= wrong"], ["= wrong"], ["= wrong"]])
    mixed = [judged_by_tests(candidate, passed) for candidate, passed in zip(candidates, (2, 2, 0, 0), strict=True)]
    first, second, third, _ = table(mixed)
    assert first["agreement - group"] == second["agreement - group"]
    assert third["agreement - group"] > first["agreement - group"]  # it agrees with one of the two voters


def test_the_kinds_of_evidence_decide_which_features_there_are() -> None:
    bare = candidates_of(["a", "b"])
    assert evidence_of(bare) == ()
    assert evidence_of(candidates_of(["a"], [["= 1"]], [-1.0])) == ("behaviour", "logprobs")
    assert evidence_of([judged_by_tests(bare[0], 1)]) == ("tests",)
    assert evidence_of(candidates_of(["a"], [["", ""]])) == ()
    assert evidence_of(bare, [1.0, 2.0]) == ("model",)


def test_duplicates_are_equal_programs_whatever_their_layout() -> None:
    rows = table(candidates_of(["x=1", "x = 1  # same", "x = 2"]))
    assert rows[0]["duplicates - group"] == rows[1]["duplicates - group"] > rows[2]["duplicates - group"]
    assert normal_form("x=1") == normal_form("x = 1")


def test_a_generator_that_repeats_itself_counts_as_one_candidate() -> None:
    [one] = candidates_of(["x"], [["= a"]], [-1.0])
    assert table([one] * 5) == table([one]) * 5


def test_a_reply_without_a_program_has_features_too() -> None:
    rows = table(candidates_of(["", "x"], [[], ["= a"]], [-1.0, -2.0]))
    assert len(rows) == 2


# --- the shipped verifier ------------------------------------------------------------------------------------------


def test_the_shipped_card_names_its_data_licence_generator_and_quality() -> None:
    card = shipped_card()
    assert "CC BY 4.0" in card.data
    assert "/" not in card.made.replace("mbpp-train", "").replace("rollouts/", "")  # no path of a machine
    assert card.generators
    assert card.acceptance is not None
    assert {quality.evidence for quality in card.quality} >= {("behaviour", "logprobs")}
    assert card.acceptance.precision >= 0.9


def test_the_shipped_verifier_prefers_what_most_return_and_gives_a_probability() -> None:
    verifier = load_verifier("evidence")
    candidates = candidates_of(list("abcde"), [["= a", "= b"]] * 4 + [["= x", "= y"]], [-0.2] * 5)
    scores = verifier.score(PROBLEM, candidates)
    assert min(s.probability for s in scores[:4]) > scores[4].probability
    assert verifier.score(PROBLEM, []) == []


def test_every_combination_of_evidence_has_weights() -> None:
    verifier = load_verifier("evidence")
    for behaviour in ([], [["= a"], ["= b"]]):
        for logprobs in ([], [-1.0, -2.0]):
            plain = candidates_of(["a", "b"], behaviour, logprobs)
            for candidates in (plain, [judged_by_tests(plain[0], 2), judged_by_tests(plain[1], 0)]):
                scores = verifier.score(PROBLEM, candidates)
                assert all(0 < score.probability < 1 for score in scores)
                if candidates is not plain:
                    assert scores[0].logit > scores[1].logit


def test_the_default_verifier_loads_without_torch_or_numpy() -> None:
    program = (
        "import sys; from mucode_agent.verifiers import load_verifier; v = load_verifier('evidence'); "
        "print(sorted({'torch', 'numpy', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- fitting -------------------------------------------------------------------------------------------------------


def data(problems: int = 40, seed: int = 0) -> list[ProblemAttempts]:
    """Right programs agree; wrong ones differ from each other. Every third problem has tests."""
    chance = random.Random(seed)
    found = []
    for number in range(problems):
        labels = [chance.random() < 0.5 for _ in range(6)]
        codes = [f"def f(x):\n    return x + {1 if right else 10 + i}" for i, right in enumerate(labels)]
        behaviour = [["= right" if right else f"= wrong {i}"] for i, right in enumerate(labels)]
        candidates = candidates_of(codes, behaviour, [chance.gauss(-0.3 if right else -0.5, 0.2) for right in labels])
        if number % 3 == 0:
            candidates = [judged_by_tests(c, 2 if right else 0) for c, right in zip(candidates, labels, strict=True)]
        problem = Problem(id=f"p{number}", prompt=f"Task {number}. >>> f(1)", entry_point="f")
        attempts = tuple(
            Attempt(solve=f"s{number}", turns=(), candidate=c, form=normal_form(c.code), correct=right)
            for c, right in zip(candidates, labels, strict=True)
        )
        found.append(ProblemAttempts(problem=problem, attempts=attempts))
    return found


ORIGIN = Origin(made="a test", data="made up", generators=("ScriptedModel",))


def test_the_fit_learns_that_agreement_is_right() -> None:
    card = card_of(data(), ORIGIN)
    verifier = EvidenceVerifier(card, name="fitted")
    [alone, *_] = verifier.score(PROBLEM, candidates_of(list("abc"), [["= a"], ["= b"], ["= b"]], [-0.4] * 3))
    [agreed, *_] = verifier.score(PROBLEM, candidates_of(list("abc"), [["= b"], ["= a"], ["= b"]], [-0.4] * 3))
    assert agreed.probability > alone.probability
    assert card.generators == ("ScriptedModel",)
    assert all(quality.auc > 0.6 for quality in card.quality)


def test_the_same_data_give_the_same_card(tmp_path: Path) -> None:
    one, two = card_of(data(), ORIGIN), card_of(data(), ORIGIN)
    assert one == two
    (tmp_path / "card.json").write_text(one.model_dump_json(indent=1))
    assert read_evidence_card(tmp_path / "card.json") == one
    assert json.loads((tmp_path / "card.json").read_text())["models"][0]["weights"]


def test_no_problem_is_judged_by_weights_that_saw_it() -> None:
    pools = pools_of(data())
    verifiers = fold_verifiers(pools)
    assert set(verifiers) == {pool.problem.id for pool in pools}
    whole = fit_evidence(pools)
    problems = {model.evidence: model.problems for model in whole}
    for verifier in verifiers.values():
        for model in verifier.card.models:
            assert model.problems < problems[model.evidence]
    assert len(cross_fitted(pools)) >= len(pools)


def test_a_language_models_logit_is_one_more_feature() -> None:
    scorer = LengthVerifier()
    card = card_of(data(), ORIGIN, language_model="none", scorer=scorer)
    assert all("model" in model.evidence for model in card.models)
    verifier = EvidenceVerifier(card, name="with model", language_model=scorer)
    scorer.seen.clear()
    verifier.score(PROBLEM, candidates_of(["a", "bb"], [["= a"], ["= a"]], [-0.1] * 2))
    assert [len(seen) for _, seen in scorer.seen] == [2]


def test_calibration_keeps_the_order_and_moves_the_probabilities() -> None:
    card = card_of(data(), ORIGIN)
    other = [entry for entry in data(60, seed=1) if not entry.problem.id.endswith("7")]
    flipped = [
        entry.model_copy(
            update={
                "attempts": tuple(
                    a.model_copy(update={"correct": a.correct and i % 2 == 0}) for i, a in enumerate(entry.attempts)
                )
            }
        )
        for entry in other
    ]
    new = recalibrated(card, flipped, ORIGIN._replace(generators=("other",)))
    assert new.generators == ("other",)
    candidates = candidates_of(list("abc"), [["= a"], ["= b"], ["= b"]], [-0.3, -0.4, -0.5])
    before = EvidenceVerifier(card, name="a").score(PROBLEM, candidates)
    after = EvidenceVerifier(new, name="b").score(PROBLEM, candidates)
    order = sorted(range(3), key=lambda i: before[i].logit)
    assert order == sorted(range(3), key=lambda i: after[i].logit)
    assert max(s.probability for s in after) < max(s.probability for s in before)


def test_a_card_that_is_measured_on_another_generator_holds_for_it_too_and_keeps_its_weights() -> None:
    card = promising(card_of(data(), ORIGIN), threshold=0.5, precision=0.6)
    other = ORIGIN._replace(generators=("other", "other's server"))
    found = with_measured(card, data(60, seed=1), other)
    [measured] = found.measured
    assert found.models == card.models
    assert measured.problems == 60
    assert measured.precision_interval[0] <= measured.precision <= measured.precision_interval[1]
    assert 0 < measured.coverage <= 1
    verifier = EvidenceVerifier(found, name="a")
    assert verifier.calibrated_on == (*ORIGIN.generators, *other.generators)
    assert calibration_mismatch(verifier, "other") is None
    assert "measured on other, other's server: " in str(found)
    again = with_measured(found, data(60, seed=2), ORIGIN._replace(generators=("other",)))
    assert [each.generators for each in again.measured] == [("other",)]
    assert "measured" not in card.model_dump_json()


def test_a_later_turn_that_tests_asked_for_says_nothing_about_answers_without_tests() -> None:
    def at(turn: int) -> list[ProblemAttempts]:
        move = {"turn": turn}
        return [
            entry.model_copy(
                update={
                    "attempts": tuple(
                        a.model_copy(update={"candidate": a.candidate.model_copy(update=move)}) for a in entry.attempts
                    )
                }
            )
            for entry in data(60)
        ]

    rule = promising(card_of(data(), ORIGIN), threshold=0.5, precision=0.6)
    assert with_measured(rule, at(1), ORIGIN).measured[0].problems == 60
    # Every third problem has tests.
    assert with_measured(rule, at(2), ORIGIN).measured[0].problems == 40


def test_a_card_does_not_hold_for_programs_on_which_it_breaks_its_promise() -> None:
    card = card_of(data(), ORIGIN)
    wrong = [
        entry.model_copy(update={"attempts": tuple(a.model_copy(update={"correct": False}) for a in entry.attempts)})
        for entry in data(60, seed=1)
    ]
    with pytest.raises(ProblemError, match=r"^0\.0% .* accepted here are right, and the card promises 90"):
        with_measured(promising(card, threshold=0.1, precision=0.9), wrong, ORIGIN)
    with pytest.raises(ProblemError, match="0 of 60 problems have an accepted answer without tests"):
        with_measured(promising(card, threshold=1.0, precision=0.9), wrong, ORIGIN)
    with pytest.raises(ProblemError, match="promises no precision to measure"):
        with_measured(card.model_copy(update={"acceptance": None}), wrong, ORIGIN)


def promising(card: EvidenceCard, *, threshold: float, precision: float) -> EvidenceCard:
    rule = Acceptance(threshold=threshold, precision=precision, coverage=0.5, problems=60)
    return card.model_copy(update={"acceptance": rule})


def test_too_few_problems_and_one_kind_of_label_are_refused() -> None:
    with pytest.raises(ProblemError, match="right and wrong programs of at least 20 problems"):
        card_of(data(10), ORIGIN)
    right = [
        e.model_copy(update={"attempts": tuple(a.model_copy(update={"correct": True}) for a in e.attempts)})
        for e in data()
    ]
    with pytest.raises(ProblemError, match="right and wrong"):
        card_of(right, ORIGIN)


def test_no_threshold_is_promised_that_the_data_do_not_keep() -> None:
    pools = pools_of(data())
    wrong = [(pool._replace(labels=(False,) * len(pool.labels)), [0.99] * len(pool.labels)) for pool in pools]
    assert acceptance(wrong, 0.9) is None
    right = [(pool._replace(labels=(True,) * len(pool.labels)), [0.6] * len(pool.labels)) for pool in pools]
    found = acceptance(right, 0.9)
    assert found is not None
    assert (found.threshold, found.precision, found.coverage) == (0.5, 1.0, 1.0)


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "evidence"}', '{"version": 99}', "\x00"])
def test_a_damaged_card_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "card.json"
    path.write_text(text)
    with pytest.raises(ProblemError, match="is no evidence verifier of version 1"):
        load_verifier(str(path))
    with pytest.raises(ProblemError, match="give a card of"):
        load_verifier(str(tmp_path / "none.json"))


def test_a_card_with_other_features_is_refused(tmp_path: Path) -> None:
    card = json.loads(shipped_card().model_dump_json())
    card["models"][0]["weights"]["gut feeling"] = {"weight": 1.0, "mean": 0.0}
    (tmp_path / "card.json").write_text(json.dumps(card))
    with pytest.raises(ProblemError, match="weighs other features"):
        load_verifier(str(tmp_path / "card.json"))
