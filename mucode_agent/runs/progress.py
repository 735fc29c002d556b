"""Progress of a run on standard error: a live line at a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from mucode_agent.metrics import wilson
from mucode_agent.types import Sample

BETWEEN_LINES_S = 15.0


class Tally:
    """The progress of a run of `total` problems. A `ProgressListener`; calls `show` after every change."""

    def __init__(
        self, total: int, show: Callable[["Tally"], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.done, self.tokens, self.note = total, 0, 0, ""
        self._right, self._known = 0.0, 0
        self._arm = ""
        self._drawn_problems = 0
        self._drew = False
        self._show, self._clock, self._started = show, clock, clock()

    def drawn(self, samples: Sequence[Sample]) -> None:
        self.tokens += sum(sample.completion_tokens for sample in samples)
        self.note, self._drew = "", True
        self._show(self)

    def finished(self, problem_id: str, outcomes: dict[str, float]) -> None:
        del problem_id
        self.done += 1
        self._drawn_problems += self._drew  # problems of an earlier start took no time in this one
        if outcomes:
            self._arm = "turns" if "turns" in outcomes else next(iter(outcomes))
            self._right, self._known = self._right + outcomes[self._arm], self._known + 1
        self.note = ""
        self._show(self)

    def waiting(self, cause: str, seconds: float) -> None:
        self.note = f"waiting {seconds:.2g} s: {cause}"
        self._show(self)

    def __str__(self) -> str:
        elapsed = self._clock() - self._started
        parts = [f"{self.done}/{self.total}"]
        if self._known:
            share = wilson(self._right / self._known, self._known)
            parts.append(f"{self._arm} {100 * share.value:.1f} % [{100 * share.low:.1f}, {100 * share.high:.1f}]")
        if self.tokens and elapsed > 0:
            parts.append(f"{self.tokens / elapsed:.0f} tokens/s")
        if self._drawn_problems and self.done < self.total:
            parts.append(f"{duration(elapsed / self._drawn_problems * (self.total - self.done))} left")
        parts.append(duration(elapsed))
        return " · ".join([*parts, *([self.note] if self.note else [])])


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def watching(total: int, console: Console) -> Iterator[Tally]:
    """A tally that shows itself on `console`."""
    if not console.is_terminal:
        with _lines(total, console) as tally:
            yield tally
        return
    columns = (
        SpinnerColumn(),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[words]}", markup=False),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total, words="")

        def show(tally: Tally) -> None:
            progress.update(task, completed=tally.done, words=str(tally).partition(" · ")[2])

        yield Tally(total, show)


@contextmanager
def _lines(total: int, console: Console) -> Iterator[Tally]:
    last = time.monotonic()
    noted = ""

    def show(tally: Tally) -> None:
        nonlocal last, noted
        due = time.monotonic() - last >= BETWEEN_LINES_S
        if due or tally.done == tally.total or (tally.note and tally.note != noted):
            console.print(str(tally), markup=False, highlight=False, soft_wrap=True)
            last = time.monotonic()
        noted = tally.note

    yield Tally(total, show)
