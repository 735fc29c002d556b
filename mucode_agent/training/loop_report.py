"""The report of a training: one self-contained HTML page.

Accuracy by round, turn and N; the verifiers' quality; the diversity of programs; and whether the verifier's choice
still improves when its score does (over-optimisation: Gao et al. 2022, arXiv 2210.10760).
"""

import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from mucode_agent.evaluation.comparison import read_results
from mucode_agent.evaluation.figures import as_svg, intervals, new_axes, percent
from mucode_agent.evaluation.results import Results, Rule
from mucode_agent.evaluation.tables import Table
from mucode_agent.files import write_whole
from mucode_agent.graphs.selection import normal_form
from mucode_agent.metrics import Estimate, best_of_k, compare
from mucode_agent.runs.directory import Solve
from mucode_agent.runs.reading import judgements_of, read_shards
from mucode_agent.training.best import Best
from mucode_agent.types import ProblemError, Record

_COLOURS = ("#7b8794", "#0b69a3", "#2d9d78", "#cb6e17", "#8719e0", "#c0392b", "#0f766e", "#6b4f1d")


class Gauge(Record):
    """The verifier's own choice among k first-turn programs: its expected score, and its accuracy."""

    score: tuple[float, ...]
    """Mean over problems of the chosen program's expected logit, for k = 1, 2, …"""
    right: tuple[float, ...]
    """P(the chosen program is right)."""

    @property
    def over_optimised(self) -> bool:
        """The choice among all is worse than among fewer, although its score is higher."""
        return len(self.right) > 1 and self.right[-1] < max(self.right) - 1e-9 and self.score[-1] > self.score[0]


def gauge(solves: Sequence[Solve], correct: Any) -> Gauge | None:
    """Over problems with scored first-turn programs; `correct` returns whether (problem id, code) is right."""
    pools: dict[str, list[tuple[float, bool]]] = {}
    for solve in solves:
        if solve.settings["temperature"] == 0:
            continue
        drawn = [c for c in solve.candidates if c.turn == 1 and c.score is not None]
        pool = [(c.score.logit, correct(solve.problem_id, c.code)) for c in drawn if c.score is not None]
        if len(pool) > len(pools.get(solve.problem_id, ())):
            pools[solve.problem_id] = pool
    most = min(map(len, pools.values()), default=0)
    if most == 0:
        return None
    score, right = [], []
    for k in range(1, most + 1):
        promised = [_expected_best([x for x, _ in pool], k) for pool in pools.values()]
        kept = [best_of_k([(x,) for x, _ in pool], [y for _, y in pool], k) for pool in pools.values()]
        score.append(math.fsum(promised) / len(pools))
        right.append(math.fsum(kept) / len(pools))
    return Gauge(score=tuple(score), right=tuple(right))


def write_loop_report(directory: Path) -> Path:
    """Makes report.html of a training directory. Raises ProblemError if its training is not finished."""
    try:
        best = Best.model_validate_json((directory / "best.json").read_bytes())
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ProblemError(f"{directory} is no finished training ({error}); run `train loop` on it first") from None
    places = [directory / f"round-{pair.number + 1}" / "validation" for pair in best.pairs]
    results = [read_results(place) for place in places]
    gauges = [_gauge_of(place) for place in places]
    stages = {
        f"round-{number}/{name}": _stage(directory / f"round-{number}" / f"{name}.json")
        for number in range(1, len(places) + 1)
        for name in ("rollouts", "verifier", "rows", "generator")
    }
    page = directory / "report.html"
    write_whole(page, _html(best, config, results, gauges, stages))
    return page


# --- tables --------------------------------------------------------------------------------------------------------


