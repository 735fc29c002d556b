"""Plain data across the trust boundary: exact built-in types as tagged JSON, and frames on a stream socket.

Decoding makes data only: no pickle, no code, no type but those listed here and the records that the trusted set-up
code defines. What is not plain stays where it is and crosses as a numbered handle.
"""

import array
import builtins
import contextlib
import enum
import functools
import json
import re
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 150
_MOST_NAMES = 400
MAKING = frozenset(
    {
        *("__new__", "__init__", "__init_subclass__", "__class_getitem__", "__set_name__", "__del__", "__module__"),
        *("__qualname__", "__doc__", "__dict__", "__weakref__", "__slots__", "__annotations__", "__orig_bases__"),
        *("__parameters__", "__firstlineno__", "__static_attributes__", "__classcell__", "__abstractmethods__"),
    }
)
"""Names of a class by which its objects are made, or which say nothing of them."""
_OF_NAMED_TUPLES = frozenset(
    {
        *("_make", "_replace", "_asdict", "_fields", "_field_defaults", "__repr__", "__getnewargs__"),
        *("__match_args__", "__replace__"),
    }
)
_INFIX = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor", "lshift", "rshift")
OPERATORS = (*_INFIX, *(f"i{name}" for name in _INFIX), "neg", "pos", "abs", "invert")
"""Names in the module `operator` of what the test may do with objects of the program."""
HEADER = struct.Struct(">I")
SLACK = 4096
"""Room in a frame beside the value itself."""
SHARED = 4
"""So many times as long is a value whose parts are shared and numbered, at most."""
PACKETS = socket.SOCK_SEQPACKET if sys.platform.startswith("linux") else socket.SOCK_DGRAM
"""Sockets between trusted processes keep the bounds of messages."""
CHANNEL = socket.SOCK_SEQPACKET if sys.platform.startswith("linux") else socket.SOCK_STREAM
"""Between a judge and a candidate, used as a stream either way. Reading a packet wakes nobody; reading from a Linux
stream socket wakes its writer, who waits for the answer on the same socket: twice the context switches.
"""
PART = 1 << 15
"""Bytes that are sent at once, and that a read has to have room for."""
REQUEST = struct.Struct("=ci")
"""From a judge to the fork server: fork, reap, wait or schedule by its first letter, and a number."""
PID = struct.Struct("=i")
END = struct.Struct("=i?dd")
"""How a process ended: wait status, killed by us, CPU seconds, peak MB."""
FAILED = 71
"""Exit code of a process of ours that failed by its own fault."""
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_DECODER = json.JSONDecoder()
_EXACT = 1 << 53  # beyond it, JSON readers other than Python's lose digits; hexadecimal is also linear in length
_DTYPE = re.compile(r"[<>|=][?biufcSU]\d+\Z")
_TYPES: dict[str, type] = {
    t.__name__: t for t in (int, float, complex, bool, str, bytes, bytearray, list, tuple, dict, set, frozenset)
}
_AS_THEY_ARE = frozenset({str, bool, float, type(None)})
"""Types that JSON writes and reads without loss; so are integers, within bounds."""
_INTEGERS = frozenset({int})
SCALARS = _AS_THEY_ARE | _INTEGERS
BASES = (int, float, str, bytes, tuple, frozenset, list, dict, set)
"""An object of a subclass of one of these crosses as the plain base."""
_CONTENT: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    tuple: lambda value: tuple.__getitem__(value, slice(None)),
    frozenset: frozenset,
    list: list.copy,
    dict: dict.copy,
    set: set,
}
"""Their content, whatever the methods of a subclass say."""
_TYPES |= {"NoneType": type(None), "object": object, "type": type}
_TYPES |= {n: t for n, t in vars(builtins).items() if isinstance(t, type) and issubclass(t, BaseException)}
_SINGLE = {"Ellipsis": ..., "NotImplemented": NotImplemented}
_TYPES_BACK: dict[Any, str] = {kind: name for name, kind in _TYPES.items()}
_MANY, _SAMPLE = 512, 256
"""From so many numbers on, a list of them moves as its memory; and how many tell how long they are as JSON."""
_LONG = 1 << 14
"""From so many characters on, a text moves as its memory: JSON would look at each."""
_PRIME = 2654435761
"""Steps of it meet no period of the numbers."""
_CODES = {int: "bhiq", float: "d"}
_KINDS = frozenset("bhiqd")
_MAPPINGS = frozenset({"collections.Counter", "collections.OrderedDict", "collections.defaultdict"})
_MOST_FIELDS = 64
_ITEMS: dict[type, str] = {list: "l", tuple: "t", set: "S", frozenset: "F"}

