"""Fits the evidence verifier on labelled attempts, and measures it on problems that it did not see.

A problem's first-turn attempts are one pool, from which groups of 1 to 8 are drawn, the sizes of a turn; a later turn
is one group. Each combination of evidence gets its own penalised logistic regression, on all groups that have at least
this evidence. Groups with public tests are also used with the tests removed.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

from mucode_agent.metrics import auc, calibration, pairwise_accuracy, wilson
from mucode_agent.probes import probes
from mucode_agent.tools.sandbox import run
from mucode_agent.training.data import Attempt, ProblemAttempts, data_sha256
from mucode_agent.types import Candidate, Problem, ProblemError, Sandbox, Verifier
from mucode_agent.verifiers.calibration import fit_platt
from mucode_agent.verifiers.evidence import (
    Acceptance,
    EvidenceCard,
    EvidenceQuality,
    EvidenceVerifier,
    Measured,
    Model,
    Weight,
)
from mucode_agent.verifiers.features import KINDS, Evidence, evidence_of, feature_names, features

SIZES = (1, 2, 3, 5, 8)
"""Sizes of the groups drawn from a pool."""
DRAWS = 3
"""Groups of each size and pool."""
PENALTY = 0.01
"""Half of it, times the squared weights of standardised features, is added to the mean loss."""
FOLDS = 10
JUDGED_SIZE = 5
"""Size of the groups on which quality and acceptance are measured."""
LEAST_PROBLEMS = 20
LEAST_ACCEPTED = 10
"""Least number of problems with an accepted answer for which a precision is given."""

Table = NDArray[np.float64]


class Pool(NamedTuple):
    """Candidates of one problem in one state; any of them could be together in one turn."""

    problem: Problem
    candidates: tuple[Candidate, ...]
    labels: tuple[bool, ...]
    logits: tuple[float, ...] | None = None
    """Logits of a language-model verifier, if one is given."""

    def part(self, indices: Sequence[int]) -> "Pool":
        return Pool(
            self.problem,
            tuple(self.candidates[i] for i in indices),
            tuple(self.labels[i] for i in indices),
            None if self.logits is None else tuple(self.logits[i] for i in indices),
        )

    def without_tests(self) -> "Pool":
        """The pool as if the problem had no public tests: without their reports, with the behaviour on probes."""
        bare = tuple(
            c.model_copy(
                update={"report": c.report and c.report.model_copy(update={"status": "unjudged", "results": ()})}
            )
            for c in self.candidates
        )
        return self._replace(candidates=bare)


class Origin(NamedTuple):
    """A card's origin."""

    made: str
    """The command that fitted it."""
    data: str
    """The problems' source and licence."""
    generators: Sequence[str]
    """The generators of the programs; see `models.identity`."""


def pools_of(data: Iterable[ProblemAttempts], language_model: Verifier | None = None) -> list[Pool]:
    """The pools in labelled attempts. Attempts that only users judged are left out, because they form no group."""
    found = []
    for entry in data:
        attempts = [attempt for attempt in entry.attempts if attempt.source != "user"]
        attempts.sort(key=_state)
        for _, group in groupby(attempts, key=_state):
            part = list(group)
            candidates = tuple(attempt.candidate for attempt in part)
            logits = None
            if language_model is not None:
                scores = language_model.score(entry.problem.public(), candidates)
                logits = tuple(score.logit for score in scores)
            found.append(Pool(entry.problem.public(), candidates, tuple(a.correct for a in part), logits))
    return found


def _state(attempt: Attempt) -> tuple[int, str]:
    """First turns of all solves share one state."""
    return (attempt.candidate.turn, "" if attempt.candidate.turn == 1 else attempt.solve)


