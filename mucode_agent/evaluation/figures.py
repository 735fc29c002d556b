"""The figures of a run as SVG text, the same bytes for the same results (paper, figures 2 to 4)."""

import io
from collections.abc import Sequence
from typing import Any

from mucode_agent.evaluation.results import Results, Rule
from mucode_agent.evaluation.tables import RULE_WORDS, arm_words
from mucode_agent.metrics import Calibration, Estimate

_INK, _GRID = "#1f2933", "#e4e7eb"
_ARM_STYLE = {"greedy": ("#7b8794", "s"), "turns": ("#0b69a3", "o"), "independent": ("#cb6e17", "^")}
_RULE_STYLE: dict[Rule, tuple[str, str]] = {
    "oracle": ("#7b8794", "--"),
    "tests+verifier": ("#0b69a3", "-"),
    "tests": ("#2d9d78", "-"),
    "verifier": ("#8719e0", "-."),
    "random": ("#cb6e17", ":"),
}


def figures(results: Results) -> dict[str, str]:
    """SVG by name: `turns`, and if the run has them `best-of-k` and `calibration`."""
    made = {"turns": _by_turn(results)}
    if results.best_of_k and results.best_of_k.samples > 1:
        made["best-of-k"] = _best_of_k(results)
    if results.verifier and results.verifier.calibration:
        made["calibration"] = _calibration(results.verifier.calibration)
    return made


def _by_turn(results: Results) -> str:
    figure, axes = new_axes("turn (of independent samples: wave of N)", "accuracy, %")
    for offset, arm in enumerate(results.arms):
        colour, marker = _ARM_STYLE[arm.arm.name]
        places = [turn + 1 + 0.06 * (offset - 1) for turn in range(len(arm.accuracy))]
        intervals(axes, places, arm.accuracy, colour=colour, marker=marker, label=arm_words(arm))
    axes.set_xticks(range(1, max(len(arm.accuracy) for arm in results.arms) + 1))
    return as_svg(figure, axes)


def _best_of_k(results: Results) -> str:
    if results.best_of_k is None:
        raise ValueError("there are no independent samples to draw")
    figure, axes = new_axes("k, independent samples", "accuracy of best of k, %")
    for rule in _RULE_STYLE:
        if (curve := results.best_of_k.curves.get(rule)) is None:
            continue
        colour, style = _RULE_STYLE[rule]
        places = list(range(1, len(curve) + 1))
        axes.plot(places, percent(curve), style, color=colour, label=RULE_WORDS[rule], linewidth=1.8)
        low, high = [100 * estimate.low for estimate in curve], [100 * estimate.high for estimate in curve]
        axes.fill_between(places, low, high, color=colour, alpha=0.08, linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    return as_svg(figure, axes)


def _calibration(calibration: Calibration) -> str:
    figure, axes = new_axes("predicted P(correct)", "share that is correct")
    axes.plot([0, 1], [0, 1], "--", color="#7b8794", linewidth=1, label="honest")
    most = max(bar.count for bar in calibration.bins)
    axes.plot([b.predicted for b in calibration.bins], [b.observed for b in calibration.bins], "-", color="#0b69a3")
    axes.scatter(
        [bar.predicted for bar in calibration.bins],
        [bar.observed for bar in calibration.bins],
        s=[20 + 60 * bar.count / most for bar in calibration.bins],
        color="#0b69a3",
        label="candidates, by tenth",
        zorder=3,
    )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    return as_svg(figure, axes)


def intervals(
    axes: Any, places: Sequence[float], estimates: Sequence[Estimate], *, colour: str, marker: str, label: str
) -> None:
    values = percent(estimates)
    below = [value - 100 * estimate.low for value, estimate in zip(values, estimates, strict=True)]
    above = [100 * estimate.high - value for value, estimate in zip(values, estimates, strict=True)]
    axes.errorbar(
        places, values, yerr=[below, above], color=colour, marker=marker, capsize=3, elinewidth=1, label=label
    )


def percent(estimates: Sequence[Estimate]) -> list[float]:
    return [100 * estimate.value for estimate in estimates]


def new_axes(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.6), layout="constrained")  # no pyplot: it keeps figures and chooses a screen
    axes = figure.add_subplot()
    axes.set_xlabel(x, color=_INK)
    axes.set_ylabel(y, color=_INK)
    axes.grid(visible=True, color=_GRID, linewidth=0.8)
    axes.tick_params(colors=_INK, length=0)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    return figure, axes


def as_svg(figure: Any, axes: Any) -> str:
    import matplotlib

    # Above the axes it hides nothing. Matplotlib's search for the best place warns on a slow machine.
    above = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 3}
    axes.legend(frameon=False, fontsize=9, labelcolor=_INK, **above)
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "mucode", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]
