"""What verifiers add on drawn candidates: pairwise accuracy, AUC and Best-of-k, beside simple baselines.

    python benchmarks/verifier_quality.py runs/mbpp-validation runs/humaneval --verifier v/bt-0 --verifier v/bt-1 \
        --verifier v/bce-0 --generator hf:DIRECTORY

Each run is a directory of `evaluate run` or `rollout`; its first-turn candidates are scored once by every verifier.
Verifiers whose names differ only in a number at the end are one row: seeds of one recipe, told as mean ± standard
deviation over seeds. Scored are problems with right and wrong candidates; the curves are over all problems. Intervals
in brackets are over problems (Wilson), of the mean over seeds. `gain` is the paired bootstrap over problems of the
verifier's Best-of-k against a random choice, and against the tests alone.
"""

import argparse
import hashlib
import json
import re
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from mucode_agent.evaluation.metrics import auc, best_of_k, compare, proportion
from mucode_agent.evaluation.store import Solve
from mucode_agent.graphs.selection import Selector, rank_key
from mucode_agent.models.checkpoints import load_engine
from mucode_agent.training.data import Attempt, ProblemAttempts, state, stream_traces
from mucode_agent.types import Score
from mucode_agent.verifiers import load_verifier
from mucode_agent.verifiers.card import read_card
from mucode_agent.verifiers.fusion import Fusion

Logits = list[list[float]]
"""By problem, by first-turn candidate."""
Keys = list[list[tuple[float, ...]]]
"""The same for ranks: the greater tuple is the better candidate."""
Scorer = Callable[[str, Sequence[ProblemAttempts], Sequence[list[Attempt]]], Logits]


def first_turns(entry: ProblemAttempts, solves: Sequence[Solve], n: int) -> list[Attempt]:
    """Independent samples of one state, by whatever search: equal seeds are one sample, and greedy ones are none."""
    greedy = {solve.run_id for solve in solves if solve.settings.get("temperature") == 0}
    first = [a for a in entry.attempts if a.candidate.turn == 1 and a.solve not in greedy]
    drawn = {a.candidate.sample.seed: a for a in first}
    return [drawn[seed] for seed in sorted(drawn)][:n]


def mixed(pool: Sequence[Attempt]) -> bool:
    """Right and wrong ones: elsewhere no choice is better than another, and nothing is scored."""
    return len({attempt.correct for attempt in pool}) == 2


def by_verifier(spec: str, entries: Sequence[ProblemAttempts], pools: Sequence[list[Attempt]]) -> Logits:
    verifier = load_verifier(spec)
    logits = []
    for entry, pool in zip(entries, pools, strict=True):
        codes = list(dict.fromkeys(attempt.candidate.code for attempt in pool if mixed(pool)))
        scores = dict(zip(codes, verifier.score(entry.problem.public(), codes), strict=True)) if codes else {}
        logits.append([scores[attempt.candidate.code].logit if scores else 0.0 for attempt in pool])
    return logits


def by_generator(spec: str, entries: Sequence[ProblemAttempts], pools: Sequence[list[Attempt]]) -> Logits:
    """Mean log-probability of the reply's tokens under the generator."""
    import torch

    engine = load_engine(spec.removeprefix("hf:"))
    roles = {"human": "user", "ai": "assistant"}
    found = []
    for entry, pool in zip(entries, pools, strict=True):
        messages = [{"role": roles[m.type], "content": str(m.content)} for m in state(entry.problem, ())]
        prompt = engine.encode(messages)
        known: dict[str, float] = {}
        for attempt in pool if mixed(pool) else []:
            text = attempt.candidate.sample.text
            if text not in known:
                reply = engine.tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
                ids = torch.cat([prompt, reply], dim=1)
                with torch.inference_mode():
                    logits = engine.model(input_ids=ids, logits_to_keep=reply.shape[1] + 1).logits[0, :-1].float()
                chosen = logits.gather(1, reply[0].unsqueeze(1)).squeeze(1) - logits.logsumexp(-1)
                known[text] = chosen.mean().item()
        found.append([known.get(attempt.candidate.sample.text, 0.0) for attempt in pool])
    return found


class Kept:
    """Scores by run, scorer and programs, in a JSON file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._held: dict[str, Logits] = json.loads(path.read_bytes()) if path and path.exists() else {}

    def get(
        self, scorer: Scorer, run: Path, spec: str, entries: Sequence[ProblemAttempts], pools: Sequence[list[Attempt]]
    ) -> Logits:
        codes = hashlib.sha256("\0".join(a.candidate.code for pool in pools for a in pool).encode()).hexdigest()
        key = f"{run.name} {spec} {codes}"
        if key not in self._held:
            self._held[key] = scorer(spec, entries, pools)
            if self._path:
                self._path.write_text(json.dumps(self._held))
        return self._held[key]


def keys_of(pools: Sequence[list[Attempt]], logits: Logits, selector: Selector, fusion: Fusion | None = None) -> Keys:
    """What the selector would rank the candidates by, were these their verifier's logits."""
    found: Keys = []
    for pool, scores in zip(pools, logits, strict=True):
        scored = [
            a.candidate.model_copy(update={"score": Score(logit=score), "agreement": None})
            for a, score in zip(pool, scores, strict=True)
        ]
        found.append([rank_key(fusion.judged(c) if fusion else c, selector) for c in scored])
    return found


def curve(pools: Sequence[list[Attempt]], keys: Keys, k: int) -> list[float]:
    """P(right) of the best of k, by problem."""
    pairs = zip(pools, keys, strict=True)
    return [best_of_k(key, [a.correct for a in pool], min(k, len(pool))) if pool else 0.0 for pool, key in pairs]


