"""The figures of a run from its finished solves and judgements. Pure: the same rows give the same results.

A run compares up to three ways to spend compute ("arms"), each on every problem: `greedy`, one candidate per turn at
temperature 0; `turns`, N candidates per turn for up to T turns; `independent`, N·T candidates of the first turn, the
same compute without feedback.
"""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from mucode_agent.graphs.selection import best_over_turns, decide, normal_form, rank_key, select
from mucode_agent.metrics import (
    Calibration,
    Difference,
    Estimate,
    auc,
    best_of_k,
    calibration,
    compare,
    pairwise_accuracy,
    proportion,
)
from mucode_agent.runs.config import Arm, ArmName, Identity
from mucode_agent.runs.directory import Judgement, Solve
from mucode_agent.types import Budget, Candidate, Problem, ProblemError, Record, Usage

RESULTS_VERSION: Literal[2] = 2

Judgements = Mapping[tuple[str, str], Judgement]
Rule = Literal["random", "tests", "verifier", "tests+verifier", "oracle"]
RULES: tuple[Rule, ...] = ("random", "tests", "verifier", "tests+verifier", "oracle")
"""The selectors, and the oracle: the bound of a selector that knows the private tests."""


class ArmResults(Record):
    """Results and cost of one arm. Sequences have one entry per turn, 1 to T (groups of N for `independent`)."""

    arm: Arm
    accuracy: tuple[Estimate, ...]
    """Share of problems with a right answer if the search may use turns up to this one."""
    unjudged: int
    """Number of answers, of any turn, that the tests could not judge. Their problems are in no figure."""
    rules: dict[Rule, tuple[Estimate, ...]]
    """The same, with the answer chosen by each rule among all candidates drawn so far, ties averaged exactly."""
    candidates: tuple[float, ...]
    """Mean candidates drawn per problem up to this turn; a search that has accepted draws no more."""
    accepted: Estimate
    """The share of problems with an accepted answer."""
    accepted_right: Estimate | None
    """Precision: share of accepted answers that are right; None if none was accepted."""
    candidates_to_acceptance: float | None
    """Mean over accepted problems."""
    stop_reasons: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    executions: int
    """Distinct programs run on public tests."""


class BestOfK(Record):
    """Best-of-k over independent first-turn samples, k = 1..samples: paper, figure 3 and section 4.3."""

    samples: int
    """Samples per problem; estimates are unbiased for every k up to this."""
    curves: dict[Rule, tuple[Estimate, ...]]
    """By rule, one estimate per k. `oracle` is pass@k. Majority votes are left out, because they give no ranking."""


class VerifierQuality(Record):
    """The verifier on independent first-turn samples, against the verdicts of all tests."""

    candidates: int
    problems: int
    auc: float | None
    """AUC over all candidates together."""
    within: Estimate | None
    """P(a right program scores above a wrong one of the same problem), mean over problems that have both."""
    calibration: Calibration | None


class Comparison(Record):
    """Two figures of one run, or one figure of two runs, on the same problems."""

    name: str
    a: str
    b: str
    difference: Difference


class Results(Record):
    """Everything that `results.json` holds. Only `timing` differs between two runs of one identity."""

    results_version: Literal[2] = RESULTS_VERSION
    identity: Identity
    finished: int
    """Problems finished in every arm, and judged; the figures are over these."""
    unfinished: tuple[str, ...]
    unjudged: tuple[str, ...] = ()
    """Problems finished in every arm that have an answer, of any turn, which their tests could not judge; in no figure.
    """
    judged_together: int = 0
    """Finished problems with verdicts that a hostile program could have forged; see `Problem.judge`."""
    arms: tuple[ArmResults, ...]
    best_of_k: BestOfK | None
    verifier: VerifierQuality | None
    comparisons: tuple[Comparison, ...]
    outcomes: dict[str, dict[str, float]]
    """By problem and figure: right or wrong, or P(right) for Best-of-N. What `evaluate compare` pairs."""
    timing: dict[str, float]
    """Seconds. `generation` sums the waits for the generator, `solve:ARM` the time inside the graph's nodes."""


