"""Every word sent to a generator, and the way back from its reply to a program.

The conversation is append-only: the messages after turn t begin with the messages after turn t-1, so a server's prefix
cache always hits. Only public tests and their outcome are ever rendered.
"""

import ast
import builtins
import functools
import hashlib
import re
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from mucode_agent.types import CodeTest, ExecutionReport, Problem, StdioTest, Turn

FEEDBACK_CHARS = 1500
"""Upper bound of one feedback message."""

_SHOWN_TESTS = 8
_SHOWN_TEST_CHARS = 600


def render(problem: Problem, turns: Sequence[Turn]) -> list[BaseMessage]:
    """The state s_t = {x, y_1, o_1, …} of the paper (section 2) as chat messages."""
    messages: list[BaseMessage] = [HumanMessage(task(problem))]
    for turn in turns:
        messages.append(AIMessage(_answer(turn.best.sample.text) or "(no answer)"))
        messages.append(HumanMessage(feedback(turn.best.report, turn.comment)))
    return messages


def task(problem: Problem) -> str:
    """The first message: what to write, the public tests, and the form of the answer."""
    if problem.entry_point is None:
        ask = "Write a Python program that reads standard input and writes standard output."
    else:
        ask = f"Write a Python function `{problem.entry_point}`."
    parts = [ask, problem.prompt.strip()]
    if problem.public_tests and problem.show_tests:
        parts.append("Your code should satisfy these tests:\n" + shown_tests(problem))
    parts.append("Answer with the complete code, imports included, in one ```python block. Do not include the tests.")
    return "\n\n".join(parts)


def feedback(report: ExecutionReport | None, comment: str = "") -> str:
    """The next user message: what the selected program did on the public tests; at most FEEDBACK_CHARS characters.

    `comment` is what a person said who rejected the program.
    """
    closing = "Correct the code and answer with the complete code in one ```python block."
    said = f"A reviewer rejected the code: {comment.strip()}\n" if comment.strip() else ""
    body = _clipped(said + outcome(report), FEEDBACK_CHARS - len(closing) - len("Feedback:\n\n\n"))
    return f"Feedback:\n{body}\n\n{closing}"


def ask_for_inputs(problem: Problem, count: int) -> list[BaseMessage]:
    """Asks for inputs on which candidates can be compared where there are no tests. Results are not asked for."""
    ask = (
        f"Do not solve this task yet. Write {count} different calls of `{problem.entry_point}` that tell right "
        "from wrong solutions, edge cases included: one call per line in one ```python block, literal arguments only, "
        f"without results.\n\n{problem.prompt.strip()}"
    )
    return [HumanMessage(ask)]


def extract_code(reply: str, entry_point: str | None = None) -> str:
    """The program in a reply; empty where it holds none.

    Of several fenced blocks the first that parses and defines `entry_point` is taken, else the first that parses, else
    the first; before it stand the earlier blocks that define what it uses and does not define. A fence that is never
    closed runs to the end. Without a fence, the reply itself or the longest run of its lines that parses, if that
    defines something. The asserts that a function's program makes of itself are left out: they are a guess at tests,
    and a wrong one would end a right program.
    """
    reply = _answer(reply)
    blocks = list(_blocks(reply))
    if not blocks:
        return "" if _OPENING.search(reply) else _without_own_tests(_unfenced(reply), entry_point)
    chosen = next(
        (block for block in blocks if _defines(block, entry_point)),
        next((block for block in blocks if _parsed(block)), blocks[0]),
    )
    return _without_own_tests(_with_helpers(chosen, blocks[: blocks.index(chosen)]), entry_point)


@functools.cache
def prompt_digest() -> str:
    """Names the wording of this file: traces and results made with other words are not comparable."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]


# --- the task and the feedback -------------------------------------------------------------------------------------


def shown_tests(problem: Problem) -> str:
    shown = [_shown_test(test) for test in problem.public_tests[:_SHOWN_TESTS]]
    return "\n".join(_clipped(text, _SHOWN_TEST_CHARS) for text in shown)


def _shown_test(test: CodeTest | StdioTest) -> str:
    if isinstance(test, CodeTest):
        return test.code.strip()
    return f"Input:\n{test.stdin.rstrip()}\nOutput:\n{test.stdout.rstrip()}"


def outcome(report: ExecutionReport | None) -> str:
    """What a program did, in words: the failing test with expected and actual value, or the error and its lines."""
    if report is None or report.status == "infra":
        return "The code could not be run."
    if report.passed:
        return "All the tests above pass, but the code may fail on other inputs. Check the edge cases."
    failure = report.first_failure
    if failure is None and report.status == "unjudged":
        return "There are no tests to run the code on. Check it against the task, edge cases included."
    if failure is None:
        return _STATUS_WORDS.get(report.status, report.status) + (f" {report.error}" if report.error else "")
    lines = [f"{report.tests_passed} of {len(report.results)} tests passed." if len(report.results) > 1 else ""]
    if failure.test:
        lines.append(f"Failing test: {_clipped(failure.test, 400)}")
    if failure.status == "wrong_answer":
        if failure.expected or failure.actual:
            lines += [f"Expected: {_clipped(failure.expected, 300)}", f"Actual: {_clipped(failure.actual, 300)}"]
    else:
        lines.append(_STATUS_WORDS.get(failure.status, failure.status))
    if failure.error:
        lines.append(_clipped(failure.error, 300))
    lines += [f"  {_clipped(frame, 160)}" for frame in failure.traceback[-4:]]
    return "\n".join(line for line in lines if line)


_STATUS_WORDS = {
    "exception": "The code raised an exception.",
    "syntax_error": "The code does not parse.",
    "missing_entry_point": "The code does not define the function asked for.",
    "timeout": "The code took too long.",
    "memory": "The code used too much memory.",
    "output_limit": "The code produced too much output.",
    "early_exit": "The code ended the process before it returned.",
    "skipped": "The code ended before this test.",
    "unjudged": "The result could not be compared.",
}


def _clipped(text: str, limit: int) -> str:
    """`text` with its middle left out where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[len(text) - half :]}"


