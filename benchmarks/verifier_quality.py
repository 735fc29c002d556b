"""What verifiers are worth on drawn candidates, without any test run and after the public tests.

    python benchmarks/verifier_quality.py rollouts/humaneval rollouts/mbpp-validation --verifier DIRECTORY \\
        --judge vllm:NAME@http://127.0.0.1:8000/v1
    python benchmarks/verifier_quality.py rollouts/smollm2 rollouts/qwen1.5b rollouts/leetcode --transfer

Each directory is one of `rollout` or `evaluate run`; its first-turn candidates are the pool of a problem. Programs
whose traces hold no behaviour are run on their probes first. Random groups of k are drawn from each pool, scored as
one turn, and the best is taken; `random` and `oracle` are the bounds. `pairs` is the share of (right, wrong) pairs of
distinct programs that are in order, over problems that have both, in groups of all; AUC, Brier and ECE are over
candidates in groups of 5. Intervals are 95 %, by bootstrap over problems; `of headroom` is the gain over the baseline
as a share of what the oracle gains. `risk and coverage` accepts the best of a group of 5 from a P(correct) on.

`--judge` adds the training-free judge's row, of single grades: one request of one token per program; `--tournament`
its grades of pairs, dozens of requests per pool. `--transfer` prints one line per directory: what the card, fitted on
other programs, is worth on these, and whether its promise of precision holds.
"""

import argparse
import contextlib
import random
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mucode_agent.graphs.selection import rank_key
from mucode_agent.metrics import auc, bootstrap_mean, calibration, compare
from mucode_agent.tools.sandbox import load_sandbox
from mucode_agent.training.data import generators_of, read_attempts
from mucode_agent.training.evidence import Pool, fold_verifiers, pools_of, with_behaviour
from mucode_agent.types import Candidate, Problem, Score, Verifier
from mucode_agent.verifiers import load_verifier
from mucode_agent.verifiers.evidence import EvidenceVerifier
from mucode_agent.verifiers.features import normal_form

DRAWS = 20
"""Groups of each size and problem."""
JUDGED = 5
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)

SIGNALS = ("logprob", "agreement")

Keys = list[tuple[float, ...]]
Rule = Callable[[Pool], Keys]
"""The greater key is the better candidate."""


class Ranked(NamedTuple):
    """One rule on the pools of one directory."""

    pairs: str
    auc: float | None
    best: dict[int, list[float]]
    """By k, by problem: the share of groups whose best is right."""


def by_verifier(verifier: Verifier, selector: str) -> Rule:
    def keys(pool: Pool) -> Keys:
        scores = verifier.score(pool.problem, pool.candidates)
        scored = [c.model_copy(update={"score": s}) for c, s in zip(pool.candidates, scores, strict=True)]
        return [rank_key(candidate, selector) for candidate in scored]  # type: ignore[arg-type]

    return keys


class CrossFitted:
    """Each problem by weights that were fitted on others."""

    name = "evidence"
    calibrated_on = ()
    accept_threshold = None

    def __init__(self, by_problem: dict[str, EvidenceVerifier]) -> None:
        self._by_problem = by_problem

    def score(self, problem: Problem, candidates: Sequence[Candidate]) -> list[Score]:
        return self._by_problem[problem.id].score(problem, candidates)


def by_tests(pool: Pool) -> Keys:
    return [rank_key(candidate, "tests") for candidate in pool.candidates]


def by_nothing(pool: Pool) -> Keys:
    return [()] * len(pool.candidates)


def by_oracle(pool: Pool) -> Keys:
    return [(float(label),) for label in pool.labels]


def drawn(pool: Pool, k: int) -> list[Pool]:
    """The same groups for every rule."""
    count = len(pool.candidates)
    chance = random.Random(f"{pool.problem.id}/{k}")
    if k >= count:
        return [pool]
    return [pool.part(sorted(chance.sample(range(count), k))) for _ in range(DRAWS)]


def best(keys: Keys, labels: Sequence[bool]) -> float:
    """P(right) of the best, ties averaged."""
    top = max(keys)
    return statistics.mean(float(label) for key, label in zip(keys, labels, strict=True) if key == top)


def ranked(rule: Rule, pools: Sequence[Pool], ks: Sequence[int]) -> Ranked:
    """Pool by pool, so that a verifier which remembers its answers is asked for each only once."""
    pairs: list[float] = []
    flat: list[tuple[tuple[float, ...], bool]] = []
    curves: dict[int, list[float]] = {k: [] for k in ks}
    for pool in pools:
        forms = dict(zip((normal_form(c.code) for c in pool.candidates), range(len(pool.labels)), strict=True))
        keys = rule(pool)
        order = {key: float(place) for place, key in enumerate(sorted(set(keys)))}
        within = auc([order[keys[i]] for i in forms.values()], [pool.labels[i] for i in forms.values()])
        pairs += [] if within is None else [within]
        for group in drawn(pool, JUDGED)[:3]:
            flat += zip(rule(group), group.labels, strict=True)
        for k in ks:
            curves[k].append(statistics.mean(best(rule(g), g.labels) for g in drawn(pool, k)))
    places = {key: float(place) for place, key in enumerate(sorted({key for key, _ in flat}))}
    found = auc([places[key] for key, _ in flat], [label for _, label in flat])
    return Ranked(mean(pairs), found, curves)


