"""Draws n completions of one prompt from any chat model, in the cheapest way that the model supports.

A model with a true attribute `native_n` (ours, vLLM's) and OpenAI's own draw all n in one request that reads the prompt
once. Every other model gets n concurrent requests, up to the config's `max_concurrency`. An option that a server
refuses is left out, and remembered. LangChain's cache is not used, since it would always return the same completion.
"""

import asyncio
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, Unpack

from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, LLMResult
from langchain_core.runnables import Runnable, RunnableBinding, RunnableConfig, ensure_config
from langchain_core.runnables.config import get_config_list, get_executor_for_config, merge_configs
from langchain_core.runnables.configurable import DynamicRunnable
from langchain_core.tools import BaseTool
from langgraph.constants import TAG_NOSTREAM
from langgraph.errors import GraphBubbleUp

from mucode_agent.calls import Call, Steps, all_done, in_loop, in_thread, sleep
from mucode_agent.models.logprobs import logprobs_of
from mucode_agent.models.refusals import REFUSALS, Refusal, overflows, pause_s, read_refusal
from mucode_agent.models.usage import NamesModel, heard_first, usage_parts
from mucode_agent.types import (
    ContextOverflowError,
    InfrastructureError,
    MucodeError,
    ProblemError,
    Sample,
    Sampling,
    SamplingOptions,
)

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
_PAUSES = 5
"""How often one draw waits for a busy server."""
_refused: set[tuple[tuple[str, str], str]] = set()
"""The options refused so far in this process, each with the model and its server; see `refusals`."""


def forget_refusals() -> None:
    """Forgets the options that servers refused, for example after a server was upgraded."""
    _refused.clear()


def sample(
    model: Runnable[LanguageModelInput, AIMessage],
    messages: Sequence[BaseMessage],
    *,
    n: int,
    seed: int,
    config: RunnableConfig | None = None,
    **options: Unpack[SamplingOptions],
) -> list[Sample]:
    """Exactly n completions of the messages.

    Args:
        model: A chat model, also a bound or configurable one, or any runnable from messages to an AIMessage. A runnable
            gets only the messages, no seed and none of `options`.
        messages: The prompt.
        n: Number of completions, at least 1.
        seed: Sample i has `seed + i`. In process and on vLLM the same seed draws the same text. Elsewhere this is not
            guaranteed, and on OpenAI one seed serves all n.
        config: Callbacks, tags and `max_concurrency`; inside a LangGraph node, None means the node's config.
        options: The fields of `Sampling`: temperature, top_p, max_tokens. None leaves the model's own value.

    Raises:
        InfrastructureError: The model or its server failed; `samples` holds what was drawn before.
        ContextOverflowError: The prompt and its answer do not fit the model's context.
        ProblemError: n is below 1, or the answer is no AIMessage.
    """
    return in_thread(_Draw(model, messages, n, seed, options, config).samples())


async def asample(
    model: Runnable[LanguageModelInput, AIMessage],
    messages: Sequence[BaseMessage],
    *,
    n: int,
    seed: int,
    config: RunnableConfig | None = None,
    **options: Unpack[SamplingOptions],
) -> list[Sample]:
    """`sample`, for an event loop. Cancelling it cancels the requests, or stops the model in this process."""
    return await in_loop(_Draw(model, messages, n, seed, options, config).samples())


async def ask(
    model: Runnable[LanguageModelInput, AIMessage],
    messages: Sequence[BaseMessage],
    *,
    tools: Sequence[BaseTool],
    seed: int,
    config: RunnableConfig | None = None,
    **options: Unpack[SamplingOptions],
) -> tuple[Sample, AIMessage]:
    """One completion by a model that may call the tools, with the message that has its calls; otherwise like `sample`.

    A coroutine of `calls`. Raises ProblemError if the model does not support tools.
    """
    draw = _Draw(model, messages, 1, seed, options, config, tools)
    [one] = await draw.samples()
    return one, draw.got[0]


def side_by_side(one: Callable[[int], Steps[T]], numbers: Sequence[int], config: RunnableConfig) -> Call[list[T]]:
    """`one` of every number, up to the config's `max_concurrency` at once.

    If one raises, threads wait for those in flight, and an event loop cancels them.
    """

    def block() -> list[T]:
        if len(numbers) == 1:
            return [in_thread(one(numbers[0]))]
        with get_executor_for_config(config) as executor:
            return list(executor.map(lambda number: in_thread(one(number)), numbers))

    async def wait() -> list[T]:
        gate = asyncio.Semaphore(config.get("max_concurrency") or len(numbers))

        async def gated(number: int) -> T:
            async with gate:
                return await in_loop(one(number))

        return await all_done([gated(number) for number in numbers])

    return Call(block, wait)


