"""The figures of a run as plain tables, built once and rendered for a terminal, for Markdown and for HTML."""

from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table as RichTable
from rich.text import Text

from mucode_agent.evaluation.results import ArmResults, Comparison, Results, Rule
from mucode_agent.metrics import Difference, Estimate
from mucode_agent.types import Record

RULE_WORDS: dict[Rule, str] = {
    "random": "random",
    "tests": "public tests",
    "verifier": "verifier",
    "tests+verifier": "public tests, then verifier",
    "oracle": "oracle (bound)",
}


class Table(Record):
    """Cells as text. The first column names the row."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(results: Results) -> list[Table]:
    """Every table of a run, in reading order. Accuracies are percentages with 95 % intervals."""
    found = [_accuracy(results), _turn_rules(results), _best_of_k(results), _comparisons(results.comparisons)]
    found += [_verifier(results), _cost(results)]
    return [table for table in found if table is not None]


def comparison_table(comparisons: Sequence[Comparison], a: str, b: str) -> Table:
    """The table of two runs, named `a` and `b`."""
    return Table(
        title="Two runs",
        note=f"A is {a}. B is {b}. {_COMPARED}",
        columns=("figure", "A", "B", "B − A", "only A : only B", "McNemar p", "verdict"),
        rows=tuple((item.name, *_difference(item.difference)) for item in comparisons),
    )


def for_terminal(table: Table) -> Group:
    made = RichTable(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(table.columns):
        is_words = number == 0 or all(row[number][:1].isalpha() for row in table.rows)
        made.add_column(column, justify="left" if is_words else "right", overflow="fold")
    for row in table.rows:
        made.add_row(*map(escape, row))
    return Group(Text(table.title, "bold"), *((made,) if table.rows else ()), Text(table.note, "dim"))


def for_markdown(table: Table) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    rule = "|" + "---|" * len(table.columns)
    return "\n".join([f"**{table.title}**", "", line(table.columns), rule, *map(line, table.rows), "", table.note])


# --- cells ---------------------------------------------------------------------------------------------------------


def percent(estimate: Estimate | None) -> str:
    """`61.6 [54.0, 68.7]`."""
    if estimate is None:
        return "–"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def _difference(difference: Difference) -> tuple[str, ...]:
    d = difference
    return (
        percent(d.a),
        percent(d.b),
        f"{100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]",
        f"{d.only_a:.4g} : {d.only_b:.4g}",
        "–" if d.p_value is None else f"{d.p_value:.3g}",
        d.verdict,
    )


def arm_words(results: ArmResults) -> str:
    arm = results.arm
    if arm.name == "greedy":
        return "greedy, N=1"
    if arm.name == "independent":
        return f"independent, {arm.n} samples"
    return f"turns, N={arm.n}"


# --- tables --------------------------------------------------------------------------------------------------------

_COMPARED = (
    "Differences are in points, with paired bootstrap intervals over problems. A difference is shown when its interval "
    "excludes zero and, where every answer is right or wrong, McNemar's exact p is below 0.05. The p-values "
    "are not corrected for multiple comparisons."
)


def _accuracy(results: Results) -> Table:
    turns = max(len(arm.accuracy) for arm in results.arms)
    unjudged, share = len(results.unjudged), results.finished / (results.finished + len(results.unjudged))
    left_out = (
        f" {unjudged} more problems are in no figure, since their tests could not judge an answer: were all of those "
        f"wrong, an accuracy would be {share:.1%} of the one shown."
    )
    return Table(
        title="Accuracy by turn",
        note=(
            f"Share of {results.finished} problems whose answer passes all public and private tests, in %, with Wilson "
            f"intervals. Selector: {results.identity.arms[0].selector}. For independent samples, a turn is a group of "
            f"N without feedback. Every search stops at its first accepted answer.{left_out if unjudged else ''}"
        ),
        columns=("search", *(f"turn {turn + 1}" for turn in range(turns)), "accepted", "accepted and right"),
        rows=tuple(
            (
                arm_words(arm),
                *(percent(estimate) for estimate in arm.accuracy),
                *[""] * (turns - len(arm.accuracy)),
                percent(arm.accepted),
                percent(arm.accepted_right),
            )
            for arm in results.arms
        ),
    )


def _turn_rules(results: Results) -> Table | None:
    arm = next((arm for arm in results.arms if arm.arm.name == "turns"), None)
    if arm is None:
        return None
    return Table(
        title="Which candidate is the answer (N candidates per turn, with feedback)",
        note=(
            f"Each rule chooses the answer among all candidates drawn up to a turn; ties are averaged exactly. The "
            f"candidates come from the search with {arm.arm.selector}; another selector would have drawn others. "
            "Majority votes among candidates without public tests count in the searches above, not in these rules."
        ),
        columns=("rule", *(f"turn {turn + 1}" for turn in range(len(arm.accuracy)))),
        rows=tuple((RULE_WORDS[rule], *map(percent, estimates)) for rule, estimates in arm.rules.items()),
    )


def _best_of_k(results: Results) -> Table | None:
    best = results.best_of_k
    if best is None:
        return None
    ks = shown_ks(best.samples)
    return Table(
        title="Best of k independent samples",
        note=(
            f"Unbiased estimates from {best.samples} first-turn samples per problem; the oracle row is pass@k. "
            "Intervals are over problems."
        ),
        columns=("rule", *(f"k={k}" for k in ks)),
        rows=tuple((RULE_WORDS[rule], *(percent(curve[k - 1]) for k in ks)) for rule, curve in best.curves.items()),
    )


def shown_ks(samples: int) -> list[int]:
    """At most six columns: 1, powers of two, the paper's 5, and the last."""
    return [*[k for k in (1, 2, 5, 10, 20, 50, 100) if k < samples][:5], samples]


