"""What fools a verifier that reads behaviour: wrong programs put into groups of 5, without public tests.

    python benchmarks/verifier_attacks.py rollouts/humaneval

Each attack replaces candidates of a real group by wrong ones that behave as it says. Printed are how often a wrong one
of them is chosen and how often it is accepted at the verifier's own threshold; without an attack, how often a
wrong candidate is chosen and accepted.
"""

import argparse
import random
import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from mucode_agent.probes import shown_calls
from mucode_agent.training.data import read_attempts
from mucode_agent.training.evidence import Pool, pools_of
from mucode_agent.types import Candidate
from mucode_agent.verifiers import load_verifier

SIZE, DRAWS = 5, 5

Attack = Callable[[Pool, random.Random], Pool | None]
"""A group with wrong programs in it; None where the group offers no material."""


def forged(candidate: Candidate, code: str, behaviour: tuple[str, ...]) -> Candidate:
    report = candidate.report and candidate.report.model_copy(update={"behaviour": behaviour})
    return candidate.model_copy(update={"code": code, "report": report})


def repeated(pool: Pool, places: list[int], chosen: Candidate) -> Pool:
    """The whole reply again, text and log-probability included."""
    candidates, labels = list(pool.candidates), list(pool.labels)
    for place in places:
        candidates[place] = chosen.model_copy(update={"index": candidates[place].index})
        labels[place] = False
    return pool._replace(candidates=tuple(candidates), labels=tuple(labels))


def outcomes(candidate: Candidate) -> tuple[str, ...]:
    return candidate.report.behaviour if candidate.report else ()


def replaced(pool: Pool, places: list[int], code: str, behaviour: tuple[str, ...]) -> Pool:
    candidates, labels = list(pool.candidates), list(pool.labels)
    for place in places:
        candidates[place] = forged(candidates[place], code, behaviour)
        labels[place] = False
    return pool._replace(candidates=tuple(candidates), labels=tuple(labels))


def nothing(pool: Pool, _: random.Random) -> Pool:
    return pool


def constant(pool: Pool, chance: random.Random) -> Pool:
    inputs = max(len(outcomes(candidate)) for candidate in pool.candidates)
    return replaced(pool, [chance.randrange(SIZE)], "constant", tuple(f"= constant {i}" for i in range(inputs)))


def copies(pool: Pool, chance: random.Random, count: int) -> Pool | None:
    wrong = [c for c, right in zip(pool.candidates, pool.labels, strict=True) if not right]
    if not wrong:
        return None
    chosen = chance.choice(wrong)
    return repeated(pool, chance.sample(range(SIZE), count), chosen)


def impostor(pool: Pool, chance: random.Random) -> Pool:
    """Answers the probes as most candidates do and fails elsewhere, as a program that knows them could."""
    most, _ = Counter(map(outcomes, pool.candidates)).most_common(1)[0]
    return replaced(pool, [chance.randrange(SIZE)], "impostor", most)


def memoriser(pool: Pool, chance: random.Random) -> Pool | None:
    """Answers the calls that the prompt shows, which come first among the probes, and returns constants elsewhere."""
    most, _ = Counter(map(outcomes, pool.candidates)).most_common(1)[0]
    shown = len(shown_calls(pool.problem))
    if not 0 < shown < len(most):
        return None
    behaviour = (*most[:shown], *("= constant" for _ in most[shown:]))
    return replaced(pool, [chance.randrange(SIZE)], "memoriser", behaviour)


ATTACKS: dict[str, Attack] = {
    "no attack": nothing,
    "one returns constants": constant,
    "two copies of a wrong program": lambda pool, chance: copies(pool, chance, 2),
    "three copies of a wrong program": lambda pool, chance: copies(pool, chance, 3),
    "a generator with one mode, wrong": lambda pool, chance: copies(pool, chance, 5),
    "one knows the prompt's examples alone": memoriser,
    "one copies the majority on the probes alone": impostor,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--verifier", default="evidence")
    arguments = parser.parse_args()
    verifier = load_verifier(arguments.verifier)
    pools = [pool.without_tests() for pool in pools_of(read_attempts(arguments.runs)) if len(pool.candidates) >= SIZE]
    print("| attack | groups | a wrong one of it is chosen, % | and accepted, % | its P(correct), mean |")
    print("|---|---|---|---|---|")
    for name, attack in ATTACKS.items():
        chance, chosen, accepted, promised = random.Random(0), [], [], []
        for pool in pools:
            for _ in range(DRAWS):
                part = pool.part(sorted(chance.sample(range(len(pool.candidates)), SIZE)))
                group = attack(part, chance)
                if group is None:
                    continue
                scores = verifier.score(group.problem, group.candidates)
                best = max(range(SIZE), key=lambda i: scores[i].logit)
                theirs = not group.labels[best] and (
                    group is part or group.candidates[best] is not part.candidates[best]
                )
                chosen.append(float(theirs))
                probability = scores[best].probability or 0.0
                accepted.append(float(theirs and probability >= (verifier.accept_threshold or 1.0)))
                promised += [probability] if theirs else []
        mean = f"{statistics.mean(promised):.2f}" if promised else "–"
        figures = f"{100 * statistics.mean(chosen):.1f} | {100 * statistics.mean(accepted):.1f}"
        print(f"| {name} | {len(chosen)} | {figures} | {mean} |")


if __name__ == "__main__":
    main()