Opaque = Callable[[Any, int, tuple[int, ...]], Any]
"""`opaque(value, depth, seen)` is the form of a value that is not plain."""
Special = Callable[[str, Any], Any] | None
"""`special(tag, body)` is the value of such a form."""


class NotPlain(Exception):  # noqa: N818 - a fact about a value
    """The value is not plain data."""


class Malformed(Exception):  # noqa: N818 - a fact about a message
    """The other side sent what no honest peer sends."""


def encode(value: Any, opaque: Opaque | None = None, depth: int = 0, seen: tuple[int, ...] = ()) -> Any:
    """JSON form of plain data. `opaque` gives the form of anything else; without it NotPlain is raised."""
    kind = type(value)
    if kind in _AS_THEY_ARE:
        return ["s", value.encode("utf-8", "surrogatepass")] if kind is str and len(value) >= _LONG else value
    if kind is int:
        return value if -_EXACT < value < _EXACT else ["I", hex(value)]
    if depth > MAX_DEPTH or id(value) in seen:
        raise NotPlain("the value is nested too deeply or contains itself")
    if kind is list and (form := flat(value)):
        return form
    seen = (*seen, id(value))
    if kind in _ITEMS:
        return [_ITEMS[kind], [encode(item, opaque, depth + 1, seen) for item in value]]
    if kind is dict:
        pairs = [
            [encode(key, opaque, depth + 1, seen), encode(item, opaque, depth + 1, seen)] for key, item in value.items()
        ]
        return ["d", pairs]
    return _encode_rare(value, kind, opaque, depth, seen)


def flat(value: list[Any]) -> list[Any] | None:
    """The form of a list of plain scalars; None for any other."""
    kinds = set(map(type, value))
    if not kinds <= SCALARS:
        return None
    if len(value) >= _MANY and len(kinds) == 1 and (packed := _pack_numbers(value, *kinds)):
        return ["p", packed]
    if kinds <= _AS_THEY_ARE or (kinds == _INTEGERS and min(value) > -_EXACT and max(value) < _EXACT):
        return ["v", value]
    return ["l", [encode(item) for item in value]]


def decode(form: Any, special: Special = None) -> Any:
    """The value of `encode`'s JSON form. `special(tag, body)` decodes handles and records. Raises Malformed."""
    try:
        return _decode(form, special)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - none of them is the test's to expect
        raise Malformed(f"the value cannot be decoded: {type(error).__name__}") from None


def _pack_numbers(numbers: list[Any], kind: type) -> list[Any] | None:
    """Type code and memory of numbers of one kind, where that is no longer than their JSON, as far as a part shows."""
    sample = [numbers[place * _PRIME % len(numbers)] for place in range(_SAMPLE)]
    budget = len(text(sample)) / len(sample) * len(numbers) if kind in _CODES else 0
    for code in _CODES.get(kind, ""):
        if array.array(code).itemsize * len(numbers) > budget:
            return None
        with contextlib.suppress(OverflowError):
            return [code, array.array(code, numbers)]
    return None


def _numbers(body: Any) -> list[Any]:
    code, content = body
    if code not in _KINDS:
        raise ValueError(code)
    found = array.array(code)
    found.frombytes(content)
    return found.tolist()


def rebuild(kind: type, fields: dict[str, Any], decode_field: Callable[[Any], Any]) -> Any:
    """An instance of a class that the set-up defines, its fields set without running any of its code."""
    record = blank(kind)
    vars(record).update({name: decode_field(form) for name, form in own_fields(kind, fields).items()})
    return record


def blank(kind: type) -> Any:
    """An object of a class that the set-up defines, without running any of its code. Members of an enumeration are
    made with their class, and never later.
    """
    if issubclass(kind, enum.Enum):
        raise ValueError(kind)
    return object.__new__(kind)


def own_fields(kind: type, fields: dict[str, Any]) -> dict[str, Any]:
    """Without those that would hide a method or property of the class: the program would choose what a test calls."""
    bases = kind.__mro__
    return {name: form for name, form in fields.items() if not any(_method(base, name) for base in bases)}