class _Draw:
    """One call of `sample`: the requests to the model, what it refused so far, and its answers."""

    def __init__(
        self,
        model: Runnable[LanguageModelInput, AIMessage],
        messages: Sequence[BaseMessage],
        n: int,
        seed: int,
        settings: Mapping[str, Any],
        config: RunnableConfig | None,
        tools: Sequence[BaseTool] = (),
    ) -> None:
        if n < 1:
            raise ProblemError(f"n must be at least 1, got {n}")
        self.n, self.seed, self.messages = n, seed, list(messages)
        self.got: dict[int, AIMessage] = {}
        """The answers so far, by their number; a failure never loses one."""
        self.model, bound, self.config = _unwrapped(model, ensure_config(config))
        if tools:
            self.model, given, self.config = _unwrapped(_with_tools(self.model, tools), self.config)
            bound |= given
        # Tokens of internal candidates must not flood the message stream of a host graph.
        self.config = merge_configs(self.config, {"tags": [TAG_NOSTREAM]})
        self.name = _name(self.model)
        self.is_chat = isinstance(self.model, BaseChatModel)
        # Any other runnable would hand options to its first step, which may not know them.
        asked = settings if self.is_chat else {}
        self.options = {**bound, **{key: value for key, value in asked.items() if value is not None}}
        self.options.pop("n", None)
        self.is_native = _has_native_n(self.model)
        if self.is_chat and (getattr(self.model, "cache", None) or get_llm_cache() is not None):
            self.model = self.model.model_copy(update={"cache": False})
        url = getattr(self.model, "openai_api_base", None) or getattr(self.model, "base_url", "")
        self._server = self.name, str(url)
        self.refused = {option for server, option in _refused if server == self._server}
        self._pauses = 0

    async def samples(self) -> list[Sample]:
        while missing := [i for i in range(self.n) if i not in self.got]:
            if failure := await (self._at_once() if self._asks_at_once() else self._each(missing)):
                await sleep(self.give_way(failure))
        return self._drawn()

    def _asks_at_once(self) -> bool:
        return self.is_native and "n" not in self.refused

    # --- two ways of asking; each returns the failure that ended it, if any

    async def _at_once(self) -> Exception | None:
        """All n in one request."""
        # `generate` sees no config: without these, callbacks and tags stay outside. A streaming handler of the host
        # would turn n into one stream, hence `stream`.
        context = {name: self.config.get(name) for name in ("tags", "metadata", "run_name", "run_id")}
        callbacks = heard_first(NamesModel(), self.config.get("callbacks"))
        model, options = self._fitted()
        seed = {} if "seed" in self.refused else {"seed": self.seed}
        arguments = {**options, **context, "callbacks": callbacks, "n": self.n, "stream": False, **seed}
        try:
            self._take(await Call(model.generate, model.agenerate, [self.messages], **arguments))
        except GraphBubbleUp:
            raise
        except Exception as error:  # noqa: BLE001 - every provider has its own classes; each is raised as ours
            return error
        return None

    def _take(self, result: LLMResult) -> None:
        """Keeps the answers of one request. A server that returns fewer ignores n: the rest is requested singly."""
        choices = [choice for choice in result.generations[0] if isinstance(choice, ChatGeneration)][: self.n]
        messages = [choice.message for choice in choices]
        if self.n > 1 and not getattr(self.model, "native_n", False):
            total = (result.llm_output or {}).get("token_usage") or {}
            for message, part in zip(messages, usage_parts([str(m.text) for m in messages], total), strict=True):
                message.response_metadata["mucode_usage"] = part
        for i, message in enumerate(messages):
            self._keep(i, message)
        if len(messages) < self.n:
            self.refused.add("n")

    async def _each(self, missing: Sequence[int]) -> Exception | None:
        """One request for each missing answer. After a failure it waits for those in flight and starts no more."""
        failures: list[Exception] = []
        configs = dict(zip(missing, get_config_list(self.config, len(missing)), strict=True))

        async def one(i: int) -> None:
            if failures:
                return
            try:
                model = self._seeded(i)
                self._keep(i, await Call(model.invoke, model.ainvoke, self.messages, of_candidate(configs[i], i)))
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001
                failures.append(error)

        await side_by_side(one, missing, self.config)
        return failures[0] if failures else None

    def _keep(self, i: int, message: Any) -> None:
        if not isinstance(message, AIMessage):
            raise ProblemError(
                f"model {self.name} answered with {type(message).__name__}: give one that returns an AIMessage"
            )
        self.got[i] = message

    def _seeded(self, i: int) -> Any:
        """The model with its options and the i-th seed: as a field if it has one, else as an argument."""
        if not self.is_chat:
            return self.model.bind(**self.options) if self.options else self.model
        model, options = self._fitted()
        if "seed" in self.refused:
            return model.bind(**options)
        field = next((name for name in ("seed", "random_seed") if name in type(model).model_fields), None)
        if field is None:
            return model.bind(**options, seed=self.seed + i)
        # A streamed answer of an OpenAI-compatible server carries no usage.
        model = model.model_copy(update={field: self.seed + i, "disable_streaming": True})
        return model.bind(**options)

    # --- which options the server accepts, and what its errors mean

    def _fitted(self) -> tuple[Any, dict[str, Any]]:
        """The model and the options of its call, without the refused ones."""
        model, options = _fitted(self.model, {key: value for key, value in self.options.items() if key != "seed"})
        for option in self.refused - {"n"}:
            model, options = _without(model, options, option)
        return model, options

    def _drawn(self) -> list[Sample]:
        _refused.update((self._server, option) for option in self.refused)
        return [_sample(self.got[i], self.seed + i) for i in sorted(self.got)]

    def give_way(self, error: Exception) -> float:
        """Seconds to wait before the missing samples are requested again, without the options that the error refuses.

        If the error refuses no option, raises our error for it, with the samples drawn so far unless the model
        remembers them itself.
        """
        if isinstance(error, MucodeError):
            if not getattr(self.model, "remembers", False):
                error.samples = error.samples or tuple(self._drawn())
            raise error
        refusal = read_refusal(error)
        if overflows(error, refusal):
            raise ContextOverflowError(
                f"the prompt and its answer do not fit the context of model {self.name} ({_line(error)}): "
                "shorten the prompt, lower max_tokens or take a model with a longer context"
            ) from error
        if (pause := pause_s(error)) is not None and self._pauses < _PAUSES:
            self._pauses += 1
            return pause
        sent = {"seed", "logprobs", *Sampling.model_fields} if self.is_chat else set[str]()
        refused = refusal.options((sent | ({"n"} if self._asks_at_once() and self.n > 1 else set())) - self.refused)
        if not refused and self._asks_at_once() and self.n > 1 and refusal.status in REFUSALS:
            refused = {"n"}
        if refused:
            _LOG.warning("model %s refuses %s: asked again without", self.name, ", ".join(sorted(refused)))
            self.refused |= refused
            return 0.0
        failure = InfrastructureError(
            f"model {self.name} failed ({type(error).__name__}: {_line(error)}): {_remedy(error, refusal)}"
        )
        failure.samples = tuple(self._drawn())
        raise failure from error


