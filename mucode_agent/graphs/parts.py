"""A solver's model, sandbox and verifier: loaded at first use, closed at its end."""

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langgraph.graph import StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.typing import ContextT, InputT, OutputT, StateT

from mucode_agent.models.identity import model_name
from mucode_agent.tools.sandbox import SANDBOXES, Programs, SharedSandbox, load_sandbox
from mucode_agent.types import LoadedVerifier, ProblemError, Sandbox, Verifier
from mucode_agent.verifiers import load_verifier

Generator = BaseChatModel | Runnable[LanguageModelInput, AIMessage]


class Parts:
    """A solver's model, sandbox and verifier. Objects that were passed in are not closed here."""

    def __init__(
        self,
        model: str | Generator,
        sandbox: str | Sandbox,
        verifier: str | Verifier,
        load: Callable[[str], Generator],
    ) -> None:
        """Raises ProblemError for a part of the wrong kind, which would otherwise fail in the middle of a solve."""
        if not isinstance(model, str | Runnable):
            raise ProblemError(
                f"model must be a model string, a chat model or a runnable, got {kind(model)}; "
                "wrap a function in RunnableLambda"
            )
        if not isinstance(sandbox, str) and not callable(getattr(sandbox, "submit", None)):
            names = ", ".join(map(repr, SANDBOXES))
            raise ProblemError(f"sandbox must be {names} or an object with submit, got {kind(sandbox)}")
        if not isinstance(verifier, str) and not callable(getattr(verifier, "score", None)):
            raise ProblemError(
                f"verifier must be a string or have a method score, got {kind(verifier)}; give 'none' to score nothing"
            )
        self.model_spec, self._load = model, load
        self._own_verifier: LoadedVerifier | None = None
        if isinstance(verifier, str):
            verifier = self._own_verifier = load_verifier(verifier)
        self.verifier = verifier
        self._sandbox_spec = sandbox
        self._model: Generator | None = None
        self._sandbox: Sandbox | None = None
        self._closed = False
        self._lock = threading.RLock()  # `close` may be called by a signal handler

    @property
    def model_name(self) -> str:
        return self.model_spec if isinstance(self.model_spec, str) else model_name(self.model_spec)

    def model(self) -> Generator:
        with self._lock:
            self._check_open()
            if self._model is None:
                self._model = self._load(self.model_spec) if isinstance(self.model_spec, str) else self.model_spec
            return self._model

    def sandbox(self) -> Sandbox:
        with self._lock:
            self._check_open()
            if self._sandbox is None:
                self._sandbox = self._own_sandbox()
            return self._sandbox

    def started_sandbox(self) -> Sandbox:
        """Starts it now; otherwise its first job would, and block the event loop."""
        sandbox = self.sandbox()
        _ = sandbox.isolation
        return sandbox

    def close(self) -> None:
        """Closes what was loaded here: cancels running programs, and ends a sandbox that no other solver uses."""
        with self._lock:
            self._closed = True
            sandbox, self._sandbox, self._model = self._sandbox, None, None
        if sandbox is not None and sandbox is not self._sandbox_spec:
            sandbox.close()
        if self._own_verifier is not None:
            self._own_verifier.close()

    def end_with(self, graph: StateGraph[Any, Any, Any, Any]) -> None:
        """Closes when the graph is garbage-collected; everything compiled from it refers to it.

        It does not watch these parts themselves: LangChain caches the nodes' functions, which keep them alive.
        """
        weakref.finalize(graph, self._close_later).atexit = False

    def _close_later(self) -> None:
        """The garbage collector's thread must not wait for processes to end."""
        threading.Thread(target=self.close, name="mucode-solver-end", daemon=True).start()

    def _own_sandbox(self) -> Sandbox:
        if not isinstance(self._sandbox_spec, str):
            return self._sandbox_spec
        if self._sandbox_spec == "local":
            return SharedSandbox()
        return load_sandbox(self._sandbox_spec)

    def _check_open(self) -> None:
        if self._closed:
            raise ProblemError("the solver is closed: create a new one")


class OwningGraph(CompiledStateGraph[StateT, ContextT, InputT, OutputT]):
    """A compiled graph that owns its parts: `close()` it, or use it in `with`. Garbage collection closes it too."""

    def __init__(self, *, parts: Parts, **graph: Any) -> None:
        super().__init__(**graph)
        self.parts = parts

    @classmethod
    def of(cls, compiled: CompiledStateGraph[StateT, ContextT, InputT, OutputT], parts: Parts) -> Self:
        owning = cls.__new__(cls)
        owning.__dict__.update(compiled.__dict__)
        owning.parts = parts
        return owning

    if not TYPE_CHECKING:  # the signatures are LangGraph's

        def stream(self, *args, **options):
            """LangGraph's `stream`; any exception that leaves the iteration ends its programs."""
            streamed = super().stream(*args, **options)
            modes = options.get("stream_mode") or self.stream_mode
            modes = {modes} if isinstance(modes, str) else set(modes)
            in_this_thread = not options.get("subgraphs") and modes.isdisjoint(_IN_OTHER_THREADS)
            return streamed if in_this_thread else _stepped(streamed)

        def batch(self, *args, **options):
            """LangChain's `batch`; any exception in the calling thread, such as a signal's, ends its programs."""
            batch = super().batch
            return next(_stepped(batch(*args, **options) for _ in range(1)))

        def batch_as_completed(self, *args, **options):
            """LangChain's method; any exception that leaves the iteration ends its programs."""
            return _stepped(super().batch_as_completed(*args, **options))

    def close(self) -> None:
        """Ends its sandbox's programs and processes, except those that other solvers share. May be called twice."""
        self.parts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


_IN_OTHER_THREADS = {"custom", "messages"}
"""The stream modes (and subgraphs) for which LangGraph runs a node outside the calling thread."""


def _stepped(items: Any) -> Iterator[Any]:
    """The items, each made in another thread. So an exception in the calling thread ends the programs before LangGraph
    waits for its own threads, which wait for the programs.
    """
    programs, context = Programs(), copy_context()
    context.run(Programs.current.set, programs)
    end = object()
    with ThreadPoolExecutor(1, "mucode-stream") as thread:
        try:
            while (item := thread.submit(lambda: context.run(next, items, end)).result()) is not end:
                yield item
        finally:
            programs.kill()
            thread.submit(context.run, items.close).result()


def kind(value: object) -> str:
    """What an object is, for a message."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
