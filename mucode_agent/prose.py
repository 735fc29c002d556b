"""A problem in prose: the task, and the tests that a person wrote into a message."""

import ast
import html
import itertools
import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mucode_agent.problems import example_tests, parse_problem, read_problem, without_markup
from mucode_agent.syntax import parse
from mucode_agent.types import CodeTest, Problem, ProblemError, StdioTest

_FENCED = re.compile(r"^[ \t>]*```[^\n]*\n(.*?)^[ \t>]*```", re.MULTILINE | re.DOTALL)
_DEFINED = re.compile(r"\bdef +(\w+) *\(")
_CALLED = re.compile(
    r"\b(?:function|method|named|called)\s+(?:(?:named|called)\s+)?`?(\w+)`?|`(\w+)\(|\b([a-z_]\w*)\(", re.IGNORECASE
)
_ASSERT = re.compile(r"\bassert\b[ (]")


MOST_PROSE = 40_000
"""Maximum characters of a message that is not JSON; a hostile message of this length takes seconds to read."""


def problem_in(text: str) -> Problem:
    """The problem in a message: a JSON object, bare or fenced, or prose with tests in it.

    Tests are asserts on separate lines, in lists, quotes, backticks, fenced blocks and sentences. Without asserts, the
    tests are the examples of the function to write, the first that the text defines, names or calls: `>>> f(1)` with
    its result, `f(1) == 2`, `f(1) -> 2`, `f(1) returns 2`, `Input: f(1)` above `Output: 2`. Prose that names no
    function asks for a program on standard input; its tests are the sample inputs and outputs. Raises ProblemError.
    """
    text = text.replace("\r\n", "\n").removeprefix("\ufeff")
    blocks = [textwrap.dedent(_unquoted(block)).strip() for block in _FENCED.findall(text)]
    data = [_json(block) for block in blocks]
    for whole, value in [(text.strip(), None), *zip(blocks, data, strict=True)]:
        if whole.startswith("{") and (value is None or {"prompt", "text", "test_list"} & set(value)):
            return parse_problem(whole, source="the message")
    if len(text) > MOST_PROSE:
        raise ProblemError(
            f"the message has {len(text)} characters, and tests are searched in at most {MOST_PROSE}; shorten it, or "
            "give the problem as JSON"
        )
    said = [part for value in data for part in _strings(value)]
    shown = html.unescape(text) if "</code>" in text or "</pre>" in text else text
    tests: Sequence[Any] = _asserts([*blocks, *said, _FENCED.sub("\n", shown)])
    tests = tests or [pair for value in data for pair in _pairs(value)]
    if not text.strip():
        raise ProblemError("the message is empty; give the task in it, with asserts that call the function to write")
    named: dict[str, Any] = {}
    if not tests:
        named["entry_point"] = name = _named(text) or _named(without_markup(text))
        tests = _samples(text) if name is None else _examples(text, name)
    return read_problem({"prompt": text, "public_tests": tests, "show_tests": False, **named})


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _strings(part)


_GIVEN, _WANTED = ("stdin", "input"), ("stdout", "output", "expected_output", "expected")


def _pairs(value: Any) -> Iterator[StdioTest]:
    """The objects of JSON that hold the input and the output of a program as text."""
    if isinstance(value, dict):
        given = [value[key] for key in _GIVEN if isinstance(value.get(key), str)]
        wanted = [value[key] for key in _WANTED if isinstance(value.get(key), str)]
        if given and wanted:
            yield StdioTest(stdin=given[0], stdout=wanted[0])
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _pairs(part)


_FENCE = re.compile(r"^[ \t]*```[^\n]*$", re.MULTILINE)
_SAMPLE = re.compile(
    r"^[^\w\n]*(?P<what>sample |example )?input\b[^\n]*\n+(?P<fence>[ \t]*```[^\n]*\n)?(?P<stdin>.{0,4000}?)\n"
    r"(?(fence)[ \t]*```\s*)"
    r"^[^\w\n]*(?:sample |example )?output\b[^\n]*\n+(?(fence)[ \t]*```[^\n]*\n)(?P<stdout>.{0,4000}?)"
    r"(?(fence)\n[ \t]*```|(?=\n[^\S\n]*\n|\n[^\w\n]*(?:sample |example |input\b)|\Z))",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)
