"""Problems with hidden tests: not in the prompt until one fails (MBPP-POMDP, paper section 4.3), or not run at all."""

import ast
import re

from mucode_agent.problems import labelled_examples
from mucode_agent.prompts import TESTS, shown_tests
from mucode_agent.syntax import parse
from mucode_agent.types import Problem

_HEADING = re.compile(r"\W*(?:for\s+|some\s+)?(?:examples?|e\.g\.?|ex)\s*\d*\s*:?\s*$", re.IGNORECASE)
_QUOTES = re.compile(r'"""|' + "'''")


def without_examples(problem: Problem) -> Problem:
    """The same task with its tests left out of the prompt; they still run, and their failures are still fed back.

    Examples in the statement go too: doctest blocks, lines that call the entry point, inputs with their outputs, and
    headings they leave empty. Examples in prose stay. If the statement does not show the function's signature, the
    reference's is added, as in the paper's prompt, because nothing else shows the parameters.
    """
    prompt = problem.prompt
    if problem.entry_point is not None:
        prompt = _without_example_lines(prompt, problem.entry_point)
        signature = _signature(problem.reference or "", problem.entry_point)
        if signature and f"def {problem.entry_point}" not in prompt:
            prompt = f"{prompt.rstrip()}\n\nRequired signature: `{signature}`"
    return problem.model_copy(update={"prompt": prompt, "show_tests": False})


def without_running(problem: Problem) -> Problem:
    """The same task with the same text, but its public tests are not run or fed back; all tests judge at the end."""
    prompt = problem.prompt
    if problem.public_tests and problem.show_tests:
        prompt = f"{prompt.strip()}\n\n{TESTS}{shown_tests(problem)}"
    private = (*problem.public_tests, *problem.private_tests)
    return problem.model_copy(update={"prompt": prompt, "public_tests": (), "private_tests": private})


def _without_example_lines(prompt: str, entry_point: str) -> str:
    lines = prompt.split("\n")
    example = _example_lines(lines, entry_point)
    following = [
        next((later for later in range(i + 1, len(lines)) if lines[later].strip()), None) for i in range(len(lines))
    ]
    heading = {i for i, line in enumerate(lines) if _HEADING.match(line) and following[i] in example}
    kept = [line if i not in example | heading else _quotes_of(line) for i, line in enumerate(lines)]
    return "\n".join(line for line in kept if line is not None)


def _example_lines(lines: list[str], entry_point: str) -> set[int]:
    """Indices of doctest blocks, up to the empty line or quotes that end them, of calls outside the signature, and of
    inputs with their outputs.
    """
    call = re.compile(rf"(?<![\w.])(?<!def ){re.escape(entry_point)}\s*\(")
    found: set[int] = set()
    in_doctest = False
    for number, line in enumerate(lines):
        in_doctest = line.lstrip(" '\"").startswith(">>>") or (in_doctest and bool(line.strip(" '\"")))
        if in_doctest or call.search(line):
            found.add(number)
    labelled = labelled_examples("\n".join(lines), entry_point)
    return found.union(*(numbers for _, _, numbers in labelled))


def _quotes_of(line: str) -> str | None:
    """What must stay of a removed line: the quotes that open or close the docstring."""
    quotes = _QUOTES.findall(line)
    return line[: len(line) - len(line.lstrip())] + " ".join(quotes) if quotes else None


def _signature(reference: str, entry_point: str) -> str:
    try:
        body = parse(reference).body
    except SyntaxError:
        return ""
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name == entry_point:
            returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            return f"def {node.name}({ast.unparse(node.args)}){returns}:"
    return ""