def with_behaviour(
    data: Sequence[ProblemAttempts], sandbox: Sandbox, progress: Callable[[str], None] = lambda _: None
) -> list[ProblemAttempts]:
    """The attempts with their behaviour on the problem's probes; programs of traces that lack it are run."""
    found = []
    for number, entry in enumerate(data, start=1):
        problem = entry.problem.public()
        lacking = {a.form: a.candidate.code for a in entry.attempts if _lacks_behaviour(a.candidate)}
        inputs = probes(problem, [a.candidate.code for a in entry.attempts]) if lacking else ()
        if not inputs:
            found.append(entry)
            continue
        progress(f"running programs of {number} of {len(data)} problems on their probes")
        reports = run(sandbox, [problem.job(code, probes=inputs) for code in lacking.values()])
        by_form = dict(zip(lacking, reports, strict=True))
        attempts = tuple(
            a.model_copy(update={"candidate": a.candidate.model_copy(update={"report": by_form[a.form]})})
            if a.form in by_form
            else a
            for a in entry.attempts
        )
        found.append(entry.model_copy(update={"attempts": attempts}))
    return found


def _lacks_behaviour(candidate: Candidate) -> bool:
    return bool(candidate.code) and not (candidate.report and candidate.report.behaviour)


def fit_evidence(pools: Sequence[Pool]) -> tuple[Model, ...]:
    """One model for each combination of evidence that enough problems have. Raises ProblemError if none has."""
    return _fit(_designs(pools), lambda _: True)


def _fit(designs: "Sequence[_Design]", chosen: Callable[[str], bool]) -> tuple[Model, ...]:
    models = []
    for kinds in _combinations(designs):
        table = _table([design for design in designs if chosen(design.pool.problem.id)], kinds)
        if table is not None and table.problems >= LEAST_PROBLEMS and len(set(table.labels.tolist())) == 2:
            models.append(_fitted(kinds, table))
    if not models:
        raise ProblemError(
            f"fitting needs right and wrong programs of at least {LEAST_PROBLEMS} problems; give more traces"
        )
    return tuple(models)


def card_of(
    data: Sequence[ProblemAttempts],
    origin: Origin,
    *,
    precision: float = 0.9,
    language_model: str | None = None,
    scorer: Verifier | None = None,
) -> EvidenceCard:
    """The whole verifier: weights of all problems, and quality and acceptance cross-fitted over them.

    Raises ProblemError if there are too few data, or only one kind of label.
    """
    pools = pools_of(data, scorer)
    quality, accepted = _measured(cross_fitted(pools, language_model=language_model), precision)
    return EvidenceCard(
        made=origin.made,
        data=origin.data,
        data_sha256=data_sha256(data),
        generators=tuple(origin.generators),
        language_model=language_model,
        models=fit_evidence(pools),
        quality=quality,
        acceptance=accepted,
    )


def recalibrated(
    card: EvidenceCard,
    data: Sequence[ProblemAttempts],
    origin: Origin,
    *,
    precision: float = 0.9,
    scorer: Verifier | None = None,
) -> EvidenceCard:
    """`card` with its logits rescaled to another generator's programs: the same order, other probabilities.

    Platt's scaling, two numbers for each combination of evidence, is folded into the weights. Quality and acceptance
    are measured on these data, on which only the scaling was fitted. Raises ProblemError if the data allow no scaling.
    """
    pools = pools_of(data, scorer)
    designs = _designs(pools)
    models = [_rescaled(model, _table(designs, model.evidence)) for model in card.models]
    kept = tuple(model for model in models if model is not None)
    if not kept:
        raise ProblemError("calibration needs right and wrong programs of several problems; give more traces")
    verifier = _bare(kept, card.language_model)
    judged = [(pool, _probabilities(verifier, pool)) for pool in _judged_groups(pools)]
    quality, accepted = _measured(judged, precision)
    return card.model_copy(
        update={
            "made": origin.made,
            "data": origin.data,
            "data_sha256": data_sha256(data),
            "generators": tuple(origin.generators),
            "models": kept,
            "quality": quality,
            "acceptance": accepted,
        }
    )


