"""Reads what other tools recorded of a solve as one list of runs: LangSmith's exports and OpenTelemetry's spans.

It reads runs as langsmith's `Client.list_runs` and `Client.runs.query` give them (JSON, JSONL, with children inside or
not), OTLP in JSON, and the OpenTelemetry SDK's own JSON of a span. Attributes are read in LangSmith's, OpenInference's
and GenAI's names: https://docs.langchain.com/langsmith/trace-with-opentelemetry,
https://github.com/Arize-ai/openinference/blob/main/spec/semantic_conventions.md,
https://github.com/open-telemetry/semantic-conventions-genai. Values missing from a run are None.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from mucode_agent.types import ProblemError


class ObservedRun(NamedTuple):
    """One run or span: a node of the graph, a model call, or anything else."""

    trace: str
    """Id shared by the runs that belong together."""
    inputs: Any
    outputs: Any
    metadata: dict[str, Any]
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None

    @property
    def facts(self) -> dict[str, Any]:
        """Our solver's metadata of a model call: problem_id, run_id, turn, candidate."""
        return {key[len(_OURS) :]: value for key, value in self.metadata.items() if key.startswith(_OURS)}

    @property
    def replies(self) -> list[tuple[str, str]]:
        """Text and finish reason of each completion of a model call."""
        return list(_replies(self.outputs))


_OURS = "mucode_"
_INPUTS = ("gen_ai.prompt", "input.value", "gen_ai.input.messages", "traceloop.entity.input")
_OUTPUTS = ("gen_ai.completion", "output.value", "gen_ai.output.messages", "traceloop.entity.output")
_METADATA = re.compile(r"(?:langsmith\.metadata|metadata|traceloop\.association\.properties)\.(.+)")


def read_runs(path: Path) -> list[ObservedRun]:
    """Raises ProblemError if the file cannot be read, or has neither form."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no UTF-8'}") from None
    runs = [run for value in _values(text, path) for run in _runs(value, path)]
    if not runs:
        raise ProblemError(f"{path} holds no run; {_FORMS}")
    return runs


_FORMS = "give runs that langsmith's client listed, as JSON or JSONL, or OpenTelemetry's spans as OTLP JSON"


def _values(text: str, path: Path) -> Iterator[Any]:
    """Consecutive JSON values, with any separators."""
    decoder, place = json.JSONDecoder(), 0
    while match := re.compile(r"\S").search(text, place):
        try:
            value, place = decoder.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            line = text.count("\n", 0, match.start()) + 1
            raise ProblemError(f"{path}, line {line}: is no JSON, or half of it; {_FORMS}") from None
        yield value


def _runs(value: Any, path: Path) -> Iterator[ObservedRun]:
    if isinstance(value, list):
        for part in value:
            yield from _runs(part, path)
        return
    if not isinstance(value, dict):
        raise ProblemError(f"{path} holds {str(value)[:60]!r}, which is no run; {_FORMS}")
    if (inner := value.get("resourceSpans", value.get("runs", value.get("items")))) is not None:
        yield from _runs(inner, path)
    elif (scopes := value.get("scopeSpans", value.get("instrumentationLibrarySpans"))) is not None:
        yield from _runs([span for scope in scopes for span in scope.get("spans", [])], path)
    elif "spanId" in value:
        yield _span(str(value.get("traceId")), {a["key"]: _any(a.get("value")) for a in value.get("attributes", [])})
    elif isinstance(value.get("context"), dict) and "attributes" in value:
        yield _span(str(value["context"].get("trace_id")), value["attributes"] or {})
    elif "run_type" in value or "dotted_order" in value:
        yield _langsmith(value)
        yield from _runs(value.get("child_runs") or [], path)
    else:
        raise ProblemError(f"{path} holds an object with the keys {', '.join(list(value)[:6])}, no run; {_FORMS}")


def _langsmith(run: dict[str, Any]) -> ObservedRun:
    extra = _loaded(run.get("extra")) or {}
    metadata = (extra.get("metadata") or {}) | (_loaded(run.get("metadata")) or {})
    outputs = _loaded(run.get("outputs"))
    usage = (outputs.get("usage_metadata") if isinstance(outputs, dict) else None) or {}
    return ObservedRun(
        trace=str(run.get("trace_id") or run.get("id")),
        inputs=_loaded(run.get("inputs")),
        outputs=outputs,
        metadata=metadata,
        model=metadata.get("ls_model_name") if str(run.get("run_type")).lower() == "llm" else None,
        prompt_tokens=_count(run.get("prompt_tokens"), usage.get("input_tokens")),
        completion_tokens=_count(run.get("completion_tokens"), usage.get("output_tokens")),
    )


def _span(trace: str, attributes: dict[str, Any]) -> ObservedRun:
    metadata = _loaded(attributes.get("metadata"))
    found = dict(metadata) if isinstance(metadata, dict) else {}
    found |= {m[1]: value for key, value in attributes.items() if (m := _METADATA.fullmatch(key))}
    first = next((attributes[key] for key in _OUTPUTS if key in attributes), None)
    return ObservedRun(
        trace=trace,
        inputs=next((_loaded(attributes[key]) for key in _INPUTS if key in attributes), None),
        outputs=_loaded(first) if first is not None else _flat_messages(attributes),
        metadata=found,
        model=_first(attributes, "gen_ai.request.model", "llm.model_name", "gen_ai.response.model"),
        prompt_tokens=_count(_first(attributes, "gen_ai.usage.input_tokens", "llm.token_count.prompt")),
        completion_tokens=_count(_first(attributes, "gen_ai.usage.output_tokens", "llm.token_count.completion")),
    )


def _any(value: Any) -> Any:
    """OTLP's AnyValue. Its 64-bit integers are strings."""
    if not isinstance(value, dict) or not value:
        return None
    [(kind, held), *_] = value.items()
    match kind:
        case "intValue":
            return int(held)
        case "arrayValue":
            return [_any(part) for part in held.get("values", [])]
        case "kvlistValue":
            return {part["key"]: _any(part.get("value")) for part in held.get("values", [])}
        case _:
            return held