def compute(
    identity: Identity,
    problems: Sequence[Problem],
    solves: Sequence[Solve],
    judgements: Judgements,
    *,
    timing: Mapping[str, float] | None = None,
) -> Results | None:
    """The figures over the problems finished in every arm; None if there is none yet.

    Raises ProblemError if the tests of all of them can judge no answer.
    """
    table = {arm.name: _solves_of(arm, solves, judgements) for arm in identity.arms}
    finished = [problem for problem in problems if all(problem.id in of_arm for of_arm in table.values())]
    if not finished:
        return None
    ends = {
        arm.name: {p.id: _Outcome(p, table[arm.name][p.id], arm, rules_of(identity), judgements) for p in finished}
        for arm in identity.arms
    }
    lost = {p.id for p in finished if any(of_arm[p.id].unjudged for of_arm in ends.values())}
    unjudged, done = [p for p in finished if p.id in lost], [p for p in finished if p.id not in lost]
    if not done:
        raise ProblemError(_none_judged(unjudged, judgements))
    outcomes: dict[str, dict[str, float]] = {problem.id: {} for problem in done}
    arms: list[ArmResults] = []
    answers: dict[ArmName, list[list[float]]] = {}
    for arm in identity.arms:
        of_arm = [ends[arm.name][problem.id] for problem in done]
        arms.append(_arm_results(arm, of_arm, sum(ends[arm.name][problem.id].unjudged for problem in unjudged)))
        answers[arm.name] = [outcome.right for outcome in of_arm]
        for problem, outcome in zip(done, of_arm, strict=True):
            outcomes[problem.id][arm.name] = outcome.right[-1]
    sampled = any(arm.name != "greedy" for arm in identity.arms)
    pools = [_independent_samples(problem, table) for problem in done] if sampled else []
    labels = [[_correct(problem, c, judgements) for c in pool] for problem, pool in zip(done, pools, strict=sampled)]
    curves = _curves(pools, labels, identity) if sampled else {}
    n = next((arm.n for arm in identity.arms if arm.name == "turns"), 1)
    for rule, by_problem in curves.items():
        for problem, values in zip(done, by_problem, strict=True):
            outcomes[problem.id][f"best-of-{n} {rule}"] = values[n - 1]
    return Results(
        identity=identity,
        finished=len(done),
        unfinished=tuple(problem.id for problem in problems if problem.id not in outcomes and problem.id not in lost),
        unjudged=tuple(problem.id for problem in unjudged),
        judged_together=sum(problem.judge == "together" for problem in done),
        arms=tuple(arms),
        best_of_k=_best_of_k(curves) if curves else None,
        verifier=_verifier_quality(done, pools, judgements) if identity.verifier != "none" and curves else None,
        comparisons=tuple(_comparisons(identity, answers, curves, n)),
        outcomes=outcomes,
        timing=dict(timing or {}) | {f"solve:{arm.name}": _seconds(table[arm.name].values()) for arm in identity.arms},
    )


def _none_judged(problems: Sequence[Problem], judgements: Judgements) -> str:
    first = next(row for row in judgements.values() if row.problem_id == problems[0].id and not row.judged)
    return (
        f"the tests of all {len(problems)} finished problems judge no answer, the first of {first.problem_id}: "
        f"{first.error.rstrip('.')}; see `evaluate check`, and run again in another directory with corrected tests, "
        "--preload or --judge"
    )


def rules_of(identity: Identity) -> tuple[Rule, ...]:
    """The rules that apply to a run; those with a verifier need one."""
    return tuple(rule for rule in RULES if identity.verifier != "none" or "verifier" not in rule)


_form = functools.lru_cache(maxsize=1 << 16)(normal_form)  # each program is asked for many times


# --- one problem ---------------------------------------------------------------------------------------------------


class _Outcome:
    """The result of one solve, turn by turn."""

    def __init__(self, problem: Problem, solve: Solve, arm: Arm, rules: Sequence[Rule], judgements: Judgements) -> None:
        self.solve, self.arm = solve, arm
        self.answers, self.pools, self.accepted = (
            _as_groups(problem, solve, arm, arm.group) if arm.group else _as_turns(solve, arm)
        )
        self.right = [float(_correct(problem, answer, judgements)) for answer in self.answers]
        self.drawn = [len(pool) for pool in self.pools]
        self.unjudged = not all(_judged(problem, answer, judgements) for answer in self.answers)
        self.rules = {rule: [_choice(problem, pool, rule, judgements) for pool in self.pools] for rule in rules}


_Told = tuple[list[Candidate], list[Sequence[Candidate]], bool]
"""By turn: the answer, and all candidates drawn so far; and whether the last answer was accepted."""


