"""The program in a generator's reply.

All forms of Markdown and the deviations of models are read; where a fence is ambiguous, the text that parses as Python
decides. Thoughts are no part of an answer, and the tests that a program makes of itself are no part of it.
"""

import ast
import html
import itertools
import json
import re
import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from mucode_agent.program import (
    FUNCTION,
    definitions,
    imported_names,
    owner,
    parsed,
    runs,
    with_helpers,
    without_own_tests,
)
from mucode_agent.syntax import parse


def extract_code(reply: str, entry_point: str | None = None) -> str:
    """The program in a reply; empty where it holds none.

    Of several blocks the last whole one that defines `entry_point`, or a class with such a method, is taken (without
    an entry point: that reads, prints and runs), after what it needs of the others. Stubs, steps with parts left out
    and blocks that the words above them call wrong come after whole programs. A block may hold a diff, an interactive
    session, a numbered listing or JSON with the program in a string. Without such a block the text outside of fences is
    searched. Of a function's program its own tests and example calls are left out: a wrong one would end a right one.
    Of a longer reply the last LONGEST_REPLY characters are read.
    """
    text = answer(_LINE_END.sub("\n", reply[-LONGEST_REPLY:].removeprefix("\ufeff")))
    blocks = list(_blocks(text, entry_point))
    if not any(_rank(block.code, entry_point).defines for block in blocks):
        bare = _unfenced(text, entry_point)
        if not blocks or _rank(bare, entry_point).defines:
            return without_own_tests(bare, entry_point)
    return without_own_tests(_chosen(blocks, entry_point), entry_point)


LONGEST_REPLY = 100_000
_LINE_END = re.compile(r"\r\n?")


# --- the answer in a reply -----------------------------------------------------------------------------------------

_THOUGHTS = r"[\w:.-]{0,30}(?:think|thought|reason|reflect|scratchpad|analysis|monologue)[\w:.-]{0,30}"
_THOUGHT_TAG = re.compile(
    rf"<(?P<a>/?) *{_THOUGHTS}(?: [^<>\n]*)?>"
    rf"|\[(?P<b>/?){_THOUGHTS}\]"
    r"|◁(?P<c>/?)think▷"
    rf"|<\|(?P<d>end|/)?{_THOUGHTS}\|>",
    re.IGNORECASE,
)
"""Whatever a model calls them: tags with such a word in their name."""
_FINAL = re.compile(r"<\|channel\|>\s*final\b[^\n]*?<\|message\|>")
_CHANNEL = re.compile(r"<\|channel\|>")
_SPOKEN_CHANNELS = re.compile(r"analysis(?=[A-Z]).*assistantfinal", re.DOTALL)
"""Channels of a server that leaves out the control tokens between their names."""
_BEGIN_OF_TURN = re.compile(
    r"\s*(?:<\|im_start\|>\s*assistant|<\|start_header_id\|>assistant<\|end_header_id\|>|<\|python_tag\|>)[ \t]*\n*"
)
_END_OF_TURN = re.compile(
    r"<[|｜](?:im_end|im_start|endoftext|end_of_text|eot_id|eom_id|EOT|end|return|end▁of▁sentence|endofmessage)[|｜]>"
    r"|</s>|<end_of_turn>|<eos>",
    re.IGNORECASE,
)


_TAGS_READ = 500
_LINE_READ = 500
"""Characters of a line on either side of a tag in which quotes are looked for."""


def answer(reply: str) -> str:
    """A reply without the model's thoughts and control tokens: drafts are no answer, and no part of the next prompt.

    Tags inside quotes or inside a block that parses belong to the program. Empty where the thoughts never end.
    """
    beginning = _BEGIN_OF_TURN.match(reply) or _SPOKEN_CHANNELS.match(reply)
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
    """A closing tag alone ends thoughts that the prompt has opened.

    Thoughts that are opened and never end leave what stands before them, if that is nothing or holds a program.
    """
    kept: list[str] = []
    at, opened = 0, None
    for tag in _loose(_THOUGHT_TAG, text):
        if not _closes(tag):
            opened = tag.start() if opened is None else opened
            continue
        kept = [] if opened is None else [*kept, text[at:opened]]
        at, opened = tag.end(), None
    if opened is not None:
        before = "\n".join([*kept, text[at:opened]])
        if not before.strip() or (before.endswith("\n") and any(parsed(b.code) for b in _located_blocks(before))):
            return before.strip()
    return "\n".join([*kept, text[at:]]).strip() if at else text