"""An input and the output below it, in fences or under the word sample or example; otherwise it describes a format."""
_HEADING = re.compile(r"^[^\w\n]*(?:examples?|samples?)\b[^\w\n]*\d*[^\w\n]*$", re.MULTILINE | re.IGNORECASE)
_SAMPLE_IN_LINES = re.compile(
    r"^[^\w\n]*(?P<what>sample |example )?(?:input|stdin)\b[^\n:]*:[ \t*`]*(?P<stdin>[^\s`][^\n`]*?)[`* \t]*\n+"
    r"[^\w\n]*(?:sample |example )?(?:output|stdout)\b[^\n:]*:[ \t*`]*(?P<stdout>[^\s`][^\n`]*?)[`* \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
"""The same on two lines; without such a word or heading, only numbers count."""


def _examples(text: str, entry_point: str) -> list[CodeTest]:
    return example_tests(_FENCE.sub("", _unquoted(text)), entry_point, _signature(text, entry_point))


def _signature(text: str, entry_point: str) -> ast.FunctionDef | None:
    """The function with the parameters that the text first gives it, in a definition or as in `f(x, y)`."""
    for named in itertools.islice(re.finditer(rf"(?<![\w.]){re.escape(entry_point)} *\(", text), 20):
        head = text[named.start() :][:_LONG_SIGNATURE]
        for closing in itertools.islice(re.finditer(r"\)", head), 10):
            match _statements(f"def {head[: closing.end()]}: pass"):
                case [ast.FunctionDef() as function]:
                    return function
    return None


_LONG_SIGNATURE = 1000


def _samples(text: str) -> list[StdioTest]:
    plain = _unquoted(text)
    heading = _HEADING.search(plain)
    shown = heading.end() if heading else len(plain)
    found = [m for m in _SAMPLE.finditer(plain) if m["what"] or m["fence"] or m.start() >= shown - 1]
    found = found or [
        m
        for m in _SAMPLE_IN_LINES.finditer(plain)
        if m["what"] or m.start() >= shown - 1 or re.fullmatch(r"[-+\d\s.,]+", m["stdin"])
    ]
    return [
        StdioTest(stdin=f"{_until_words_end(sample['stdin'])}\n", stdout=f"{sample['stdout'].rstrip()}\n")
        for sample in found
    ]


def _until_words_end(text: str) -> str:
    """Without the blank lines and rules at its end."""
    lines = text.split("\n")
    while len(lines) > 1 and not re.search(r"\w", lines[-1]):
        lines.pop()
    return "\n".join(lines)


def _named(text: str) -> str | None:
    if defined := [name for name in _DEFINED.findall(text) if not name.startswith("test")]:
        return str(defined[0])
    names = (next(filter(None, match.groups())) for match in _CALLED.finditer(text))
    return next((name for name in names if name.isidentifier() and name.lower() not in _WORDS), None)


_WORDS = frozenset(
    [
        "that",
        "to",
        "which",
        "in",
        "for",
        "of",
        "a",
        "an",
        "the",
        "and",
        "or",
        "it",
        "this",
        "takes",
        "taking",
        "given",
        "returns",
        "returning",
        "with",
        "on",
        "from",
        "is",
        "print",
        "input",
        "len",
        "range",
        "sorted",
        "sum",
        "min",
        "max",
        "int",
        "str",
        "list",
        "set",
        "dict",
    ]
)
"""Words that may stand where a function's name is expected."""


def _unquoted(text: str) -> str:
    return re.sub(r"^[ \t]*>(?!>>) ?", "", text, flags=re.MULTILINE)  # `>>>` is Python's


def _asserts(texts: Sequence[str]) -> list[str]:
    """The assert statements in code, else those in lines of prose, without their messages; each once."""
    found: list[str] = []
    for text in texts:
        nodes = _statements(text)
        shown = _plain_asserts(nodes or list(_asserts_in_prose(_unquoted(text))))
        fixtures = {node.name: node for node in nodes if isinstance(node, ast.FunctionDef) and _is_fixture(node)}
        for node in nodes:
            for function in node.body if isinstance(node, ast.ClassDef) else [node]:
                if isinstance(function, ast.FunctionDef) and function.name.startswith("test"):
                    shown += _tests_of(function, fixtures, node if isinstance(node, ast.ClassDef) else None)
        imports = [node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom)]
        found += [whole for test in shown if (whole := _with_imports(test, imports))]
    return list(dict.fromkeys(found))


def _with_imports(test: str, imports: Sequence[ast.Import | ast.ImportFrom]) -> str:
    """The test with the standard-library imports it needs; empty if it needs pytest."""
    names = {part.id for part in ast.walk(parse(test)) if isinstance(part, ast.Name)}
    needed = []
    for node in imports:
        if names.isdisjoint(alias.asname or alias.name.partition(".")[0] for alias in node.names):
            continue
        module = (getattr(node, "module", None) or node.names[0].name).partition(".")[0]
        if module in sys.stdlib_module_names:
            needed.append(ast.unparse(node))
    return "" if "pytest" in names else "\n".join([*needed, test])


