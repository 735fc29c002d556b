"""The digest of a wording: of the texts made from fixed samples, which reach every branch of the wording.

An edit of the code that changes no text keeps the digest; any change of a text changes it.
"""

import hashlib
from collections.abc import Iterable
from typing import Final, get_args

from mucode_agent.types import (
    Candidate,
    CodeTest,
    ExecutionReport,
    Problem,
    Sample,
    Status,
    StdioTest,
    TestResult,
    Turn,
)

_LONG = "x = '" + "a long line of a sample " * 100 + "'"
_FUNCTION = Problem(
    prompt=" Return the number after n.\n",
    entry_point="after",
    public_tests=(CodeTest(code=" assert after(1) == 2\n"), CodeTest(code=_LONG)),
)

_MANY = tuple(CodeTest(code=f"assert after({n}) == {n + 1}") for n in range(20))
PROBLEMS: Final = (
    _FUNCTION,
    _FUNCTION.model_copy(update={"public_tests": ()}),
    _FUNCTION.model_copy(update={"show_tests": False}),
    _FUNCTION.model_copy(update={"public_tests": _MANY}),
    Problem(prompt="Print the sum.", public_tests=(StdioTest(stdin="1 2\n", stdout="3\n"),)),
)
"""A function and a program; tests that are shown, hidden, long, many, and none."""

CODE: Final = "\ndef after(n):\n    return n + 1\n"


def _failing(status: Status, **fields: object) -> ExecutionReport:
    return ExecutionReport(status=status, results=(TestResult.model_validate({"status": status, **fields}),))


_FAILURES: tuple[Status, ...] = tuple(status for status in get_args(Status) if status != "passed")
_REPORTS = (
    None,
    ExecutionReport(status="passed", results=(TestResult(status="passed"),)),
    *(ExecutionReport(status=status) for status in _FAILURES),
    *(ExecutionReport(status=status, error="E: no.") for status in _FAILURES),
    *(_failing(status, test="assert after(1) == 2", error="E: no.") for status in _FAILURES),
    _failing("wrong_answer", test="assert after(1) == 2", expected="2", actual="1"),
    _failing("wrong_answer", test=_LONG, expected=_LONG, actual=_LONG),
    _failing("exception", error=_LONG, traceback=[f"line {n}, in f: {_LONG}" for n in range(6)]),
    ExecutionReport(status="wrong_answer", results=(TestResult(status="passed"), TestResult(status="wrong_answer"))),
)
"""No report, every status with and without a test and an error, and texts that are cut."""

REPLIES: Final = (
    "",
    "I do not know.",
    f"Here it is:\n```python{CODE}```\nDone.",
    f"<think>Let me try: ```python\ndef after(n): return 7\n``` no.</think>\n```py{CODE}```<|im_end|>",
    f"<|im_start|>assistant\n~~~{CODE}assert after(1) == 3\nprint(after(1))\n",
    f"<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>```python{CODE}```",
    "<think>It never ends",
    "```python\ndef after(n):\n    ...\n```\n\n```\ndef after(n): return n + one()\n```\n```\ndef one(): return 1\n```",
    f"To solve this, count on.\n{CODE}\nThat is all.",
    "The answer is `after = lambda n: n + 1`.",
    "```\n>>> def after(n):\n...     return n + 1\n```",
    "```\n1 def after(n):\n2     return n + 1\n```",
    "```\ndef after(n):\n    return n &gt; 1\n```",
    "```python\n> def after(n):\n>     return “one”\n```",
    f"```python{CODE}def cut(",
    f"````markdown\n```python{CODE}```\n````",
    f"```python\nimport unittest{CODE}class T(unittest.TestCase): pass\nif 1: unittest.main()\n```",
    "```python\nn = int(input())\nprint(n + 1)\n```",
    f"```python{CODE}```\n<think>\nIt never ends",
    f"analysisHm.assistantfinal```python\nfrom __future__ import annotations\nfrom own import one{CODE}```",
    '{"name": "run", "arguments": {"code": ["def after(n):\\n", "    return n + 1"]}}',
    '```json\n[1, {"code": "def after(n):\\n    return n + 1"}]\n```',
    f"'''python{CODE}'''",
    "```python\\ndef after(n):\\n    return n + 1\\n```",
    "```diff\n@@ -1 +1 @@\n def after(n):\n-    return n\n+    return n + 1\n```",
    f"<<<<<<< SEARCH\nx\n=======\n{CODE.strip()}\n>>>>>>> REPLACE",
    "```python\nclass Solution:\n    def after(self, n):\n        return n\n```\nDo not write\n```\n[DONE]\nO(1)\n```",
    "Answer: def after(n): return n + 1",
    "```python\ndef main():\n    print(int(input()) + 1)\n```\n```python\nmain()\n```",
)
"""Replies of every form that `extraction` knows."""


def _turn(reply: str, report: ExecutionReport | None, comment: str = "") -> Turn:
    candidate = Candidate(turn=1, index=0, sample=Sample(text=reply, seed=0), code="", report=report)
    return Turn(best=candidate, candidates=1, comment=comment)


TURNS: Final = (
    *(_turn(REPLIES[2], report) for report in _REPORTS),
    *(_turn(reply, None, " Use no loop.\n") for reply in REPLIES),
)
"""Every report, and every reply with a person's comment."""


def digest(texts: Iterable[str]) -> str:
    """12 hexadecimal digits."""
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