def _as_turns(solve: Solve, arm: Arm) -> _Told:
    by_turn: dict[int, list[Candidate]] = {}
    for candidate in solve.candidates:
        by_turn.setdefault(candidate.turn, []).append(candidate)
    selected = {row.decision.turn: row.decision.selected for row in solve.decisions}
    bests = [by_turn[turn][selected[turn]] for turn in sorted(by_turn)]
    answers = [best_over_turns(bests[:turn], arm.selector) for turn in range(1, len(bests))] + [solve.solution.best]
    pools: list[Sequence[Candidate]] = [
        [candidate for candidate in solve.candidates if candidate.turn <= turn] for turn in sorted(by_turn)
    ]
    missing = arm.max_turns - len(answers)
    return answers + answers[-1:] * missing, pools + pools[-1:] * missing, solve.solution.solved


def _as_groups(problem: Problem, solve: Solve, arm: Arm, size: int) -> _Told:
    """Independent samples counted N at a time until one is accepted: like `turns`, without feedback.

    After the last group the answer is the solve's own, which may depend on all samples.
    """
    answers: list[Candidate] = []
    pools: list[Sequence[Candidate]] = []
    accepted = False
    for end in range(size, arm.n + 1, size):
        if not accepted:
            pool = solve.candidates[:end]
            best = pool[select(pool, arm.selector, seed=arm.seed)]
            accepted = _accepts(problem, best, arm)
            best = best if accepted or end < arm.n else solve.solution.best
        answers.append(best)
        pools.append(pool)
    return answers, pools, accepted


def _accepts(problem: Problem, best: Candidate, arm: Arm) -> bool:
    decision = decide(
        best,
        has_tests=bool(problem.public_tests),
        turn=1,
        max_turns=1,
        drawn=1,
        n=1,
        usage=Usage(),
        budget=Budget(),
        accept_threshold=arm.accept_threshold,
    )
    return decision.action == "accept"


def _choice(problem: Problem, pool: Sequence[Candidate], rule: Rule, judgements: Judgements) -> float:
    """P(right) of the best of all of `pool`, ties averaged."""
    labels = [_correct(problem, candidate, judgements) for candidate in pool]
    return best_of_k(_keys(pool, labels, rule), labels, len(pool))


def _keys(pool: Sequence[Candidate], labels: Sequence[bool], rule: Rule) -> list[tuple[float, ...]]:
    if rule == "oracle":
        return [(float(label),) for label in labels]
    return [rank_key(candidate, rule) for candidate in pool]


def _correct(problem: Problem, candidate: Candidate, judgements: Judgements) -> bool:
    """R(x, y): all public and private tests pass. A reply without a program is wrong; one that could not be judged
    counts as not right.
    """
    return bool(candidate.code) and judgements[problem.id, _form(candidate.code)].correct


def _judged(problem: Problem, candidate: Candidate, judgements: Judgements) -> bool:
    return not candidate.code or judgements[problem.id, _form(candidate.code)].judged


# --- all problems --------------------------------------------------------------------------------------------------


def _solves_of(arm: Arm, solves: Sequence[Solve], judgements: Judgements) -> dict[str, Solve]:
    return {
        solve.problem_id: solve
        for solve in solves
        if solve.arm == arm.name
        and all((solve.problem_id, _form(c.code)) in judgements for c in solve.candidates if c.code)
    }


def _arm_results(arm: Arm, outcomes: Sequence[_Outcome], unjudged: int) -> ArmResults:
    turns = range(len(outcomes[0].right))
    accepted = [outcome for outcome in outcomes if outcome.accepted]
    reasons = [outcome.solve.solution.stop_reason for outcome in outcomes]
    usages = [outcome.solve.solution.usage for outcome in outcomes]
    return ArmResults(
        arm=arm,
        accuracy=tuple(proportion([outcome.right[turn] for outcome in outcomes]) for turn in turns),
        rules={
            rule: tuple(proportion([outcome.rules[rule][turn] for outcome in outcomes]) for turn in turns)
            for rule in outcomes[0].rules
        },
        candidates=tuple(sum(outcome.drawn[turn] for outcome in outcomes) / len(outcomes) for turn in turns),
        unjudged=unjudged,
        accepted=proportion([float(outcome.accepted) for outcome in outcomes]),
        accepted_right=proportion([outcome.right[-1] for outcome in accepted]) if accepted else None,
        candidates_to_acceptance=(sum(outcome.drawn[-1] for outcome in accepted) / len(accepted) if accepted else None),
        stop_reasons={reason: reasons.count(reason) for reason in sorted(set(reasons))},
        prompt_tokens=sum(usage.prompt_tokens for usage in usages),
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        executions=sum(len({_form(c.code) for c in outcome.solve.candidates if c.code}) for outcome in outcomes),
    )