def with_measured(
    card: EvidenceCard, data: Sequence[ProblemAttempts], origin: Origin, *, scorer: Verifier | None = None
) -> EvidenceCard:
    """`card` with unchanged weights, and the generator of these data added to those for which it holds.

    Raises ProblemError if it does not hold: if its promised precision for answers without public tests is above the
    interval measured here, or if too few answers are accepted to measure it.
    """
    if card.acceptance is None:
        raise ProblemError(
            "the card accepts nothing without tests, so it promises no precision to measure; give another card"
        )
    verifier = _bare(card.models, card.language_model)
    judged = [(pool, _probabilities(verifier, pool)) for pool in _judged_groups(pools_of(data, scorer))]
    quality, _ = _measured(judged, card.acceptance.precision)
    taken: dict[str, list[bool]] = {}
    right: dict[str, list[bool]] = {}
    for pool, found in judged:
        if "tests" not in (kinds := evidence_of(pool.candidates, pool.logits)) and "behaviour" in kinds:
            place = max(range(len(found)), key=found.__getitem__)
            accepts = found[place] >= card.acceptance.threshold
            taken.setdefault(pool.problem.id, []).append(accepts)
            right.setdefault(pool.problem.id, []).append(accepts and pool.labels[place])
    accepted = sum(sum(groups) / len(groups) for groups in taken.values())
    if accepted < LEAST_ACCEPTED:
        raise ProblemError(
            f"{accepted:.0f} of {len(taken)} problems have an accepted answer without tests, and a precision needs "
            f"{LEAST_ACCEPTED}; give more traces"
        )
    kept = wilson(sum(sum(groups) / len(groups) for groups in right.values()) / accepted, round(accepted))
    if kept.high < card.acceptance.precision:
        raise ProblemError(
            f"{kept.value:.1%} [{kept.low:.1%}, {kept.high:.1%}] of the answers accepted here are right, and the card "
            f"promises {card.acceptance.precision:.1%}: calibrate it on these traces instead"
        )
    measured = Measured(
        generators=tuple(origin.generators),
        made=origin.made,
        data=origin.data,
        data_sha256=data_sha256(data),
        problems=len(taken),
        quality=quality,
        precision=round(kept.value, 4),
        precision_interval=(round(kept.low, 4), round(kept.high, 4)),
        coverage=round(accepted / len(taken), 4),
    )
    others = [found for found in card.measured if not set(found.generators) & set(measured.generators)]
    return card.model_copy(update={"measured": (*others, measured)})


def cross_fitted(pools: Sequence[Pool], language_model: str | None = None) -> list[tuple[Pool, list[float]]]:
    """Groups of JUDGED_SIZE with the P(correct) of weights that saw no attempt at their problem."""
    verifiers = fold_verifiers(pools, language_model)
    return [(group, _probabilities(verifiers[group.problem.id], group)) for group in _judged_groups(pools)]


def fold_verifiers(pools: Sequence[Pool], language_model: str | None = None) -> dict[str, EvidenceVerifier]:
    """By problem, a verifier that was fitted on the FOLDS - 1 parts of the problems that do not contain it."""
    ids = sorted({pool.problem.id for pool in pools})
    random.Random(0).shuffle(ids)  # noqa: S311
    fold_of = {id_: number % FOLDS for number, id_ in enumerate(ids)}
    designs = _designs(pools)
    found: dict[str, EvidenceVerifier] = {}
    for fold in range(FOLDS):
        models = _fit(designs, lambda id_: fold_of[id_] != fold)  # noqa: B023 - called at once
        verifier = _bare(models, language_model)
        found |= {id_: verifier for id_ in ids if fold_of[id_] == fold}
    return found


# --- groups --------------------------------------------------------------------------------------------------------


def groups(pool: Pool, sizes: Sequence[int], draws: int, seed: int = 0) -> Iterator[Pool]:
    """Random parts of a pool, `draws` of each size that it can give, else the whole pool."""
    count = len(pool.candidates)
    chance = random.Random(f"{seed}/{pool.problem.id}/{count}")  # noqa: S311
    for size in sizes:
        if size >= count:
            yield pool
            return
        for _ in range(draws):
            yield pool.part(sorted(chance.sample(range(count), size)))