def _comparisons(comparisons: Sequence[Comparison]) -> Table | None:
    if not comparisons:
        return None
    return Table(
        title="What helps",
        note=_COMPARED,
        columns=("question", "from", "to", "gain", "only from : only to", "McNemar p", "verdict"),
        rows=tuple(_gain(item) for item in comparisons),
    )


def _gain(item: Comparison) -> tuple[str, ...]:
    a, b, *figures, verdict = _difference(item.difference)
    words = {"A is better": "worse", "B is better": "better"}.get(verdict, verdict)
    return (item.name, f"{item.a}: {a}", f"{item.b}: {b}", *figures, words)


def _verifier(results: Results) -> Table | None:
    quality = results.verifier
    if quality is None:
        return None
    calibrated = quality.calibration
    return Table(
        title="The verifier",
        note=(
            f"{results.identity.verifier}, on {quality.candidates} independent first-turn candidates of "
            f"{quality.problems} problems. Within a problem: P(a right program scores above a wrong one), mean over "
            "the problems that have both."
        ),
        columns=("figure", "value"),
        rows=(
            ("AUC, all candidates", "–" if quality.auc is None else f"{quality.auc:.3f}"),
            ("pairs within a problem, %", percent(quality.within)),
            ("problems with both kinds", str(quality.within.n if quality.within else 0)),
            ("Brier score", f"{calibrated.brier:.3f}" if calibrated else "not calibrated"),
            ("expected calibration error", f"{calibrated.expected_error:.3f}" if calibrated else "not calibrated"),
        ),
    )


def _cost(results: Results) -> Table:
    return Table(
        title="What it cost",
        note=(
            "Per problem. Candidates are those of a search that stops when it accepts; tokens and programs include all "
            "that was drawn for the figures."
        ),
        columns=(
            "search",
            "candidates",
            "to acceptance",
            "prompt tokens",
            "completion tokens",
            "programs run",
            "stopped",
        ),
        rows=tuple(
            (
                arm_words(arm),
                f"{arm.candidates[-1]:.2f}",
                "–" if arm.candidates_to_acceptance is None else f"{arm.candidates_to_acceptance:.2f}",
                f"{arm.prompt_tokens / results.finished:.0f}",
                f"{arm.completion_tokens / results.finished:.0f}",
                f"{arm.executions / results.finished:.2f}",
                ", ".join(f"{reason} {count}" for reason, count in arm.stop_reasons.items()),
            )
            for arm in results.arms
        ),
    )
