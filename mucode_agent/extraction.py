"""The program in a generator's reply.

All forms of Markdown and the deviations of models are read; where a fence is ambiguous, the text that parses as Python
decides. Thoughts are no part of an answer, and the tests that a program makes of itself are no part of it.
"""

import ast
import builtins
import doctest
import functools
import html
import itertools
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from mucode_agent.syntax import parse


def extract_code(reply: str, entry_point: str | None = None) -> str:
    """The program in a reply; empty where it holds none.

    Of several fenced blocks the last whole one that defines `entry_point` is taken (without an entry point: that reads
    and prints), before it the blocks that define what it uses and does not define. Stubs and steps with parts left out
    come after whole programs. Without such a block the text outside of fences is searched. Of a function's program
    its own tests and example calls are left out: a wrong one would end a right program.
    """
    text = answer(reply.replace("\r\n", "\n"))
    blocks = [_whole_part(block.code, entry_point) for block in _located_blocks(text)]
    ranked = [_rank(block, entry_point) for block in blocks]
    best = max(range(len(blocks)), key=lambda i: (ranked[i], i), default=None)
    if best is None or not ranked[best].defines:
        bare = _unfenced(text, entry_point)
        if best is None or _rank(bare, entry_point).defines:
            return _without_own_tests(bare, entry_point)
        best = next((i for i, block in enumerate(blocks) if _parsed(block)), 0)
    others = [block for i, block in enumerate(blocks) if i != best and not _rank(block, entry_point).is_other_answer]
    return _without_own_tests(_with_helpers(blocks[best], others), entry_point)


# --- the answer in a reply -----------------------------------------------------------------------------------------

_THOUGHT = (
    r"<(?P<a>/?)(?:\w+:)?(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis)>"
    r"|\[(?P<b>/?)(?:THINK|THINKING|THOUGHTS?|REASONING)\]"
    r"|◁(?P<c>/?)think▷"
    r"|<\|(?:begin|(?P<d>end))_of_thought\|>"
)
_THOUGHT_TAG = re.compile(_THOUGHT, re.IGNORECASE)
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^\n]*?<\|message\|>")
_CHANNEL = re.compile(r"<\|channel\|>")
_BEGIN_OF_TURN = re.compile(
    r"\s*(?:<\|im_start\|>\s*assistant|<\|start_header_id\|>assistant<\|end_header_id\|>|<\|python_tag\|>)[ \t]*\n*"
)
_END_OF_TURN = re.compile(
    r"<[|｜](?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|EOT|end|return|end▁of▁sentence|endofmessage)[|｜]>"
    r"|</s>|<end_of_turn>|<eos>",
    re.IGNORECASE,
)


_LINE_READ = 500
"""Characters of a line on either side of a tag in which quotes are looked for."""


def answer(reply: str) -> str:
    """A reply without the model's thoughts and control tokens: drafts are no answer, and no part of the next prompt.

    Tags inside quotes or inside a block that parses belong to the program. Empty where the thoughts never end.
    """
    beginning = _BEGIN_OF_TURN.match(reply)
    text = reply[beginning.end() :] if beginning else reply
    if _CHANNEL.search(text):
        if finals := _loose(_FINAL, text):
            text = text[finals[-1].end() :]
        elif _CHANNEL.match(text.lstrip()):
            return ""
    text = _without_thoughts(text)
    ends = (match.start() for match in _loose(_END_OF_TURN, text) if text[: match.start()].strip())
    return text[: next(ends, len(text))]


def _without_thoughts(text: str) -> str:
    """A closing tag alone ends thoughts that the prompt has opened; an opening one at the start opens endless ones."""
    kept: list[str] = []
    at, opened = 0, None
    for tag in _loose(_THOUGHT_TAG, text):
        if not _closes(tag):
            opened = tag.start() if opened is None else opened
            continue
        kept = [] if opened is None else [*kept, text[at:opened]]
        at, opened = tag.end(), None
    if opened is not None and not "".join([*kept, text[at:opened]]).strip():
        return ""
    return "\n".join([*kept, text[at:]]).strip() if at else text


