"""Probes: inputs on which a problem's candidates run only to compare their behaviour.

A probe is a call of the entry point with literal arguments or, for a program without one, a text for standard input.
Probes come from the calls that the prompt and the public tests show (their arguments, never their results), then from
mutations of these that keep every type. If no call is shown, they come from a fixed palette of typed values for the
parameters that the prompt or the candidates declare. Private tests are never read.
"""

import ast
import copy
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mucode_agent.syntax import parse, parse_expression
from mucode_agent.types import CodeTest, Problem, StdioTest

MOST = 24
"""Probes per problem, by default."""
_LONGEST = 2000
"""Maximum characters of one probe."""
_TRIES = 20
"""Mutations tried for each one needed."""


def probes(problem: Problem, codes: Iterable[str] = (), count: int = MOST) -> tuple[str, ...]:
    """At most `count` distinct probes; the same problem and programs give the same ones.

    `codes` are candidate programs: if neither prompt nor tests show a call, they declare the parameters. Empty if
    nothing declares any.
    """
    chance = random.Random(problem.prompt)  # noqa: S311
    if problem.entry_point is None:
        shown = [test.stdin for test in problem.public_tests if isinstance(test, StdioTest)]
        return _filled(shown, lambda: _mutated_text(chance.choice(shown), chance), count) if shown else ()
    calls = shown_calls(problem)
    if calls:
        return _filled(calls, lambda: _mutated_call(chance.choice(calls), chance), count)
    declared = _declared(problem, codes)
    if declared is None:
        return ()
    prefix, parameters = declared
    return _filled([], lambda: _palette_call(prefix, parameters, chance), count)


def shown_calls(problem: Problem) -> list[str]:
    """The calls of the entry point with literal arguments that the prompt and the public tests show, in order."""
    entry = problem.entry_point
    if entry is None:
        return []
    found = calls_in(problem.prompt, entry)
    for test in problem.public_tests:
        if isinstance(test, CodeTest):
            found += _calls_of_test(test.code, entry)
    return [call for call in dict.fromkeys(found) if len(call) <= _LONGEST]


def calls_in(text: str, entry_point: str) -> list[str]:
    """The calls of `entry_point` with literal arguments in `text`, each once, in order."""
    starts = re.finditer(rf"(?<![\w.])(?<!def )(?<!class ){re.escape(entry_point)}\s*\(", text)
    calls = (_leading_call(text[start.start() : start.start() + _LONGEST], entry_point) for start in starts)
    return list(dict.fromkeys(call for call in calls if call))


def _leading_call(text: str, entry_point: str) -> str:
    """The longest chain of calls that opens `text`, such as `f(1)` or `Solution().f(1)`; empty if there is none."""
    found = ""
    for closing in re.finditer(r"\)", text):
        try:
            tree = parse_expression(text[: closing.end()])
        except SyntaxError:
            continue
        if not isinstance(tree, ast.Call) or not _is_literal_call(tree, {entry_point}):
            break
        found = ast.unparse(tree)
        if not re.match(r"\.\w+\s*\(", text[closing.end() :]):
            break
    return found


def _calls_of_test(code: str, entry_point: str) -> list[str]:
    """Outermost calls, in order: `Solution().f(1)` and not the `Solution()` in it."""
    try:
        tree = parse(code)
    except SyntaxError:
        return []
    names = {entry_point, "candidate"}
    found: list[ast.Call] = []
    inner: set[ast.AST] = set()
    for node in ast.walk(tree):  # a call comes before the calls it contains
        if isinstance(node, ast.Call) and node not in inner and _is_literal_call(node, names):
            found.append(node)
            inner.update(ast.walk(node.func))
    return [ast.unparse(_renamed(call, entry_point)) for call in sorted(found, key=lambda c: (c.lineno, c.col_offset))]


def _is_literal_call(node: ast.expr, names: set[str]) -> bool:
    """Whether every call of the chain has literal arguments and its first name is one of `names`."""
    while isinstance(node, ast.Call):
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        if any(keyword.arg is None for keyword in node.keywords) or not all(map(_is_literal, arguments)):
            return False
        node = node.func.value if isinstance(node.func, ast.Attribute) else node.func
    return isinstance(node, ast.Name) and node.id in names


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return False
    return True


def _renamed(call: ast.Call, entry_point: str) -> ast.Call:
    call = copy.deepcopy(call)
    for node in ast.walk(call.func):
        if isinstance(node, ast.Name) and node.id == "candidate":
            node.id = entry_point
    return call


def _filled(first: Sequence[str], another: Callable[[], str], count: int) -> tuple[str, ...]:
    """The first ones, then new ones, up to `count`; fewer if no new ones are found."""
    found = dict.fromkeys(first[:count])
    for _ in range(_TRIES * count):
        if len(found) == count:
            break
        if len(probe := another()) <= _LONGEST:
            found.setdefault(probe)
    return tuple(found)


# --- mutations that keep types -------------------------------------------------------------------------------------


