"""The program in a reply, whatever stands around it."""

import io
import json
import sys
import textwrap
from typing import Any

import pytest
from fakes import fenced

from mucode_agent.extraction import answer, extract_code

CODE = "def f(x):\n    return x + 1"
WRONG = "def f(x):\n    return 0"


def loaded(reply: str, entry_point: str = "f") -> Any:
    """The entry point of the program in a reply, which loads without an error."""
    scope: dict[str, Any] = {"__name__": "candidate"}
    exec(compile(extract_code(reply, entry_point), "candidate", "exec"), scope)
    return scope[entry_point]


def adds_one(reply: str) -> bool:
    return bool(loaded(reply)(1) == 2)


def blocks(*codes: str) -> str:
    return "\nthen\n".join(map(fenced, codes))


REPLIES = {
    # fences
    "closed on the last line of code": f"```python\n{CODE}```",
    "text after the closing fence": f"```python\n{CODE}\n``` This works because x grows.",
    "opened in mid-line": f"Here is the code: ```python\n{CODE}\n```",
    "opened in mid-line without a language": f"Here is the code: ```\n{CODE}\n```",
    "on one line": "Use ```python def f(x): return x + 1```.",
    "on one line without a language": "```def f(x): return x + 1```",
    "code on the line of the fence": f"```{CODE}\n```",
    "a stray fence before": f"```\n```python\n{CODE}\n```\n\nIt adds one.",
    "a stray fence and an empty line before": f"Here it is:\n```\n\n```python\n{CODE}\n```\n",
    "a stray fence with a language before": f"```python\n```python\n{CODE}\n```",
    "a stray fence around prose": f"```\nSure, here it is:\n```python\n{CODE}\n```\nDone.",
    "a stray fence after": f"```python\n{CODE}\n```\n```\n",
    "only a closing fence": f"{CODE}\n```\nIt adds one.",
    "prose and only a closing fence": f"Sure:\n\n{CODE}\n```\n",
    "a block in a block": f"````markdown\nThe answer:\n```python\n{CODE}\n```\n````",
    "a markdown block around it": f"```markdown\n# Answer\n```python\n{CODE}\n```\n```",
    "quoted": "> ```python\n> def f(x):\n>     return x + 1\n> ```",
    "triple backticks in a string": f"```python\nFENCE = '```'\n{CODE}\n```",
    "unclosed, with prose behind": f"```python\n{CODE}\n\nThis function adds one.",
    "a cut-off second function": f"```python\n{CODE}\n\ndef g(y):\n    return f(y",
    "a cut-off decorated function": f"```python\n{CODE}\n\n@cache\ndef g(y):\n    return [f(",
    "a cut-off string": f'```python\n{CODE}\n\nTEXT = """about',
    "a cut-off docstring of another": f'```python\n{CODE}\n\ndef g(y):\n    """Adds',
    "a cut-off test": f"```python\n{CODE}\n\nassert f(1) == 2\nassert f(2",
    # several blocks
    "a helper behind": blocks("def f(x):\n    return helper(x)", "def helper(x):\n    return x + 1"),
    "a constant behind": blocks("def f(x):\n    return x + STEP", "STEP = 1"),
    "a decorator behind": blocks(f"@same\n{CODE}", "def same(g):\n    return g"),
    "a signature before": blocks('def f(x: int) -> int:\n    """Add one."""', CODE),
    "a stub before": blocks("def f(x):\n    pass", CODE),
    "a stub behind": blocks(CODE, "def f(x):\n    raise NotImplementedError"),
    "an ellipsis before": blocks("def f(x):\n    ...", CODE),
    "steps before": blocks("def f(x):\n    y = x", "def f(x):\n    y = x + 1\n    # TODO", CODE),
    "the wrong program quoted before": f"You wrote\n{fenced(WRONG)}\nwhich is wrong. Corrected:\n{fenced(CODE)}",
    "tests that import it behind": blocks(CODE, "from solution import f\nprint(f(1))"),
    "a part left out behind": blocks(CODE, "def f(x):\n    # ... as before\n    return 5"),
    "output behind": f"{blocks(CODE, 'print(f(1))')}\nOutput:\n```\n2\n```",
    # thoughts and control tokens
    "<thinking>": f"<thinking>{fenced(WRONG)}</thinking>\n{fenced(CODE)}",
    "<thought>": f"<thought>\ndraft\n{fenced(WRONG)}\n</thought>\n\n{fenced(CODE)}",
    "<reasoning>": f"<reasoning>\n{fenced(WRONG)}\n</reasoning>{fenced(CODE)}",
    "[THINK]": f"[THINK]draft\n{fenced(WRONG)}\n[/THINK]\n{fenced(CODE)}",
    "opened in the prompt": f"Let's see.\n{fenced(WRONG)}\n</think>\n\n{fenced(CODE)}",
    "behind some prose": f"Okay.\n<think>\n{fenced(WRONG)}\n</think>\n{fenced(CODE)}",
    "behind the answer": f"{fenced(CODE)}\n<think>\nor\n{fenced(WRONG)}\n</think>",
    "thoughts twice": f"<think>\n{fenced(WRONG)}\n</think>\n<think>{fenced(WRONG)}</think>\n{fenced(CODE)}",
    "thoughts that quote the tag": f"<think>The tag `</think>` ends it.\n{fenced(WRONG)}\n</think>\n{fenced(CODE)}",
    "channels": "<|channel|>analysis<|message|>try\n"
    f"{fenced(WRONG)}<|end|><|start|>assistant<|channel|>final<|message|>{fenced(CODE)}<|return|>",
    "<|im_end|>": f"{fenced(CODE)}<|im_end|>\n<|im_start|>user\n{fenced(WRONG)}",
    "<|im_end|> without a fence": f"{CODE}<|im_end|>",
    "<|im_end|> in an unclosed block": f"```python\n{CODE}<|im_end|>",
    "<|endoftext|>": f"{CODE}<|endoftext|>",
    "<|eot_id|>": f"<|start_header_id|>assistant<|end_header_id|>\n\n{fenced(CODE)}<|eot_id|>",
    "</s>": f"{CODE}</s>",
    "<end_of_turn>": f"```python\n{CODE}\n```<end_of_turn>",
    # labels
    "<answer>": f"<answer>\n{fenced(CODE)}\n</answer>",
    "<code>": f"<code>\n{CODE}\n</code>",
    "<code> on the line of the code": f"<code>{CODE}</code>",
    "[BEGIN]": f"[BEGIN]\n{CODE}\n[DONE]",
    "[PYTHON]": f"[PYTHON]{CODE}[/PYTHON]",
    # no fence
    "a constant before": "Sure.\n\nSTEP = 1\n\ndef f(x):\n    return x + STEP\n\nIt adds one.",
    "indented": f"Sure:\n\n{textwrap.indent(CODE, '    ')}\n\nIt adds one.",
    "prose that begins like an import": f"import numpy is not needed here.\n\n{CODE}",
    "single backticks": "The function is `def f(x): return x + 1`.",
    # spoilage
    "numbered lines": fenced("1 def f(x):\n2     return x + 1"),
    "an interactive session": fenced(">>> def f(x):\n...     return x + 1\n>>> f(1)\n2"),
    "no-break spaces": fenced(CODE.replace(" ", "\u00a0")),
    "a zero-width space": fenced("\u200b" + CODE),
    "curly quotes": fenced("def f(x):\n    \u201cAdds one.\u201d\n    return x + 1"),
    "markup": fenced("def f(x):\n    return x + 1 if x &lt; 9 else x + 1"),
    # own tests and usage
    "asserts": fenced(f"{CODE}\n\nassert f(1) == 5"),
    "an assert behind a semicolon": fenced(f"{CODE}\nX = 1; assert f(1) == 5"),
    "unittest.main()": fenced(
        f"import unittest\n{CODE}\n\nclass T(unittest.TestCase):\n    def test_a(self):\n"
        "        self.assertEqual(f(1), 5)\n\nunittest.main()"
    ),
    "from unittest import main": fenced(
        f"from unittest import TestCase, main\n{CODE}\n\nclass T(TestCase):\n    def test_a(self):\n"
        "        self.assertEqual(f(1), 5)\n\nmain(argv=['x'], exit=True)"
    ),
    "pytest": fenced(
        f"import pytest\n{CODE}\n\n@pytest.mark.parametrize('x', [1])\ndef test_f(x):\n    assert f(x) == 5\n\n"
        "pytest.main()"
    ),
    "an assert in a loop": fenced(f"{CODE}\n\nfor x, y in [(1, 5)]:\n    assert f(x) == y"),
    "a checking helper": fenced(f"{CODE}\n\ndef check(got, want):\n    assert got == want\n\ncheck(f(1), 5)"),
    "tests that call tests": fenced(
        f"{CODE}\n\ndef test_a():\n    assert f(1) == 5\n\ndef run():\n    test_a()\n\nrun()"
    ),
    "usage that reads input": fenced(f"{CODE}\n\nprint(f(int(input())))"),
    "usage that raises": fenced(f"{CODE}\n\nprint(f('a'))"),
    "input that is read first": fenced(f"{CODE}\n\nn = int(input())\nprint(f(n))"),
    "a result that cannot be": fenced(f"{CODE}\n\nresult = f('a')\nprint(result)"),
    "a check that raises": fenced(f"{CODE}\n\nif f(1) != 5:\n    raise AssertionError('wrong')"),
    "an exit": fenced(f"{CODE}\n\nexit()"),
    "a main function": fenced(f"{CODE}\n\ndef main():\n    print(f(int(input())))\n\nmain()"),
    # another form
    "a diff": "```diff\n--- a/f.py\n+++ b/f.py\n@@ -1,2 +1,2 @@\n def f(x):\n-    return 0\n+    return x + 1\n```",
    "a search and its replacement": f"<<<<<<< SEARCH\n{WRONG}\n=======\n{CODE}\n>>>>>>> REPLACE",
    "a tool call": json.dumps({"name": "write", "arguments": {"path": "f.py", "content": CODE}}),
    "a tool call in tags": f"<tool_call>\n{json.dumps({'arguments': {'code': CODE}})}\n</tool_call>",
    "a tool call in XML": f'<invoke name="python">\n<parameter name="code">{CODE}</parameter>\n</invoke>',
    "JSON in a fence": f"```json\n{json.dumps({'code': CODE, 'says': 'adds one'}, indent=2)}\n```",
    "a fence in JSON": json.dumps({"answer": fenced(CODE)}),
    "cells of a notebook": json.dumps(
        {"cells": [{"source": ["STEP = 1"]}, {"source": ["def f(x):\n", " return x + STEP"]}]}
    ),
    "one escaped line": CODE.replace("\n", "\\n"),
    "escaped lines in a fence": fenced(CODE).replace("\n", "\\n"),
    "a string": f'"{CODE}"'.replace("\n", "\\n"),
    "three quotes for a fence": f"'''python\n{CODE}\n'''",
    "a page": f'<pre><code class="language-python">{CODE.replace("+ 1", "+ (x &lt; 9)")}\n</code></pre>',
    "a here-document": f"```bash\ncat > f.py << 'EOF'\n{CODE}\nEOF\n```",
    "IPython's prompts": fenced("In [1]: def f(x):\n   ...:     return x + 1\n   ...: \n\nIn [2]: f(1)\nOut[2]: 2"),
    "prompts without a fence": "Try:\n\n>>> def f(x):\n...     return x + 1\n...\n>>> f(1)\n2\n\nIt works.",
    "a session that ended in an error": fenced('>>> def f(x):\n...     return x + 1\n...\n>>> f("a")\nTraceback ...'),
    "lines numbered from ten": fenced("10: def f(x):\n11:     return x + 1"),
    "numbers beside bars": fenced(" 1 | def f(x):\n 2 |     return x + 1"),
    "full-width signs": fenced("def f\uff08x\uff09\uff1a\n    return x + 1"),
    "colours of a terminal": fenced("\x1b[34mdef\x1b[0m f(x):\n    return x + 1"),
    "a zero byte": fenced(f"{CODE}\0"),
    "old line ends": fenced(CODE).replace("\n", "\r"),
    "quoted twice": "> > ```python\n> > def f(x):\n> >     return x + 1\n> > ```",
    "another kind of fence around it": f"~~~\n{fenced(CODE)}\n~~~",
    "a fence closed and opened on one line": f"```python\n{WRONG}\n``````python\n{CODE}\n```",
    "behind a word": "Answer: def f(x): return x + 1",
    "the language on a line of its own": f"python\n{CODE}",
    # the better of several
    "a common mistake behind": f"{fenced(CODE)}\n\nA common mistake:\n```python\n{WRONG}\n```",
    "the original behind": f"Fixed:\n{fenced(CODE)}\n\nYour original code was:\n```\n{WRONG}\n```",
    "another language behind": f"{fenced(CODE)}\nRun\n```bash\nf = 5\n```",
    "a mock behind": blocks(CODE, "def f(x):\n    return None"),
    "a helper in a wrong answer": blocks("def h(x):\n    return x + 1\n\n" + WRONG, "def f(x):\n    return h(x)"),
    "an import in a wrong answer": blocks("import math\n" + WRONG, "def f(x):\n    return math.ceil(x) + 1"),
    "two files": f"helper.py\n{fenced('def h(x): return x + 1')}\nf.py\n"
    + fenced("from helper import h\ndef f(x): return h(x)"),
    "imports of the future": blocks(
        "def h(x):\n    return x + 1", "from __future__ import annotations\ndef f(x: Int) -> Int:\n    return h(x)"
    ),
    "thoughts behind that never end": f"{fenced(CODE)}\n<think>\nWait, maybe\n{fenced(WRONG)}",
    # what can only fail
    "labels, O(1) and notes": f"{CODE}\n\n[DONE]\nEOF\n* done\nComplexity: O(1)\nO(1)",
    "a command line": fenced(
        f"import argparse\n{CODE}\np = argparse.ArgumentParser()\np.add_argument('x')\nprint(f(p.parse_args().x))"
    ),
    "a library for the example alone": fenced(f"import no_such_library as lib\n{CODE}\nlib.plot(f(1))"),
}


@pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES.keys())
def test_the_program_in_a_reply_is_found_whatever_stands_around_it(reply: str) -> None:
    assert adds_one(reply)


NEEDED = {
    "a helper that asserts": "TABLE = []\ndef build():\n    assert not TABLE\n    TABLE.append(1)\nbuild()\n"
    "def f(x):\n    return x + TABLE[0]",
    "a value from a helper that asserts": "def positive(x):\n    assert x > 0\n    return x\nSTEP = positive(1)\n"
    "def f(x):\n    return x + STEP",
    "a function named like a test": "def test_bit(x):\n    assert x >= 0\n    return 1\n"
    "def f(x):\n    return x + test_bit(x)",
    "a table of its own results": "TABLE = {0: 1}\ndef f(x):\n    return TABLE.get(x) or x + 1\n"
    "for x in range(1, 5):\n    TABLE[x] = f(x)",
    "an attribute of its own": "def f(x):\n    return x + f.step\nf.step = 1",
    "itself, wrapped": "def same(g):\n    return g\ndef f(x):\n    return x + 1\nf = same(f)",
    "a loop that fills a table": "TABLE = {}\nfor x in range(5):\n    assert x >= 0\n    TABLE[x] = x + 1\n"
    "def f(x):\n    return TABLE[x]",
    "a recursion limit": "import sys\nsys.setrecursionlimit(5000)\ndef f(x):\n    return x + 1",
}


