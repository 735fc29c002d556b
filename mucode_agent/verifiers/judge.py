"""A language model as judge, without training: the expected grade.

After "LLM-as-a-Verifier" (arXiv 2607.05391; the package llm-verifier 0.3, MIT): a scale of 20 letters, the expectation
over the letters' probabilities instead of one letter, and the Probabilistic Pivot Tournament. Two departures: the model
answers with the letter alone, without an analysis before it, and the two programs of a comparison are graded by two
questions, so neither grade depends on the other.
"""

import math
import random
import threading
from collections import OrderedDict
from collections.abc import Sequence
from itertools import combinations

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables.config import ensure_config, get_executor_for_config

from mucode_agent import wording
from mucode_agent.calls import in_thread
from mucode_agent.models.identity import model_name
from mucode_agent.models.sampling import ask
from mucode_agent.prompts import shown_tests
from mucode_agent.types import Candidate, InfrastructureError, Problem, Score

GRADES = "ABCDEFGHIJKLMNOPQRST"
"""From best to worst: A is 1 and T is 0, the others are equally spaced between."""
PIVOTS = 2
_LIKELIEST = 20
"""Number of log-probabilities requested: the most that OpenAI and, by default, vLLM return."""
_SURE = 1e-6
"""Least distance of an expectation from 0 and 1, which keeps its logit finite."""
_REMEMBERED = 4096
"""Questions."""

_SCALE = """Grade how likely {which} is correct, by one letter from A to T:
A = certainly correct
B-D = correct but for minor points
E-G = mostly correct
H-J = uncertain, rather correct
K-M = uncertain, rather wrong
N-P = mostly wrong
Q-S = wrong, with some correct parts
T = certainly wrong

Answer with the letter alone."""


class LLMJudge:
    """Grades each program alone: the logit of the expected grade, by any chat model that returns log-probabilities.

    Grades are uncalibrated, so it gives no P(correct). No question is asked twice.
    """

    calibrated_on = None
    accept_threshold = None
    _kind = "judge"

    def __init__(self, model: BaseChatModel) -> None:
        self.model = model
        self._known: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """The name contains the digest of the questions, because other wordings give other scores."""
        return f"{self._kind}:{model_name(self.model)}, wording {self._wording()}"

    def _wording(self) -> str:
        return wording.digest(question(problem, wording.CODE) for problem in wording.PROBLEMS)

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        """One request of one token per distinct program.

        Raises:
            InfrastructureError: The model failed, returned no log-probabilities, or answered without a grade.
            ProblemError: A question does not fit the model's context.
        """
        codes = list(dict.fromkeys(candidate.code for candidate in candidates))
        values = dict(zip(codes, self._values(problem, codes), strict=True))
        return [Score(logit=_logit(values[candidate.code])) for candidate in candidates]

    def close(self) -> None:
        """Does nothing: it owns no resource."""

    def _values(self, problem: Problem, codes: Sequence[str]) -> list[float]:
        """One number in (0, 1) per program; higher is better."""
        return self._grades([question(problem, code) for code in codes])

    def _grades(self, questions: Sequence[str]) -> list[float]:
        """The expected grade for each question, in [0, 1]; no question is asked twice."""
        with self._lock:
            known = {text: self._known[text] for text in questions if text in self._known}
        new = [text for text in dict.fromkeys(questions) if text not in known]
        with get_executor_for_config(ensure_config()) as executor:
            known |= zip(new, executor.map(self._grade, new), strict=True)
        with self._lock:
            self._known |= {text: known[text] for text in new}
            while len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return [known[text] for text in questions]

    def _grade(self, text: str) -> float:
        model = self.model.bind(logprobs=True, top_logprobs=_LIKELIEST)
        request = ask(model, [HumanMessage(text)], tools=(), seed=0, temperature=1.0, max_tokens=1)
        sample, message = in_thread(request)
        tokens = (message.response_metadata.get("logprobs") or {}).get("content") or []
        if not tokens or not tokens[0].get("top_logprobs"):
            raise InfrastructureError(
                f"the judge {model_name(self.model)!r} gave no log-probabilities of its likeliest tokens: take a model "
                "that gives them, such as one on vLLM or in this process"
            )
        grade = expectation([(top["token"], top["logprob"]) for top in tokens[0]["top_logprobs"]])
        if grade is None:
            raise InfrastructureError(
                f"the judge {model_name(self.model)!r} began its answer with {sample.text!r} and has no grade from A "
                f"to T among its {_LIKELIEST} likeliest tokens: take a model that answers with a letter when asked to"
            )
        return grade