def _closes(tag: re.Match[str]) -> bool:
    return any(tag[name] for name in "abcd")


def _loose(pattern: re.Pattern[str], text: str) -> list[re.Match[str]]:
    """The matches that are no part of a program: neither between quotes nor inside a block that parses."""
    found = [match for match in itertools.islice(pattern.finditer(text), _TAGS_READ) if not _is_quoted(match)]
    held = [block.span for block in _located_blocks(text) if parsed(block.code)] if found else []
    return [match for match in found if not any(start <= match.start() < end for start, end in held)]


def _is_quoted(match: re.Match[str]) -> bool:
    """It is between quotes or backticks on its line."""
    text = match.string
    before = text[max(0, match.start() - _LINE_READ) : match.start()].rpartition("\n")[2]
    after = text[match.end() : match.end() + _LINE_READ].partition("\n")[0]
    quotes = re.findall(r"(?:(?<![A-Za-z])|(?<![A-Za-z])[rbfuRBFU]{1,2})(['\"]|(?<!`)`(?!`))", before)
    return any(quote in after for quote in quotes)


# --- fenced blocks -------------------------------------------------------------------------------------------------

_FENCE = re.compile(r"`{3}(?=`{3}\w)|`{3,}|~{3,}")
_PYTHON_WORD = re.compile(r"[ \t]*(?:python3?|py3?|ipython)\b[ \t]*", re.IGNORECASE)
_INFO_LINE = re.compile(r"[^\n`]*(?:\n|\Z)")
_STATEMENT = re.compile(r"(?:async +def|def|class) +\w+ *[(:]|import +\w|from +[\w.]+ +import |@\w")
_FENCES_TRIED = 8
_FENCES_READ = 200


class _Block(NamedTuple):
    code: str
    span: tuple[int, int]
    """From the opening fence to the end of the closing one."""
    lead: str
    """The last sentence above it."""
    language: str
    """What the opening fence says."""


def _blocks(text: str, entry_point: str | None) -> Iterator[_Block]:
    """The fenced blocks as programs, each in a form that can be read; one of JSON is the texts in it."""
    for block in _located_blocks(text):
        held = _held_blocks(block.code, entry_point) if _is_data(block.code) else []
        yield from held or [block._replace(code=_legible(block.code, entry_point))]


def _held_blocks(text: str, entry_point: str | None) -> list[_Block]:
    """The programs in the strings of JSON, or of a literal: a tool call's arguments, a notebook's cells."""
    found: list[_Block] = []
    for held in _held_texts(text):
        found += list(_blocks(held, entry_point)) or [_Block(_legible(held, entry_point), (0, len(text)), "", "")]
    return found if any(_rank(block.code, entry_point).defines for block in found) else []


def _located_blocks(text: str) -> Iterator[_Block]:
    """The fenced blocks that hold something; which fence closes a block is decided by what parses."""
    fences = list(_FENCE.finditer(text))[-_FENCES_READ:]
    number = 0
    while number < len(fences):
        opening = fences[number]
        start = _content_start(text, opening)
        later = range(number + 1, len(fences))
        after = [i for i in later if fences[i].start() >= start and fences[i][0][0] == opening[0][0]]
        ends = ([i for i in after if fences[i][0].startswith(opening[0])] or after)[:_FENCES_TRIED]
        contents = [_content(text[start : fences[i].start()]) for i in ends] or [_content(text[start:])]
        chosen = next((i for i, content in enumerate(contents) if (tree := parsed(content)) and tree.body), None)
        if chosen is None and ends and (not contents[0] or _opens(text, fences[ends[0]])):
            number = ends[0]  # a stray fence before the real one, or a block that was never closed
            continue
        content = contents[chosen or 0]
        at = ends[chosen or 0] if ends else len(fences)
        end = fences[at].end() if ends else len(text)
        if chosen is None and (inner := _FENCE.search(content)) and not inner[0].startswith(opening[0]):
            yield from (
                block._replace(span=(block.span[0] + start, block.span[1] + start))
                for block in _located_blocks(text[start:end])
            )
        elif content:
            yield _Block(content, (opening.start(), end), _lead(text, opening), text[opening.end() : start].strip())
        number = at + 1


