"""Reads problems: our own form, or a row of HumanEval(+) or MBPP(+), each unchanged.

Split into public and private tests: HumanEval's public tests are the examples in its docstring, MBPP's is its first
assert; everything else is private.
"""

import ast
import builtins
import contextlib
import doctest
import html
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from mucode_agent.files import first_cause, shortened
from mucode_agent.syntax import parse, parse_expression
from mucode_agent.types import CodeTest, Problem, ProblemError

Function = ast.FunctionDef | ast.AsyncFunctionDef


def load_problem(path: str | Path) -> Problem:
    """The problem in a JSON file; `-` is standard input. Raises ProblemError."""
    source = "standard input" if str(path) == "-" else str(path)
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ProblemError(f"cannot read {source}: {error.strerror}; give the path of a problem.json, or -") from None
    return parse_problem(raw, source=source)


def parse_problem(raw: bytes | str, *, source: str = "the input") -> Problem:
    """The problem in JSON text. Raises ProblemError naming `source`."""
    row = json_object(raw, source, "a problem")
    try:
        return read_problem(row)
    except ProblemError as error:
        raise ProblemError(f"{source}: {error}") from None


def json_object(raw: bytes | str, source: str, what: str) -> dict[str, Any]:
    """The JSON object in a text. Raises ProblemError naming `source`, and `what` should be in it."""
    try:
        held = json.loads(raw)
    except UnicodeDecodeError as error:
        raise ProblemError(
            f"{source} is not UTF-8 text ({error.reason} at byte {error.start}); save it as UTF-8"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ProblemError(f"{source} is not JSON: {error}; {what} is one JSON object") from None
    if not isinstance(held, dict):
        raise ProblemError(f"{source} holds a JSON {type(held).__name__}; {what} is one JSON object")
    return held


def read_problem(row: Mapping[str, Any]) -> Problem:
    """The problem in a row: our own form, HumanEval(+)'s or MBPP(+)'s. Raises ProblemError naming field and rule."""
    if not isinstance(row, Mapping):
        raise ProblemError(f"a problem is an object with a prompt and tests, got {shortened(row)}")
    try:
        if "test_list" in row:
            _refuse(row, "public_tests", "private_tests", beside="test_list")
            problem = MbppRow.model_validate(row).problem()
        elif "test" in row:
            _refuse(row, "public_tests", "private_tests", "setup", "limits", beside="test")
            problem = HumanEvalRow.model_validate(row).problem()
        else:
            problem = Problem.model_validate(row)
    except ValidationError as error:
        raise ProblemError(_first_cause(error)) from None
    return _checked(problem)


def _refuse(row: Mapping[str, Any], *names: str, beside: str) -> None:
    """Raises ProblemError for two forms in one row: following one would silently drop the other's tests."""
    if both := [name for name in names if name in row]:
        raise ProblemError(f"fields {beside} and {both[0]} belong to different forms of problem; keep one form")


def problem_schema() -> dict[str, Any]:
    """JSON schema of what `read_problem` accepts."""
    schema = TypeAdapter(Problem | HumanEvalRow | MbppRow).json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "problem.json", **schema}


def docstring_tests(prompt: str, entry_point: str) -> list[CodeTest]:
    """The examples in the docstring of `entry_point`, as asserts; those without a literal result are left out.

    Reads doctest (`>>> f(1)` with its result below, `>>> print(f(1))`, `>>> f(1) == 2` with True below), asserts,
    `Input: f(1)`, `Input: x = 1` and `Input: 1` above `Output: 2`, and forms within a line, one or several:
    `f(1) == 2`, `f(1) -> 2`, `f(1) returns 2`, `f(1) is 2`. What a line denies is no example.
    """
    _, function = _function(prompt, entry_point)
    return example_tests((ast.get_docstring(function) or "") if function else "", entry_point, function)


_IN = re.compile(r"^([ \t]*)In \[\d+\]: ", re.MULTILINE)
_OUT = re.compile(r"(?<!\S)Out\[\d+\]: ")
"""IPython's prompts."""


