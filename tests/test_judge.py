"""A language model as judge: grades from log-probabilities, alone and in a tournament, from servers and in process."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer
from tiny import save_tiny

from mucode_agent.types import Candidate, InfrastructureError, Problem, ProblemError, Sample
from mucode_agent.verifiers import load_verifier
from mucode_agent.verifiers.judge import GRADES, expectation, ring

PROBLEM = Problem(
    id="inc",
    prompt="Add one to a number.",
    entry_point="f",
    public_tests=("assert f(1) == 2",),
    private_tests=("assert f(41414141) == 41414142",),
    reference="def f(x): return 41414142",
)
KINDS = ("judge", "judge-tournament")


class GradeServer(ChatServer):
    """Answers each question with the log-probabilities that `likeliest(question)` gives; none for None."""

    def __init__(self, likeliest: Callable[[str], list[tuple[str, float]] | None]) -> None:
        super().__init__(lambda _prompt, _seed: "A")
        self.likeliest = likeliest

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        answer = super().completion(body)
        found = self.likeliest(body["messages"][-1]["content"])
        [choice] = answer["choices"]
        top = [{"token": token, "logprob": logprob} for token, logprob in found or []]
        content = [{"token": "A", "logprob": -0.1, "top_logprobs": top[: body["top_logprobs"]]}]
        choice["logprobs"] = None if found is None else {"content": content}
        return answer

    def questions(self) -> list[str]:
        return [body["messages"][-1]["content"] for body in self.requests]


def candidates(*codes: str) -> list[Candidate]:
    return [Candidate(turn=1, index=i, sample=Sample(text=c, seed=i), code=c) for i, c in enumerate(codes)]


def judged_program(asked: str) -> str:
    """The program whose grade is asked for."""
    if "Program:\n" in asked:
        return asked.partition("Program:\n")[2].partition("\n")[0]
    number = asked.partition("how likely program ")[2][0]
    return asked.partition(f"Program {number}:\n")[2].partition("\n")[0]


def by_length(asked: str) -> list[tuple[str, float]]:
    """Longer programs get better grades, spread over two letters."""
    place = max(0, 18 - len(judged_program(asked)))
    return [(GRADES[place], math.log(0.6)), (" " + GRADES[place + 1], math.log(0.3)), ("The", math.log(0.1))]


@pytest.mark.parametrize(
    ("likeliest", "grade"),
    [
        ([("A", 0.0)], 1.0),
        ([("T", 0.0)], 0.0),
        ([("A", math.log(0.25)), (" A", math.log(0.25)), ("T", math.log(0.5))], 0.5),
        ([("K", math.log(0.01)), ("The", math.log(0.9)), ("a", math.log(0.09)), ("", -9.0)], 9 / 19),
        ([("The", -0.1), ("a", -3.0), ("AB", -4.0)], None),
        ([], None),
    ],
)
def test_the_grade_is_the_mean_over_grade_tokens_alone(likeliest: list[tuple[str, float]], grade: float | None) -> None:
    assert expectation(likeliest) == (None if grade is None else pytest.approx(grade))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("server_kind", ["vllm", "openai"])
def test_a_judge_orders_programs_by_their_expected_grades(kind: str, server_kind: str) -> None:
    codes = ["x = 1", "x = 1234", "x = 12", "x = 12345", "x = 1", "x = 123"]
    with GradeServer(by_length) as server:
        verifier = load_verifier(f"{kind}:{server_kind}:m@{server.url}")
        scores = verifier.score(PROBLEM, candidates(*codes))
        logits = [score.logit for score in scores]
        assert sorted(range(6), key=lambda i: (logits[i], i)) == sorted(range(6), key=lambda i: (len(codes[i]), i))
        assert logits[0] == logits[4]
        assert all(score.probability is None for score in scores)
        assert verifier.calibrated_on is None
        assert re.fullmatch(rf"{kind}:m, wording [0-9a-f]{{12}}", verifier.name)
        for body in server.requests:
            assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)
            assert body["temperature"] == 1.0


def test_a_single_grade_is_the_logit_of_the_expectation() -> None:
    with GradeServer(lambda _: [("C", math.log(0.5)), ("E", math.log(0.5))]) as server:
        [score] = load_verifier(f"judge:vllm:m@{server.url}").score(PROBLEM, candidates("x"))
    assert score.logit == pytest.approx(math.log((16 / 19) / (3 / 19)))


@pytest.mark.parametrize("token", ["A", "T"])
def test_a_certain_grade_has_a_finite_logit(token: str) -> None:
    with GradeServer(lambda _: [(token, 0.0)]) as server:
        [score] = load_verifier(f"judge:vllm:m@{server.url}").score(PROBLEM, candidates("x"))
    assert math.isfinite(score.logit)


def test_distinct_programs_are_asked_once_and_a_later_wave_asks_for_the_new_ones_alone() -> None:
    with GradeServer(by_length) as server:
        verifier = load_verifier(f"judge:vllm:m@{server.url}")
        first = verifier.score(PROBLEM, candidates("a", "bb", "a"))
        assert len(server.requests) == 2
        again = verifier.score(PROBLEM, candidates("a", "bb", "a", "ccc"))
        assert len(server.requests) == 3
        assert again[:3] == first


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_a_tournament_has_a_ring_and_pivots_and_no_more_comparisons(count: int) -> None:
    codes = ["x" * (i + 1) for i in range(count)]
    with GradeServer(by_length) as server:
        scores = load_verifier(f"judge-tournament:vllm:m@{server.url}").score(PROBLEM, candidates(*codes))
        pivots = min(2, count)
        most = (count if count > 1 else 0) + pivots * (count - pivots) + pivots * (pivots - 1) // 2
        assert len(server.requests) <= 2 * most
        assert len(set(server.questions())) == len(server.requests)
    assert max(scores, key=lambda score: score.logit) is scores[-1]
    if count == 1:
        assert scores[0].logit == 0


@pytest.mark.parametrize("count", [2, 3, 7])
def test_in_the_ring_each_program_stands_once_first_and_once_second(count: int) -> None:
    pairs = ring(count)
    assert sorted(a for a, _ in pairs) == sorted(b for _, b in pairs) == list(range(count))
    assert all(a != b for a, b in pairs)
    assert ring(1) == ring(0) == []


def test_a_judge_that_always_prefers_the_first_of_two_is_cancelled_between_two_programs() -> None:
    first = lambda asked: [("A" if "how likely program 1" in asked else "T", 0.0)]  # noqa: E731
    with GradeServer(first) as server:
        one, two = load_verifier(f"judge-tournament:vllm:m@{server.url}").score(PROBLEM, candidates("a", "b"))
    # Both stood in both places of the ring; the comparison of the two pivots repeats one of them.
    assert abs(one.logit - two.logit) < math.log(0.74 / 0.26)


@pytest.mark.parametrize("kind", KINDS)
def test_private_tests_and_the_reference_never_reach_a_judge(kind: str) -> None:
    with GradeServer(by_length) as server:
        load_verifier(f"{kind}:vllm:m@{server.url}").score(PROBLEM, candidates("a", "b"))
        hidden = PROBLEM.model_copy(update={"show_tests": False})
        load_verifier(f"{kind}:vllm:m@{server.url}").score(hidden, candidates("c", "d"))
        asked = server.questions()
    assert asked
    assert not any("4141414" in text for text in asked)
    assert [("assert" in text) for text in asked] == ["c" not in programs(text) for text in asked]


def programs(asked: str) -> str:
    """`c` for a question about the programs c and d, else empty."""
    return "c" if judged_program(asked) in ("c", "d") else ""


@pytest.mark.parametrize(
    ("answer", "words"),
    [(None, "gave no log-probabilities"), ([], "gave no log-probabilities"), ([("The", -0.1)], "has no grade")],
)
def test_a_model_that_gives_no_grades_is_an_infrastructure_error_never_a_score(
    answer: list[tuple[str, float]] | None, words: str
) -> None:
    with GradeServer(lambda _: answer) as server, pytest.raises(InfrastructureError, match=words):
        load_verifier(f"judge:vllm:m@{server.url}").score(PROBLEM, candidates("x"))


def test_a_dead_judge_is_an_infrastructure_error() -> None:
    with pytest.raises(InfrastructureError, match=r"m.* at http.* failed"):
        load_verifier("judge:vllm:m@http://127.0.0.1:9/v1").score(PROBLEM, candidates("x"))


@pytest.mark.parametrize("spec", ["judge:", "judge:nothing", "judge-tournament:vllm:x@ftp://y"])
def test_a_judge_string_that_names_no_model_is_refused(spec: str) -> None:
    with pytest.raises(ProblemError, match="model "):
        load_verifier(spec)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_this_process_judges_by_its_own_distribution(kind: str, tmp_path: Path) -> None:
    """The tiny model is random: with the letters in its vocabulary, some are among its 20 likeliest tokens."""
    verifier = load_verifier(f"{kind}:hf:{save_tiny(tmp_path, seed=1)}")
    scores = verifier.score(PROBLEM, candidates("x = 1", "x = 22", "x = 1"))
    assert scores[0] == scores[2]
    assert scores[0] != scores[1]
