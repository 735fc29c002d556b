"""The local-search expert, and which states are paired with which answers."""

import json
import random

import pytest
from attempts import entry, logits, name_of, program

from mucode_agent.extraction import extract_code
from mucode_agent.training.data import read_attempts, state
from mucode_agent.training.expert import expert, finals
from mucode_agent.training.feedback import add_feedback
from mucode_agent.training.relabel import METHODS, answer_text, relabelled, rows_sha256
from mucode_agent.training.rows import make_rows
from mucode_agent.training.settings import ExpertSettings, RelabelSettings
from mucode_agent.types import ProblemError, Score


def chosen(data, scores=None, **settings):
    attempt = expert(data, scores if scores is not None else logits(data), ExpertSettings(**settings))
    return attempt and name_of(attempt.candidate.code)


def pairs(data, scores=None, how=None, **settings):
    """Rows as (turns in the state, name of the answer)."""
    rows = relabelled([data], scores or logits(data), RelabelSettings(**settings), how or ExpertSettings())
    return [(len(row.messages) // 2, name_of(extract_code(row.answer, "f"))) for row in rows]


# --- the expert ----------------------------------------------------------------------------------------------------


def test_the_papers_expert_weighs_tests_ten_times_the_logit():
    data = entry(["a", "y"], ["b"])
    assert chosen(data, logits(data, a=9.0, y=0.0)) == "y"
    assert chosen(data, logits(data, a=11.0, y=0.0)) == "a"
    assert chosen(data, logits(data, a=11.0, y=0.0), beta_oracle=2.0) == "y"


def test_each_mode_ranks_as_it_is_named():
    data = entry(["a", "y1"], ["y2"])
    scores = logits(data, a=50.0, y1=1.0, y2=2.0)
    assert chosen(data, scores, mode="both") == "a"
    assert chosen(data, scores, mode="lexicographic") == "y2"
    assert chosen(data, scores, mode="learned") == "a"
    assert chosen(data, {}, mode="oracle") in ("y1", "y2")


def test_programs_of_every_turn_and_solve_are_in_the_pool_unless_only_final_ones_are():
    data = entry(["y", "a"], ["b"])
    assert chosen(data, mode="oracle") == "y"
    assert chosen(data, mode="oracle", pool="final") is None
    assert {name_of(a.candidate.code) for a in finals(data).values()} == {"a", "b"}


def test_an_unsolved_problem_is_left_out_unless_the_best_wrong_program_is_asked_for():
    data = entry(["a", "b"])
    scores = logits(data, a=0.0, b=1.0)
    assert chosen(data, scores) is None
    assert chosen(data, scores, unsolved="best-wrong") == "b"
    assert chosen(data, scores, mode="learned") == "b"
    assert chosen(entry([None]), unsolved="best-wrong") is None


def test_ties_go_to_the_shorter_program_whatever_the_order():
    data = entry(["y333", "y1"], ["y22"], ["y2"])
    for seed in range(20):
        shuffled = list(data.attempts)
        random.Random(seed).shuffle(shuffled)
        again = data.model_copy(update={"attempts": tuple(shuffled)})
        assert chosen(again, mode="oracle") == chosen(data, mode="oracle")
    assert chosen(data, mode="oracle") in ("y1", "y2")


def test_programs_of_problems_that_are_left_out_are_not_scored():
    data = [entry(["a", "y"], id_="solved"), entry(["a", "b"], id_="unsolved")]
    verifier = Noting()
    make_rows(data, RelabelSettings(), ExpertSettings(), verifier)
    assert verifier.problems == ["solved"]
    make_rows(data, RelabelSettings(), ExpertSettings(mode="learned"), verifier)
    assert verifier.problems == ["solved", "solved", "unsolved"]


class Noting:
    """A verifier that notes what it was asked about."""

    name = "noting"

    def __init__(self):
        self.problems = []

    def score(self, problem, codes):
        self.problems.append(problem.id)
        return [Score(logit=0.0)] * len(codes)


def test_a_missing_score_is_named():
    with pytest.raises(ProblemError, match="no score of the verifier; give a verifier, or mode oracle"):
        chosen(entry(["a", "y"]), {})


# --- relabelling ---------------------------------------------------------------------------------------------------


def test_every_visited_state_gets_the_experts_program():
    data = entry(["a", "b", "y"], ["c", None, "d"], ["y"])
    rows = relabelled([data], logits(data), RelabelSettings(), ExpertSettings())

    # s_1 of all three solves is one state; two states of the first solve, three of the second, whose last turn failed
    assert pairs(data) == [(0, "y"), (1, "y"), (2, "y"), (1, "y"), (2, "y"), (3, "y")]
    assert {row.answer for row in rows} == {f"```python\n{program('y')}\n```"}
    for row, turns in zip(rows[:3], data.trajectories[0].states, strict=True):
        messages = state(data.problem, turns)
        assert [message.content for message in row.messages] == [message.content for message in messages]
        assert [message.role for message in row.messages] == ["user", "assistant"] * (len(messages) // 2) + ["user"]
    assert pairs(data, last_state=False) == [(0, "y"), (1, "y"), (2, "y"), (1, "y"), (2, "y")]


def test_a_state_weighs_as_often_as_it_was_visited_and_no_cap_drops_the_first():
    data = entry(["a", "b", "y"], ["c", None, "d"], ["y"])
    for cap in (None, 1, 3):
        rows = relabelled([data], logits(data), RelabelSettings(per_problem=cap), ExpertSettings())
        first = min(rows, key=lambda row: len(row.messages))
        assert (len(first.messages), first.weight) == (1, 3.0)
        assert {row.weight for row in rows if row is not first} <= {1.0}
        assert len(rows) == (cap or 6)
    repeated = entry(["y1"], ["y1"])
    (row,) = relabelled([repeated], {}, RelabelSettings(method="rft-single"), ExpertSettings())
    assert row.weight == 1.0  # rejection keeps distinct answers


def test_no_state_follows_an_accepted_program_even_a_wrong_one():
    data = entry(["a", "p"], ["y"], public_right="yp")
    assert pairs(data) == [(0, "y"), (1, "y")]


def test_private_tests_never_reach_a_row():
    data = entry(["a", "b", "y"], ["c"], ["yy"])
    for method in METHODS:
        rows = relabelled([data], logits(data), RelabelSettings(method=method), ExpertSettings())
        assert rows
        assert "secret" not in "".join(row.model_dump_json() for row in rows)


def test_the_authors_relabel_the_highest_scored_failures_and_keep_what_passed():
    data = entry(["a", "y1"], ["b", "c"], ["d", "e"], ["f", "g"], ["h", "i"], ["yy"])
    scores = logits(data, c=1.0, e=4.0, g=2.0, i=3.0, y1=0.0, yy=0.5)
    how = ExpertSettings(mode="lexicographic", unsolved="best-wrong", pool="final")
    # the expert is yy; of the failing c < g < i < e the three highest are relabelled, on both of their states
    assert pairs(data, scores, how, method="authors") == [
        (0, "y1"),
        (1, "y1"),
        (0, "yy"),
        (1, "yy"),
        (1, "yy"),
        (1, "yy"),
    ]
    assert pairs(data, scores, how, method="authors", top=1) == [(0, "y1"), (1, "y1"), (0, "yy"), (1, "yy")]
    wrong = entry(["a", "b"], ["c"])
    assert pairs(wrong, logits(wrong, b=1.0), how, method="authors") == [(0, "b"), (1, "b")]


def test_the_baselines_keep_what_rejection_keeps():
    data = entry(["y0", "y0"], ["a", "y1"], ["b", "c"], public_right="")
    assert pairs(data, method="rft-single") == [(0, "y0")]
    assert pairs(data, method="rft-multi") == [(0, "y0"), (1, "y0"), (0, "a"), (1, "y1")]
    assert pairs(data, method="rft-relabelled") == [(0, "y0"), (1, "y0"), (0, "y1"), (1, "y1")]
    scores = logits(data, c=5.0, y1=2.0)
    assert pairs(data, scores, method="rft-verifier", top=1) == [(0, "b"), (1, "c")]
    assert pairs(data, scores, method="rft-verifier", top=2) == [(0, "b"), (1, "c"), (0, "a"), (1, "y1")]


def test_a_reply_without_a_program_is_never_an_answer_but_its_state_is_visited():
    data = entry([None, "y"])
    assert pairs(data, method="rft-multi") == [(1, "y")]
    assert pairs(data) == [(0, "y"), (1, "y")]


def test_what_a_user_accepted_is_an_answer_to_the_problem_with_its_own_weight(tmp_path):
    given = tmp_path / "given.jsonl"
    task = {"id": "P", "prompt": "Write f.", "entry_point": "f"}
    lines = [
        {"problem": task, "code": program("y"), "accepted": True, "consent": True, "weight": 3.0},
        {"problem": task, "code": program("b"), "accepted": False, "consent": True, "weight": 1.0},
    ]
    given.write_text("".join(json.dumps(line) + "\n" for line in lines))
    add_feedback(given, tmp_path / "users")
    (data,) = read_attempts([tmp_path / "users"])
    rows = relabelled([data], logits(data), RelabelSettings(), ExpertSettings())
    # the answer's weight of 3, for the two programs that were written in the first state
    assert [(len(row.messages), name_of(extract_code(row.answer, "f")), row.weight) for row in rows] == [(1, "y", 6.0)]


def test_the_cap_keeps_the_same_rows_for_the_same_seed():
    data = entry(*[[f"a{i}", f"b{i}", "y"] for i in range(9)])
    kept = [pairs(data, per_problem=5, seed=seed) for seed in range(6)]
    assert all(len(rows) == 5 for rows in kept)
    digests = {
        rows_sha256(relabelled([data], logits(data), RelabelSettings(per_problem=5, seed=seed), ExpertSettings()))
        for seed in (0, 0, 1, 2, 3)
    }
    assert len(digests) == 4


@pytest.mark.parametrize(
    "code",
    ["def f():\n    return 1", "x = 'é'\n\n\ndef f(): return x", 'def f():\n    """\n```python\n"""\n    return 2'],
)
def test_an_answer_reads_back_as_its_program(code):
    assert extract_code(answer_text(code), "f") == code