def _plain_asserts(nodes: Sequence[ast.stmt]) -> list[str]:
    return [ast.unparse(ast.Assert(test=node.test, msg=None)) for node in nodes if isinstance(node, ast.Assert)]


def _tests_of(
    function: ast.FunctionDef, fixtures: Mapping[str, ast.FunctionDef], kind: ast.ClassDef | None
) -> list[str]:
    """The asserts of a test function, or its whole body for each row of pytest's `parametrize`.

    Asserts of unittest and expected exceptions become Python's own. A test that needs more of its class becomes the
    class with this test alone. Empty if it needs a fixture that the message does not define.
    """
    body = [
        node for node in map(_plain_assert, function.body) if not isinstance(getattr(node, "value", 0), ast.Constant)
    ]
    if any(isinstance(part, ast.Name) and part.id == "self" for node in body for part in ast.walk(node)):
        return [] if kind is None else _alone(function, kind)
    needed = [argument.arg for argument in function.args.args if argument.arg != "self"]
    setup = [code for name in needed for code in _given_by(name, fixtures)]
    rows = _rows(function, [name for name in needed if name not in fixtures]) if set(needed) - set(fixtures) else [""]
    if not any(isinstance(node, ast.Assert | ast.Try) for node in body):
        return []
    if rows == [""] and not setup and all(isinstance(node, ast.Assert) for node in body):
        return _plain_asserts(body)
    code = "\n".join(map(ast.unparse, body))
    return ["\n".join(filter(None, [*dict.fromkeys(setup), row, code])) for row in rows]


def _alone(function: ast.FunctionDef, kind: ast.ClassDef) -> list[str]:
    """The class of unittest with one of its tests, for a runner."""
    bases = [ast.unparse(base) for base in kind.bases]
    if not any(base.endswith("TestCase") for base in bases):
        return []
    rest = [node for node in kind.body if not (isinstance(node, ast.FunctionDef) and node.name.startswith("test"))]
    lone = ast.ClassDef(kind.name, kind.bases, [], [*rest, function], [], **_NO_PARAMETERS)
    return [ast.unparse(ast.fix_missing_locations(lone))]


_NO_PARAMETERS: dict[str, Any] = {"type_params": []} if sys.version_info >= (3, 12) else {}


def _is_fixture(function: ast.FunctionDef) -> bool:
    return any("fixture" in ast.unparse(mark) for mark in function.decorator_list)


def _given_by(name: str, fixtures: Mapping[str, ast.FunctionDef]) -> list[str]:
    """What gives a test the value of the fixture `name`; nothing where it is none of them."""
    if name not in fixtures:
        return []
    needed = [argument.arg for argument in fixtures[name].args.args]
    others = {other: fixture for other, fixture in fixtures.items() if other != name}  # so that a circle ends
    plain = ast.unparse(_undecorated(fixtures[name]))
    yields = any(isinstance(part, ast.Yield) for part in ast.walk(fixtures[name]))
    call = f"{name}({', '.join(needed)})"
    return [
        *(code for other in needed for code in _given_by(other, others)),
        plain,
        f"{name} = next({call})" if yields else f"{name} = {call}",
    ]


def _undecorated(function: ast.FunctionDef) -> ast.FunctionDef:
    copy = ast.FunctionDef(function.name, function.args, function.body, [], function.returns, **_NO_PARAMETERS)
    return ast.fix_missing_locations(copy)


def _rows(function: ast.FunctionDef, needed: Sequence[str]) -> list[str]:
    """An assignment of the arguments for each row of the one `parametrize` that gives them all."""
    for mark in function.decorator_list:
        match mark:
            case ast.Call(ast.Attribute(attr="parametrize"), [names, ast.List(rows) | ast.Tuple(rows)]):
                words = [part.value for part in ast.walk(names) if isinstance(part, ast.Constant)]
                given = [name.strip() for word in words for name in str(word).split(",")]
                if sorted(given) == sorted(needed):
                    return [f"{', '.join(given)} = {ast.unparse(row)}" for row in rows]
    return []