def _method(base: type, name: str) -> bool:
    return hasattr(vars(base).get(name), "__get__")


def is_array(value: Any) -> bool:
    """An array of numpy that is plain data."""
    if not str(getattr(type(value), "__module__", "")).startswith("numpy.") and type(value).__name__ != "ndarray":
        return False
    return getattr(value, "shape", ()) != () and _DTYPE.match(value.dtype.str) is not None


def factory(value: Any, opaque: Opaque | None = None) -> Any:
    """The form of a default dict's factory: the name of a built-in type; empty where there is none."""
    made_by = getattr(value, "default_factory", None)
    known = _TYPES_BACK.get(made_by, "")
    return known if known or made_by is None or opaque is None else opaque(made_by, 0, ())


def empty(tag: str, body: Any, special: Special) -> Any:
    """An empty collection: `q` a deque of that greatest length, `m` a mapping of that name and factory."""
    import collections

    return collections.deque(maxlen=body[0]) if tag == "q" else _mapping([body[0], body[1], ["d", []]], special)


def builtin_error(name: str) -> type[Exception] | None:
    """The built-in exception of that name."""
    kind = getattr(builtins, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def pack(message: Any, halves: str = "surrogatepass") -> bytes:
    """One frame: the length as four bytes, then JSON. What the message holds as memory follows the JSON. `halves` says
    how halves of characters are encoded: as they are, since JSON would join two of them.
    """
    try:
        body = text(message).encode("utf-8", halves)
    except TypeError:
        return _pack_with_memory(message)
    return HEADER.pack(len(body)) + body


def _pack_with_memory(message: Any) -> bytes:
    """A null byte, the length of the JSON, the number of the pieces of memory and the length of each; the JSON, which
    has `{"$": number}` in place of each; and the pieces.
    """
    pieces: list[memoryview] = []

    def put_aside(piece: Any) -> dict[str, int]:
        pieces.append(memoryview(piece).cast("B"))
        return {"$": len(pieces) - 1}

    body = json.dumps(message, separators=(",", ":"), ensure_ascii=False, check_circular=False, default=put_aside)
    data = body.encode("utf-8", "surrogatepass")
    sizes = [len(data), len(pieces), *map(len, pieces)]
    head = b"\0" + struct.pack(f">{len(sizes)}I", *sizes)
    return b"".join([HEADER.pack(len(head) + sum(sizes) - len(pieces)), head, data, *pieces])


def _unpack_with_memory(body: memoryview) -> Any:
    size, count = struct.unpack_from(">2I", body, 1)
    sizes = struct.unpack_from(f">{count}I", body, 9)
    place = 9 + 4 * count
    data, place = bytes(body[place : place + size]), place + size
    pieces = []
    for length in sizes:
        pieces.append(body[place : place + length])
        place += length
    if place != len(body):
        raise ValueError(place)

    def put_back(found: dict[str, Any]) -> Any:
        return pieces[found["$"]] if found.keys() == {"$"} else found

    return json.loads(data.decode("utf-8", "surrogatepass"), object_hook=put_back)


def joined(data: bytes | bytearray, part: bytes) -> bytes | bytearray:
    """`data` with `part` behind it; of many parts it takes time in proportion to the whole."""
    if not data:
        return part
    whole = data if isinstance(data, bytearray) else bytearray(data)
    whole += part
    return whole


def text(message: Any) -> str:
    """JSON, as short as it gets."""
    return "".join(_write(message, 0))


def unpack(body: bytes | bytearray | memoryview) -> Any:
    """The message of a frame's body. Raises Malformed."""
    try:
        if body[:1] == b"\0":
            return _unpack_with_memory(memoryview(body))
        found = str(body, "utf-8", "surrogatepass")
        message, end = _DECODER.raw_decode(found)
    except (ValueError, LookupError, TypeError, struct.error, RecursionError) as error:
        raise Malformed(f"the message is not JSON: {type(error).__name__}") from None
    if end != len(found):
        raise Malformed("the message is more than JSON")
    return message


def _writer() -> Callable[[Any, int], Any]:
    """The pieces of a message's JSON. `JSONEncoder.encode` makes the same C object again for every message."""
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return lambda message, _: [_ENCODER.encode(message)]
    text: Any = json.encoder.encode_basestring
    writer: Callable[[Any, int], Any] = make(None, _ENCODER.default, text, None, ":", ",", False, False, True)
    return writer


_write = _writer()


def _encode_rare(  # noqa: C901 - a table of types, one line each
    value: Any, kind: type, opaque: Opaque | None, depth: int, seen: tuple[int, ...]
) -> Any:
    name = f"{getattr(kind, '__module__', '')}.{getattr(kind, '__name__', '')}"
    if issubclass(kind, type) and _TYPES.get(getattr(value, "__name__", "")) is value:
        return ["y", str(getattr(value, "__name__", ""))]
    if value is ... or value is NotImplemented:
        return ["E", str(value)]
    if kind is complex:
        return ["c", [value.real.hex(), value.imag.hex()]]
    if kind is bytes or kind is bytearray:
        return ["b" if kind is bytes else "B", value if len(value) >= _MANY else value.hex()]
    if kind is slice:
        return ["z", [encode(part) for part in (value.start, value.stop, value.step)]]
    if kind is range:
        return ["r", [encode(value.start), encode(value.stop), encode(value.step)]]
    if name == "decimal.Decimal":
        return ["D", str(value)]
    if name == "fractions.Fraction":
        return ["Q", [hex(value.numerator), hex(value.denominator)]]
    if name in ("datetime.date", "datetime.datetime", "datetime.time"):
        return ["T", [kind.__name__, value.isoformat()]]
    if name == "datetime.timedelta":
        return ["T", ["timedelta", [value.days, value.seconds, value.microseconds]]]
    if name == "collections.deque":
        return ["q", [encode(item, opaque, depth + 1, seen) for item in value]]
    if name.startswith("numpy.") and hasattr(value, "dtype"):
        if not hasattr(value, "shape") or value.shape == ():
            return encode(value.item(), opaque, depth + 1, seen)
        if is_array(value):
            return ["n", [value.dtype.str, list(value.shape), value.tobytes()]]
    if name in _MAPPINGS:
        return ["m", [kind.__name__, factory(value, opaque), encode(dict(value), opaque, depth + 1, seen)]]
    fields: Any = getattr(kind, "_fields", None) if issubclass(kind, tuple) else None
    if named(fields) and not own_names(value):
        return ["N", [kind.__name__, list(fields), [encode(item, opaque, depth + 1, seen) for item in value]]]
    for base in BASES:
        if issubclass(kind, base):
            return opaque(value, depth, seen) if opaque else encode(plain(value), None, depth + 1, seen)
    if opaque is None:
        raise NotPlain(f"{name} is not plain data")
    return opaque(value, depth, seen)


def _decode(form: Any, special: Special) -> Any:
    if type(form) in SCALARS:
        return form
    if type(form) is not list:
        raise ValueError(form)
    tag, body = form
    if tag == "v":
        if type(body) is not list or not SCALARS.issuperset(map(type, body)):
            raise ValueError(tag)
        return body
    if tag == "l":
        return [_decode(item, special) for item in body]
    if tag == "t":
        return tuple([_decode(item, special) for item in body])
    if tag == "d":
        return {_decode(key, special): _decode(item, special) for key, item in body}
    reader = _READERS.get(tag)
    if reader is not None:
        return reader(body)
    if tag in _COLLECTIONS:
        return _COLLECTIONS[tag](body, special)
    if special is None:
        raise ValueError(tag)
    return special(tag, body)


def plain(value: Any) -> Any:
    """What an object of a subclass of one of `BASES` holds, as an object of the base; runs no code of its class."""
    base = next(base for base in BASES if issubclass(type(value), base))
    fields: Any = getattr(type(value), "_fields", None) if base is tuple else None
    content = _CONTENT[base](value)
    return _named_tuple_type(type(value).__name__, fields)._make(content) if named(fields) else content


def own_names(value: Any) -> list[str]:
    """What an object of a subclass of one of `BASES` has that the base has not, or has otherwise."""
    kind = type(value)
    base: Any = next(base for base in BASES if issubclass(kind, base))
    fields: Any = getattr(kind, "_fields", None) if base is tuple else None
    known = {*MAKING, *(fields if named(fields) else ()), *(_OF_NAMED_TUPLES if named(fields) else ())}
    found = dict.fromkeys(getattr(value, "__dict__", ()))
    for each in kind.__mro__:
        if each is not base and each is not object:
            found |= dict.fromkeys(vars(each))
    inherited = {name for name in found if any(name in vars(each) for each in _before(kind, base, name))}
    if "__eq__" in found and _equals_anything(value):  # it says nothing: the base's equality decides
        known |= {"__eq__", "__ne__", "__hash__"}
    return sorted(str(name) for name in found.keys() - known - inherited)[:_MOST_NAMES]


def _before(kind: type, base: type, name: str) -> tuple[type, ...]:
    """The base, where its attribute comes before that of any other class."""
    first = next((each for each in kind.__mro__ if name in vars(each)), None)
    return (base,) if first is base else ()


def _equals_anything(value: Any) -> bool:
    """A class whose objects equal whatever they are compared with says nothing by its equality."""
    try:
        return bool(value == object())
    except Exception:  # noqa: BLE001 - the program's own comparison
        return False


def named(fields: Any) -> bool:
    """The names of a named tuple's fields, as its maker allows them."""
    if type(fields) is not tuple or len(fields) > _MOST_FIELDS:
        return False
    return all(type(name) is str and name.isidentifier() and not name.startswith("_") for name in fields)


def _named_tuple(body: Any, special: Special) -> Any:
    name, fields, items = body
    return _named_tuple_type(str(name), tuple(fields))._make([_decode(item, special) for item in items])


@functools.lru_cache(maxsize=64)
def _named_tuple_type(name: str, fields: tuple[str, ...]) -> Any:
    import collections

    if not named(fields):
        raise ValueError(fields)
    return collections.namedtuple(name, fields)  # raises ValueError for words of the language


def _mapping(body: Any, special: Special) -> Any:
    import collections

    name, form_of_factory, form = body
    items = _decode(form, special)
    if type(items) is not dict:
        raise ValueError(name)
    if name == "defaultdict":
        named = type(form_of_factory) is str
        made_by: Any = _TYPES.get(form_of_factory) if named else _decode(form_of_factory, special)
        return collections.defaultdict(made_by, items)
    kinds: dict[str, Any] = {"Counter": collections.Counter, "OrderedDict": collections.OrderedDict}
    return kinds[name](items)


def _deque(body: Any, special: Special) -> Any:
    import collections

    return collections.deque([_decode(item, special) for item in body])


def _decimal(body: Any) -> Any:
    import decimal

    return decimal.Decimal(str(body))


def _fraction(body: Any) -> Any:
    import fractions

    return fractions.Fraction(int(body[0], 16), int(body[1], 16))


def _time(body: Any) -> Any:
    import datetime

    kind, text = body
    if kind == "timedelta":
        return datetime.timedelta(*[int(part) for part in text])
    kinds: dict[str, Any] = {"date": datetime.date, "datetime": datetime.datetime, "time": datetime.time}
    return kinds[kind].fromisoformat(text)


def _array(body: Any) -> Any:
    numpy = sys.modules.get("numpy")  # only where it was preloaded: never import on the word of the other side
    dtype, shape, content = body
    if numpy is None or not _DTYPE.match(dtype):
        raise ValueError(dtype)
    return numpy.frombuffer(content, dtype).reshape([int(size) for size in shape]).copy()


_COLLECTIONS: dict[str, Callable[[Any, Special], Any]] = {
    "S": lambda body, special: {_decode(item, special) for item in body},
    "F": lambda body, special: frozenset(_decode(item, special) for item in body),
    "q": _deque,
    "m": _mapping,
    "N": _named_tuple,
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "y": _TYPES.__getitem__,
    "E": _SINGLE.__getitem__,
    "p": _numbers,
    "s": lambda body: str(body, "utf-8", "surrogatepass"),
    "I": lambda body: int(body, 16),
    "b": lambda body: bytes.fromhex(body) if type(body) is str else bytes(memoryview(body)),
    "B": lambda body: bytearray.fromhex(body) if type(body) is str else bytearray(memoryview(body)),
    "c": lambda body: complex(float.fromhex(body[0]), float.fromhex(body[1])),
    "r": lambda body: range(*[_decode(part, None) for part in body]),
    "z": lambda body: slice(*[_decode(part, None) for part in body]),
    "D": _decimal,
    "Q": _fraction,
    "T": _time,
    "n": _array,
}