@pytest.mark.parametrize("code", NEEDED.values(), ids=NEEDED.keys())
def test_what_the_function_needs_is_no_test_of_it(code: str) -> None:
    assert extract_code(fenced(code), "f") == code


TAGS = {
    "in a pattern": "import re\ndef f(s):\n    return re.sub(r'<think>.*?</think>', '', s, flags=re.S)",
    "in a name": "TAG = '<think>'\ndef f(s):\n    return s.partition('</think>')[2]",
    "in a docstring": 'def f(s):\n    """\n    <think>a</think>b -> b\n    """\n    return s.rpartition("</think>")[2]',
    "of a turn's end": 'def f(s):\n    return s.replace("<think>a</think>", "").removesuffix("<|im_end|>")',
}


@pytest.mark.parametrize("code", TAGS.values(), ids=TAGS.keys())
@pytest.mark.parametrize("before", ["", "<think>I cut at `</think>`.</think>\n", "Sure.\n"])
def test_a_program_may_hold_the_tags_of_thoughts_and_turns(code: str, before: str) -> None:
    assert extract_code(before + fenced(code), "f") == code
    assert loaded(before + fenced(code))("<think>a</think>b") == "b"


TAG_NAMES = ("think", "Thought", "seed:think", "inner_monologue", "chain_of_thought", "antThinking", "my-thoughts")