def _judged_groups(pools: Iterable[Pool]) -> Iterator[Pool]:
    """Each pool with its tests and without them, in groups of JUDGED_SIZE."""
    for pool in pools:
        for part in groups(pool, (JUDGED_SIZE,), DRAWS, seed=1):
            yield from _with_and_without_tests(part)


class _Design(NamedTuple):
    """The features of the groups of one pool, all that its evidence allows; each pool weighs one."""

    pool: Pool
    evidence: Evidence
    rows: Table
    labels: NDArray[np.bool_]
    weights: Table


class _Table(NamedTuple):
    """The data that one model is fitted on."""

    rows: Table
    labels: NDArray[np.bool_]
    weights: Table
    problems: int


def _designs(pools: Sequence[Pool]) -> list[_Design]:
    """One for each pool, and one more for each pool with tests, as if it had none."""
    return [_design(variant) for pool in pools for variant in _with_and_without_tests(pool)]


def _with_and_without_tests(pool: Pool) -> tuple[Pool, ...]:
    """A later turn that follows public tests counts only with them: it exists because they refused the turn before."""
    if "tests" not in evidence_of(pool.candidates):
        return (pool,)
    return (pool, pool.without_tests()) if pool.candidates[0].turn == 1 else (pool,)


def _design(pool: Pool) -> _Design:
    evidence = evidence_of(pool.candidates, pool.logits)
    parts = list(groups(pool, SIZES, DRAWS))
    rows = [row for part in parts for row in features(part.problem, part.candidates, evidence, part.logits)]
    labels = [label for part in parts for label in part.labels]
    weights = [1 / (len(parts) * len(part.labels)) for part in parts for _ in part.labels]
    return _Design(pool, evidence, np.array(rows), np.array(labels), np.array(weights))


def _combinations(designs: Sequence[_Design]) -> list[Evidence]:
    """Every combination of the evidence that some pool has; if a language model's logits are given, only those with
    them.
    """
    seen = {kind for design in designs for kind in design.evidence}
    usable = [kind for kind in KINDS if kind in seen]
    found = [tuple(kind for bit, kind in enumerate(usable) if chosen >> bit & 1) for chosen in range(1 << len(usable))]
    return [kinds for kinds in found if "model" in kinds or "model" not in seen]


def _table(designs: Sequence[_Design], kinds: Evidence) -> _Table | None:
    """The groups with at least this evidence. Weights without tests are fitted on groups without tests."""
    fitting = [d for d in designs if set(kinds) <= set(d.evidence) and ("tests" in d.evidence) == ("tests" in kinds)]
    if not fitting:
        return None
    names = feature_names(kinds)
    columns = [[feature_names(design.evidence).index(name) for name in names] for design in fitting]
    return _Table(
        np.vstack([design.rows[:, places] for design, places in zip(fitting, columns, strict=True)]),
        np.concatenate([design.labels for design in fitting]),
        np.concatenate([design.weights for design in fitting]),
        len({design.pool.problem.id for design in fitting}),
    )


def _fitted(kinds: Evidence, table: _Table) -> Model:
    share = table.weights / table.weights.sum()
    mean = share @ table.rows
    spread = np.sqrt(share @ (table.rows - mean) ** 2)
    spread[spread < 1e-9] = np.inf  # a constant feature carries no information
    scaled = (table.rows - mean) / spread

    def loss(parameters: Table) -> tuple[float, Table]:
        inner = scaled @ parameters[:-1] + parameters[-1]
        value = share @ (np.logaddexp(0, inner) - table.labels * inner)
        error = share * (expit(inner) - table.labels)
        penalty = PENALTY / 2 * parameters[:-1] @ parameters[:-1]
        return float(value + penalty), np.append(scaled.T @ error + PENALTY * parameters[:-1], error.sum())

    found = minimize(loss, np.zeros(scaled.shape[1] + 1), jac=True, method="L-BFGS-B").x
    weights = {
        name: Weight(weight=round(float(weight), 6), mean=round(float(centre), 6))
        for name, weight, centre in zip(feature_names(kinds), found[:-1] / spread, mean, strict=True)
    }
    return Model(
        evidence=kinds,
        intercept=round(float(found[-1]), 6),
        weights=weights,
        problems=table.problems,
        candidates=len(table.labels),
    )


