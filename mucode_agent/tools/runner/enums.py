"""Enumerations of the program, as data: their members are told when the program is loaded, before it sees an argument.

The test gets a class of its own with these members, so that it compares, hashes, orders and combines members by the
standard library's own code. What an enumeration of the program has beside them (methods, further attributes) stays
with the program. An enumeration that replaces what the standard library does with its members stays there altogether.
"""

import contextlib
import enum
from collections.abc import Callable, Container
from typing import Any

from . import codec

_MOST = 512
"""Members of an enumeration."""
_KINDS = (enum.Enum, enum.IntEnum, enum.StrEnum, enum.Flag, enum.IntFlag, enum.ReprEnum)
_BASES: dict[str, Any] = {kind.__name__: kind for kind in (*_KINDS, int, float, str, bytes)}
_ASKED = frozenset({"__str__", "__repr__", "__format__", "__bool__", "__len__", "__call__"})
"""Own methods that are asked of the program: it sees no value of the test that the test does not pass to it."""

Ask = Callable[..., Any]
"""`ask(operation, *arguments)` is the program's answer to an operation on its class."""


def described(space: dict[str, Any], known: Container[str], room: int) -> dict[str, Any]:
    """The enumerations of a module that are data, but for the names that are `known`, each with its description: as
    many as fit into `room` bytes.
    """
    found: dict[str, Any] = {}
    for name, value in list(space.items()):
        if type(value) is not enum.EnumMeta or name in known:
            continue
        if (value.__name__, value.__qualname__, value.__module__) == (name, name, space["__name__"]):
            with contextlib.suppress(Exception):  # it cannot be made again, so it stays with the program
                description = _description(value)
                room -= len(codec.pack({name: description}))
                if description and room > 0:
                    found[name] = description
    return found


def _description(kind: Any) -> list[Any] | None:
    members, own = kind.__members__, vars(kind)
    if len(members) > _MOST:
        return None
    values = [[name, codec.encode(member._value_, _not_plain)] for name, member in members.items()]
    found = [[base.__name__ for base in kind.__bases__], kind.__doc__, [], values]
    plain: Any = made(kind.__name__, codec.unpack(codec.pack(found)[codec.HEADER.size :]), _refuse)
    others = {name for name, value in own.items() if name not in members and value is not vars(plain).get(name)}
    found[2] = sorted(others & _ASKED)
    others -= {*_ASKED, *codec.MAKING, "__reduce_ex__"}
    same = plain.__bases__ == kind.__bases__
    same = same and getattr(plain, "_boundary_", None) is getattr(kind, "_boundary_", None)
    same = same and not any(_replaces(name, plain) for name in others)
    return found if same and all(_alike(member, plain[name]) for name, member in members.items()) else None


def _replaces(name: str, plain: Any) -> bool:
    """Whether a name of an enumeration changes what the plain one does."""
    if not _special(name):
        return hasattr(plain, name) or any(name in vars(base) for base in plain.__mro__)
    if name == "_missing_":  # asked for by a call that the plain one refuses
        return issubclass(plain, enum.Flag)
    return name.startswith("__") or name not in vars(plain)


def _special(name: str) -> bool:
    return name[:1] == "_" == name[-1:]


def _alike(member: Any, plain: Any) -> bool:
    """By what the members hold, and by their attributes: none hides what the plain one has."""
    own = vars(member).keys() - vars(plain).keys()
    held = not isinstance(member, codec.BASES) or codec.plain(member) == codec.plain(plain)
    return held and member._name_ == plain._name_ and not any(hasattr(plain, name) for name in own)


def made(name: str, description: Any, ask: Ask) -> Any:
    """The enumeration of a description: its members are the standard library's, and anything else is asked for."""
    bases, about, asked, values = description
    names = [str(member) for member, _ in values]
    if len(names) > _MOST or not _ASKED.issuperset(asked) or any(map(_special, names)):
        raise ValueError(name)

    class Made(enum.EnumMeta):
        def __getattr__(cls, attribute: str) -> Any:
            if _special(attribute):  # of Python, which asks while the class is made
                raise AttributeError(attribute)
            members = vars(cls).get("_member_map_", {})
            return members[attribute] if attribute in members else ask("get", attribute)

        def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
            try:
                return super().__call__(*arguments, **keywords)
            except (ValueError, TypeError):
                return ask("call", *arguments, **keywords)

        def __getitem__(cls, member: Any) -> Any:
            return super().__getitem__(member) if member in cls.__members__ else ask("getitem", member)

    kinds = tuple(_BASES[str(base)] for base in bases)
    if not issubclass(kinds[-1], enum.Enum):
        raise ValueError(name)
    data = next((base for base in codec.BASES if any(issubclass(kind, base) for kind in kinds)), None)
    space: Any = Made.__prepare__(name, kinds)
    space |= {"__module__": "solution", "__qualname__": name, "__doc__": about if about is None else str(about)}
    space["__getattr__"] = lambda member, attribute: _of_member(ask, member, attribute)
    space["__copy__"] = space["__deepcopy__"] = lambda member, *_: member
    space["__reduce_ex__"] = lambda member, _: ask("reduce", member)
    space["__dir__"] = lambda member: ask("dir", member)
    space["__setattr__"] = lambda member, attribute, value: (
        object.__setattr__(member, attribute, value) if _special(attribute) else ask("set", member)
    )
    for method in asked:
        space[method] = _asking(ask, method)
    for member, (_, form) in zip(names, values, strict=True):
        value = codec.decode(form)
        if data not in (None, type(value)):  # its constructor would be called, and may make something huge
            raise ValueError(name)
        hash(value)  # else it can change, and would be seen to change
        space[member] = value
    kind = Made(name, kinds, space)
    if list(kind.__members__) != names:
        raise ValueError(name)
    own: Any = Made  # its members have been set
    own.__setattr__ = lambda kind, *_: ask("set", kind)
    own.__dir__ = lambda kind: ask("dir", kind)
    own.__name__ = own.__qualname__ = enum.EnumMeta.__name__
    return kind


def _of_member(ask: Ask, member: Any, attribute: str) -> Any:
    if _special(attribute):
        raise AttributeError(attribute)
    return ask("attribute", member, attribute)


def _asking(ask: Ask, method: str) -> Callable[..., Any]:
    return lambda member, *arguments: ask("attribute", member, method)(*arguments)


def _refuse(*_: Any, **__: Any) -> Any:
    raise AttributeError


def _not_plain(value: Any, *_: Any) -> Any:
    raise codec.NotPlain(type(value).__name__)


def form_of(kind: Any, value: Any) -> list[Any] | None:
    """The form of a member of an enumeration that both sides have, of a combination of flags, or of the class. None
    for an object of the class that the other side has not.
    """
    held = vars(value)
    if value is kind:
        return ["e", [kind.__name__, None]]
    if kind.__members__.get(held.get("_name_")) is value:
        return ["e", [kind.__name__, held["_name_"]]]
    number = held.get("_value_")
    if issubclass(kind, enum.Flag) and type(number) is int and kind._value2member_map_.get(number) is value:
        return ["e", [kind.__name__, number]]
    return None


def of_form(kind: Any, key: Any) -> Any:
    """Its value. Raises an exception for what is none."""
    if key is None and issubclass(kind, enum.Enum):
        return kind
    if type(key) is int and issubclass(kind, enum.Flag):
        return enum.EnumMeta.__call__(kind, key)
    return kind.__members__[key]