def example_tests(text: str, entry_point: str, function: Function | None = None) -> list[CodeTest]:
    """The examples in any text about `entry_point`, in the forms that `docstring_tests` reads.

    Arguments without a call must fit `function`, where it is known.
    """
    text = _OUT.sub("", _IN.sub(r"\1>>> ", without_markup(text)))
    lines = text.splitlines()
    tests: list[str] = []
    for example in _doctests(text):
        if not example.want.strip():
            continue  # it may say its result on its own line
        end = example.lineno + example.source.count("\n") + example.want.count("\n")
        lines[example.lineno : end] = [""] * (end - example.lineno)
        if example.exc_msg is None and (test := _test_of(example, entry_point)):
            tests.append(test)
    labelled = labelled_examples("\n".join(lines), entry_point, function)
    examples = [(call, result) for call, result, _ in labelled]
    for line in lines:
        asserted = _MARKER.sub("", line).strip()
        if re.match(r"assert\b", asserted):
            tests += _asserted(asserted, entry_point)
        else:
            examples += _one_line_examples(line, entry_point)
    tests += [f"assert {call} == {result}" for call, result in examples if _is_closed(call, entry_point)]
    return [CodeTest(code=test) for test in dict.fromkeys(tests)]


_MARKUP = re.compile(
    r"(?P<quoted>(?<!\w\w)'[^'\n]*'|\"[^\"\n]*\")|(?P<line><br\s*/?>|</?(?:p|pre|ul|ol|li|div)(?:\s[^<>]*)?>)"
    r"|(?P<mark></?(?:code|strong|em|span|b|i)(?:\s[^<>]*)?>|`+)|&(?:lt|gt|quot|amp|apos|nbsp|#\d+);",
    re.IGNORECASE,
)


def without_markup(text: str) -> str:
    """The text without tags and entities of HTML and without backticks, but for those in quotes."""

    def plain(found: re.Match[str]) -> str:
        if found["quoted"]:
            return found[0]
        return "\n" if found["line"] else "" if found["mark"] else html.unescape(found[0]).replace("\xa0", " ")

    return _MARKUP.sub(plain, text)


def _test_of(example: doctest.Example, entry_point: str) -> str | None:
    """An assert for a doctest example; None where it is no expression of the entry point with a plain result."""
    try:
        (statement,) = parse(example.source).body
    except (SyntaxError, ValueError):
        return None
    if not isinstance(statement, ast.Expr) or example.options.get(doctest.SKIP):
        return None
    value = statement.value
    if isinstance(value, ast.Lambda | ast.GeneratorExp):
        return None
    source = ast.get_source_segment(example.source, value) or ""  # without a comment behind it
    if not _is_closed(source, entry_point):
        return None
    want = example.want.strip()
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id == "print":
        shown = ast.get_source_segment(example.source, value.args[0]) if len(value.args) == 1 else None
        plain = shown is not None and not value.keywords and not isinstance(value.args[0], ast.Starred)
        return f"assert str({shown}) == {want!r}" if plain else None
    if isinstance(value, ast.Compare | ast.BoolOp) or (
        isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)
    ):
        return {"True": f"assert {source}", "False": f"assert not ({source})"}.get(want)
    if (literal := _literal(want) or _stated(want.partition("\n")[0])) is None:
        return None
    simple = isinstance(value, ast.Call | ast.Subscript | ast.Attribute | ast.BinOp)
    return f"assert {source} == {literal}" if simple else f"assert ({source}) == {literal}"


_MISTAKEN_EXAMPLES = {
    "HumanEval/47": {"median([-10, 4, 6, 1000, 10, 20])"},
    "HumanEval/116": {"sort_array([1, 5, 2, 3, 4])", "sort_array([-2, -3, -4, -5, -6])"},
    "HumanEval/130": {"tri(1)", "tri(2)", "tri(4)"},
}
"""Calls whose result in the docstring contradicts the benchmark's own solution."""


# --- the published rows --------------------------------------------------------------------------------------------

_Text = Annotated[str, Field(min_length=1, pattern=r"\S")]


def _as_list(held: Any) -> Any:
    """A list of texts, as such or as JSON; a lone text is a list of one, and null an empty one."""
    if isinstance(held, str) and held.lstrip().startswith("["):
        with contextlib.suppress(ValueError):
            return json.loads(held)
    return [held] if isinstance(held, str) else [] if held is None else held