@pytest.mark.parametrize("name", TAG_NAMES)
@pytest.mark.parametrize("opening", ["<{}>", "<{} effort='high'>", "< {} >"])
def test_thoughts_are_no_answer_whatever_the_tag_is_called(name: str, opening: str) -> None:
    draft = f"{opening.format(name)}\n{fenced(WRONG)}\n</{name}>"
    assert extract_code(f"{draft}\n{CODE}", "f") == CODE
    assert extract_code(f"{fenced(CODE)}\n{draft}", "f") == CODE


def test_a_class_with_the_method_is_taken_where_no_function_is() -> None:
    method = "class Solution:\n    def f(self, x):\n        return x + 1"
    stub = "class Solution:\n    def f(self, x):\n        pass"
    reply = f"{fenced(stub)}\nUse `Solution`:\n{fenced(method)}\n{fenced('print(Solution().f(3))')}"
    assert extract_code(reply, "f") == extract_code(reply, "Solution") == method
    assert extract_code(fenced(f"{method}\n\nn = int(input())\nprint(Solution().f(n))"), "f") == method
    assert extract_code(f"{fenced(method)}\nor\n{fenced(CODE)}\nor\n{fenced(method)}", "f") == CODE


PROGRAMS = {
    "a reading step before": blocks("n = int(input())", "n = int(input())\nprint(n * 2)"),
    "a reading step of its own": blocks("n = int(input())", "print(n * 2)"),
    "usage behind": f"{blocks('import sys', 'print(int(sys.stdin.read()) * 2)')}\nRun\n```bash\npython a.py\n```",
    "sample input before": f"For\n```\nYES 5\n```\nwrite\n{fenced('print(int(input()) * 2)')}",
    "a definition and its call behind": blocks("def g(n):\n    return n * 2", "print(g(int(input())))"),
    "an assert": fenced("n = int(input())\nassert n > 0\nprint(n * 2)"),
    "prose behind, unclosed": "```python\nn = int(input())\nprint(n * 2)\n\nIt prints twice the number.",
    "no fence": "Sure:\n\nn = int(input())\nprint(n * 2)\n\nIt prints twice the number.",
    "a call behind": blocks("def main():\n    print(int(input()) * 2)", "main()"),
    "a guarded call behind": blocks(
        "def main():\n    print(int(input()) * 2)", 'if __name__ == "__main__":\n    main()'
    ),
    "an example call behind": blocks("def g(n):\n    return n * 2\nprint(g(int(input())))", "print(g(3))"),
    "a label behind": "n = int(input())\nprint(n * 2)\n\nEOF",
    "a tool call behind words": f"Running {json.dumps({'code': 'n = int(input())' + chr(10) + 'print(n * 2)'})}",
}