def _mutated_call(call: str, chance: random.Random) -> str:
    """`call` with one or more of its arguments changed."""
    tree = parse_expression(call)
    assert isinstance(tree, ast.Call)
    places: list[tuple[Any, Any]] = [(tree.args, i) for i in range(len(tree.args))]
    places += [(keyword, "value") for keyword in tree.keywords]
    if not places:
        return call
    for holder, key in chance.sample(places, chance.randint(1, len(places))):
        value = ast.literal_eval(holder[key] if isinstance(holder, list) else holder.value)
        literal = parse_expression(repr(mutated(value, chance)))
        if isinstance(holder, list):
            holder[key] = literal
        else:
            holder.value = literal
    return ast.unparse(tree)


def mutated(value: Any, chance: random.Random) -> Any:
    """Another value of the same type, nested ones included."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = (
            value + 1,
            value - 1,
            0,
            1,
            -value,
            value * 2,
            chance.randint(-10, 20),
            abs(value) + chance.randint(0, 5),
        )
        return chance.choice(near)
    if isinstance(value, float):
        return chance.choice((value + 1.0, value / 2, 0.0, -value, round(chance.uniform(-5, 10), 2)))
    if isinstance(value, complex):
        return value + chance.choice((1, -1, 1j))
    if isinstance(value, str | bytes):
        return _mutated_string(value, chance)
    if isinstance(value, list | tuple):
        return type(value)(_mutated_items(list(value), chance))
    if isinstance(value, set | frozenset):
        return type(value)(_mutated_items(sorted(value, key=repr), chance))
    if isinstance(value, dict):
        return _mutated_dict(value, chance)
    return value


def _mutated_string(value: Any, chance: random.Random) -> Any:
    if isinstance(value, bytes):
        return _mutated_string(value.decode("latin-1"), chance).encode("latin-1", "replace")
    if not value:
        return chance.choice(("a", "ab", "Hello World", "123"))
    letters = list(value)
    match chance.randrange(5):
        case 0:
            chance.shuffle(letters)
        case 1:
            letters = letters[: chance.randint(0, len(letters))]
        case 2:
            letters[chance.randrange(len(letters))] = chance.choice(value + "aeZ1 ")
        case 3:
            letters += letters[: chance.randint(1, 3)]
        case _:
            letters = list(value.swapcase()) if chance.random() < 0.5 else letters[::-1]
    return "".join(letters)


def _mutated_items(items: list[Any], chance: random.Random) -> list[Any]:
    if not items:
        return items
    match chance.randrange(5):
        case 0:
            return items[: chance.randint(0, len(items))]
        case 1:
            chance.shuffle(items)
            return items
        case 2:
            return [*items, mutated(chance.choice(items), chance)]
        case _:
            place = chance.randrange(len(items))
            items[place] = mutated(items[place], chance)
            return items


def _mutated_dict(value: dict[Any, Any], chance: random.Random) -> dict[Any, Any]:
    if not value:
        return value
    key = chance.choice(list(value))
    match chance.randrange(4):
        case 0:
            return {other: item for other, item in value.items() if other != key}
        case 1:
            return {**value, mutated(key, chance): mutated(value[key], chance)}
        case _:
            return {**value, key: mutated(value[key], chance)}


_TOKEN = re.compile(r"-?\d+(?:\.\d+)?|[A-Za-z]+")


def _mutated_text(text: str, chance: random.Random) -> str:
    """Standard input with one or two of its numbers and words changed; the other lines keep their counts."""
    tokens = list(_TOKEN.finditer(text))
    if not tokens:
        return text
    changed = text
    picked = chance.sample(tokens, min(len(tokens), chance.randint(1, 2)))
    for token in sorted(picked, key=lambda token: -token.start()):
        changed = changed[: token.start()] + _mutated_token(token[0], chance) + changed[token.end() :]
    return changed


def _mutated_token(token: str, chance: random.Random) -> str:
    if token.lstrip("-").isdigit():
        number = int(token)
        return str(mutated(number, chance) if number < 0 else abs(mutated(number, chance)))
    if token[-1].isdigit():
        return str(mutated(float(token), chance))
    letters = list(token)
    letters[chance.randrange(len(letters))] = chance.choice(token)
    return "".join(letters)


# --- the palette ---------------------------------------------------------------------------------------------------

_PALETTE: dict[str, tuple[Any, ...]] = {
    "int": (0, 1, 2, 5, 10, -3, 12, 7, 100),
    "float": (2.5, 1.0, 0.0, -1.5),
    "bool": (True, False),
    "str": ("", "abc", "Hello World", "aabbc", "a1B2", "racecar", "1011", "(()())", "1 2 3"),
    "list[int]": ([], [1, 2, 3], [3, 1, 2, 2], [5, -1, 4, 0], [10, 20, 30, 40, 50], [7]),
    "list[float]": ([1.0, 2.5, 0.5], [], [3.0, 3.0, -1.25]),
    "list[str]": (["a", "bc", "abc"], ["red", "Green", "red"], [], ["x"]),
    "list[list[int]]": ([[1, 2], [3, 4]], [[1], [2, 3], []], [[5, 1], [2, 2], [0, 9]]),
    "list[tuple]": ([(1, 2), (3, 4)], [("a", 3), ("b", 1)]),
    "tuple": ((1, 2, 3), (4, 5, 6, 2), ()),
    "set[int]": ({1, 2, 3}, {3, 4}),
    "dict[str, int]": ({"a": 1, "b": 2}, {}, {"x": 3, "y": 1, "z": 3}),
}
_UNTYPED = (
    *("int", "str", "list[int]") * 3,
    "list[str]",
    "tuple",
    "list[tuple]",
    "list[list[int]]",
    "float",
    "dict[str, int]",
)
"""Kinds for a parameter without an annotation, the common ones more often."""


_MUTATED = 0.3
"""Share of the palette's values that are mutated, to have enough."""