def mean(values: Sequence[float]) -> str:
    if not values:
        return "–"
    low, high = bootstrap_mean(values)
    return f"{100 * statistics.mean(values):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def gain(a: Sequence[float], b: Sequence[float]) -> str:
    found = compare(a, b)
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def headroom(base: Sequence[float], found: Sequence[float], bound: Sequence[float]) -> str:
    room = statistics.mean(bound) - statistics.mean(base)
    return f"{(statistics.mean(found) - statistics.mean(base)) / room:.0%}" if room > 0 else "–"


def table(pools: Sequence[Pool], rules: dict[str, Rule], base: str, ks: Sequence[int]) -> None:
    rows = {name: ranked(rule, pools, ks) for name, rule in rules.items()}
    heads = [part for k in ks for part in (f"best of {k}", f"over {base}", "of headroom")]
    print(f"| ranked by | pairs | AUC | {' | '.join(heads)} |\n|---|---|---|{'---|' * len(heads)}")
    for name, row in rows.items():
        cells = []
        for k in ks:
            first, last = rows[base].best[k], rows["oracle"].best[k]
            mine = row.best[k]
            other = name not in (base, "random")
            cells += [f"{100 * statistics.mean(mine):.1f}"]
            cells += [gain(first, mine), headroom(first, mine, last)] if other else ["", ""]
        shown = f"{100 * row.auc:.1f}" if row.auc is not None else "–"
        print(f"| {name} | {row.pairs} | {shown} | {' | '.join(cells)} |")


def probabilities(verifier: Verifier, pools: Sequence[Pool]) -> list[list[tuple[list[float], tuple[bool, ...]]]]:
    """By problem, by group of 5: P(correct) and label of each candidate."""
    return [
        [([s.probability or 0.0 for s in verifier.score(g.problem, g.candidates)], g.labels) for g in drawn(p, JUDGED)]
        for p in pools
    ]


def reliability(found: Sequence[Sequence[tuple[list[float], tuple[bool, ...]]]]) -> str:
    flat = [(p, y) for groups in found for ps, ys in groups for p, y in zip(ps, ys, strict=True)]
    figures = calibration([p for p, _ in flat], [y for _, y in flat])
    assert figures is not None
    return f"Brier {figures.brier:.3f}, ECE {100 * figures.expected_error:.1f} %"


Judged = Sequence[Sequence[tuple[list[float], tuple[bool, ...]]]]
"""By problem, by group: P(correct) and label of each candidate."""


def accepted(found: Judged, threshold: float) -> tuple[list[float], list[float]]:
    """By problem, the share of groups whose best is accepted, and of those that are also right."""
    taken, right = [], []
    for groups in found:
        tops = [max(zip(ps, ys, strict=True)) for ps, ys in groups]
        taken.append(statistics.mean(float(p >= threshold) for p, _ in tops))
        right.append(statistics.mean(float(p >= threshold and y) for p, y in tops))
    return taken, right


def risk_and_coverage(found: Judged, own: float | None) -> None:
    print("\n| P(correct) at least | accepted, % of problems | of these right, % |\n|---|---|---|")
    for threshold in sorted({*THRESHOLDS, *([own] if own is not None else [])}):
        taken, right = accepted(found, threshold)
        mark = " (the card's own)" if threshold == own else ""
        print(f"| {threshold:.2f}{mark} | {mean(taken)} | {share(right, taken)} |")


