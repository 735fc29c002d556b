"""Values that a test and a program share: each side has a copy, and both hold what one process would hold.

Each side keeps the mutable values that have crossed, by number. A message has numbers in their place, and beside them
the values that are new and those that its sender has changed since. The sides run in turns, so both are up to date
whenever they run. A value to which one side does not refer any more is forgotten by both.
"""

import enum
import sys
from collections.abc import Callable, Iterable, Sequence
from operator import is_
from typing import Any

from . import codec

_MOST_VALUES, _MOST_NUMBERED = 50_000, 100_000
"""At one time, and of one side in all."""
_MOST_WORK = 5_000_000
"""Looks at values for changes, and at 16 items of one each. Beyond these bounds values cross as copies."""
_TAGS: dict[type, str] = {list: "l", dict: "d", set: "S", bytearray: "B"}
_COLLECTIONS = {"deque": "q", "Counter": "m", "OrderedDict": "m", "defaultdict": "m"}
_NO_RECORDS = (enum.Enum, BaseException, *codec.BASES)
_LISTS = frozenset("vp")
"""Other forms of a list."""

Section = dict[str, Any]
"""Of a message: `new` values and changes, each with its number, and the numbers that are `free`. In a message None
stands for a section that would be empty.
"""


class Mirror:
    """The shared values of one side. `first` is 0 or 1: the sides number what they give by even and odd numbers."""

    def __init__(self, first: int, opaque: codec.Opaque, special: Callable[[str, Any], Any]) -> None:
        self._first = self._next = first
        self._opaque = opaque
        self._special = special
        self.records: dict[str, type] = {}
        """Classes of the set-up, whose instances both sides can make."""
        self.loose = False
        """Some values have crossed as copies, since there were too many to keep."""
        self._values: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}
        self._seen: dict[int, Any] = {}
        """What each value held when both sides were last the same."""
        self._pending: list[int] = []
        self._other: dict[int, Any] = {}
        """What the other side has in place of values that this side was to keep as they are."""
        self._free: list[int] = []
        """Numbers that the other side has to forget, too."""
        self._work = 0

    def __bool__(self) -> bool:
        return bool(self._values or self._free)

    def unneeded(self, values: Iterable[Any]) -> bool:
        """Nothing is shared yet, and these values cannot change: their section would be empty."""
        return not (self or self.loose) and codec.SCALARS.issuperset(map(type, values))

    def close(self) -> None:
        for table in (self._values, self._numbers, self._seen, self._other):
            table.clear()

    # --- giving

    def forms(self, values: Sequence[Any]) -> tuple[list[Any], Section]:
        """The forms of values, and the section that goes with them. Raises NotPlain."""
        if not self.loose and self._work < _MOST_WORK:
            try:
                forms = [self._encode(value, 0) for value in values]
                return forms, self._section(self._news())
            except _TooManyError:
                self._drop_pending()
            except BaseException:
                self._drop_pending()
                raise
        self.loose = True
        return [codec.encode(value, self._opaque) for value in values], {**self._section([]), "loose": True}

    def _section(self, news: list[Any]) -> Section:
        self._release()  # after what they hold now has been said
        free, self._free = self._free, []
        return {"new": news, "free": free}

    def _drop_pending(self) -> None:
        for number in set(self._numbers.values()) - self._seen.keys():
            self._forget(number)
        self._pending.clear()

    def _news(self) -> list[Any]:
        for number, seen in self._seen.items():
            value = self._values[number]
            self._work += 1 + (len(seen) >> 4)
            if _changed(value, seen):
                self._pending.append(number)
                self._other.pop(number, None)
        news = []
        while self._pending:
            number = self._pending.pop()
            value = self._values[number]
            self._seen[number] = _state(value)
            news.append([number, self._shallow(value)])
        return news

    def _encode(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind in codec.SCALARS:
            return codec.encode(value)
        if self.tag(value):
            return ["&", self._number(value)]
        if depth > codec.MAX_DEPTH:
            raise codec.NotPlain("the value is nested too deeply or contains itself")
        if kind is tuple:
            return ["t", [self._encode(item, depth + 1) for item in value]]
        fields: Any = getattr(kind, "_fields", None) if issubclass(kind, tuple) else None
        if codec.named(fields) and not codec.own_names(value):
            return ["N", [kind.__name__, list(fields), [self._encode(item, depth + 1) for item in value]]]
        return codec.encode(value, self._opaque)

    def _number(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            if len(self._values) >= _MOST_VALUES or self._next > 2 * _MOST_NUMBERED:
                raise _TooManyError
            number, self._next = self._next, self._next + 2
            self._hold(number, value)
            self._pending.append(number)
        return number

    def _shallow(self, value: Any) -> Any:
        tag = self.tag(value)
        if tag == "l":
            return codec.flat(value) or ["l", [self._encode(item, 0) for item in value]]
        if tag == "d":
            return ["d", self._pairs(value)]
        if tag == "S":
            return ["S", [self._encode(item, 0) for item in value]]
        if tag == "q":
            return ["q", [value.maxlen, [self._encode(item, 0) for item in value]]]
        if tag == "m":
            return ["m", [type(value).__name__, codec.factory(value, self._opaque), self._pairs(value)]]
        if tag == "o":
            return ["o", [type(value).__name__, {name: self._encode(item, 0) for name, item in vars(value).items()}]]
        return codec.encode(value)

    def _pairs(self, value: dict[Any, Any]) -> list[Any]:
        return [[self._encode(key, 0), self._encode(item, 0)] for key, item in value.items()]

    def tag(self, value: Any) -> str:
        """How a value that can be changed crosses; empty for any other."""
        kind = type(value)
        tag = _TAGS.get(kind)
        if tag is not None:
            return tag
        if kind.__module__ == "collections":
            return _COLLECTIONS.get(kind.__name__, "")
        if self.records.get(kind.__name__) is kind and hasattr(value, "__dict__"):
            return "" if isinstance(value, _NO_RECORDS) else "o"
        return "n" if codec.is_array(value) else ""

    # --- taking

    def apply(self, section: Section, keep: Callable[[int], bool] = lambda _: False) -> bool:
        """Take over what is new and what the other side has changed, but for the numbers to `keep` as they are.
        Whether there was one of these. Raises Malformed.
        """
        try:
            return self._apply(section, keep)
        except (MemoryError, codec.Malformed):
            raise
        except Exception as error:  # noqa: BLE001 - none of them is the test's to expect
            raise codec.Malformed(f"the shared values cannot be decoded: {type(error).__name__}") from None

    def _apply(self, section: Section, keep: Callable[[int], bool]) -> bool:
        self.loose |= "loose" in section
        known = [number for number, _ in section["new"] if number in self._values]
        for number, form in section["new"]:
            if number not in self._values:
                if type(number) is not int or number % 2 == self._first:
                    raise ValueError(number)
                self._hold(number, self._shell(form))
        kept = set(filter(keep, known))
        for number, form in sorted(section["new"], key=_after_their_keys):
            if number in kept:
                other = self._other[number] = self._shell(form)
                self._fill(other, form)
            else:
                value = self._values[number]
                self._fill(value, form)
                self._seen[number] = _state(value)
        for number in section["free"]:
            self._forget(number)
        return bool(kept)

    def decode(self, form: Any) -> Any:
        """A value of the other side, with the very values that are shared. Where some were kept as they are, a copy
        that shows what the other side has. Raises Malformed.
        """
        value = codec.decode(form, self.special)
        return self._viewed(value) if self._other else value

    def special(self, tag: str, body: Any) -> Any:
        return self._values[body] if tag == "&" else self._special(tag, body)

    def _shell(self, form: Any) -> Any:
        """An empty value for a form."""
        tag, body = form
        if tag == "o":
            return codec.blank(self.records[body[0]])
        if tag == "n":
            return codec.decode(form)
        if tag in "qm":
            return codec.empty(tag, body, self.special)
        return {"l": list, "d": dict, "S": set, "B": bytearray}["l" if tag in _LISTS else tag]()

    def _fill(self, value: Any, form: Any) -> None:
        tag, body = form
        if self.tag(value) != ("l" if tag in _LISTS else tag):
            raise ValueError(tag)
        if tag == "o":
            if type(value).__name__ != body[0]:
                raise ValueError(tag)
            vars(value).clear()
            vars(value).update(self._special("fields", body))
            for name, item in vars(value).items():
                vars(value)[name] = codec.decode(item, self.special)
        elif tag == "q":
            value.clear()
            value.extend([codec.decode(item, self.special) for item in body[1]])
        elif tag in "dm":
            items = codec.decode(["d", body if tag == "d" else body[2]], self.special)
            value.clear()
            for key, item in items.items():
                value[key] = item
        elif tag == "S":
            items = codec.decode(form, self.special)
            value.clear()
            value.update(items)
        elif tag == "n":
            value[...] = codec.decode(form)
        else:
            value[:] = codec.decode(form, self.special)

    def _viewed(self, value: Any) -> Any:
        """A copy that has what the other side has where values were kept as they are."""
        made: dict[int, Any] = {}
        left: list[tuple[Any, Any]] = []

        def copied(part: Any) -> Any:
            if type(part) is tuple:
                return tuple(map(copied, part))
            tag = self.tag(part)
            held = self._other.get(self._numbers.get(id(part), -1), part) if tag else part
            if tag in ("", "n", "B", "S"):
                return held
            if id(part) not in made:
                made[id(part)] = _blank(held)
                left.append((held, made[id(part)]))
            return made[id(part)]

        copy = copied(value)
        while left:
            held, empty = left.pop()
            if isinstance(held, dict):
                for key, item in held.items():
                    empty[key] = copied(item)
            elif hasattr(held, "__dict__"):
                vars(empty).update({name: copied(item) for name, item in vars(held).items()})
            else:
                empty.extend(map(copied, held))
        return copy

    def within(self, values: Iterable[Any]) -> set[int]:
        """The numbers of these values and of what they hold."""
        found, left = set[int](), list(values)
        passed = set[int]()
        while left:
            value = left.pop()
            if id(value) in passed:
                continue
            passed.add(id(value))
            tag = self.tag(value)
            if (number := self._numbers.get(id(value))) is not None:
                found.add(number)
            parts: Iterable[Any] = ()
            if tag == "o":
                parts = vars(value).values()
            elif tag in ("d", "m"):
                parts = value.values()
            elif tag in ("l", "q") or type(value) is tuple:
                parts = value
            left += [part for part in parts if type(part) not in codec.SCALARS]
        return found

    # --- the table

    def _hold(self, number: int, value: Any) -> None:
        self._values[number] = value
        self._numbers[id(value)] = number

    def _forget(self, number: int) -> None:
        if number in self._values:
            del self._numbers[id(self._values.pop(number))]
            self._seen.pop(number, None)
            self._other.pop(number, None)

    def _release(self) -> None:
        """Forget what nobody else on this side refers to: wholes come before their parts."""
        for number in list(self._values):
            if _references(self._values, number) <= _OWN:
                self._forget(number)
                self._free.append(number)


def _after_their_keys(new: Any) -> bool:
    """Objects come first: they may be keys, and have a hash that is made of their fields."""
    return bool(new[1][0] != "o")


class _TooManyError(Exception):
    """There are more values than a mirror keeps."""


def _references(values: dict[int, Any], number: int) -> int:
    return sys.getrefcount(values[number])


_OWN = _references({0: []}, 0)


def _blank(value: Any) -> Any:
    """An empty value like it."""
    kind = type(value)
    if kind.__name__ == "deque":
        return kind(maxlen=value.maxlen)
    if kind.__name__ == "defaultdict":
        return kind(value.default_factory)
    return object.__new__(kind) if hasattr(value, "__dict__") and not isinstance(value, dict) else kind()


def _state(value: Any) -> Any:
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, set):
        return set(value)
    if isinstance(value, bytearray):
        return bytes(value)
    if codec.is_array(value):
        return value.tobytes()
    if hasattr(value, "__dict__"):
        return [*vars(value), *vars(value).values()]
    return list(value)


def _changed(value: Any, seen: Any) -> bool:
    if type(seen) is not list:
        return bool(_state(value) != seen)
    now = value if type(value) is list else _state(value)
    return len(now) != len(seen) or not all(map(is_, now, seen))
