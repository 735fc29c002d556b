"""Options made from the fields of a record, which alone define name, default, range and help.

A parameter `search: Annotated[Settings, Fields("n", "seed")]` of a `command` becomes the options --n and --seed, and
receives the record that they make. Fields that are not named keep the record's defaults.
"""

import functools
import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from mucode_agent.files import cause_of
from mucode_agent.runs.running import Running
from mucode_agent.types import ProblemError, Record, Sampling

R = TypeVar("R", bound=Record)


class Fields:
    """The fields that are options of a command, and the command's own defaults for some.

    None as a default leaves the field to the record. A field that two records of a command share is one option.
    """

    def __init__(self, *names: str, **defaults: Any) -> None:
        self.names, self.defaults = names, defaults


SAMPLING = tuple(Sampling.model_fields)
"""The sampling options of every command that draws."""
RUNNING = Fields(*Running.model_fields)
"""The options of every command that runs untrusted programs."""
_NAMES = {"max_turns": "turns", "mode": "expert", "method": "relabel"}
"""Options with another name than their field."""


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The function as typer reads it: with an option for each field of its records."""
    hints = get_type_hints(function, include_extras=True)
    parameters: dict[str, inspect.Parameter] = {}
    records: dict[str, tuple[type[Record], tuple[str, ...]]] = {}
    for parameter in inspect.signature(function).parameters.values():
        hint = hints[parameter.name]
        fields = next((part for part in getattr(hint, "__metadata__", ()) if isinstance(part, Fields)), None)
        if fields is None:
            parameters[parameter.name] = parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY)
            continue
        record = get_args(hint)[0]
        records[parameter.name] = record, fields.names
        for name in fields.names:
            parameters[name] = _parameter(record, name, fields.defaults)

    @functools.wraps(function)
    def call(**given: Any) -> None:
        made = {
            name: record_of(record, **{field: given[field] for field in fields if given[field] is not None})
            for name, (record, fields) in records.items()
        }
        of_records = {field for _, fields in records.values() for field in fields}
        function(**{name: value for name, value in given.items() if name not in of_records}, **made)

    del call.__dict__["__wrapped__"]
    call.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    call.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return call


def record_of(record: type[R], **given: Any) -> R:
    """The record made from options. Raises ProblemError naming the option that is out of its range."""
    try:
        return record.model_validate(given)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        option = tuple(flag(str(part)) for part in fault["loc"][:1])
        raise ProblemError(cause_of({**fault, "loc": option}, "the options")) from None


def flag(field: str) -> str:
    """The option of a field."""
    return f"--{_NAMES.get(field, field).replace('_', '-')}"


def _parameter(record: type[Record], name: str, defaults: dict[str, Any]) -> inspect.Parameter:
    field = record.model_fields[name]
    kind, optional, bounds = _type(field.annotation, field.metadata)
    default = defaults.get(name, field.default)
    if get_origin(kind) is tuple:
        kind, optional, default = list[get_args(kind)[0]], True, list(default) or None  # type: ignore[misc]
    words = [" ".join((field.description or "").split()), *([f"({', '.join(bounds)})"] if bounds else [])]
    if get_origin(kind) is Literal:  # the record's message for another word is one sentence, click's four lines
        words[0] += " " + " · ".join(get_args(kind))
        kind = str
    names = f"{flag(name)}/--no-{flag(name)[2:]}" if default is True else flag(name)
    option = typer.Option(names, help=" ".join(words))
    if optional or default is None:
        kind = kind | None
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


_BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


def _type(annotation: Any, metadata: list[Any]) -> tuple[Any, bool, list[str]]:
    """The type without what pydantic alone reads, whether it may be None, and its range in words."""
    bounds = [
        f"{words} {getattr(part, name)}" for part in metadata for name, words in _BOUNDS.items() if hasattr(part, name)
    ]
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        parts = [piece for part in more for piece in (part.metadata if isinstance(part, FieldInfo) else [part])]
        return _type(inner, [*metadata, *parts])
    if get_origin(annotation) in (Union, types.UnionType):
        inner = next(part for part in get_args(annotation) if part is not type(None))
        kind, _, found = _type(inner, metadata)
        return kind, True, found
    return annotation, False, bounds