def of_candidate(config: RunnableConfig, index: int) -> RunnableConfig:
    """The config of one of several requests, with this candidate's number as `mucode_candidate` in its metadata."""
    first = config.get("metadata", {}).get("mucode_candidate")
    return config if first is None else merge_configs(config, {"metadata": {"mucode_candidate": first + index}})


def _unwrapped(model: Any, config: RunnableConfig) -> tuple[Any, dict[str, Any], RunnableConfig]:
    """The model inside `bind`, `with_config` and configurable fields, and what these add; `generate` would drop it."""
    bound: dict[str, Any] = {}
    while isinstance(model, RunnableBinding | DynamicRunnable):
        if isinstance(model, DynamicRunnable):
            model, config = model.prepare(config)
            continue
        bound = {**model.kwargs, **bound}
        config = merge_configs(model.config, config)
        config = merge_configs(config, *(factory(config) for factory in model.config_factories))
        model = model.bound
    return model, bound, config


def _with_tools(model: Any, tools: Sequence[BaseTool]) -> Any:
    try:
        return model.bind_tools(tools)
    except (AttributeError, NotImplementedError) as error:
        raise ProblemError(
            f"model {_name(model)} cannot call tools: leave tools_per_candidate at 0, or take a chat model that can"
        ) from error


def _fitted(model: BaseChatModel, options: dict[str, Any]) -> tuple[BaseChatModel, dict[str, Any]]:
    """The model with the options that it has as fields, under its own names, and the other options for its call."""
    fields = type(model).model_fields
    names: dict[str, str] = {name: name for name in ("temperature", "max_tokens") if name in fields}
    if "num_predict" in fields:  # Ollama's word; its call takes neither
        names["max_tokens"] = "num_predict"
    own = {names[key]: value for key, value in options.items() if key in names}
    rest = {key: value for key, value in options.items() if key not in names}
    return (model.model_copy(update=own) if own else model), rest