def _closes(tag: re.Match[str]) -> bool:
    return any(tag[name] for name in "abcd")


def _loose(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The matches that are no part of a program: neither between quotes nor inside a block that parses."""
    found = [match for match in pattern.finditer(text) if not _is_quoted(match)]
    held = [block.span for block in _located_blocks(text) if _parsed(block.code)] if found else []
    return [match for match in found if not any(start <= match.start() < end for start, end in held)]


def _is_quoted(match: re.Match[str]) -> bool:
    """It is between quotes or backticks on its line."""
    text = match.string
    before = text[max(0, match.start() - _LINE_READ) : match.start()].rpartition("\n")[2]
    after = text[match.end() : match.end() + _LINE_READ].partition("\n")[0]
    quotes = re.findall(r"(?:(?<![A-Za-z])|(?<![A-Za-z])[rbfuRBFU]{1,2})(['\"]|(?<!`)`(?!`))", before)
    return any(quote in after for quote in quotes)


# --- fenced blocks -------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"`{3,}|~{3,}")
_PYTHON_WORD = re.compile(r"[ \t]*(?:python3?|py3?|ipython)\b[ \t]*", re.IGNORECASE)
_INFO_LINE = re.compile(r"[^\n`]*(?:\n|\Z)")
_STATEMENT = re.compile(r"(?:async +def|def|class) +\w+ *[(:]|import +\w|from +[\w.]+ +import |@\w")
_FENCES_TRIED = 8
_FENCES_READ = 100


class _Block(NamedTuple):
    code: str
    span: tuple[int, int]
    """From the opening fence to the end of the closing one."""


def _located_blocks(text: str) -> Iterator[_Block]:
    """The fenced blocks that hold something; which fence closes a block is decided by what parses."""
    fences = list(_FENCE.finditer(text))
    number = 0
    while number < len(fences):
        opening = fences[number]
        start = _content_start(text, opening)
        later = range(number + 1, min(number + _FENCES_READ, len(fences)))
        after = [i for i in later if fences[i].start() >= start and fences[i][0][0] == opening[0][0]]
        ends = ([i for i in after if fences[i][0].startswith(opening[0])] or after)[:_FENCES_TRIED]
        contents = [_content(text[start : fences[i].start()]) for i in ends] or [_content(text[start:])]
        chosen = next((i for i, content in enumerate(contents) if (tree := _parsed(content)) and tree.body), None)
        if chosen is None and ends and (not contents[0] or _opens(text, fences[ends[0]])):
            number = ends[0]  # a stray fence before the real one, or a block that was never closed
            continue
        content = contents[chosen or 0]
        at = ends[chosen or 0] if ends else len(fences)
        end = fences[at].end() if ends else len(text)
        if chosen is None and (inner := _FENCE.search(content)) and len(inner[0]) < len(opening[0]):
            shift = start
            yield from (
                _Block(block.code, (block.span[0] + shift, block.span[1] + shift))
                for block in _located_blocks(text[start:end])
            )
        elif content:
            yield _Block(content if chosen is not None else _repaired(content), (opening.start(), end))
        number = at + 1


def _content_start(text: str, opening: re.Match[str]) -> int:
    """Behind the info string; code may begin on the line of the fence."""
    word = _PYTHON_WORD.match(text, opening.end())
    at = word.end() if word else opening.end()
    line = _INFO_LINE.match(text, at)
    if line is None or _STATEMENT.match(text, at):  # closed on the same line, or code at once
        return at
    return line.end()


def _opens(text: str, fence: re.Match[str]) -> bool:
    """The fence carries a language and nothing else, so that it cannot close a block."""
    return re.match(r"[ \t]*[A-Za-z][\w+#.-]*[ \t]*\n", text[fence.end() :]) is not None


def _content(text: str) -> str:
    lines = text.split("\n")
    if any(line.startswith(">") for line in lines) and all(re.match(r">(?!>)|\s*$", line) for line in lines):
        text = "\n".join(re.sub(r"^> ?", "", line) for line in lines)
    code = textwrap.dedent(text).strip("\r\n")
    return code if code.strip() else ""


# --- text that does not parse --------------------------------------------------------------------------------------

_LOOKALIKES = str.maketrans(
    {
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff"),
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
    }
)
"""Characters that word processors and web pages put in place of those that Python knows."""
_TOP_LEVEL = re.compile(r"[^\s#)\]}]")
_CUTS_TRIED = 20


def _repaired(code: str) -> str:
    """`code` in a form that parses where a known spoilage explains it, else unchanged."""
    for repair in (lambda text: text.translate(_LOOKALIKES), _without_prompts, _without_numbers, html.unescape):
        repaired = repair(code)
        if repaired.strip() and _parsed(repaired):
            return repaired
    return code


def _without_prompts(code: str) -> str:
    """The input of an interactive session."""
    if ">>>" not in code:
        return ""
    try:
        return "".join(example.source for example in doctest.DocTestParser().get_examples(code + "\n"))
    except ValueError:
        return ""


def _without_numbers(code: str) -> str:
    """The code of a listing whose lines are numbered."""
    lines = [re.match(r" *(\d+)[:.|]?(?: ?(.*)|$)", line) for line in code.split("\n")]
    numbers = [line and int(line[1]) for line in lines]
    return "\n".join(line[2] or "" for line in lines if line) if numbers == [*range(1, len(lines) + 1)] else ""


def _whole_part(code: str, entry_point: str | None) -> str:
    """`code` without what is cut off at its end, where the program is before that."""
    if _parsed(code):
        return code
    start = _parsing_start(code)
    return start if _rank(start, entry_point).is_other_answer else code


def _parsing_start(code: str) -> str:
    """The longest run of whole statements at the start of `code`: without a cut-off function, or prose, at its end."""
    lines = code.split("\n")
    for _ in range(_CUTS_TRIED):
        broken = _broken_line("\n".join(lines))
        if broken is None:
            return "\n".join(lines).rstrip()
        starts = [i for i, line in enumerate(lines[:broken]) if _TOP_LEVEL.match(line)]
        if not starts or starts[-1] == 0:
            return ""
        cut = starts[-1]
        while cut and lines[cut - 1].startswith("@"):
            cut -= 1
        lines = lines[:cut]
    return ""


def _broken_line(code: str) -> int | None:
    """The line, from 1, where `code` stops being Python; None where all of it is."""
    try:
        parse(code)
    except SyntaxError as error:
        return max(1, error.lineno or 1)
    return None


# --- code without a fence ------------------------------------------------------------------------------------------

_LINE_OF_CODE = re.compile(
    r"[ \t]*(?:" + _STATEMENT.pattern + r"|\w+(?:, *\w+)* *=[^=]|print\(|(?:for|while|if|with|try)\b[^\n]*:\s*$)"
)
_LABEL = re.compile(
    r"^[ \t]*(?:\[/?[A-Z]{2,}\]|</?\w+>)[ \t]*(?=$|def |class |import |from |@)|(?:\[/[A-Z]{2,}\]|</\w+>)[ \t]*$",
    re.MULTILINE,
)
"""[PYTHON] and <code> around a program."""
_LONGEST_UNFENCED = 400
_STARTS_TRIED = 20


def _unfenced(text: str, entry_point: str | None) -> str:
    """Code without a fence: the first run of lines that parses and defines `entry_point`, else that parses."""
    text = _LABEL.sub("", _FENCE.sub("", text)).translate({0xFEFF: None})
    if _parsed(text) is not None:
        return text.strip("\n") if _is_code(text) else ""
    spans = (span for span in re.findall(r"`([^`\n]+)`", text) if _rank(span, entry_point).defines)
    if entry_point is not None and (span := next(spans, "")):
        return span
    lines = text.split("\n")
    starts = [number for number, line in enumerate(lines) if _LINE_OF_CODE.match(line)]
    found = []
    for start in starts[:_STARTS_TRIED]:
        code = _parsing_start(_run_of_code(lines[start : start + _LONGEST_UNFENCED]))
        if _rank(code, entry_point).defines:
            return code
        found.append(code)
    certain = [number for number in starts if _STATEMENT.match(lines[number].lstrip())]
    if code := next((code for code in found if code and _is_code(code)), ""):
        return code
    return "\n".join(lines[certain[0] : certain[0] + _LONGEST_UNFENCED]).rstrip() if certain else ""


def _run_of_code(lines: Sequence[str]) -> str:
    """The lines as deep as the first, and deeper."""
    margin = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    within = itertools.takewhile(lambda line: not line.strip() or line.startswith(margin), lines)
    return textwrap.dedent("\n".join(within))


def _is_code(code: str) -> bool:
    """Not prose that happens to parse: it holds a statement, or prints."""
    tree = _parsed(code)
    if tree is None:
        return False
    return _PRINTS.search(code) is not None or any(not isinstance(n, ast.Expr | ast.AnnAssign) for n in tree.body)


# --- the choice among blocks ---------------------------------------------------------------------------------------

_LEFT_OUT = re.compile(
    r"#\s*(?:\.\.\.|…|TODO|your code|(?:the )?rest of|same as|as before|existing code|unchanged)", re.IGNORECASE
)
_READS = re.compile(r"\binput\(|\bstdin\b|\bopen\((?:0|['\"]/dev/stdin)")
_PRINTS = re.compile(r"\bprint\(|\bstdout\b|\bos\.write\(")


class _Rank(NamedTuple):
    """How well a block answers; the greatest is chosen."""

    defines: bool
    """A program, or one that binds the entry point."""
    own: bool
    """Not by an import alone."""
    whole: bool
    """No stub, and no part left out."""
    gives: bool
    """A value comes back, or input is read and something printed."""

    @property
    def is_other_answer(self) -> bool:
        return self.defines and self.own


def _rank(code: str, entry_point: str | None) -> _Rank:
    tree = _parsed(code)
    if tree is None or not tree.body:
        return _Rank(defines=False, own=False, whole=False, gives=False)
    left_out = _LEFT_OUT.search(code) is not None
    if entry_point is None:
        program = any(not _is_literal(node) for node in tree.body)
        prints = _PRINTS.search(code) is not None
        return _Rank(program, own=prints and _READS.search(code) is not None, whole=not left_out, gives=prints)
    names = _bound_names(tree)
    if entry_point not in names:
        return _Rank(defines=False, own=False, whole=False, gives=False)
    functions = [
        node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == entry_point
    ]
    if not functions:
        return _Rank(defines=True, own=entry_point not in _imported(tree), whole=not left_out, gives=True)
    return _Rank(True, own=True, whole=not left_out and not _is_stub(functions[-1]), gives=_gives(functions[-1]))


def _is_stub(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    def says_nothing(node: ast.stmt) -> bool:
        not_implemented = isinstance(node, ast.Raise) and "NotImplemented" in ast.unparse(node)
        return isinstance(node, ast.Pass) or not_implemented or _is_literal(node)

    elided = any(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...
        for node in ast.walk(function)
    )
    return elided or all(map(says_nothing, function.body))


def _gives(function: ast.AST) -> bool:
    gives = ast.Yield | ast.YieldFrom
    return any(
        isinstance(node, gives) or (isinstance(node, ast.Return) and node.value is not None)
        for node in ast.walk(function)
    )


def _is_literal(node: ast.stmt) -> bool:
    literals = ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set | ast.UnaryOp | ast.Name
    return isinstance(node, ast.Expr) and isinstance(node.value, literals)


def _bound_names(tree: ast.Module) -> set[str]:
    """Names that the module binds: at its top level, and within its `if`, `try` and `with`."""
    names = set()
    for node in _module_level(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.For):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {
                part.id
                for target in targets
                for part in ast.walk(target)
                if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
            }
    return names | _imported(tree)


def _imported(tree: ast.Module) -> set[str]:
    """Names that the module binds by imports alone."""
    imports = [node for node in _module_level(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name for node in imports for name in _names_of_import(node)}


def _module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    nodes: list[ast.stmt] = list(tree.body)
    for node in nodes:  # grows
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
            nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
            nodes += [child for handler in getattr(node, "handlers", ()) for child in handler.body]


def _with_helpers(code: str, others: Sequence[str]) -> str:
    """`code` after those of the other blocks that define names which it, or a block so taken, needs."""
    if (tree := _parsed(code)) is None:
        return code
    missing, taken = _free_names(tree), set()
    pending = list(reversed(range(len(others))))
    while pending:
        helpers = ((i, _parsed(others[i])) for i in pending)
        found = next(((i, tree) for i, tree in helpers if tree and _bound_names(tree) & missing), None)
        if found is None:
            break
        number, helper = found
        taken.add(number)
        pending.remove(number)
        missing = (missing - _bound_names(helper)) | _free_names(helper)
    return "\n\n".join([*(others[i] for i in sorted(taken)), code])


def _free_names(tree: ast.AST) -> set[str]:
    """Names that the program reads and nowhere sets; builtins are none of them."""
    read, own = set(), set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                read.add(name)
            case ast.Name(id=name) | ast.arg(arg=name) | ast.ExceptHandler(name=str(name)):
                own.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                own.add(name)
            case ast.alias():
                own.add((node.asname or node.name).partition(".")[0])
    return {name for name in read - own if not hasattr(builtins, name)}


# --- a program's own tests -----------------------------------------------------------------------------------------

_TEST_MODULES = frozenset({"unittest", "pytest", "doctest", "hypothesis", "nose"})
_SHOWING = frozenset({"print", "pprint", "display"})
_ENDING = frozenset({"exit", "quit"})
_FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def _without_own_tests(code: str, entry_point: str | None) -> str:
    """`code` without the tests and uses that it makes of `entry_point` while it loads."""
    tree = _parsed(code) if entry_point is not None else None
    if tree is None or entry_point is None or entry_point not in _bound_names(tree):
        return code
    dropped = _Uses(tree, entry_point).statements
    rest = {name for node in tree.body if node not in dropped for name in _read_names(node)}
    dropped += [node for node in tree.body if _imports_tests(node) and not _names_of_import(node) & rest]
    return _without(code, tree, dropped) if dropped else code


class _Uses:
    """The statements of a module that only test or use its entry point: nothing that it needs comes from them."""

    def __init__(self, tree: ast.Module, entry_point: str) -> None:
        self._entry_point = entry_point
        self._reads: dict[str, set[str]] = {}
        """What each name of the module is made from."""
        variables: set[str] = set()
        for node in tree.body:
            names = {node.name} if isinstance(node, _FUNCTION | ast.ClassDef) else _set_names(node)
            variables |= names if not isinstance(node, _FUNCTION | ast.ClassDef) else set()
            for name in names:
                self._reads.setdefault(name, set()).update(_made_from(node) - {name})
        self._needed = self._reached({entry_point}) | {entry_point}
        self._state = (self._needed & variables) - {entry_point}
        self._frameworks = {name for node in tree.body if _imports_tests(node) for name in _names_of_import(node)}
        self._asserting = {
            node.name
            for node in tree.body
            if isinstance(node, _FUNCTION) and any(isinstance(part, ast.Assert) for part in ast.walk(node))
        } - self._needed
        definitions = [node for node in tree.body if isinstance(node, _FUNCTION | ast.ClassDef)]
        self._gone = {node.name for node in definitions if self._is_test(node.name)}
        self.statements = [node for node in tree.body if self._is_use(node)]

    def _is_test(self, name: str) -> bool:
        reached = self._reached({name}) | {name}
        if name in self._needed:
            return False
        tests = bool(reached & self._asserting) or name.lower().startswith("test")
        return bool(reached & self._frameworks) or (self._entry_point in reached and tests)

    def _is_use(self, node: ast.stmt) -> bool:
        if isinstance(node, _FUNCTION | ast.ClassDef):
            return node.name in self._gone
        if isinstance(node, ast.Assert):
            return True
        reads, sets = _read_names(node), _set_names(node)
        callee = _callee(node)
        if isinstance(node, ast.Import | ast.ImportFrom) or sets & self._needed:
            return False
        if reads & self._state and callee not in _SHOWING:
            return False
        if isinstance(node, ast.Assign | ast.AugAssign) and not sets and reads & self._needed:
            return False  # of an attribute or an item
        uses = (reads | self._reached(reads)) & (self._gone | self._frameworks | {self._entry_point})
        if uses or callee in _ENDING or _reads_input(node):
            self._gone |= sets
            return True
        return False

    def _reached(self, names: set[str]) -> set[str]:
        """Names that `names` are made from, through the module's own."""
        reached: set[str] = set()
        pending = set(names)
        while pending:
            pending = set().union(*(self._reads.get(name, set()) for name in pending)) - reached
            reached |= pending
        return reached


def _made_from(node: ast.stmt) -> set[str]:
    """Names that a statement takes from its module; of a definition, those that it does not set itself."""
    if not isinstance(node, _FUNCTION | ast.ClassDef):
        return _read_names(node)
    shared = {name for part in ast.walk(node) if isinstance(part, ast.Global) for name in part.names}
    return _free_names(node) | shared


def _callee(node: ast.stmt) -> str:
    """The name that a statement calls: `exit` of `sys.exit(1)`."""
    function = node.value.func if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) else None
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _reads_input(node: ast.stmt) -> bool:
    return any(
        (isinstance(part, ast.Call) and isinstance(part.func, ast.Name) and part.func.id == "input")
        or (isinstance(part, ast.Attribute) and part.attr == "stdin")
        for part in ast.walk(node)
    )