def _content_start(text: str, opening: re.Match[str]) -> int:
    """Behind the info string; code may begin on the line of the fence."""
    word = _PYTHON_WORD.match(text, opening.end())
    at = word.end() if word else opening.end()
    line = _INFO_LINE.match(text, at)
    if line is None or _STATEMENT.match(text, at):  # closed on the same line, or code at once
        return at
    return line.end()


def _lead(text: str, opening: re.Match[str]) -> str:
    lines = text[max(0, opening.start() - _LINE_READ) : opening.start()].rstrip().split("\n")
    return re.split(r"(?<=[.!?]) ", lines[-1])[-1]


def _opens(text: str, fence: re.Match[str]) -> bool:
    """The fence carries a language and nothing else, so that it cannot close a block."""
    return re.match(r"[ \t]*[A-Za-z][\w+#.-]*[ \t]*\n", text[fence.end() : fence.end() + _LINE_READ]) is not None


def _content(text: str) -> str:
    lines = text.split("\n")
    while any(line.startswith(">") for line in lines) and all(re.match(r">(?!>)|\s*$", line) for line in lines):
        lines = [re.sub(r"^> ?", "", line) for line in lines]
    code = textwrap.dedent("\n".join(lines)).strip("\r\n")
    return code if code.strip() else ""


# --- text that does not parse --------------------------------------------------------------------------------------

_LOOKALIKES = str.maketrans(
    {
        **dict.fromkeys("\u00a0\u2002\u2003\u2007\u2009\u202f\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff"),
        **dict.fromkeys("\u2018\u2019", "'"),
        **dict.fromkeys("\u201c\u201d", '"'),
        "\u2212": "-",
    }
)
"""Characters that word processors and web pages put in place of those that Python knows."""
_CONTROLS = re.compile(r"\x1b\[[\d;]*[A-Za-z]|[\x00-\x08\x0e-\x1f\x7f]")
_TOP_LEVEL = re.compile(r"[^\s#)\]}]")
_CUTS_TRIED = 20


def _forms(text: str) -> Iterator[str]:
    """`text`, and what it was before a known spoilage."""
    plain = _clean(text)
    forms = (
        text,
        plain,
        unicodedata.normalize("NFKC", plain),
        _without_prompts(text),
        _without_numbers(text),
        html.unescape(text),
        _after_change(text),
        _unescaped(text),
    )
    return (form for form in dict.fromkeys(forms) if form.strip())


def _clean(text: str) -> str:
    return _CONTROLS.sub("", text.translate(_LOOKALIKES))


def _legible(code: str, entry_point: str | None) -> str:
    """The program that a block stands for: a form of it that parses, else the part that answers, else the block."""
    forms = list(_forms(code))
    found = next((form for form in forms if parsed(form)), None)
    if found is not None:
        return found
    parts = itertools.chain(map(_parsing_start, forms), (_bare(form, entry_point) for form in forms))
    return next((part for part in parts if _rank(part, entry_point).is_answer), code)


_PROMPT = re.compile(r"\s*(?:>>>|In \[\d+\]:) ?")
_CONTINUED = re.compile(r"\s*\.\.\.:? ?")


def _without_prompts(code: str) -> str:
    """The input of an interactive session."""
    source = []
    entered = False
    for line in code.split("\n"):
        prompt = _PROMPT.match(line) or (_CONTINUED.match(line) if entered else None)
        entered = prompt is not None
        if prompt:
            source.append(line[prompt.end() :])
    return "\n".join(source)


def _without_numbers(code: str) -> str:
    """The code of a listing whose lines are numbered."""
    lines = [re.match(r" *(\d+) ?[:.|)]?(?: ?(.*)|$)", line) for line in code.split("\n")]
    numbers = [int(line[1]) for line in lines if line]
    counted = len(numbers) == len(lines) and numbers == [*range(numbers[0], numbers[0] + len(lines))]
    return "\n".join(line[2] or "" for line in lines if line) if counted else ""


_CONFLICT = re.compile(r"^<{7} [^\n]*\n.*?^={7}\n(.*?)^>{7} [^\n]*$", re.MULTILINE | re.DOTALL)
_DIFF_HEADER = re.compile(r"(?:diff |index |--- |\+\+\+ |@@|\\ No newline|\*\*\* )")


def _after_change(text: str) -> str:
    """What a diff, or a search with its replacement, leaves."""
    if "\n=======\n" in text and "\n>>>>>>> " in text:
        text = _CONFLICT.sub(r"\1", text)
    lines = [line for line in text.split("\n") if not _DIFF_HEADER.match(line)]
    if not any(line.startswith("+") for line in lines) or not all(line[:1] in ("+", "-", " ", "") for line in lines):
        return text
    return "\n".join(line[1:] for line in lines if not line.startswith("-"))