def _without(model: BaseChatModel, options: dict[str, Any], option: str) -> tuple[BaseChatModel, dict[str, Any]]:
    """The same without one option that its server refuses; the token limit goes by its other name."""
    fields, rest = type(model).model_fields, {key: value for key, value in options.items() if key != option}
    if "left_out" in fields:  # ours: it writes the request
        return model.model_copy(update={"left_out": getattr(model, "left_out", frozenset()) | {option}}), rest
    if option in fields:
        bound = getattr(model, option)
        model = model.model_copy(update={option: None})
        if option == "max_tokens" and bound is not None and "extra_body" in fields:  # a client of OpenAI's renames it
            body = {**(getattr(model, "extra_body", None) or {}), option: bound}
            model = model.model_copy(update={"extra_body": body})
    return model, rest


def _has_native_n(model: Any) -> bool:
    if not isinstance(model, BaseChatModel):
        return False
    if (declared := getattr(model, "native_n", None)) is not None:
        return bool(declared)
    module = sys.modules.get("langchain_openai")  # not imported: no model of it then
    if module is None or not isinstance(model, module.ChatOpenAI) or model.use_responses_api:
        return False
    return "//api.openai.com/" in str(getattr(model.root_client, "base_url", ""))


def _name(model: Any) -> str:
    """`name at endpoint`, as far as they are known."""

    def known(*attributes: str) -> str | None:
        values = (getattr(model, attribute, None) for attribute in attributes)
        return next((value for value in values if isinstance(value, str) and value), None)

    name = repr(known("model_name", "model", "model_id") or type(model).__name__)
    endpoint = known("openai_api_base", "azure_endpoint", "base_url", "endpoint_url")
    return f"{name} at {endpoint}" if endpoint else name


def _sample(message: AIMessage, seed: int) -> Sample:
    facts = message.response_metadata
    usage = message.usage_metadata
    prompt, completion = facts.get("mucode_usage") or (
        (usage["input_tokens"], usage["output_tokens"]) if usage else (0, 0)
    )
    found = logprobs_of(facts)
    return Sample(
        text=str(message.text).encode("utf-8", "backslashreplace").decode(),
        seed=seed,
        prompt_tokens=prompt,
        completion_tokens=completion,
        logprob=found.logprob if found else None,
        code_logprob=found.code_logprob if found else None,
        code_tokens=found.code_tokens if found else 0,
        finish_reason=next(
            (facts[key] for key in ("finish_reason", "stop_reason", "done_reason") if facts.get(key)), ""
        ),
    )


def _remedy(error: Exception, refusal: Refusal) -> str:
    if refusal.status == 400 and "tool" in str(error):
        return "start its server with tool calls (vLLM: --enable-auto-tool-choice --tool-call-parser), or use no tools"
    match refusal.status:
        case 401 | 403:
            return "give its key, in MUCODE_API_KEY or the provider's own variable"
        case 404:
            return "check the model's name and the URL"
        case 429 if "quota" in refusal.text:
            return "raise the account's quota, or take another model"
        case 429:
            return "wait, or lower max_concurrency"
        case int() as status if status >= 500:
            return "look at the server's log, and try again"
    kind = type(error).__name__
    if "Timeout" in kind:
        return "raise the timeout, or lower n or max_tokens"
    if "Connect" in kind:
        return "start the server, or fix the URL"
    if isinstance(error, ValueError | TypeError | LookupError | AttributeError):  # of a client that could not read it
        return (
            "if its server answered with something other than a chat completion, check the URL (it ends in /v1 on most "
            "servers) and the server's log; else see the exception that is its cause"
        )
    return "see the exception that is its cause"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