def _accuracy(results: Sequence[Results]) -> Table:
    arms = [arm.arm for arm in results[0].arms]
    columns = ["generator"]
    for arm in arms:
        columns += [arm.name, "− base"]
    rows = []
    for number, found in enumerate(results):
        cells = [_generator(number)]
        for arm in arms:
            cells += [_estimate(_of(found, arm.name)), _against(results[0], found, arm.name) if number else ""]
        rows.append(tuple(cells))
    words = "; ".join(f"{a.name}: N={a.n}, T={a.max_turns}, temperature {a.temperature:g}" for a in arms)
    return Table(
        title="Accuracy on validation",
        note=f"Per cent of {results[0].finished} problems with 95 % intervals (Wilson). Differences from the base are "
        f"paired by problem, with the bootstrap's interval and McNemar's exact p. {words}.",
        columns=tuple(columns),
        rows=tuple(rows),
    )


def _verifiers(results: Sequence[Results], stages: dict[str, Any]) -> Table:
    rows = []
    for number, found in enumerate(results, start=1):
        quality = (stages.get(f"round-{number}/verifier") or {}).get("quality") or {}
        measured = found.verifier
        rows.append(
            (
                f"with {_generator(number - 1)}",
                _number(quality.get("pairwise_accuracy")),
                _number(quality.get("auc")),
                _number(quality.get("expected_error")),
                _number(measured.within.value if measured and measured.within else None),
                _number(measured.auc if measured else None),
                _number(measured.calibration.expected_error if measured and measured.calibration else None),
            )
        )
    return Table(
        title="Verifiers",
        note="Pairs: P(a right program scores above a wrong one of the same problem). Held out: training problems that "
        "it was calibrated on. Validation: first-turn programs of the generator beside it. 0.5 is chance.",
        columns=("", "pairs, held out", "AUC", "ECE", "pairs, validation", "AUC", "ECE"),
        rows=tuple(rows),
    )


def _data(stages: dict[str, Any], rounds: int) -> Table:
    rows = []
    for number in range(1, rounds + 1):
        drawn, rows_, made = (stages.get(f"round-{number}/{name}") or {} for name in ("rollouts", "rows", "generator"))
        if drawn:
            rows.append(
                (
                    f"round {number}",
                    f"{drawn['solved']} / {drawn['problems']}",
                    f"{100 * drawn['right'] / max(1, drawn['programs']):.1f}",
                    f"{drawn['distinct']:.2f}",
                    f"{drawn['distinct_first_turn']:.2f}",
                    str(rows_.get("rows", "")),
                    str(made.get("left_out", "")),
                    _number(made.get("loss")),
                )
            )
    return Table(
        title="Data and diversity",
        note="Rollouts on the training problems by the generator of the round before. Distinct: programs of a problem, "
        "by normal form; fewer with each round is a sign of collapse.",
        columns=("", "solved", "right, %", "distinct", "of turn 1", "rows", "too long", "loss"),
        rows=tuple(rows),
    )


def _over_optimisation(gauges: Sequence[Gauge | None]) -> Table:
    rows = []
    for number, found in enumerate(gauges):
        if found is not None:
            verdict = "worse with more choice" if found.over_optimised else "no sign of it"
            rows.append(
                (
                    _generator(number),
                    f"{found.score[0]:.2f} → {found.score[-1]:.2f}",
                    f"{100 * found.right[0]:.1f} → {100 * found.right[-1]:.1f}",
                    verdict,
                )
            )
    return Table(
        title="Over-optimisation",
        note="The verifier alone chooses among k first-turn programs, k from 1 to all: the mean logit of its choice "
        "against the share that is right.",
        columns=("", "chosen logit", "right, %", "verdict"),
        rows=tuple(rows),
    )


# --- figures -------------------------------------------------------------------------------------------------------


def _by_turn(results: Sequence[Results], name: str) -> str:
    figure, axes = new_axes("turn", f"accuracy of {name}, %")
    for number, found in enumerate(results):
        accuracy = next(arm.accuracy for arm in found.arms if arm.arm.name == name)
        places = [turn + 1 + 0.05 * number for turn in range(len(accuracy))]
        intervals(axes, places, accuracy, colour=_colour(number), marker="o", label=_generator(number))
    axes.xaxis.get_major_locator().set_params(integer=True)
    return as_svg(figure, axes)