@pytest.mark.parametrize("reply", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_a_program_on_standard_input_is_found(reply: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("4\n"))
    exec(compile(extract_code(reply), "candidate", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == "8\n"


def test_an_answer_without_thoughts_is_the_reply_itself() -> None:
    reply = f"  Sure:\n{fenced(CODE)}\n"
    assert answer(reply) == reply


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (fenced(CODE), CODE),
        (f"```python\n{CODE}", CODE),
        (f"```\n{CODE}\n```", CODE),
        (f"~~~python\n{CODE}\n~~~", CODE),
        (f"````python\n{CODE}\n````", CODE),
        (f"```py title=x\n{CODE}\n```", CODE),
        (f"```python\r\n{CODE}\r\n```\r\n", CODE),
        (f"1. First:\n   ```python\n{textwrap.indent(CODE, '   ')}\n   ```", CODE),
        (f"```bash\npip install x\n```\nthen\n```python\n{CODE}\n```", CODE),
        (f"```python\n{CODE}\n```\nUse it:\n```python\nprint(f(1))\n```", CODE),
        (f"```python\nprint(f(1))\n```\nwith\n```python\n{CODE}\n```", CODE),
        (f"```python\ndef g(:\n```\nbetter:\n```python\n{CODE}\n```", CODE),
        (CODE, CODE),
        (f"Sure, here is the code:\n\n{CODE}\n\nIt adds one.", CODE),
        (f"from this we see that\n{CODE}", CODE),
        ("I cannot do that.", ""),
        ("from the list, take the first.", ""),
        ("hello", ""),
        ("", ""),
        ("```", ""),
        ("```python\n```", ""),
        ("```python\n\n", ""),
    ],
)
def test_the_program_is_found_in_any_reply(reply: str, code: str) -> None:
    assert extract_code(reply, "f").replace("\r", "") == code


def test_a_truncated_program_is_kept_as_it_is() -> None:
    assert extract_code("```python\ndef f(x):\n    return (x +", "f") == "def f(x):\n    return (x +"


@pytest.mark.parametrize("line", ["def f(:\n", "```\n", "'<|im_end|>' ", "<think>a</think>\n", "x = (\n"])
def test_a_huge_reply_is_read_in_bounded_time(line: str) -> None:
    assert "\ndef g" not in extract_code(line * 20_000, "f")


DRAFT = "<think>\n```python\ndef f(x):\n    return 0\n```\nno</think>\n"


def test_a_draft_inside_thoughts_is_no_answer() -> None:
    assert extract_code(DRAFT + fenced(CODE), "f") == CODE
    assert extract_code("<think>\n```python\ndef f(x):\n" + "</think>" + "\n" + fenced(CODE), "f") == CODE
    assert extract_code("<think>" + fenced(CODE), "f") == ""


def test_sample_input_is_not_taken_for_the_program() -> None:
    reply = "For the input\n```\n5\n```\nwrite\n```python\nprint(int(input()) * 2)\n```"
    assert extract_code(reply) == "print(int(input()) * 2)"


def test_a_fence_inside_a_docstring_does_not_end_the_block():
    program = 'def f(x):\n    """Adds one.\n\n```\nf(1)\n```\n    """\n    return x + 1'
    assert extract_code(f"Sure:\n```python\n{program}\n```\nDone.", "f") == program


def test_a_programs_own_asserts_are_no_part_of_it():
    own = "assert f(1) == 3\n\ndef test_f():\n    assert f(2) == 9\n\ntest_f()"
    needed = "import sys\nsys.setrecursionlimit(5000)"
    code = extract_code(f"```python\ndef f(x):\n    assert x > 0\n    return x + 1\n\n{own}\n\n{needed}\n```", "f")
    assert code.startswith("def f(x):\n    assert x > 0\n    return x + 1")
    assert "assert f(1)" not in code
    assert not code.replace("def test_f()", "").count("test_f()")
    assert code.endswith("import sys\nsys.setrecursionlimit(5000)")


def test_an_assert_that_shares_its_line_with_the_program_goes_alone():
    assert extract_code("```python\ndef f(x): return x\nassert f(1); y = 2\n```", "f").endswith("pass; y = 2")


def test_the_asserts_of_a_program_on_standard_input_stay():
    assert "assert n > 0" in extract_code("```python\nn = int(input())\nassert n > 0\nprint(n)\n```")


HELPER, USER = "def half(x):\n    return x // 2", "def f(x):\n    return half(x) + 1"


def test_a_helper_in_an_earlier_block_stands_before_the_function_that_uses_it():
    reply = f"First a helper:\n{fenced(HELPER)}\nThen the function:\n{fenced(USER)}"
    assert extract_code(reply, "f") == f"{HELPER}\n\n{USER}"


def test_a_helper_of_a_helper_and_its_import_are_taken_too():
    helper = "def half(x):\n    return floor(x / 2)"
    blocks = ["from math import floor", "unused = 1", helper, USER]
    reply = "\n".join(map(fenced, blocks))
    assert extract_code(reply, "f") == "\n\n".join([blocks[0], helper, USER])


@pytest.mark.parametrize(
    "other",
    [
        "def f_slow(x):\n    return x",  # nothing that is used
        "def half(x)\n    return x",  # does not parse
        "x = 3\nprint(x)",  # a parameter's name, not the function's need
    ],
)
def test_an_earlier_block_that_is_not_needed_is_left_out(other: str):
    assert extract_code(f"{fenced(other)}\n{fenced(USER)}", "f") == USER


def test_names_that_a_function_sets_inside_are_no_need_of_it():
    inside = "def f(x):\n    import math\n    def half(y): return y\n    return half(math.floor(x))"
    assert extract_code(f"{fenced(HELPER)}\n{fenced('import math')}\n{fenced(inside)}", "f") == inside


def test_what_the_function_defines_itself_is_not_taken_from_a_draft():
    draft, whole = "def half(x):\n    return x", f"{HELPER}\n\n{USER}"
    assert extract_code(f"{fenced(draft)}\n{fenced(whole)}", "f") == whole


@pytest.mark.parametrize(
    "reply", ["print(int(input()) * 2)", "print(sum(map(int, open(0))))\n", "import sys; sys.stdout.write('1')"]
)
def test_one_line_without_a_fence_that_prints_is_a_program(reply: str) -> None:
    assert extract_code(reply) == reply.strip()


@pytest.mark.parametrize("reply", ["Sorry", "ok(1)", "yes: str", "print", "'print it'"])
def test_prose_that_parses_as_an_expression_is_no_program(reply: str) -> None:
    assert extract_code(reply) == ""


@pytest.mark.parametrize(
    "reply",
    [
        json.dumps({"name": "write", "arguments": json.dumps({"code": "def inc(x):\n    return x + 1"})}),
        "*** Begin Patch\n*** Add File: a.py\n+def inc(x):\n+    return x + 1\n*** End Patch",
    ],
    ids=["JSON in JSON", "a patch"],
)
def test_a_program_is_found_in_the_arguments_of_an_agents_tools(reply: str) -> None:
    assert extract_code(reply, "inc") == "def inc(x):\n    return x + 1"