def quality(pools: Sequence[list[Attempt]], keys: Keys) -> tuple[list[float], float]:
    """AUC within each mixed problem, which is its pairwise accuracy, and pooled over them; of distinct programs."""
    ranks = {key: float(rank) for rank, key in enumerate(sorted({key for pool in keys for key in pool}))}
    problems = []
    for pool, found in zip(pools, keys, strict=True):
        if mixed(pool):
            distinct = {a.form: (ranks[key], a.correct) for a, key in zip(pool, found, strict=True)}
            problems.append(([s for s, _ in distinct.values()], [y for _, y in distinct.values()]))
    within = [auc(scores, labels) for scores, labels in problems]
    pooled = auc([s for scores, _ in problems for s in scores], [y for _, labels in problems for y in labels])
    assert pooled is not None
    return [value for value in within if value is not None], pooled


def spread(values: Sequence[float]) -> str:
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def interval(by_problem: Sequence[float]) -> str:
    found = proportion(list(by_problem))
    return f"{100 * found.value:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def mean_over(seeds: Sequence[Sequence[float]]) -> list[float]:
    return [statistics.mean(values) for values in zip(*seeds, strict=True)]


def gain(a: Sequence[float], b: Sequence[float]) -> str:
    found = compare(a, b)
    return f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--verifier", action="append", default=[], help="As for `solve`; may be repeated.")
    parser.add_argument("--generator", default=None, help="hf:DIRECTORY, for its mean log-probability.")
    parser.add_argument("--n", type=int, default=15, help="First-turn candidates of a problem, at most.")
    parser.add_argument(
        "--scores", type=Path, help="A file that keeps scores, so that a later start goes on with them."
    )
    parser.add_argument("--k", type=int, nargs="+", default=[1, 2, 5, 10, 15])
    arguments = parser.parse_args()
    kept = Kept(arguments.scores)
    for run in arguments.runs:
        traces = [(entry, solves) for entry, solves in stream_traces([run]) if entry.attempts]
        entries = [entry for entry, _ in traces]
        pools = [first_turns(entry, solves, arguments.n) for entry, solves in traces]
        rules: dict[str, list[Keys]] = {}

        rank(rules, "length", pools, [[float(len(a.candidate.code)) for a in pool] for pool in pools])
        if arguments.generator:
            found = kept.get(by_generator, run, arguments.generator, entries, pools)
            rank(rules, "mean log-probability", pools, found)
        for spec in arguments.verifier:
            name = re.sub(r"-?\d+$", "", Path(spec.partition("@")[0]).name)
            card = read_card(Path(spec))
            found = kept.get(by_verifier, run, spec, entries, pools)
            rank(rules, name, pools, found, card.fusion if card else None)
        report(run, pools, rules, [k for k in arguments.k if k <= max(map(len, pools))])


def rank(
    rules: dict[str, list[Keys]],
    name: str,
    pools: Sequence[list[Attempt]],
    logits: Logits,
    fusion: Fusion | None = None,
) -> None:
    """Add a seed to the rules that a score makes: by it alone, lexicographic (paper, section 4.1), and fused."""
    rules.setdefault(name, []).append(keys_of(pools, logits, "verifier"))
    rules.setdefault(f"tests, then {name}", []).append(keys_of(pools, logits, "tests+verifier"))
    if fusion:
        rules.setdefault(f"fusion with {name}", []).append(keys_of(pools, logits, "fusion", fusion))


def report(run: Path, pools: Sequence[list[Attempt]], rules: dict[str, list[Keys]], ks: Sequence[int]) -> None:
    nothing = [[0.0] * len(pool) for pool in pools]
    distinct = sum(len({a.form for a in pool}) for pool in pools)
    both = sum(map(mixed, pools))
    print(
        f"\n### {run.name}: {len(pools)} problems, {sum(map(len, pools))} candidates, {distinct} distinct, "
        f"{both} problems with right and wrong ones\n"
    )
    random, tests = (keys_of(pools, nothing, rule) for rule in ("random", "tests"))
    oracle: Keys = [[(float(a.correct),) for a in pool] for pool in pools]
    rows = {"random": [random], "tests": [tests], **rules, "oracle (bound)": [oracle]}
    print(
        "| ranked by | seeds | pairwise accuracy, over seeds | over problems | AUC, over seeds |\n|---|---|---|---|---|"
    )
    for name, seeds in list(rows.items())[:-1]:
        found = [quality(pools, keys) for keys in seeds]
        pairs, aucs = spread([statistics.mean(within) for within, _ in found]), spread([pooled for _, pooled in found])
        over_problems = interval(mean_over([w for w, _ in found]))
        print(f"| {name} | {len(seeds)} | {pairs} | {over_problems} | {aucs} |")
    print(f"\n| best of k by | {' | '.join(f'k={k}' for k in ks)} |\n|---|{'---|' * len(ks)}")
    curves = {name: {k: mean_over([curve(pools, s, k) for s in seeds]) for k in ks} for name, seeds in rows.items()}
    for name, by_k in curves.items():
        print(f"| {name} | {' | '.join(interval(by_k[k]) for k in ks)} |")
    k = max(k for k in ks if k <= 5)
    print(f"\n| at k={k} | gain over random | gain over tests |\n|---|---|---|")
    for name in rules:
        print(
            f"| {name} | {gain(curves['random'][k], curves[name][k])} | {gain(curves['tests'][k], curves[name][k])} |"
        )


if __name__ == "__main__":
    main()
