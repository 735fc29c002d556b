"""A generator with a journal: every completion is on disk before the solver sees it, and none is drawn twice."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

from mucode_agent.calls import Call
from mucode_agent.files import Journal, digest
from mucode_agent.models.base import AnswersOnce
from mucode_agent.models.logprobs import LogProbs
from mucode_agent.models.sampling import asample, sample
from mucode_agent.runs.directory import DrawnRow
from mucode_agent.types import InfrastructureError, Sample, Sampling


class Draws:
    """The completions of one problem: those in its journal, and new ones."""

    def __init__(self, journal: Journal[DrawnRow]) -> None:
        self._journal = journal
        self.samples: dict[tuple[str, int], Sample] = {}
        """Completions by state and seed."""
        for row in journal.rows:
            self._remember(row)

    def record(self, row: DrawnRow) -> None:
        self._journal.append([row])
        self._remember(row)

    def _remember(self, row: DrawnRow) -> None:
        for drawn in row.samples:
            self.samples.setdefault((row.state, drawn.seed), drawn)


class RecordedModel(AnswersOnce):
    """Takes completions from the problem's journal, and draws the others from the inner model.

    A draw is identified by messages, sampling settings and seed. So a solve repeated after a kill gets the same
    completions, and a search with more samples per state draws only the new ones.
    """

    model: str
    """The inner model's name, as traces record it."""
    native_n: bool
    """Whether the inner model draws n in one request, recorded as a whole; else each draw is recorded separately."""
    remembers: bool = True
    """A draw that failed in part is requested again as a whole; the samples it had drawn come from the journal."""
    _inner: Any = PrivateAttr()
    _draws: Callable[[], Draws] = PrivateAttr()
    _watch: Callable[[Sequence[Sample]], None] = PrivateAttr()

    def __init__(
        self,
        name: str,
        inner: Any,
        draws: Callable[[], Draws],
        watch: Callable[[Sequence[Sample]], None] = lambda _: None,
    ) -> None:
        """`draws` returns the current problem's draws; `watch` is called for every new draw."""
        super().__init__(model=name, native_n=bool(getattr(inner, "native_n", False)))  # type: ignore[call-arg]
        self._inner, self._draws, self._watch = inner, draws, watch

    @property
    def _llm_type(self) -> str:
        return "recorded"

    async def _answer(self, messages: list[BaseMessage], stop: list[str] | None = None, **options: Any) -> ChatResult:
        del stop
        draw = _Draw(messages, options)
        for first, n in draw.missing(self._draws().samples):
            started = time.monotonic()
            with self._kept(draw, started):
                drawn = await Call(sample, asample, self._inner, messages, n=n, seed=first, **draw.settings)
                self._record(draw, drawn, started)
        return draw.result(self._draws().samples)

    @contextlib.contextmanager
    def _kept(self, draw: "_Draw", started: float) -> Iterator[None]:
        """Journals the samples of a draw that failed. The turn still fails; the retry completes it."""
        try:
            yield
        except InfrastructureError as error:
            if error.samples:
                self._record(draw, error.samples, started)
                error.samples = ()
            raise

    def _record(self, draw: "_Draw", samples: Sequence[Sample], started: float) -> None:
        row = DrawnRow(state=draw.state, samples=tuple(samples), seconds=time.monotonic() - started)
        self._draws().record(row)
        self._watch(samples)


class _Draw:
    """One request: n samples of a state, with consecutive seeds from `seed`."""

    def __init__(self, messages: Sequence[BaseMessage], options: dict[str, Any]) -> None:
        self.settings = {name: options[name] for name in Sampling.model_fields if name in options}
        self.state = digest({"messages": [[m.type, m.content] for m in messages], **self.settings})
        self.seeds = range(options.get("seed", 0), options.get("seed", 0) + options.get("n", 1))

    def missing(self, drawn: dict[tuple[str, int], Sample]) -> Iterator[tuple[int, int]]:
        """Ranges of seeds without a sample, as (first, count): usually one, and none on a resume."""
        first = None
        for seed in (*self.seeds, None):
            if seed is not None and (self.state, seed) not in drawn:
                first = seed if first is None else first
            elif first is not None:
                yield first, (self.seeds.stop if seed is None else seed) - first
                first = None

    def result(self, drawn: dict[tuple[str, int], Sample]) -> ChatResult:
        return ChatResult(generations=[_generation(drawn[self.state, seed]) for seed in self.seeds])


def _generation(sample: Sample) -> ChatGeneration:
    usage = {"input_tokens": sample.prompt_tokens, "output_tokens": sample.completion_tokens}
    known = LogProbs(sample.logprob, sample.completion_tokens, sample.code_logprob, sample.code_tokens)
    message = AIMessage(
        sample.text,
        usage_metadata={**usage, "total_tokens": sample.prompt_tokens + sample.completion_tokens},
        response_metadata={"finish_reason": sample.finish_reason, "mucode_logprobs": known},
    )
    return ChatGeneration(message=message)