def _by_n(results: Sequence[Results]) -> str | None:
    if any(found.best_of_k is None for found in results):
        return None
    styles: tuple[tuple[Rule, str], ...] = (("tests+verifier", "-"), ("verifier", ":"))
    if any(found.best_of_k and "tests+verifier" not in found.best_of_k.curves for found in results):
        styles = (("tests", "-"),)
    figure, axes = new_axes("N, independent first-turn programs", "accuracy of best of N, %")
    for number, found in enumerate(results):
        for rule, style in styles:
            curve = found.best_of_k.curves.get(rule) if found.best_of_k else None
            if curve is not None:
                label = f"{_generator(number)}, {rule}"
                axes.plot(range(1, len(curve) + 1), percent(curve), style, color=_colour(number), label=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return as_svg(figure, axes)


def _gauges(gauges: Sequence[Gauge | None]) -> str | None:
    if not any(gauges):
        return None
    figure, axes = new_axes("mean logit of the verifier's choice, k growing", "share right, %")
    for number, found in enumerate(gauges):
        if found is not None:
            right = [100 * value for value in found.right]
            axes.plot(found.score, right, "o-", color=_colour(number), markersize=4, label=_generator(number))
    return as_svg(figure, axes)


# --- their parts ---------------------------------------------------------------------------------------------------


def _html(
    best: Any,
    config: dict[str, Any],
    results: Sequence[Results],
    gauges: Sequence[Gauge | None],
    stages: dict[str, Any],
) -> str:
    import jinja2

    by_turn = "Accuracy when {} may use so many turns, with 95 % intervals."
    drawn = [(_by_turn(results, arm.arm.name), by_turn.format(arm.arm.name)) for arm in results[0].arms]
    more = (
        (
            _by_n(results),
            "Best of N independent programs: tests then verifier, if any (line), verifier alone (dots).",
        ),
        (_gauges(gauges), "What the verifier promises against what is right; each dot has one more program."),
    )
    drawn += [(svg, words) for svg, words in more if svg is not None]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(files("mucode_agent.training").joinpath("loop.html.jinja").read_text())
    return template.render(
        best=best,
        name=_generator(best.pair.number),
        accuracy=_estimate(best.accuracy),
        validation=results[0].identity.benchmark,
        tables=[
            _accuracy(results),
            _verifiers(results, stages),
            _data(stages, len(results)),
            _over_optimisation(gauges),
        ],
        figures=drawn,
        config=config,
        identity=json.dumps(config["identity"], indent=2, ensure_ascii=False),
        style=files("mucode_agent.evaluation").joinpath("report.css").read_text(),
    )


def _gauge_of(place: Path) -> Gauge | None:
    shards = [shard for _, shard in read_shards(place) if shard is not None]
    judged = judgements_of(shards)

    def correct(problem_id: str, code: str) -> bool:
        return bool(code) and (row := judged.get((problem_id, normal_form(code)))) is not None and row.correct

    return gauge([solve for shard in shards for solve in shard.solves], correct)


def _expected_best(scores: Sequence[float], k: int) -> float:
    """The mean over every k of the scores of their greatest: C(n−1−i, k−1)/C(n, k) of the i-th in falling order."""
    n, falling = len(scores), sorted(scores, reverse=True)
    return math.fsum(math.comb(n - 1 - i, k - 1) * score for i, score in enumerate(falling)) / math.comb(n, k)


def _stage(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_bytes())["facts"]
    except (OSError, ValueError, KeyError):
        return None
    return facts if isinstance(facts, dict) else None


def _of(results: Results, name: str) -> Estimate:
    return next(arm.accuracy[-1] for arm in results.arms if arm.arm.name == name)


def _against(base: Results, found: Results, name: str) -> str:
    ids = sorted(base.outcomes.keys() & found.outcomes.keys())
    if not ids:
        return ""
    difference = compare([base.outcomes[i][name] for i in ids], [found.outcomes[i][name] for i in ids])
    p = f", p {difference.p_value:.3f}" if difference.p_value is not None else ""
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]{p}"


def _generator(number: int) -> str:
    return f"generator {number}" if number else "base"


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _estimate(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