_Texts = Annotated[list[_Text], Field(min_length=1), BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
_MaybeTexts = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str] | None)]


class HumanEvalRow(BaseModel):
    """A row of HumanEval (Chen et al., 2021). Public tests are the docstring's examples, private is `test`."""

    model_config = ConfigDict(extra="allow")
    task_id: str | int = ""
    prompt: _Text
    entry_point: _Text | None = None
    """By default the last function that the prompt defines."""
    test: _Texts
    canonical_solution: str | None = None

    def problem(self) -> Problem:
        mistaken = _MISTAKEN_EXAMPLES.get(str(self.task_id), set())
        name = self.entry_point or _last_function(self.prompt)
        examples = docstring_tests(self.prompt, name)
        return Problem(
            id=str(self.task_id),
            prompt=self.prompt,
            entry_point=name,
            setup=_before(self.prompt, name),
            public_tests=tuple(t for t in examples if not any(t.code.startswith(f"assert {c} ==") for c in mistaken)),
            private_tests=tuple(CodeTest(code=test) for test in self.test),
            reference=None if self.canonical_solution is None else self.prompt + self.canonical_solution,
        )


class MbppRow(BaseModel):
    """A row of MBPP (Austin et al., 2021), full or sanitized, or of MBPP+. Only the first assert is public."""

    model_config = ConfigDict(extra="allow")
    task_id: str | int = ""
    text: _Text | None = None
    prompt: _Text | None = None
    code: str | None = None
    test_list: _Texts
    test_imports: _MaybeTexts = []
    test_setup_code: str | None = ""
    challenge_test_list: _MaybeTexts = []
    test: _Text | None = None
    """EvalPlus's suite, which a row of MBPP+ has besides."""

    def problem(self) -> Problem:
        prompt = self.text or self.prompt
        if prompt is None:
            raise ProblemError("field text is missing; an MBPP row says in it what to write")
        setup = "\n".join([*self.test_imports, self.test_setup_code or ""]).replace("\r\n", "\n").strip()
        sources = [*self.test_list, *self.challenge_test_list, *([self.test] if self.test else [])]
        tests = [CodeTest(code=f"{setup}\n{test}".strip()) for test in sources]
        return Problem(
            id=f"MBPP/{self.task_id}" if self.task_id != "" else "",
            prompt=prompt,
            entry_point=_entry_point([test.code for test in tests], self.code),
            public_tests=tuple(tests[:1]),
            private_tests=tuple(tests[1:]),
            reference=self.code,
        )


# --- checks --------------------------------------------------------------------------------------------------------


def _checked(problem: Problem) -> Problem:
    """Tests parse, and a problem judged by calls names what to call."""
    for kind, tests in (("public_tests", problem.public_tests), ("private_tests", problem.private_tests)):
        for number, test in enumerate(tests):
            if isinstance(test, CodeTest):
                check_test(test.code, f"{kind}[{number}]", problem.setup)
    parse_source(problem.setup, "setup")
    code_tests = [test.code for test in (*problem.public_tests, *problem.private_tests) if isinstance(test, CodeTest)]
    if code_tests and problem.entry_point is None:
        problem = problem.model_copy(update={"entry_point": _entry_point(code_tests, problem.reference, problem.setup)})
        if problem.entry_point is None:
            raise ProblemError("entry_point is missing and no test calls a function; name the function to write")
    if problem.entry_point is not None and not problem.entry_point.isidentifier():
        raise ProblemError(f"entry_point must be a Python name, got {problem.entry_point!r}")
    return problem


def check_test(source: str, name: str, setup: str = "") -> ast.Module:
    """The test's tree. Raises ProblemError where it does not parse, or no wrong value could fail it.

    What the test imports or the set-up defines may judge; builtins, the standard library but for its test frameworks,
    and the program itself do not.
    """
    tree = parse_source(source, name)
    held = parse_source(setup, "setup")
    judges = _imported_names(tree) | _imported_names(held) | _names_set(held)
    if not any(_can_fail(node, judges) for node in ast.walk(tree)):
        raise ProblemError(
            f"{name} asserts nothing, so a wrong program would pass it: {shortened(source)}; give an assert or a "
            "check(candidate) function"
        )
    return tree