def _unescaped(text: str) -> str:
    r"""The lines of a text that was written with `\n` between them."""
    if "\n" in text.strip() or "\\n" not in text:
        return text
    return text.strip().replace("\\n", "\n").replace("\\t", "\t").replace('\\"', '"')


# --- text that holds text ------------------------------------------------------------------------------------------

_STRUCTURE = re.compile(r"[{\[]")
_STRUCTURES_TRIED = 5


def _is_data(code: str) -> bool:
    tree = parsed(code)
    return tree is None or (len(tree.body) == 1 and _is_literal(tree.body[0]))


def _held_texts(text: str) -> list[str]:
    return [held for value in _structures(text) for held in _texts_in(value) if held.strip()]


def _structures(text: str) -> Iterator[Any]:
    if text.strip()[:1] in ("'", '"'):
        try:
            yield ast.literal_eval(text.strip())
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return
    at = 0
    for _ in range(_STRUCTURES_TRIED):
        opening = _STRUCTURE.search(text, at)
        if opening is None:
            return
        try:
            value, at = json.JSONDecoder(strict=False).raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            at = opening.end()
        else:
            yield value


def _json_object(text: str) -> Any:
    """The object in a text that is JSON, as a tool call's arguments are; else None."""
    try:
        return json.loads(text, strict=False) if text.lstrip().startswith("{") else None
    except (ValueError, RecursionError):
        return None


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        inner = _json_object(value)
        yield from [value] if inner is None else _texts_in(inner)
    elif isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        yield "".join(value)
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(part)


# --- code without a fence ------------------------------------------------------------------------------------------

_LINE_OF_CODE = re.compile(
    r"[ \t]*(?:" + _STATEMENT.pattern + r"|\w+(?:, *\w+)* *=[^=]|print\(|(?:for|while|if|with|try)\b[^\n]*:\s*$)"
)
_TAG = r"(?:\[/?[A-Za-z]{3,}(?:=\w+)?\]|</?\w[\w:.=-]*(?: [^<>\n]*)?>)"
_LABEL = re.compile(rf"^[ \t]*(?:{_TAG})+[ \t]*(?=$|def |class |import |from |@)|(?:{_TAG})+[ \t]*$", re.MULTILINE)
"""[PYTHON] and <code> around a program."""
_LONGEST_UNFENCED = 400
_STARTS_TRIED = 20


def _unfenced(text: str, entry_point: str | None) -> str:
    """Code without a fence: the text in a form that parses, a text in it, or its first part that answers."""
    for form in itertools.chain(_forms(text), _forms(_LABEL.sub("", _FENCE.sub("", text)))):
        if parsed(form) is not None and _is_code(form):
            return form.strip("\n")
    if held := _held_blocks(text, entry_point):
        return _chosen(held, entry_point)
    return "" if parsed(text) else _bare(_LABEL.sub("", _FENCE.sub("", _clean(text))), entry_point)


def _bare(text: str, entry_point: str | None) -> str:
    """The first run of lines that parses and defines `entry_point`, else that parses."""
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
    if entry_point and (middle := re.search(rf"\b(?:async +)?(?:def|class) +{re.escape(entry_point)}\b", text)):
        found.append(_parsing_start(text[middle.start() :]))
    certain = [number for number in starts if _STATEMENT.match(lines[number].lstrip())]
    if code := next((code for code in found if code and _is_code(code)), ""):
        return code
    return "\n".join(lines[certain[0] : certain[0] + _LONGEST_UNFENCED]).rstrip() if certain else ""


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


def _run_of_code(lines: Sequence[str]) -> str:
    """The lines as deep as the first, and deeper."""
    margin = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
    within = itertools.takewhile(lambda line: not line.strip() or line.startswith(margin), lines)
    return textwrap.dedent("\n".join(within))


def _is_code(code: str) -> bool:
    """Not prose that happens to parse: it holds a statement, or prints."""
    tree = parsed(code)
    if tree is None:
        return False
    return _PRINTS.search(code) is not None or any(not isinstance(n, ast.Expr | ast.AnnAssign) for n in tree.body)


# --- the choice among blocks ---------------------------------------------------------------------------------------