class LLMJudgeTournament(LLMJudge):
    """Grades programs in pairs: the Probabilistic Pivot Tournament of llm-verifier.

    n distinct programs are compared around a random ring, in which each is once first and once second; then each
    with the PIVOTS that did best: n + k(n - k) + k(k - 1)/2 comparisons for k pivots, two requests of one token each. A
    comparison counts for its first program by sigmoid(difference of the grades), and a program's value is its mean.
    """

    _kind = "judge-tournament"

    def _wording(self) -> str:
        code = wording.CODE
        return wording.digest(pair_question(p, code, code, of) for p in wording.PROBLEMS for of in (1, 2))

    def _values(self, problem: Problem, codes: Sequence[str]) -> list[float]:
        won, played = [0.0] * len(codes), [0] * len(codes)

        def play(pairs: Sequence[tuple[int, int]]) -> None:
            questions = [pair_question(problem, codes[a], codes[b], of) for a, b in pairs for of in (1, 2)]
            grades = self._grades(questions)
            for (a, b), first, second in zip(pairs, grades[::2], grades[1::2], strict=True):
                share = 1 / (1 + math.exp(second - first))
                for i, part in ((a, share), (b, 1 - share)):
                    won[i] += part
                    played[i] += 1

        def mean(i: int) -> float:
            return won[i] / played[i] if played[i] else 0.5

        play(ring(len(codes)))
        pivots = sorted(sorted(range(len(codes)), key=mean, reverse=True)[:PIVOTS])
        others = [i for i in range(len(codes)) if i not in pivots]
        play([(i, pivot) for i in others for pivot in pivots] + list(combinations(pivots, 2)))
        return [mean(i) for i in range(len(codes))]


def ring(count: int) -> list[tuple[int, int]]:
    """The neighbours on a random cycle through `count` programs, the same for the same count; empty for one program."""
    order = list(range(count))
    random.Random(0).shuffle(order)  # noqa: S311
    return list(zip(order, order[1:] + order[:1], strict=True)) if count > 1 else []


def expectation(likeliest: Sequence[tuple[str, float]]) -> float | None:
    """The mean grade, in [0, 1], over the tokens that are grades, weighted by probability; None if none is a grade."""
    mass = [0.0] * len(GRADES)
    for token, logprob in likeliest:
        letter = token.strip()
        if len(letter) == 1 and letter in GRADES:  # "A" and " A" are two tokens for one grade
            mass[GRADES.index(letter)] += math.exp(logprob)
    total = sum(mass)
    worst = len(GRADES) - 1
    return sum(share * (1 - i / worst) for i, share in enumerate(mass)) / total if total else None


def question(problem: Problem, code: str) -> str:
    """The question for the grade of one program."""
    return f"{_task(problem)}Program:\n{code.strip()}\n\n{_SCALE.format(which='the program')}"


def pair_question(problem: Problem, first: str, second: str, of: int) -> str:
    """The question for the grade of program `of`, 1 or 2. Only its end depends on `of`: servers reuse the prefix."""
    programs = f"Program 1:\n{first.strip()}\n\nProgram 2:\n{second.strip()}\n\n"
    return f"{_task(problem)}{programs}Compare the two programs. {_SCALE.format(which=f'program {of}')}"


def _task(problem: Problem) -> str:
    tests = f"Tests:\n{shown_tests(problem)}\n\n" if problem.public_tests and problem.show_tests else ""
    return f"Task:\n{problem.prompt.strip()}\n\n{tests}"


def _logit(value: float) -> float:
    inside = min(max(value, _SURE), 1 - _SURE)
    return math.log(inside / (1 - inside))