def _set_names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def _read_names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}


def _imports_tests(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import):
        return all(alias.name.partition(".")[0] in _TEST_MODULES for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in _TEST_MODULES


def _names_of_import(node: ast.stmt) -> set[str]:
    names = node.names if isinstance(node, ast.Import | ast.ImportFrom) else []
    return {(alias.asname or alias.name).partition(".")[0] for alias in names}


def _without(code: str, tree: ast.Module, dropped: Sequence[ast.stmt]) -> str:
    """`code` without some of its statements; one that shares a line with others becomes `pass`."""
    others = {line for node in tree.body if node not in dropped for line in _lines_of(node)}
    lines = [line.encode() for line in code.split("\n")]
    gone: set[int] = set()
    for node in sorted(dropped, key=lambda node: (node.lineno, node.col_offset), reverse=True):
        if others.isdisjoint(_lines_of(node)):
            gone |= set(_lines_of(node))
            continue
        first, last = node.lineno - 1, (node.end_lineno or node.lineno) - 1
        lines[first : last + 1] = [
            lines[first][: node.col_offset] + b"pass" + lines[last][node.end_col_offset :],
            *([b""] * (last - first)),
        ]
    return "\n".join(line.decode() for number, line in enumerate(lines, 1) if number not in gone).rstrip()


def _lines_of(node: ast.stmt) -> range:
    decorators: list[ast.expr] = getattr(node, "decorator_list", [])
    return range(min([node.lineno, *(part.lineno for part in decorators)]), (node.end_lineno or node.lineno) + 1)


@functools.lru_cache(maxsize=64)
def _parsed(code: str) -> ast.Module | None:
    try:
        return parse(code)
    except SyntaxError:
        return None