def _loaded(value: Any) -> Any:
    """The value of JSON in a string; other values unchanged."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _flat_messages(attributes: dict[str, Any]) -> list[dict[str, Any]] | None:
    """OpenInference's and OpenLLMetry's messages of a completion, one attribute a field."""
    shape = re.compile(r"(?:llm\.output_messages\.(\d+)\.message|gen_ai\.completion\.(\d+))\.content")
    found = [(m, value) for key, value in attributes.items() if (m := shape.fullmatch(key))]
    ordered = sorted(found, key=lambda pair: int(pair[0][1] or pair[0][2]))
    return [{"role": "assistant", "content": value} for _, value in ordered] or None


def _replies(value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield value, ""
    elif isinstance(value, list):
        for part in value:
            yield from _replies(part)
    elif isinstance(value, dict):
        if (inner := value.get("generations", value.get("choices", value.get("messages")))) is not None:
            yield from _replies(inner)
        elif isinstance(value.get("parts"), list):
            yield _text(value["parts"]), str(value.get("finish_reason") or "")
        else:
            message = value.get("message")
            held = message if isinstance(message, dict) else value
            held = held.get("kwargs", held)  # as LangChain serialises a message
            text = value.get("text") if isinstance(value.get("text"), str) else _text(held.get("content"))
            facts = held.get("response_metadata") or {}
            reason = value.get("finish_reason") or facts.get("finish_reason") or facts.get("stop_reason")
            if text is not None:
                yield text, str(reason or "")


def _text(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    parts = [part.get("text", part.get("content")) if isinstance(part, dict) else part for part in content]
    return "".join(part for part in parts if isinstance(part, str))


def _first(attributes: dict[str, Any], *names: str) -> Any:
    return next((attributes[name] for name in names if attributes.get(name) is not None), None)


def _count(*values: Any) -> int | None:
    return next((value for value in values if isinstance(value, int) and not isinstance(value, bool)), None)