_LEFT_OUT = re.compile(
    r"#\s*(?:\.\.\.|…|TODO|your code|(?:the )?rest of|same|as before|existing code|unchanged)", re.IGNORECASE
)
_READS = re.compile(r"\binput\(|\bstdin\b|\bfileinput\b|\bopen\((?:0|['\"]/dev/stdin)")
_PRINTS = re.compile(r"\bprint\(|\bstdout\b|\bos\.write\(")
_CONDEMNS = re.compile(
    r"\b(?:wrong|incorrect|buggy|broken|bad|mistakes?|do not|don't|avoid|never|original|old|your (?:code|attempt))\b",
    re.IGNORECASE,
)
_COMMENDS = re.compile(
    r"\b(?:fix\w*|correct\w*|final\w*|instead|improved?|updated?|revised?|rewritten|new|better|right|works?|working)\b",
    re.IGNORECASE,
)


class _Rank(NamedTuple):
    """How well a program answers; the greatest is chosen."""

    defines: bool
    """A program, or one that binds the entry point."""
    own: bool
    """Not by an import alone; a program on standard input reads and prints."""
    whole: bool
    """No stub, and no part left out."""
    gives: bool
    """A value comes back, or something runs."""
    plain: bool
    """The entry point itself is bound, and not a class with such a method."""

    @property
    def is_answer(self) -> bool:
        return self.defines and self.own


_NONE = _Rank(defines=False, own=False, whole=False, gives=False, plain=False)


def _chosen(blocks: Sequence[_Block], entry_point: str | None) -> str:
    """The best of the blocks with what it needs of the others; the later of two that are as good."""
    ranks = [_rank(block.code, entry_point) for block in blocks]

    def program(number: int) -> str:
        others = [i for i in range(len(blocks)) if i != number]
        helpers = [blocks[i].code for i in others if not ranks[i].is_answer]
        return with_helpers(blocks[number].code, helpers, [blocks[i].code for i in others if ranks[i].is_answer])

    def worth(number: int) -> tuple[Any, ...]:
        block, code = blocks[number], program(number) if entry_point is None else blocks[number].code
        advised = not _CONDEMNS.search(block.lead) or _COMMENDS.search(block.lead) is not None
        foreign = block.language and "py" not in block.language.lower()
        return (_rank(code, entry_point), advised, not foreign, code == block.code, number)

    return program(max(range(len(blocks)), key=worth))


def _rank(code: str, entry_point: str | None) -> _Rank:
    tree = parsed(code)
    if tree is None or not tree.body:
        return _NONE
    whole = _LEFT_OUT.search(code) is None
    if entry_point is None:
        program = any(not _is_literal(node) for node in tree.body)
        prints = _PRINTS.search(code) is not None
        reads = _READS.search(code) is not None
        return _Rank(program, own=prints and reads, whole=whole, gives=prints and runs(tree), plain=True)
    name = owner(tree, entry_point)
    if name is None:
        return _NONE
    found = definitions(tree, entry_point)
    return _Rank(
        defines=True,
        own=bool(found) or name not in imported_names(tree),
        whole=whole and not (found and _is_stub(found[-1])),
        gives=not found or _gives(found[-1]),
        plain=name == entry_point,
    )


def _is_stub(definition: ast.stmt) -> bool:
    def says_nothing(node: ast.stmt) -> bool:
        not_implemented = isinstance(node, ast.Raise) and "NotImplemented" in ast.unparse(node)
        return isinstance(node, ast.Pass) or not_implemented or _is_literal(node)

    if isinstance(definition, ast.ClassDef):
        methods = [node for node in definition.body if isinstance(node, FUNCTION)]
        return all(map(_is_stub, methods)) if methods else all(map(says_nothing, definition.body))
    elided = any(
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ...
        for node in ast.walk(definition)
    )
    return elided or (isinstance(definition, FUNCTION) and all(map(says_nothing, definition.body)))


def _gives(definition: ast.AST) -> bool:
    def gives(node: ast.AST) -> bool:
        if isinstance(node, ast.Return):
            return not (node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None))
        return isinstance(node, ast.Yield | ast.YieldFrom)

    return isinstance(definition, ast.ClassDef) or any(map(gives, ast.walk(definition)))


def _is_literal(node: ast.stmt) -> bool:
    literals = ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set | ast.UnaryOp | ast.Name
    return isinstance(node, ast.Expr) and isinstance(node.value, literals)