def _independent_samples(problem: Problem, table: Mapping[ArmName, Mapping[str, Solve]]) -> list[Candidate]:
    """Every sampled candidate of a first turn: one state, one temperature, so they are exchangeable.

    The two sampling arms use the same seeds for the first turn's samples, so the larger arm contains the smaller's.
    """
    name: ArmName = "independent" if "independent" in table else "turns"
    return [candidate for candidate in table[name][problem.id].candidates if candidate.turn == 1]


def _curves(
    pools: Sequence[Sequence[Candidate]], labels: Sequence[Sequence[bool]], identity: Identity
) -> dict[Rule, list[list[float]]]:
    """By rule and problem, P(right) of Best-of-k for every k for which all problems have enough samples."""
    most = min(len(pool) for pool in pools)

    def curve(pool: Sequence[Candidate], correct: Sequence[bool], rule: Rule) -> list[float]:
        keys = _keys(pool, correct, rule)
        return [best_of_k(keys, correct, k) for k in range(1, most + 1)]

    return {
        rule: [curve(pool, correct, rule) for pool, correct in zip(pools, labels, strict=True)]
        for rule in rules_of(identity)
    }


def _best_of_k(curves: Mapping[Rule, Sequence[Sequence[float]]]) -> BestOfK:
    estimates = {
        rule: tuple(proportion(values) for values in zip(*by_problem, strict=True))
        for rule, by_problem in curves.items()
    }
    return BestOfK(samples=len(estimates["oracle"]), curves=estimates)


def _verifier_quality(
    problems: Sequence[Problem], pools: Sequence[Sequence[Candidate]], judgements: Judgements
) -> VerifierQuality:
    """On candidates that the tests could judge."""
    scored = [
        [
            (candidate.score, _correct(problem, candidate, judgements))
            for candidate in pool
            if candidate.score and _judged(problem, candidate, judgements)
        ]
        for problem, pool in zip(problems, pools, strict=True)
    ]
    together = [pair for pairs in scored for pair in pairs]
    probabilities = [(score.probability, label) for score, label in together if score.probability is not None]
    return VerifierQuality(
        candidates=len(together),
        problems=len(pools),
        auc=auc([score.logit for score, _ in together], [label for _, label in together]),
        within=pairwise_accuracy(
            ([score.logit for score, _ in pairs], [label for _, label in pairs]) for pairs in scored
        ),
        calibration=calibration([p for p, _ in probabilities], [label for _, label in probabilities]),
    )


_SELECTOR_PAIRS: tuple[tuple[Rule, Rule], ...] = (
    ("random", "tests"),
    ("random", "verifier"),
    ("tests", "tests+verifier"),
)


def _comparisons(
    identity: Identity,
    answers: Mapping[ArmName, Sequence[Sequence[float]]],
    curves: Mapping[Rule, Sequence[Sequence[float]]],
    n: int,
) -> list[Comparison]:
    pairs: list[tuple[str, str, str, Sequence[float], Sequence[float]]] = []

    def last(name: ArmName) -> list[float]:
        return [right[-1] for right in answers[name]]

    for arm in identity.arms:
        if arm.name != "independent" and arm.max_turns > 1:
            first = [right[0] for right in answers[arm.name]]
            name = f"feedback, {arm.name}"
            pairs.append((name, f"{arm.name}, turn 1", f"{arm.name}, turn {arm.max_turns}", first, last(arm.name)))
    if {"turns", "independent"} <= answers.keys():
        turns = next(arm for arm in identity.arms if arm.name == "turns")
        most = turns.n * turns.max_turns
        name = f"turns at equal compute (at most {most} candidates)"
        pairs.append((name, f"independent, {most} samples", "turns", last("independent"), last("turns")))
    if {"turns", "greedy"} <= answers.keys():
        pairs.append(("sampling and selection", "greedy", "turns", last("greedy"), last("turns")))
    at_n = {rule: [values[n - 1] for values in by_problem] for rule, by_problem in curves.items()}
    for a, b in _SELECTOR_PAIRS:
        if a in at_n and b in at_n:
            pairs.append((f"selector, best of {n}", a, b, at_n[a], at_n[b]))
    return [Comparison(name=name, a=a, b=b, difference=compare(x, y)) for name, a, b, x, y in pairs]


def _seconds(solves: Iterable[Solve]) -> float:
    return math.fsum(solve.solution.usage.seconds for solve in solves)