def _palette_call(prefix: str, kinds: Sequence[Sequence[str]], chance: random.Random) -> str:
    alike = chance.random() < 0.4 and len(set(map(tuple, kinds))) == 1
    kind = chance.choice(kinds[0]) if alike else ""
    values = [chance.choice(_PALETTE[kind or chance.choice(options)]) for options in kinds]
    values = [mutated(copy.deepcopy(value), chance) if chance.random() < _MUTATED else value for value in values]
    return f"{prefix}({', '.join(map(repr, values))})"


def _declared(problem: Problem, codes: Iterable[str]) -> tuple[str, list[Sequence[str]]] | None:
    """What to call, and the kinds of value for each required parameter; None if nothing declares any.

    A signature in the prompt comes first, then the one that most candidates share.
    """
    assert problem.entry_point is not None
    found = Counter(
        declared for code in codes if (declared := next(_signatures(code, problem.entry_point), None)) is not None
    )
    shown = next(_signatures_in_text(problem.prompt, problem.entry_point), None)
    chosen = shown or (found.most_common(1)[0][0] if found else None)
    if chosen is None or not chosen[1]:
        return None
    prefix, annotations = chosen
    return prefix, [_kinds(annotation) for annotation in annotations]


def _signatures(code: str, entry_point: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(What to call, annotations of its required parameters) for each definition of the entry point."""
    try:
        tree = parse(code)
    except SyntaxError:
        return
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == entry_point:
            yield entry_point, _required(node.args)
        if isinstance(node, ast.ClassDef) and node.name == entry_point:
            methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
            makes = next((method for method in methods if method.name == "__init__"), None)
            public = next((method for method in methods if not method.name.startswith("_")), None)
            if public is not None and (makes is None or len(_required(makes.args)) <= 1):
                yield f"{entry_point}().{public.name}", _required(public.args)[1:]


def _signatures_in_text(text: str, entry_point: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    name = re.escape(entry_point)
    for start in re.finditer(rf"^[ \t>`]*(?:.*?`)?(def {name}\s*\([^\n]*?\)[^\n:]*:)", text, re.MULTILINE):
        yield from _signatures(f"{start[1]} pass", entry_point)
    for start in re.finditer(rf"^class {name}\b[^\n]*:\n([ \t]+)(def \w+\s*\([^\n]*?\)[^\n:]*:)", text, re.MULTILINE):
        yield from _signatures(f"class {entry_point}:\n {start[2]} pass", entry_point)


def _required(arguments: ast.arguments) -> tuple[str, ...]:
    given = [*arguments.posonlyargs, *arguments.args]
    given = given[: len(given) - len(arguments.defaults)]
    return tuple(ast.unparse(a.annotation) if a.annotation else "" for a in given)


def _kinds(annotation: str) -> Sequence[str]:
    """Kinds of the palette for an annotation such as `List[int]` or `Optional[str]`; all of them for an unknown one."""
    name = re.sub(r"\btyping\.|\s", "", annotation).lower()
    name = re.sub(r"^optional\[(.*)\]$", r"\1", name)
    if name in ("", "any", "object", "list", "list[any]", "t"):
        return ("list[int]", "list[str]", "list[list[int]]") if name.startswith("list") else _UNTYPED
    if name in ("dict", "tuple", "set"):
        return {"dict": ("dict[str, int]",), "tuple": ("tuple",), "set": ("set[int]",)}[name]
    spaced = name.replace(",", ", ")
    if spaced in _PALETTE:
        return (spaced,)
    for opening, kind in (("list[tuple", "list[tuple]"), ("list[list", "list[list[int]]"), ("tuple[", "tuple")):
        if name.startswith(opening):
            return (kind,)
    for opening, kind in (
        ("list[", "list[int]"),
        ("sequence[int", "list[int]"),
        ("dict[", "dict[str, int]"),
        ("set[", "set[int]"),
    ):
        if name.startswith(opening):
            return (kind,)
    return _UNTYPED