# --- the program in a reply ----------------------------------------------------------------------------------------


def _answer(reply: str) -> str:
    """A reasoning model's reply without its thoughts: drafts in them are no answer, and no part of the next prompt."""
    if "<think>" not in reply and "</think>" not in reply:
        return reply
    return reply.rpartition("</think>")[2].split("<think>")[0].strip() if "</think>" in reply else ""


_OPENING = re.compile(r"^[ \t]*(?P<fence>`{3,}|~{3,})[^\n`]*(?:\n|\Z)", re.MULTILINE)
_STATEMENT = re.compile(r"(?:async +def|def|class) +\w+ *[(:]|import +\w|from +[\w.]+ +import |@\w")
_LONGEST_UNFENCED = 400
_FENCES_TRIED = 8


def _blocks(reply: str) -> Iterator[str]:
    """The fenced blocks that hold something. A fence inside a docstring does not end its block."""
    at = 0
    while opening := _OPENING.search(reply, at):
        closing = re.compile(rf"^[ \t]*{opening['fence']}[ \t]*\r?$", re.MULTILINE)
        ends = [(match.start(), match.end()) for match in closing.finditer(reply, opening.end())]
        ends = ends[:_FENCES_TRIED] or [(len(reply), len(reply))]
        blocks = [textwrap.dedent(reply[opening.end() : start]).strip("\r\n") for start, _ in ends]
        chosen = next((i for i, block in enumerate(blocks) if _parsed(block)), 0)
        if blocks[chosen].strip():
            yield blocks[chosen]
        at = ends[chosen][1]


def _with_helpers(code: str, earlier: Sequence[str]) -> str:
    """`code` after those of the earlier blocks that define names which it, or a block so taken, needs."""
    if (tree := _parsed(code)) is None:
        return code
    parts, missing = [code], _free_names(tree)
    for block in reversed(earlier):
        helper = _parsed(block)
        if helper is not None and (defined := _bound_names(helper)) & missing:
            parts.insert(0, block)
            missing = (missing - defined) | _free_names(helper)
    return "\n\n".join(parts)


def _free_names(tree: ast.Module) -> set[str]:
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


def _without_own_tests(code: str, entry_point: str | None) -> str:
    """`code` without module-level asserts, and without calls of those of its functions that assert."""
    tree = _parsed(code) if entry_point is not None else None
    if tree is None:
        return code
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name != entry_point)
    tests = {node.name for node in functions if any(isinstance(part, ast.Assert) for part in ast.walk(node))}
    own = [node for node in tree.body if isinstance(node, ast.Assert) or _calls_one_of(node, tests)]
    others = {line for node in tree.body if node not in own for line in _lines_of(node)}
    dropped = {line for node in own for line in _lines_of(node)} - others
    lines = code.split("\n")
    return "\n".join(line for number, line in enumerate(lines, 1) if number not in dropped).rstrip() if own else code


def _lines_of(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def _calls_one_of(node: ast.stmt, names: set[str]) -> bool:
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names


def _parsed(code: str) -> ast.Module | None:
    try:
        return ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _defines(code: str, entry_point: str | None) -> bool:
    tree = _parsed(code)
    if tree is None or not tree.body:
        return False
    if entry_point is None:  # a program, not its sample input: something beside literals
        return any(not _is_literal(node) for node in tree.body)
    return entry_point in _bound_names(tree)


def _is_literal(node: ast.stmt) -> bool:
    literals = ast.Constant | ast.List | ast.Tuple | ast.Dict | ast.Set | ast.UnaryOp | ast.Name
    return isinstance(node, ast.Expr) and isinstance(node.value, literals)


def _bound_names(tree: ast.Module) -> set[str]:
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    for node in tree.body:
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
    return names


def _unfenced(reply: str) -> str:
    """Code without a fence: from the first line that opens a statement to the last line with which it still parses."""
    if (tree := _parsed(reply)) is not None:
        return reply.strip("\n") if any(not isinstance(node, ast.Expr | ast.AnnAssign) for node in tree.body) else ""
    lines = reply.splitlines()
    start = next((number for number, line in enumerate(lines) if _STATEMENT.match(line)), None)
    if start is None:
        return ""
    lines = lines[: start + _LONGEST_UNFENCED]
    for end in range(len(lines), start, -1):
        code = "\n".join(lines[start:end])
        if _parsed(code):
            return code.rstrip()
    return "\n".join(lines[start:]).rstrip()