_UNITTEST: dict[str, str] = {
    "assertEqual": "{} == {}",
    "assertListEqual": "{} == {}",
    "assertDictEqual": "{} == {}",
    "assertTupleEqual": "{} == {}",
    "assertSetEqual": "{} == {}",
    "assertSequenceEqual": "{} == {}",
    "assertMultiLineEqual": "{} == {}",
    "assertNotEqual": "{} != {}",
    "assertGreater": "{} > {}",
    "assertGreaterEqual": "{} >= {}",
    "assertLess": "{} < {}",
    "assertLessEqual": "{} <= {}",
    "assertIn": "{} in {}",
    "assertNotIn": "{} not in {}",
    "assertIs": "{} is {}",
    "assertTrue": "{}",
    "assertFalse": "not {}",
    "assertIsNone": "{} is None",
    "assertIsNotNone": "{} is not None",
    "assertAlmostEqual": "round({} - {}, 7) == 0",
}
"""The others need their class: see `_alone`."""


def _plain_assert(node: ast.stmt) -> ast.stmt:
    """A call of unittest's as an assert, an expected exception as a `try`; any other statement as it is."""
    match node:
        case ast.Expr(ast.Call(ast.Attribute(ast.Name("self"), name), values, keywords)) if name in _UNITTEST:
            parts = [f"({ast.unparse(value)})" for value in values]
            wanted = _UNITTEST[name].count("{}")
            exact = name == "assertAlmostEqual"  # a third argument is its places
            if (len(parts) == wanted or (len(parts) > wanted and not exact)) and {k.arg for k in keywords} <= {"msg"}:
                return parse(f"assert {_UNITTEST[name].format(*parts[:wanted])}").body[0]
        case ast.With(
            [
                ast.withitem(
                    ast.Call(ast.Attribute(ast.Name("self" | "pytest"), "assertRaises" | "raises"), [error]), None
                )
            ],
            body,
        ):
            inside = textwrap.indent("\n".join(map(ast.unparse, body)), "    ")
            raised = ast.unparse(error)
            return parse(f"try:\n{inside}\nexcept {raised}:\n    pass\nelse:\n    assert False").body[0]
    return node


def _asserts_in_prose(text: str) -> Iterator[ast.stmt]:
    """Raises ProblemError if words and asserts cannot be separated within a time proportional to the text."""
    at, left = 0, 50 * len(text) + 2000
    while start := _ASSERT.search(text, at):
        at = start.end()
        before = text[text.rfind("\n", 0, start.start()) + 1 : start.start()]
        if _COMMENT.search(before) or _DENIED.search(before):
            continue
        alone = not before.strip()
        for part in _ends_of_assert(text[start.start() :], alone):
            if (left := left - len(part)) < 0:
                raise ProblemError(
                    f"the message's asserts cannot be separated from its words, near {text[start.start() :][:60]!r}; "
                    "put each on a line of its own"
                )
            nodes = _statements(part)
            if len(nodes) == 1 and isinstance(nodes[0], ast.Assert) and (alone or _calls(nodes[0].test)):
                yield nodes[0]
                at = start.start() + len(part)
                break


_COMMENT = re.compile(r"(?:^|\s)(?:#+|//|<!--)\s*$")
"""What turns the statement after it into a comment."""


_DENIED = re.compile(
    r"(?:\bnot|n't|\bnever|\binstead of|\brather than|\bwrong(?:ly)?)"
    r"(?:\s+(?:be|use|write|test|check|like))*[\s:`'\"*]*$",
    re.IGNORECASE,
)
"""Words in front of an assert that is no test."""


def _ends_of_assert(text: str, alone: bool) -> Iterator[str]:
    """What an assert at the start of `text` may be, longest first: a whole line, or up to a quote, a backtick or the
    sentence's end.

    An open bracket goes on over the next lines. Within a sentence, not `alone`, only an assert with a call is a test.
    """
    line, _, _ = text.partition("\n")
    if alone and len(line) > _LONG_ASSERT:
        yield line
    near = text[:_LONG_ASSERT]
    for match in itertools.islice(re.finditer(r"\n|\Z", near), 20):
        line = near[: match.start()]
        for length in (len(line), *(match.start() for match in reversed(list(_END_OF_ASSERT.finditer(line))))):
            yield re.sub(r"(?<=\d)\.$", "", line[:length].rstrip())  # the end of a sentence, not of a number


_LONG_ASSERT = 4000
"""Maximum characters in which the end of an assert is searched, unless it is a whole line."""
_END_OF_ASSERT = re.compile(
    r"[`\"'.,;:!?)|]|\*\*|</|\s+(?:and|but|or|so|then|is|should|must|passes|holds|#)\b|\s+[-–—(#]"
)


def _calls(test: ast.expr) -> bool:
    return any(isinstance(part, ast.Call) for part in ast.walk(test))


def _statements(text: str) -> list[ast.stmt]:
    try:
        return parse(text).body
    except SyntaxError:
        return []
