"""Which candidate is best, and what to do next: pure functions that make all decisions of the graph."""

import random
from collections.abc import Sequence
from typing import Literal, get_args

from mucode_agent.types import Action, Budget, Candidate, Decision, ProblemError, StopReason, Usage
from mucode_agent.verifiers.features import normal_form

Selector = Literal["tests+verifier", "tests", "verifier", "random"]
"""PT+LV, PT, LV and Random of the paper's table 3."""
__all__ = ["SELECTORS", "Approval", "Selector", "best_over_turns", "decide", "normal_form", "rank_key", "select"]

SELECTORS: tuple[Selector, ...] = get_args(Selector)
Approval = Literal["unneeded", "pending", "given", "refused"]
"""The state of a person's approval."""


def rank_key(candidate: Candidate, selector: Selector) -> tuple[float, ...]:
    """Sorts candidates; greater is better, equal keys are ties.

    With tests in the selector a candidate that passes all public tests ranks above any that does not; among failing
    ones more passed tests are better. `tests+verifier` breaks ties by the verifier's logit, `random` ties everything.
    A candidate without code, or whose run failed because of the sandbox, ranks last under every selector but `random`.
    """
    report, logit = candidate.report, candidate.score.logit if candidate.score else 0.0
    if selector == "random":
        return ()
    judged = float(bool(candidate.code) and report is not None and report.status != "infra")
    tests = (float(report.passed), float(report.tests_passed)) if report else (0.0, 0.0)
    by_tests, by_score = (() if selector == "verifier" else tests), (() if selector == "tests" else (logit,))
    return (judged, *by_tests, *by_score)


def select(candidates: Sequence[Candidate], selector: Selector, *, seed: int = 0) -> int:
    """Index of the best candidate: the first of the best, or any of them under `random` (same seed, same choice)."""
    if not candidates:
        raise ValueError("candidates must not be empty")
    if selector == "random":
        return random.Random(seed).randrange(len(candidates))  # noqa: S311
    return max(range(len(candidates)), key=lambda index: rank_key(candidates[index], selector))


def best_over_turns(bests: Sequence[Candidate], selector: Selector) -> Candidate:
    """The answer of a solve: the best of the turns' selected candidates, the first of equals.

    Under `random` it is the last one: a random choice has no preference, and the last one ended the loop.
    """
    return bests[-1] if selector == "random" else bests[select(bests, selector)]


def decide(
    best: Candidate,
    *,
    has_tests: bool,
    turn: int,
    max_turns: int,
    drawn: int,
    n: int,
    usage: Usage,
    budget: Budget,
    accept_threshold: float | None = None,
    before: float | None = None,
    least_gain: float = 0.0,
    steps_left: bool = True,
    approval: Approval = "unneeded",
) -> Decision:
    """What follows a selection: accept, ask a person, draw another wave, go to the next turn with feedback, or stop.

    `turn` and `drawn` (candidates of this turn so far) count what is done; `n` is the turn's full number. Passing all
    public tests accepts a candidate; with `accept_threshold` its P(correct) must reach that too. Another wave is drawn,
    unless the last one raised P(best) from `before` by less than `least_gain` (0: always). Without tests only
    P(correct) can accept, and a candidate that runs ends the search: there is no failure to feed back, and candidates
    that see an earlier one agree with it even where it is wrong, so their P(correct) does not hold. With `approval`
    pending, a person is asked before the acceptance; if the person refuses, the next turn follows. Raises ProblemError
    when a threshold is set and the verifier gives no probability.
    """
    probability = best.score.probability if best.score else None

    def decided(action: Action, reason: str, stop_reason: StopReason | None = None) -> Decision:
        return Decision(
            action=action,
            reason=reason,
            stop_reason=stop_reason,
            turn=turn,
            drawn=drawn,
            selected=best.index,
            probability=probability,
        )

    verdict = _rejection_reason(best, has_tests, accept_threshold)
    refused = approval == "refused"
    if verdict is None and not refused:
        merits = f"the best candidate {_merits(best, has_tests, accept_threshold)}"
        if approval == "pending":
            return decided("ask", f"{merits}; a person is asked")
        return decided("accept", merits + ("; a person approved it" if approval == "given" else ""), "accepted")
    verdict = "a person rejected the best candidate" if refused else verdict
    gain = None if before is None or probability is None else probability - before
    end: StopReason | None = None
    if (exhausted := _exhausted(usage, budget)) is not None:
        end, why = exhausted, f"{exhausted} is reached"
    elif not steps_left:
        end, why = "recursion_limit", "LangGraph's recursion limit is near"
    elif drawn < n and not refused and (not least_gain or gain is None or gain >= least_gain):
        return decided("draw", f"{verdict}; {drawn} of {n} candidates are drawn")
    elif turn >= max_turns:
        end, why = "max_turns", f"all {max_turns} turns are done"
    elif has_tests or refused or not _runs(best):
        return decided("next_turn", f"{verdict}; turn {turn} of {max_turns} is done")
    else:
        end, why = "no_feedback", "no failure can be fed back"
    return decided("stop", f"{verdict}; {why}", "rejected" if refused else end)


def _rejection_reason(best: Candidate, has_tests: bool, threshold: float | None) -> str | None:
    """Why the candidate is not accepted; None if it is."""
    if has_tests and not (best.report and best.report.passed):
        return "the best candidate fails public tests"
    if not has_tests and not _runs(best):
        return "the best candidate does not run"
    if threshold is None:
        return None if has_tests else "there are no public tests and no accept_threshold to judge by"
    if _probability(best) < threshold:
        return f"P(correct) {_probability(best):.2f} is below {threshold:.2f}"
    return None


def _runs(best: Candidate) -> bool:
    """Whether a candidate without tests runs."""
    return bool(best.code) and best.report is not None and best.report.status == "unjudged"


def _merits(best: Candidate, has_tests: bool, threshold: float | None) -> str:
    merits = ["passes all public tests"] if has_tests else []
    if threshold is not None:
        merits.append(f"has P(correct) {_probability(best):.2f}, at least {threshold:.2f}")
    return " and ".join(merits)


def _probability(best: Candidate) -> float:
    if best.score is None or best.score.probability is None:
        raise ProblemError(
            "accept_threshold needs a calibrated verifier, and this one gives no probability; "
            "give a calibrated one or leave accept_threshold out"
        )
    return best.score.probability


def _exhausted(usage: Usage, budget: Budget) -> StopReason | None:
    if budget.candidates is not None and usage.candidates >= budget.candidates:
        return "max_candidates"
    if budget.tokens is not None and usage.tokens >= budget.tokens:
        return "max_tokens"
    if budget.seconds is not None and usage.seconds >= budget.seconds:
        return "max_seconds"
    if budget.cost is not None and budget.cost_of(usage) >= budget.cost:
        return "max_cost"
    return None
