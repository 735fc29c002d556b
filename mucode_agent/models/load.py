"""Model strings: the chat model that a name on the command line stands for."""

import math
import os
import re
from typing import Any, Unpack
from urllib.parse import urlsplit

from langchain_core.language_models import BaseChatModel

from mucode_agent.models.embedded import EMBEDDED
from mucode_agent.types import InfrastructureError, ProblemError, Sampling, SamplingOptions, StatedSampling

SPECS = (
    f"{', '.join(EMBEDDED)} (embedded), hf:DIRECTORY_OR_FILE.gguf_OR_HUB_ID (in this process), "
    "vllm:NAME@http://host:port/v1, openai:NAME@http://host:port/v1, http://host:port/v1 "
    "(any OpenAI-compatible server), or LangChain's provider:model such as anthropic:claude-sonnet-4-5"
)

_STATED = StatedSampling()


def load_model(
    spec: str,
    *,
    api_key: str | None = None,
    timeout: float | None = None,
    **options: Unpack[SamplingOptions],
) -> BaseChatModel:
    """The chat model that a string names: an embedded model, `hf:…`, `vllm:…`, `openai:…@URL`, a URL, `provider:model`.

    Weights in this process load at the first call. For a URL without a model's name, the server is asked which model it
    serves.

    Args:
        spec: The model string.
        api_key: For a server; else `MUCODE_API_KEY` for a URL, and the provider's own variable for `provider:model`.
        timeout: Seconds for one request to a server; default: 600 for a URL, else the provider's own. A failed
            request is retried twice.
        options: The fields of `Sampling`: temperature (0.7 unless given), top_p, max_tokens (1024 unless given). None
            leaves one to the model's server, and in this process to the default of `TransformersChatModel`.

    Raises:
        ProblemError: The string names no model, an option is unknown, or a package is missing.
        InfrastructureError: A URL had to be asked for its model and did not answer.
    """
    if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout < math.inf):
        raise ProblemError(f"a request's timeout must be a number of seconds above 0, got {timeout!r}")
    if unknown := sorted(options.keys() - Sampling.model_fields.keys()):
        raise ProblemError(f"{unknown[0]} is no sampling option; known are {', '.join(Sampling.model_fields)}")
    given: dict[str, Any] = {**_STATED.request(), **options}
    given = {name: value for name, value in given.items() if value is not None}
    kind, _, rest = spec.strip().partition(":")
    if spec.strip() in EMBEDDED:
        return _in_process(spec.strip(), given)
    if kind == "hf" and rest:
        return _in_process(rest, given)
    if kind in ("http", "https"):
        return _served(None, spec.strip(), api_key, timeout, given)
    if kind in ("vllm", "openai") and (served := re.fullmatch(r"(?:(.*?)@)?(https?://.*)", rest)):
        name, url = served.groups()
        return _served(name or None, url, api_key, timeout, given, vllm=kind == "vllm")
    if kind in ("vllm", "openai") and "@" in rest:
        raise ProblemError(f"model {spec!r} has no URL after its @: write {kind}:NAME@http://host:port/v1")
    if kind == "vllm" or not (kind and rest):
        raise ProblemError(f"model {spec!r} names no model: give one of {SPECS}")
    given |= {name: value for name, value in (("api_key", api_key), ("timeout", timeout)) if value is not None}
    return _provider(spec.strip(), given)


def _in_process(model: str, options: dict[str, Any]) -> BaseChatModel:
    from pydantic import ValidationError

    from mucode_agent.models.chat import TransformersChatModel

    try:
        return TransformersChatModel(model=model, **options)
    except ValidationError as error:
        raise ProblemError(f"model {model!r} cannot be used: {_first(error)}") from error


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        usable = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        cause = "it names no host and port"
    except ValueError as error:
        usable, cause = False, str(error)
    if not usable:
        raise ProblemError(f"the model's URL {url!r} cannot be used: {cause}; write http://host:port/v1")


def _served(
    name: str | None,
    url: str,
    api_key: str | None,
    timeout: float | None,
    options: dict[str, Any],
    *,
    vllm: bool = False,
) -> BaseChatModel:
    try:
        from mucode_agent.models.served import ServedChatModel
    except ImportError as error:
        raise ProblemError(f"{url!r} needs {error.name}: pip install 'mucode-agent[openai]'") from error
    import openai
    from pydantic import SecretStr

    _check_url(url)
    key = api_key or os.environ.get("MUCODE_API_KEY") or "none"
    if name is None:
        try:
            with openai.OpenAI(base_url=url, api_key=key, max_retries=0, timeout=30) as client:
                served = client.models.list().data
        except (openai.OpenAIError, ValueError, AttributeError, TypeError) as error:  # the last two: no JSON
            raise InfrastructureError(
                f"{url}/models did not say which model is served ({type(error).__name__}: {error}): "
                "start the server, fix the URL (it ends in /v1 on most servers), or set MUCODE_API_KEY"
            ) from error
        if not served:
            raise InfrastructureError(f"{url}/models lists no model: load one into the server")
        name = served[0].id
        vllm = vllm or served[0].owned_by == "vllm"
    try:
        return ServedChatModel(
            model=name,
            base_url=url,
            api_key=SecretStr(key),
            timeout=600 if timeout is None else timeout,
            native_n=vllm,
            use_responses_api=False,
            **options,
        )
    except ValueError as error:
        raise ProblemError(f"model {name!r} at {url} cannot be used: {_first(error)}") from error


def _provider(spec: str, options: dict[str, Any]) -> BaseChatModel:
    provider = spec.partition(":")[0]
    try:
        from langchain.chat_models import init_chat_model
    except ImportError as error:
        raise ProblemError(
            f"model {spec!r} needs LangChain's providers: pip install 'mucode-agent[langchain]'"
        ) from error
    try:
        model: BaseChatModel = init_chat_model(spec, **options)
    except ImportError as error:
        raise ProblemError(f"model {spec!r} needs its provider's package ({error})") from error
    except ValueError as error:
        raise ProblemError(f"model {spec!r} is unknown or incomplete ({_first(error)}): give one of {SPECS}") from error
    except Exception as error:  # each provider's client has its own classes
        raise ProblemError(
            f"model {spec!r} cannot be set up ({_first(error)}): set the key and options that {provider} asks for"
        ) from error
    return model


def _first(error: Exception) -> str:
    """A library's long message in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__
