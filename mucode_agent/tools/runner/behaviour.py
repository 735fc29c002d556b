"""What a program does on inputs that judge nothing: one outcome per input, named without the value itself.

Outcomes of two programs are compared for equality, so that agreement can be measured outside the judge while every
value stays in it. `= <digest>` is a returned value (or printed output), `None` a bare None, `raise <type>` an
exception, a status such as `timeout` the end of the process; empty means unknown.
"""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from .proxies import Conversation, Ended, NotData, Remote

TIME_S = 0.5
"""CPU seconds for one input, where the program's own limit is not shorter."""
TOTAL_S = 2.0
"""CPU seconds for all inputs of one program; what is left then stays unknown."""
_RESTARTS = 4
"""Processes that may end early, as on an input without an end. The inputs after the last of them stay unknown."""
_ITEMS = 1000
"""Items of a returned iterator that count."""

Opened = tuple[Conversation, dict[str, Any]]


def call_outcomes(probes: Sequence[str], opened: Callable[[], Opened]) -> list[str]:
    """The outcome of each call, in order. `opened` starts the program and gives the names that it defines."""
    outcomes: list[str] = []
    spent = 0.0
    for _ in range(_RESTARTS):
        if len(outcomes) == len(probes) or spent >= TOTAL_S:
            break
        try:
            conversation, space = opened()
        except (Exception, Ended, NotData):  # noqa: BLE001 - a program that does not load has no behaviour
            break
        try:
            for probe in probes[len(outcomes) :]:
                conversation.begin()
                outcome = _call(probe, space)
                if isinstance(conversation.fate, Ended) and conversation.fate.status == "infra":
                    break  # says nothing about the program: the input is tried again
                outcomes.append(outcome)
                if isinstance(conversation.fate, Ended) or spent + conversation.cpu_s() >= TOTAL_S:
                    break
        finally:
            spent += conversation.cpu_s()
            conversation.close()
            space.clear()
    return outcomes + [""] * (len(probes) - len(outcomes))


def printed_outcome(stdin: str, lines: Sequence[str]) -> str:
    """Of a program that read `stdin`, wrote these lines to standard output and ended well."""
    return _named(stdin, repr(list(lines)))


def raised(error: Exception) -> str:
    """Of a program that raised `error`."""
    return f"raise {getattr(error, 'mucode_error', type(error).__name__).partition(':')[0]}"


def _call(probe: str, space: dict[str, Any]) -> str:
    try:
        value = eval(probe, space)  # noqa: S307 - a call with literal arguments, checked where it was made
        if isinstance(value, Remote) and value.mucode_kind == "iterator":
            value = ("iterator", *itertools.islice(value, _ITEMS))
        return "None" if value is None else _named(probe, _canonical(value))
    except Ended as end:
        return "" if end.status == "unjudged" else end.status
    except (NotData, RecursionError):
        return ""
    except Exception as error:  # noqa: BLE001 - the program's own
        return raised(error)


def _named(probe: str, value: str) -> str:
    """The input is part of the digest, so that outcomes on different inputs never agree."""
    return "= " + hashlib.sha256(f"{probe}\n{value}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _canonical(value: Any) -> str:
    """Equal for values that a test would call equal, whatever the order of a set and the last digits of a float."""
    if isinstance(value, bool | int):
        return hex(value)
    if isinstance(value, float):
        rounded = value if value.is_integer() else float(format(value, ".9g"))
        return hex(int(rounded)) if rounded.is_integer() else repr(rounded)
    if isinstance(value, str | bytes):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(map(_canonical, value))}]"
    if isinstance(value, tuple):
        return f"({','.join(map(_canonical, value))})"
    if isinstance(value, set | frozenset):
        return f"{{{','.join(sorted(map(_canonical, value)))}}}"
    if isinstance(value, dict):
        return f"{{{','.join(sorted(f'{_canonical(key)}:{_canonical(item)}' for key, item in value.items()))}}}"
    if isinstance(value, Remote):
        raise NotData("unjudged", "an object of the program has no value to compare")
    return repr(value)
