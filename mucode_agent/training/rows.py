"""From run directories to a generator's training rows: the only step between traces and fine-tuning."""

from collections.abc import Sequence

from mucode_agent.training.calibrate import scored
from mucode_agent.training.data import ProblemAttempts
from mucode_agent.training.expert import Logits, solved
from mucode_agent.training.relabel import Row, relabelled
from mucode_agent.training.settings import ExpertSettings, RelabelSettings
from mucode_agent.types import ProblemError, Record, Verifier
from mucode_agent.verifiers import NoVerifier


class RowSet(Record):
    """The rows, and counts of what they were made from."""

    rows: tuple[Row, ...]
    problems: int
    """Problems with at least one labelled program."""
    solved: int
    """Problems with a right one."""
    programs: int
    """Programs, distinct by normal form."""
    states: int
    """Visited states, over all trajectories."""

    @property
    def right(self) -> int:
        """Rows with an answer that passes all tests."""
        return sum(row.correct for row in self.rows)


def make_rows(
    data: Sequence[ProblemAttempts],
    relabel: RelabelSettings,
    expert: ExpertSettings,
    verifier: Verifier | None = None,
) -> RowSet:
    """Scores every distinct program once, if the method needs scores, and relabels.

    Raises ProblemError if it needs scores and there is no verifier, or if the data give no row.
    """
    logits: Logits = {}
    if relabel.needs_verifier(expert):
        if verifier is None or isinstance(verifier, NoVerifier):
            raise ProblemError(
                f"relabelling by {relabel.method!r} with the expert {expert.mode!r} needs a verifier's scores; "
                "give one that `train verifier` wrote, or the expert oracle"
            )
        logits = logits_of([entry for entry in data if _scored(entry, relabel, expert)], verifier)
    return RowSet(
        rows=tuple(relabelled(data, logits, relabel, expert)),
        problems=sum(bool(entry.attempts) for entry in data),
        solved=solved(data),
        programs=sum(len(entry.distinct()) for entry in data),
        states=sum(len(trajectory.states) for entry in data for trajectory in entry.trajectories),
    )


def _scored(entry: ProblemAttempts, relabel: RelabelSettings, expert: ExpertSettings) -> bool:
    """Whether the scores of its programs matter: not if an unsolved problem is left out anyway."""
    left_out = relabel.method == "mucode" and expert.leaves_out_unsolved
    return not left_out or any(attempt.correct for attempt in entry.attempts)


def logits_of(data: Sequence[ProblemAttempts], verifier: Verifier) -> dict[tuple[str, str], float]:
    """R_φ of every distinct program, by problem id and normal form."""
    found = scored(verifier, data)
    return {
        (entry.problem.id, attempt.form): logit
        for entry, pairs in zip(data, found, strict=True)
        for attempt, logit in pairs
    }
