"""`TransformersChatModel`: a LangChain chat model that runs a transformers checkpoint in this process."""

import asyncio
import importlib.util
import os
import secrets
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ChatMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import run_in_executor
from pydantic import Field, PrivateAttr

from mucode_agent.calls import Call
from mucode_agent.models.base import AnswersOnce
from mucode_agent.models.logprobs import summed
from mucode_agent.types import ProblemError

if TYPE_CHECKING:
    from mucode_agent.models.decoding import Completion, Decoding, Engine

_ROLES = {"human": "user", "ai": "assistant", "system": "system"}


class TransformersChatModel(AnswersOnce):
    """A causal language model with its own chat template. Weights load at the first call and are shared in the process.

    `generate([messages], n=5, seed=7)` draws five completions in one batch, with the seeds 7 to 11; the same seed gives
    the same completion. With `top_logprobs=k` a message's `response_metadata["logprobs"]` has OpenAI's form. Only the
    end tokens of the checkpoint's generation config are used. Text only, no tools.
    """

    native_n: ClassVar[bool] = True

    model: str
    """A checkpoint directory, a .gguf file or a hub id; or an embedded model by name, such as `qwen0.5b`."""
    temperature: float = Field(default=0.7, ge=0)
    """0 takes the likeliest token, so all n completions are the same."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_tokens: int = Field(default=1024, ge=1)
    stop: list[str] | None = None
    seed: int | None = None
    """None draws a new seed at each call."""
    device: str | None = None
    """A device name of torch; None takes cuda, else mps, else cpu."""
    dtype: str | None = None
    """A dtype name of torch, or `int8` on an x86 CPU; None: the fastest on the device, int8 for an embedded Qwen."""
    _engine: Any = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "transformers"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "stop": self.stop,
            "seed": self.seed,
        }

    @property
    def engine(self) -> "Engine":
        """The weights, loaded at first use. Raises ProblemError if they cannot be loaded."""
        if self._engine is None:
            self._engine = _load(self.model, self.device, self.dtype)
        loaded: Engine = self._engine
        return loaded

    async def _answer(self, messages: list[BaseMessage], stop: list[str] | None = None, **options: Any) -> ChatResult:
        answer: ChatResult = await Call(self._draw, self._draw_in_thread, messages, stop, **options)
        return answer

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        how, seeds = self._settings(stop, **kwargs)
        if len(seeds) != 1:
            raise ProblemError(f"n={len(seeds)} completions cannot be streamed, only one: use generate")
        prompt = self.engine.encode(plain_messages(messages))
        [row] = completions = _rows(seeds)
        held = max((len(word) for word in how.stop), default=1) - 1  # characters that may be the start of a stop word
        sent = 0
        for _ in self.engine.draw(prompt, completions, how, incremental=True):
            end = len(row.text) if row.finish_reason else max(sent, len(row.text) - held)
            if end > sent:
                chunk = ChatGenerationChunk(message=AIMessageChunk(content=row.text[sent:end]))
                sent = end
                if run_manager is not None:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
        usage = _usage(prompt.shape[1], len(row.ids))
        last = AIMessageChunk(content="", usage_metadata=usage, chunk_position="last")
        yield ChatGenerationChunk(message=last, generation_info=self._facts(row))

    async def _draw_in_thread(self, messages: list[BaseMessage], stop: list[str] | None, **kwargs: Any) -> ChatResult:
        cancelled = threading.Event()
        try:
            return await run_in_executor(None, self._draw, messages, stop, cancelled, **kwargs)
        except asyncio.CancelledError:
            cancelled.set()  # the thread ends after its current token
            raise

    def _draw(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None,
        cancelled: threading.Event | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        how, seeds = self._settings(stop, **kwargs)
        prompt = self.engine.encode(plain_messages(messages))
        completions = _rows(seeds if how.temperature > 0 else seeds[:1])
        for _ in self.engine.draw(prompt, completions, how, cancelled=cancelled):
            pass
        if how.temperature == 0:
            completions *= len(seeds)
        read, drawn = prompt.shape[1], sum(len(row.ids) for row in completions)
        generations = [
            ChatGeneration(
                # Callbacks read the first message only; the prompt is read once, whatever n.
                message=AIMessage(row.text, usage_metadata=None if i else _usage(read, drawn)),
                generation_info={**self._facts(row), "mucode_usage": (0 if i else read, len(row.ids))},
            )
            for i, row in enumerate(completions)
        ]
        return ChatResult(
            generations=generations,
            llm_output={
                "model_name": self.model,
                "token_usage": {"prompt_tokens": read, "completion_tokens": drawn},
            },
        )

    def _settings(self, stop: list[str] | None, **kwargs: Any) -> tuple["Decoding", list[int]]:
        _check_installed(self.model)
        from mucode_agent.models.decoding import Decoding

        asked = {**dict(self), **{name: value for name, value in kwargs.items() if value is not None}}
        if kwargs.get("tools"):
            raise ProblemError(f"{self.model!r} runs in this process without tools: give a served model for them")
        n = asked.get("n", 1)
        if not isinstance(n, int) or n < 1:
            raise ProblemError(f"n must be an integer of at least 1, got {n!r}")
        seed = asked["seed"]
        first = secrets.randbits(32) if seed is None else seed
        how = Decoding(
            temperature=asked["temperature"],
            top_p=asked["top_p"],
            max_tokens=asked["max_tokens"],
            stop=tuple(stop if stop is not None else self.stop or ()),
            top_logprobs=asked.get("top_logprobs", 0),
        )
        return how, [first + i for i in range(n)]

    def _facts(self, row: "Completion") -> dict[str, Any]:
        pieces = self.engine.pieces(row)
        facts = {
            "finish_reason": row.finish_reason,
            "mucode_logprobs": summed(pieces, row.logprobs),
            "seed": row.seed,
            "model_name": self.model,
        }
        if row.likeliest:  # in OpenAI's form
            tops = [[{"token": t, "logprob": p} for t, p in place] for place in self.engine.likeliest(row)]
            content = [
                {"token": token, "logprob": logprob, "top_logprobs": top}
                for token, logprob, top in zip(pieces, row.logprobs, tops, strict=True)
            ]
            facts["logprobs"] = {"content": content}
        return facts


def prepare_torch() -> None:
    """To call before torch is first imported: threads that spin at barriers slow it down on a busy machine."""
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _check_installed(model: str) -> None:
    """Raises ProblemError if a library is missing, with the command that installs it."""
    prepare_torch()
    try:
        import torch  # noqa: F401

        if importlib.util.find_spec("transformers") is None:  # its import takes seconds, and not every model needs it
            raise ModuleNotFoundError(name="transformers")
    except ImportError as error:
        raise ProblemError(
            f"{model!r} runs in this process and needs {error.name}: pip install 'mucode-agent[local]', "
            "or give another model, such as vllm:NAME@URL"
        ) from error


def _load(model: str, device: str | None, dtype: str | None) -> "Engine":
    _check_installed(model)
    import torch

    from mucode_agent.models.checkpoints import INT8, best_device, best_dtype, int8_runs, load_embedded, load_engine
    from mucode_agent.models.embedded import EMBEDDED, embedded_checkpoint, int8_checkpoint

    if dtype not in (None, INT8) and not isinstance(getattr(torch, dtype, None), torch.dtype):
        raise ProblemError(f"unknown dtype {dtype!r}: give int8, or one of torch's, such as 'float32' or 'bfloat16'")
    if model not in EMBEDDED:
        return load_engine(model, device, dtype)
    if int8_runs(device) and (dtype == INT8 or (dtype is None and EMBEDDED[model].int8)):
        return load_embedded(int8_checkpoint(model), INT8)
    if dtype is None and (device or best_device()) == "cpu" and best_dtype("cpu") == "float32":
        return load_embedded(embedded_checkpoint(model), "float32")
    return load_engine(str(embedded_checkpoint(model)), device, dtype)


def _rows(seeds: Sequence[int]) -> "list[Completion]":
    from mucode_agent.models.decoding import Completion

    return [Completion(seed) for seed in seeds]


def plain_messages(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    """Messages as chat templates read them."""
    plain = []
    for message in messages:
        role = message.role if isinstance(message, ChatMessage) else _ROLES.get(message.type)
        if role is None or (not isinstance(message.content, str) and not _is_text(message)):
            raise ProblemError(
                f"a {message.type} message that is not plain text cannot be read by a model in this process: "
                "send system, human and AI messages of text"
            )
        plain.append({"role": role, "content": str(message.text)})
    return plain


def _is_text(message: BaseMessage) -> bool:
    return all(isinstance(block, str) or block.get("type") == "text" for block in message.content)


def _usage(prompt: int, completion: int) -> UsageMetadata:
    return UsageMetadata(input_tokens=prompt, output_tokens=completion, total_tokens=prompt + completion)