def share(right: Sequence[float], taken: Sequence[float]) -> str:
    """Precision, with a bootstrap over problems of the ratio."""
    if not sum(taken):
        return "–"
    a, b = np.array(right), np.array(taken)
    places = np.random.default_rng(0).integers(len(a), size=(5000, len(a)))
    below = b[places].sum(1)
    ratios = (a[places].sum(1) / np.maximum(below, 1e-9))[below > 0]
    low, high = np.quantile(ratios, [0.025, 0.975])
    return f"{100 * a.sum() / b.sum():.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def transfer(verifier: Verifier, runs: dict[str, list[Pool]]) -> None:
    """One line per directory, at best of 5."""
    own = verifier.accept_threshold
    shown = "no threshold" if own is None else f"P(correct) at least {own:.2f}"
    heads = (
        "programs", "problems", "right, %", "pairs", "AUC", "random", "best of 5", "gain", "oracle",
        "after the tests: gain over them", "Brier, ECE without tests", "with tests",
        f"accepted without tests, {shown}, %", "of these right, %",
    )  # fmt: skip
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for name, pools in runs.items():
        bare = [pool.without_tests() for pool in pools]
        rows = {
            rule: ranked(keys, bare, [JUDGED])
            for rule, keys in (
                ("random", by_nothing),
                ("verifier", by_verifier(verifier, "verifier")),
                ("oracle", by_oracle),
            )
        }
        of = {rule: row.best[JUDGED] for rule, row in rows.items()}
        labels = [right for pool in pools for right in pool.labels]
        found = probabilities(verifier, bare)
        tested = [pool for pool in pools if pool.problem.public_tests]
        after, sure = "–", "–"
        if tested:
            tests = ranked(by_tests, tested, [JUDGED]).best[JUDGED]
            after = gain(tests, ranked(by_verifier(verifier, "tests+verifier"), tested, [JUDGED]).best[JUDGED])
            sure = reliability(probabilities(verifier, tested))
        taken, right = accepted(found, 1.0 if own is None else own)
        cells = (
            name, str(len(pools)), f"{100 * statistics.mean(labels):.1f}", rows["verifier"].pairs,
            "–" if rows["verifier"].auc is None else f"{100 * rows['verifier'].auc:.1f}",
            *(f"{100 * statistics.mean(of[rule]):.1f}" for rule in ("random", "verifier")),
            gain(of["random"], of["verifier"]), f"{100 * statistics.mean(of['oracle']):.1f}",
            after, reliability(found), sure, mean(taken), share(right, taken),
        )  # fmt: skip
        print(f"| {' | '.join(cells)} |", flush=True)


def first_turns(run: Path, limit: int | None) -> list[Pool]:
    """The pools of one directory."""
    with contextlib.closing(load_sandbox("local")) as sandbox:
        data = with_behaviour([entry for entry in read_attempts([run]) if entry.attempts][:limit], sandbox)
    return [pool for pool in pools_of(data) if pool.candidates[0].turn == 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--verifier", action="append", default=[], help="Another one, as for `solve`; may be repeated.")
    parser.add_argument("--judge", help="The training-free judge: a model string, such as vllm:NAME@URL.")
    parser.add_argument("--tournament", action="store_true", help="The judge's grades of pairs too.")
    parser.add_argument(
        "--cross-fit", action="store_true", help="Fit the evidence verifier on other problems of the same run."
    )
    parser.add_argument("--transfer", action="store_true", help="One line per directory, of the card as it is.")
    parser.add_argument("--card", default="evidence", help="The evidence verifier: evidence or CARD.json.")
    parser.add_argument("--k", type=int, nargs="+", default=[5, 8])
    parser.add_argument("--limit", type=int, help="Only the first problems of each directory.")
    arguments = parser.parse_args()
    card = load_verifier(arguments.card)
    if arguments.transfer:
        named = {f"{run.name}: {', '.join(generators_of([run]))}": run for run in arguments.runs}
        transfer(card, {name: first_turns(run, arguments.limit) for name, run in named.items()})
        return
    judges = [f"judge:{arguments.judge}"] if arguments.judge else []
    judges += [f"judge-tournament:{arguments.judge}"] if arguments.judge and arguments.tournament else []
    verifiers: dict[str, Verifier] = {spec: load_verifier(spec) for spec in SIGNALS}
    verifiers |= {spec.partition("@")[0]: load_verifier(spec) for spec in (*judges, *arguments.verifier)}
    verifiers["evidence"] = card
    for run in arguments.runs:
        pools = first_turns(run, arguments.limit)
        ks = [k for k in arguments.k if k <= max(len(pool.labels) for pool in pools)]
        count = sum(len(pool.labels) for pool in pools)
        print(f"\n### {run.name}: {len(pools)} problems, {count} candidates, {sum(map(sum, map(label, pools)))} right")
        bare = [pool.without_tests() for pool in pools]
        if arguments.cross_fit:
            verifiers["evidence"] = CrossFitted(fold_verifiers(pools))
        print("\nWithout tests:\n")
        alone = {name: by_verifier(verifier, "verifier") for name, verifier in verifiers.items()}
        table(bare, {"random": by_nothing, **alone, "oracle": by_oracle}, "random", ks)
        reliable(verifiers, bare)
        tested = [pool for pool in pools if pool.problem.public_tests]
        if tested:
            print(f"\nAfter the public tests ({len(tested)} problems have some):\n")
            after = {f"tests, then {name}": by_verifier(v, "tests+verifier") for name, v in verifiers.items()}
            table(tested, {"random": by_nothing, "tests": by_tests, **after, "oracle": by_oracle}, "tests", ks)
            reliable(verifiers, tested)


def label(pool: Pool) -> tuple[bool, ...]:
    return pool.labels


def reliable(verifiers: dict[str, Verifier], pools: Sequence[Pool]) -> None:
    for name, verifier in verifiers.items():
        if verifier.calibrated_on is not None:
            found = probabilities(verifier, pools)
            print(f"\nP(correct) of {name}: {reliability(found)}")
            risk_and_coverage(found, verifier.accept_threshold)


if __name__ == "__main__":
    main()
