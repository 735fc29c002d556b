"""Draws n completions of one prompt from any chat model, in the best way that model has.

A model with a true attribute `native_n` (ours, vLLM's) and OpenAI's own draw all n in one request that reads the prompt
once. Every other model is asked n times at once, up to the config's `max_concurrency`. A model that refuses n or seeds
is asked without, and remembered. No cache is consulted, since it would repeat one completion for ever.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NoReturn

from langchain_core.exceptions import ContextOverflowError
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

from mucode_agent.models.logprobs import logprobs_of
from mucode_agent.types import InfrastructureError, MucodeError, ProblemError, Sample

_REFUSALS = (400, 422, 501)
_refused: set[tuple[str, str]] = set()
"""The (model, option) pairs that proved refused in this process; the options are `n` and `seed`."""


def sample(
    model: Runnable[LanguageModelInput, AIMessage],
    messages: Sequence[BaseMessage],
    *,
    n: int,
    seed: int,
    temperature: float | None = None,
    max_tokens: int | None = None,
    config: RunnableConfig | None = None,
) -> list[Sample]:
    """Exactly n completions of the messages.

    Args:
        model: A chat model, bound or configurable too, or any runnable from messages to an AIMessage. The latter gets
            the messages and nothing else: no seed, temperature or max_tokens.
        messages: The prompt.
        n: How many, at least 1.
        seed: Sample i has `seed + i`. Whether the same seed draws the same text is the model's affair: in process and
            on vLLM it does; elsewhere it is a wish, and on OpenAI one seed serves all n.
        temperature: None leaves it as the model has it.
        max_tokens: Most tokens of one completion; None as above.
        config: Callbacks, tags and `max_concurrency`; inside a LangGraph node, None takes the node's own.

    Raises:
        InfrastructureError: The model or its server failed, or gave fewer than n.
        ProblemError: n is below 1, the prompt does not fit the model's context, or the answer is no AIMessage.
    """
    return _Draw(model, messages, n, seed, {"temperature": temperature, "max_tokens": max_tokens}, config).samples()


async def asample(
    model: Runnable[LanguageModelInput, AIMessage],
    messages: Sequence[BaseMessage],
    *,
    n: int,
    seed: int,
    temperature: float | None = None,
    max_tokens: int | None = None,
    config: RunnableConfig | None = None,
) -> list[Sample]:
    """`sample`, for an event loop. Cancelling it cancels the requests, or stops the model in this process."""
    draw = _Draw(model, messages, n, seed, {"temperature": temperature, "max_tokens": max_tokens}, config)
    return await draw.asamples()


def ask(
    model: Runnable[LanguageModelInput, AIMessage],
    messages: Sequence[BaseMessage],
    *,
    tools: Sequence[BaseTool],
    seed: int,
    temperature: float | None = None,
    max_tokens: int | None = None,
    config: RunnableConfig | None = None,
) -> tuple[Sample, AIMessage]:
    """One completion by a model that may call the tools, with the message that holds its calls; else as `sample`.

    Raises ProblemError where the model cannot be given tools.
    """
    draw = _Draw(model, messages, 1, seed, {"temperature": temperature, "max_tokens": max_tokens}, config, tools)
    [one] = draw.samples()
    return one, draw.answers[0]


async def aask(
    model: Runnable[LanguageModelInput, AIMessage],
    messages: Sequence[BaseMessage],
    *,
    tools: Sequence[BaseTool],
    seed: int,
    temperature: float | None = None,
    max_tokens: int | None = None,
    config: RunnableConfig | None = None,
) -> tuple[Sample, AIMessage]:
    """`ask`, for an event loop."""
    draw = _Draw(model, messages, 1, seed, {"temperature": temperature, "max_tokens": max_tokens}, config, tools)
    [one] = await draw.asamples()
    return one, draw.answers[0]


class _Draw:
    """One call of `sample`: what is asked of the model, what it refused so far, and what its answer means."""

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
        self.answers: list[AIMessage] = []
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
        self.native = _has_native_n(self.model) and (self.name, "n") not in _refused
        self.seeded = self.is_chat and (self.name, "seed") not in _refused
        if self.is_chat and (getattr(self.model, "cache", None) or get_llm_cache() is not None):
            self.model = self.model.model_copy(update={"cache": False})
        self._given_way: set[str] = set()

    def samples(self) -> list[Sample]:
        while True:
            try:
                return self.from_result(self.at_once()) if self.native else self.from_messages(self.each())
            except (GraphBubbleUp, MucodeError):
                raise
            except Exception as error:  # noqa: BLE001 - every provider has its own classes; each is raised as ours
                self.give_way(error)

    async def asamples(self) -> list[Sample]:
        while True:
            try:
                if self.native:
                    return self.from_result(await self.aat_once())
                return self.from_messages(await self.aeach())
            except (GraphBubbleUp, MucodeError):
                raise
            except Exception as error:  # noqa: BLE001
                self.give_way(error)

    def at_once(self) -> LLMResult:
        result: LLMResult = self.model.generate([self.messages], **self._at_once_arguments())
        return result

    async def aat_once(self) -> LLMResult:
        result: LLMResult = await self.model.agenerate([self.messages], **self._at_once_arguments())
        return result

    def _at_once_arguments(self) -> dict[str, Any]:
        # `generate` sees no config: without these, callbacks and tags stay outside. A streaming handler of the host
        # would turn n into one stream, hence `stream`.
        context = {name: self.config.get(name) for name in ("callbacks", "tags", "metadata", "run_name", "run_id")}
        seed = {"seed": self.seed} if self.seeded else {}
        return {**self.options, **context, "n": self.n, "stream": False, **seed}

    def each(self) -> list[AIMessage]:
        configs = get_config_list(self.config, self.n)
        if self.n == 1:
            return [self._seeded(0).invoke(self.messages, configs[0])]
        with get_executor_for_config(self.config) as executor:
            return list(executor.map(lambda i: self._seeded(i).invoke(self.messages, configs[i]), range(self.n)))

    async def aeach(self) -> list[AIMessage]:
        configs = get_config_list(self.config, self.n)
        gate = asyncio.Semaphore(self.config.get("max_concurrency") or self.n)

        async def one(i: int) -> AIMessage:
            async with gate:
                message: AIMessage = await self._seeded(i).ainvoke(self.messages, configs[i])
                return message

        tasks = [asyncio.create_task(one(i)) for i in range(self.n)]
        try:
            return await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise

    def _seeded(self, i: int) -> Any:
        """The model with its options and the i-th seed: as a field where it has one, else as an argument."""
        if not self.is_chat:
            return self.model.bind(**self.options) if self.options else self.model
        model, options = _fitted(self.model, {key: value for key, value in self.options.items() if key != "seed"})
        if self.seeded and "seed" in type(model).model_fields:
            # A streamed answer of an OpenAI-compatible server carries no usage.
            model = model.model_copy(update={"seed": self.seed + i, "disable_streaming": True})
        elif self.seeded:
            options["seed"] = self.seed + i
        return model.bind(**options)

    def from_result(self, result: LLMResult) -> list[Sample]:
        generations = [choice for choice in result.generations[0] if isinstance(choice, ChatGeneration)]
        if len(generations) < self.n:
            raise InfrastructureError(
                f"model {self.name} gave {len(generations)} of n={self.n} completions: "
                "its server does not honour n, so name it as openai:NAME@URL, which asks for one at a time"
            )
        samples = self.from_messages([choice.message for choice in generations[: self.n]])
        if self.n > 1 and not getattr(self.model, "native_n", False):
            samples = _usage_once(samples, (result.llm_output or {}).get("token_usage") or {})
        return samples

    def from_messages(self, messages: Sequence[BaseMessage]) -> list[Sample]:
        samples = [_sample(message, self.seed + i, self.name) for i, message in enumerate(messages)]
        self.answers = [message for message in messages if isinstance(message, AIMessage)]
        _refused.update((self.name, option) for option in self._given_way)
        return samples

    def give_way(self, error: Exception) -> None:
        """Asks for less next time if the error may be a refusal of n or of seeds, else raises what it means."""
        status = getattr(error, "status_code", None)
        if isinstance(error, ContextOverflowError) or (status == 400 and "context length" in str(error)):
            raise ProblemError(
                f"the prompt and its answer do not fit the context of model {self.name} ({_line(error)}): "
                "shorten the prompt, lower max_tokens or take a model with a longer context"
            ) from error
        if self.native and self.n > 1 and status in _REFUSALS:
            self.native = False
            self._given_way.add("n")
        elif self.seeded and "seed" in str(error) and (status in _REFUSALS or isinstance(error, TypeError)):
            self.seeded = False
            self._given_way.add("seed")
        else:
            self._fail(error, status)

    def _fail(self, error: Exception, status: int | None) -> NoReturn:
        raise InfrastructureError(
            f"model {self.name} failed ({type(error).__name__}: {_line(error)}): {_remedy(error, status)}"
        ) from error


def _unwrapped(model: Any, config: RunnableConfig) -> tuple[Any, dict[str, Any], RunnableConfig]:
    """The model inside `bind`, `with_config` and configurable fields, with what they add: `generate` would drop it."""
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
    """The model with those options that it has as fields, under its own names, and the others for its call."""
    fields = type(model).model_fields
    names: dict[str, str] = {name: name for name in ("temperature", "max_tokens") if name in fields}
    if "num_predict" in fields:  # Ollama's word; its call takes neither
        names["max_tokens"] = "num_predict"
    own = {names[key]: value for key, value in options.items() if key in names}
    rest = {key: value for key, value in options.items() if key not in names}
    return (model.model_copy(update=own) if own else model), rest


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
    """`name at endpoint`, as far as the model tells."""

    def told(*attributes: str) -> str | None:
        values = (getattr(model, attribute, None) for attribute in attributes)
        return next((value for value in values if isinstance(value, str) and value), None)

    name = repr(told("model_name", "model", "model_id") or type(model).__name__)
    endpoint = told("openai_api_base", "azure_endpoint", "base_url", "endpoint_url")
    return f"{name} at {endpoint}" if endpoint else name


def _sample(message: object, seed: int, name: str) -> Sample:
    if not isinstance(message, AIMessage):
        raise ProblemError(f"model {name} answered with {type(message).__name__}: give one that answers an AIMessage")
    facts = message.response_metadata
    usage = message.usage_metadata
    found = logprobs_of(facts)
    return Sample(
        text=str(message.text).encode("utf-8", "backslashreplace").decode(),
        seed=seed,
        prompt_tokens=usage["input_tokens"] if usage else 0,
        completion_tokens=usage["output_tokens"] if usage else 0,
        logprob=found.logprob if found else None,
        code_logprob=found.code_logprob if found else None,
        code_tokens=found.code_tokens if found else 0,
        finish_reason=next(
            (facts[key] for key in ("finish_reason", "stop_reason", "done_reason") if facts.get(key)), ""
        ),
    )


def _usage_once(samples: Sequence[Sample], total: Mapping[str, Any]) -> list[Sample]:
    """One request's usage, given n times over: the prompt to the first, the completions by their share of the text."""
    ends = accumulate((len(sample.text) + 1 for sample in samples), initial=0)
    letters = sum(len(sample.text) + 1 for sample in samples)
    completion = total.get("completion_tokens") or 0
    shares = [b - a for a, b in pairwise(round(completion * end / letters) for end in ends)]
    prompts = [total.get("prompt_tokens") or 0] + [0] * (len(samples) - 1)
    return [
        sample.model_copy(update={"prompt_tokens": prompt, "completion_tokens": share})
        for sample, prompt, share in zip(samples, prompts, shares, strict=True)
    ]


def _remedy(error: Exception, status: int | None) -> str:
    if status == 400 and "tool" in str(error):
        return "start its server with tool calls (vLLM: --enable-auto-tool-choice --tool-call-parser), or use no tools"
    match status:
        case 401 | 403:
            return "give its key, in MUCODE_API_KEY or the provider's own variable"
        case 404:
            return "check the model's name and the URL"
        case 429:
            return "wait, or lower max_concurrency"
        case int() if status >= 500:
            return "look into the server's log, and ask again"
    kind = type(error).__name__
    if "Timeout" in kind:
        return "raise the timeout, or lower n or max_tokens"
    if "Connect" in kind:
        return "start the server, or mend the URL"
    return "look at the error that this one names as its cause"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