def _can_fail(node: ast.AST, judges: set[str]) -> bool:
    if isinstance(node, ast.Assert):  # not `assert (f(1), 2)`, which is always true
        always = isinstance(node.test, ast.Tuple) or (isinstance(node.test, ast.Constant) and bool(node.test.value))
        return not always
    if isinstance(node, ast.Call):
        root = node.func
        if isinstance(root, ast.Attribute) and root.attr.startswith("assert"):  # unittest's
            return True
        while isinstance(root, ast.Attribute | ast.Call):
            root = root.value if isinstance(root, ast.Attribute) else root.func
        return isinstance(root, ast.Name) and root.id in judges
    return isinstance(node, ast.Raise)


def _names_set(tree: ast.Module) -> set[str]:
    definitions = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
    names = {node.name for node in tree.body if isinstance(node, definitions)}
    return names | {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }


def _imported_names(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                module = (getattr(node, "module", None) or alias.name).partition(".")[0]
                if module not in sys.stdlib_module_names - {"unittest", "doctest"}:
                    names.add(alias.asname or alias.name.partition(".")[0])
    return names


def top_level_imports(tree: ast.AST) -> set[str]:
    """Packages outside the standard library that the source imports."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found - sys.stdlib_module_names


def parse_source(source: str, name: str) -> ast.Module:
    """The tree of a test or a set-up. Raises ProblemError where it is no Python."""
    try:
        return parse(source)
    except SyntaxError as error:
        where = f" in line {error.lineno}" if error.lineno else ""
        raise ProblemError(f"{name} does not parse as Python{where}: {shortened(source)}; fix it") from None


def _first_cause(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    place = first["loc"]
    if len(place) > 1 and place[0] in ("public_tests", "private_tests"):
        return (
            f"field {place[0]}[{place[1]}] must be Python source with an assert, or an object with the texts stdin and "
            f"stdout, got {shortened(first['input'])}"
        )
    see = "; see `python -m mucode_agent schema`" if first["type"] == "missing" else ""
    return f"field {first_cause(error, 'the object', Problem)}{see}"


# --- reading names and examples ------------------------------------------------------------------------------------


def _entry_point(tests: Iterable[str], reference: object, setup: str = "") -> str | None:
    """The first name that the tests call and the reference defines; without a reference, the first unknown name."""
    called = [name for test in tests for name in _called_names(f"{setup}\n{test}")]
    if isinstance(reference, str) and (defined := _defined_functions(reference)):
        return next((name for name in called if name in defined), None)
    return next((name for name in called if not hasattr(builtins, name)), None)


def _called_names(source: str) -> list[str]:
    """Names called as plain functions that the source itself neither defines nor imports, in order of writing."""
    try:
        tree = parse(source)
    except SyntaxError:
        return []
    own = {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    own |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    own |= {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
    own |= {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    return [call.func.id for call in calls if isinstance(call.func, ast.Name) and call.func.id not in own]


def _is_closed(call: str, entry_point: str) -> bool:
    """A call of `entry_point` whose every other name is a builtin, or its own."""
    if entry_point not in _called_names(call):
        return False
    names = {node.id for node in ast.walk(parse(call)) if isinstance(node, ast.Name)}
    return all(name == entry_point or hasattr(builtins, name) for name in names - _names_set(parse(call)))


def _defined_functions(source: str) -> set[str]:
    try:
        return {node.name for node in parse(source).body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    except SyntaxError:
        return set()


def _function(prompt: str, entry_point: str) -> tuple[ast.Module | None, Function | None]:
    for completed in (prompt, prompt + "\n    pass\n"):
        try:
            tree = parse(completed)
        except SyntaxError:
            continue
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point:
                return tree, node
    return None, None


def _last_function(prompt: str) -> str:
    names = re.findall(r"^(?:async +)?def +(\w+)", prompt, re.MULTILINE)
    if not names:
        raise ProblemError("field entry_point is missing and the prompt defines no function; name the one to write")
    return str(names[-1])


def _before(prompt: str, entry_point: str) -> str:
    """What the prompt defines before the function to write: imports and helpers."""
    tree, function = _function(prompt, entry_point)
    if tree is None or function is None:
        return ""
    return "\n".join(ast.unparse(node) for node in tree.body[: tree.body.index(function)])


def _doctests(docstring: str) -> list[doctest.Example]:
    try:
        return doctest.DocTestParser().get_examples(docstring)
    except ValueError:
        return []


_SEPARATOR = re.compile(
    r"\s*(?:==>|==|=>|➞|→|->|=|⇒|⟶|↦"
    r"|(?:(?:should|must|will|shall)\s+)?(?:is|be|returns?|gives?|yields?|equals?|evaluates?\s+to)\b(?:\s+equal\s+to\b)?"
    r"|`?\s*\|\s*`?|#\s*(?:=>|returns)?)\s*",
    re.IGNORECASE,
)


_DENIAL = re.compile(
    r"\b(?:not|never|wrong(?:ly)?|incorrect(?:ly)?|instead of|rather than|false|bug(?:gy|s)?|bad|broken|naive(?:ly)?|"
    r"counter-?example|before|if|unless|would|or|what|round(?:ed|s)?|approx\w*|about|roughly|nearly|almost|whether|"
    r"when|until|while|suppose|assum\w+|let|might|mod|modulo)\b"
    r"|n't\b|[\u2248~\u2260\u2717\u2718]",
    re.IGNORECASE,
)
"""Words around a call and its result that make them no example, or say the result only roughly."""
_WITHIN = re.compile(
    r"(?:[-+*/%<>=^@([{]|\b(?:return|in|not|len|twice|double|half|plus|minus|times|divided by|modulo))\s*$"
    r"|(?<!\bvalue )(?<!\bresult )(?<!\boutput )\bof\s*$"
    r"|\b(?:sum|difference|product|quotient|length|maximum|max|minimum|min|average|mean|square) of\b[^.;:,]*"
    r"\b(?:of|in|from|for|by|with|and|or|over)\s*$",
    re.IGNORECASE,
)
"""What a call stands behind when it is a part of an expression or statement."""
_MARKER = re.compile(r"^\s*(?:[-*+>]+|\d+[.)])\s+")
_SAYS_MORE = re.compile(r"\s+(?!(?:and|as|because|since|where|which|for|with|so)\b)[A-Za-z]|\s*[-+*/%^]\s*[\w(]")
_LABEL = re.compile(
    r"[*_]*\b(?:(?:sample|expected)\s)?(?P<name>input|output|explanation|example|constraint|note)s?(?:\s\d+)?"
    r"[ \t]*[*_]*:[*_]*|\Z",
    re.IGNORECASE,
)


def labelled_examples(
    text: str, entry_point: str, function: Function | None = None
) -> Iterator[tuple[str, str, range]]:
    """`Input:` with a call or its arguments, above or beside `Output:` with a literal; either may take several lines.

    Yields the call, its result, and the indices of the lines.
    """
    labels = list(_LABEL.finditer(text))
    for first, second, third in zip(labels, labels[1:], labels[2:], strict=False):
        if [(label["name"] or "").lower() for label in (first, second)] == ["input", "output"]:
            call = _called_with(text[first.end() : second.start()].strip(" \t\n,;|*-"), entry_point, function)
            said = text[second.end() : third.start()].strip().partition("\n\n")[0]
            result = _literal(said) or _stated(said.partition("\n")[0])
            if call and result:
                start, end = (text.count("\n", 0, at) for at in (first.start(), second.end()))
                yield call, result, range(start, end + said.count("\n") + 1)


def _called_with(given: str, entry_point: str, function: Function | None) -> str | None:
    """The call that is given, or one with the given arguments: literals, named or not."""
    for arguments in (given, ", ".join(given.splitlines())):
        with contextlib.suppress(SyntaxError):
            match parse_expression(f"{entry_point}({arguments})"):
                case ast.Call(args=[ast.Call(ast.Name(name))], keywords=[]) if name == entry_point:
                    return given
                case ast.Call(args=[], keywords=[_, *_] as named) if all(part.arg for part in named):
                    values = [part.value for part in named]
                    names = [part.arg for part in named if part.arg]
                    return _fitting(values, names, entry_point, function)
                case ast.Call(args=[_, *_] as values, keywords=[]):
                    return _fitting(values, [], entry_point, function)
    return None


def _fitting(
    values: Sequence[ast.expr], names: Sequence[str], entry_point: str, function: Function | None
) -> str | None:
    """The call in the order of the function's parameters where all values are literals and it takes so many."""
    if any(_literal(ast.unparse(value)) is None for value in values):
        return None
    if function is not None:
        parameters = [part.arg for part in (*function.args.posonlyargs, *function.args.args)]
        least = len(parameters) - len(function.args.defaults)
        if not least <= len(values) <= (len(parameters) if function.args.vararg is None else len(values)):
            return None
        if set(names) == set(parameters):
            values = [values[names.index(name)] for name in parameters]
    return f"{entry_point}({', '.join(map(ast.unparse, values))})"


def _asserted(line: str, entry_point: str) -> list[str]:
    """The assert that a line is, without its message."""
    with contextlib.suppress(SyntaxError):
        match parse(line).body:
            case [ast.Assert(test)] if _is_closed(ast.unparse(test), entry_point):
                return [f"assert {ast.unparse(test)}"]
    return []


def _one_line_examples(line: str, entry_point: str) -> list[tuple[str, str]]:
    """Calls in a line, each with the literal that the line states for it."""
    calls: list[tuple[int, int]] = []
    for found in re.finditer(rf"(?<![\w.]){re.escape(entry_point)}\(", line):
        at = found.start()
        if (not calls or at >= calls[-1][1]) and (call := _balanced(line[at:])):
            calls.append((at, at + len(call)))
    examples = []
    before, apart = _MARKER.sub("", line[: calls[0][0]]) if calls else "", True
    for (start, end), (following, _) in itertools.pairwise([*calls, (len(line), len(line))]):
        rest = line[end:following]
        separator = _SEPARATOR.match(rest)
        if separator is None:
            before, apart = rest, re.search(r"[.;:]\s", rest) is not None
            continue
        said = rest[separator.end() :].strip()
        if following < len(line):
            if re.search(r"\bor\s*$", rest):
                return []  # one of several results
            said = re.sub(r"[\s,;.]*(?:\band\b)?[\s,;.]*$", "", said)
        literal = _stated(said) if apart and not _WITHIN.search(before) and not _DENIAL.search(before) else None
        if literal is not None:
            examples.append((line[start:end], literal))
        before, apart = "", True
    return examples


def _balanced(text: str) -> str:
    """The shortest prefix of `text`, ending in a closing bracket, that is an expression."""
    for closing in re.finditer(r"\)", text):
        prefix = text[: closing.end()]
        try:
            parse_expression(prefix)
        except SyntaxError:
            continue
        return prefix
    return ""


def _literal(text: str) -> str | None:
    """The plain value that `text` is, without names and without parts left out."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return repr(value) if value == value and "Ellipsis" not in repr(value) else None


def _stated(line: str) -> str | None:
    """The literal that `line` begins with, or that follows its last `=`, before a comment or words of explanation."""
    line = line.rsplit(" = ", 1)[-1].strip()
    for end in range(len(line), 0, -1):
        rest = line[end:]
        if rest and not re.match(r"\s*(?:\.(?![.\w])|[,;#(|]|$)|\s+[A-Za-z]", rest):
            continue
        said = line[:end].strip()
        if re.search(r"\d\.$", said):
            continue  # the end of a sentence
        text = {"true": "True", "false": "False"}.get(said, said)
        if (literal := _literal(text)) is None:
            continue
        in_brackets = text.startswith("(")
        if literal.startswith("(") != in_brackets or text.endswith(","):
            if literal.startswith("(") and not in_brackets and text.endswith(","):
                continue  # a value before a comma
            return None  # one value in brackets, or several without
        unquoted = re.sub(r"'[^']*'|\"[^\"]*\"", "", rest)
        return None if _SAYS_MORE.match(rest) or _DENIAL.search(unquoted) else literal
    return None