def _rescaled(model: Model, table: _Table | None) -> Model | None:
    if table is None:
        return None
    try:
        platt = fit_platt(model.logits(table.rows.tolist()), table.labels.tolist())
    except ProblemError:
        return None
    weights = {
        name: Weight(weight=round(term.weight / platt.sigma, 6), mean=term.mean) for name, term in model.weights.items()
    }
    intercept = round((model.intercept - platt.mean) / platt.sigma, 6)
    sizes = {"problems": table.problems, "candidates": len(table.labels)}
    return model.model_copy(update={"intercept": intercept, "weights": weights, **sizes})


# --- quality -------------------------------------------------------------------------------------------------------


def _bare(models: Sequence[Model], language_model: str | None) -> EvidenceVerifier:
    card = EvidenceCard(
        made="", data="", data_sha256="", generators=(), language_model=language_model, models=tuple(models)
    )
    return EvidenceVerifier(card, name="fold")


def _probabilities(verifier: EvidenceVerifier, pool: Pool) -> list[float]:
    return [score.probability or 0.0 for score in verifier.scores(pool.problem, pool.candidates, pool.logits)]


def _measured(
    judged: Sequence[tuple[Pool, list[float]]], precision: float
) -> tuple[tuple[EvidenceQuality, ...], Acceptance | None]:
    by_kind: dict[Evidence, list[tuple[Pool, list[float]]]] = {}
    for pool, found in judged:
        by_kind.setdefault(evidence_of(pool.candidates, pool.logits), []).append((pool, found))
    quality = tuple(_quality(kinds, rows) for kinds, rows in sorted(by_kind.items()))
    testless = [row for kinds, rows in by_kind.items() if "tests" not in kinds and "behaviour" in kinds for row in rows]
    return quality, acceptance(testless, precision) if testless else None


def _quality(kinds: Evidence, judged: Sequence[tuple[Pool, list[float]]]) -> EvidenceQuality:
    flat = [(p, y) for pool, scores in judged for p, y in zip(scores, pool.labels, strict=True)]
    probabilities, labels = [p for p, _ in flat], [y for _, y in flat]
    within = pairwise_accuracy([(scores, pool.labels) for pool, scores in judged])
    found = calibration(probabilities, labels)
    assert found is not None
    return EvidenceQuality(
        evidence=kinds,
        problems=len({pool.problem.id for pool, _ in judged}),
        candidates=len(flat),
        right=sum(labels) / len(labels),
        pairwise_accuracy=within.value if within else None,
        auc=auc(probabilities, labels),
        brier=found.brier,
        expected_error=found.expected_error,
    )


def acceptance(judged: Sequence[tuple[Pool, list[float]]], precision: float) -> Acceptance | None:
    """The lowest threshold, in steps of 0.01, from which the best of a group is right with this precision.

    None if no threshold reaches the precision on at least LEAST_ACCEPTED problems.
    """
    best: list[tuple[float, bool, str]] = []
    for pool, found in judged:
        place = max(range(len(found)), key=found.__getitem__)
        best.append((found[place], pool.labels[place], pool.problem.id))
    for step in range(50, 100):
        threshold = step / 100
        taken = [(right, id_) for p, right, id_ in best if p >= threshold]
        if len({id_ for _, id_ in taken}) < LEAST_ACCEPTED:
            return None
        reached = sum(right for right, _ in taken) / len(taken)
        if reached >= precision:
            return Acceptance(
                threshold=threshold,
                precision=round(reached, 4),
                coverage=round(len(taken) / len(best), 4),
                problems=len({id_ for _, _, id_ in best}),
            )
    return None
