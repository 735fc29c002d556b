"""All text sent to a generator.

The conversation is append-only: the messages after turn t begin with the messages after turn t-1, so a server's prefix
cache always hits. Only public tests and their outcome are ever rendered.
"""

import functools
from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from mucode_agent import wording
from mucode_agent.extraction import answer, extract_code
from mucode_agent.types import CodeTest, ExecutionReport, Problem, StdioTest, Turn

FEEDBACK_CHARS = 1500
"""Maximum characters of one feedback message."""

TESTS = "Your code should satisfy these tests:\n"
"""Before the tests that are shown."""

_SHOWN_TESTS = 8
_SHOWN_TEST_CHARS = 600


def render(problem: Problem, turns: Sequence[Turn]) -> list[BaseMessage]:
    """The state s_t = {x, y_1, o_1, …} of the paper (section 2) as chat messages."""
    messages: list[BaseMessage] = [HumanMessage(task(problem))]
    for turn in turns:
        messages.append(AIMessage(answer(turn.best.sample.text) or "(no answer)"))
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
        parts.append(TESTS + shown_tests(problem))
    parts.append("Answer with the complete code, imports included, in one ```python block. Do not include the tests.")
    return "\n\n".join(parts)


def feedback(report: ExecutionReport | None, comment: str = "") -> str:
    """The next user message: the selected program's result on the public tests; at most FEEDBACK_CHARS characters.

    `comment` is from the person who rejected the program.
    """
    closing = "Correct the code and answer with the complete code in one ```python block."
    said = f"A reviewer rejected the code: {comment.strip()}\n" if comment.strip() else ""
    body = _clipped(said + outcome(report), FEEDBACK_CHARS - len(closing) - len("Feedback:\n\n\n"))
    return f"Feedback:\n{body}\n\n{closing}"


def ask_for_inputs(problem: Problem, count: int) -> list[BaseMessage]:
    """Asks for inputs on which to compare candidates without tests. Results are not asked for."""
    ask = (
        f"Do not solve this task yet. Write {count} different calls of `{problem.entry_point}` that tell right "
        "from wrong solutions, edge cases included: one call per line in one ```python block, literal arguments only, "
        f"without results.\n\n{problem.prompt.strip()}"
    )
    return [HumanMessage(ask)]


@functools.cache
def prompt_digest() -> str:
    """Digest of the texts sent to a generator and of how its replies are read; results of other wordings differ."""
    sent = [render(problem, ()) for problem in wording.PROBLEMS]
    sent += [ask_for_inputs(problem, 8) for problem in wording.PROBLEMS]
    sent += [render(wording.PROBLEMS[0], [turn]) for turn in wording.TURNS]
    read = [extract_code(reply, name) for reply in wording.REPLIES for name in (wording.PROBLEMS[0].entry_point, None)]
    return wording.digest([*(f"{m.type}: {m.content}" for messages in sent for m in messages), *read])


# --- the task and the feedback -------------------------------------------------------------------------------------


def shown_tests(problem: Problem) -> str:
    shown = [_shown_test(test) for test in problem.public_tests[:_SHOWN_TESTS]]
    return "\n".join(_clipped(text, _SHOWN_TEST_CHARS) for text in shown)


def _shown_test(test: CodeTest | StdioTest) -> str:
    if isinstance(test, CodeTest):
        return test.code.strip()
    return f"Input:\n{test.stdin.rstrip()}\nOutput:\n{test.stdout.rstrip()}"


def outcome(report: ExecutionReport | None) -> str:
    """A program's result in words: the failing test with expected and actual value, or the error and its lines."""
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
    """`text` with its middle left out if it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = (limit - 5) // 2
    return f"{text[:half]} ... {text[len(text) - half :]}"
