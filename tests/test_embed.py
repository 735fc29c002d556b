"""The solver in somebody's agent: as a node, as a tool in a real tool-calling loop, as a sub-agent."""

import asyncio
import json
from typing import Any, TypedDict

import pytest
from fakes import LengthVerifier, RuleSandbox, ScriptedModel, fenced
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from mucode_agent.graphs.embed import add_solver, create_solver_subagent, create_solver_tool
from mucode_agent.graphs.solver import create_solver
from mucode_agent.prose import problem_in
from mucode_agent.types import CodeTest, InfrastructureError, ProblemError, Solution, StdioTest

GOOD, BAD = "def f(x):\n    return x + 1", "def f(x):\n    return x"
PROBLEM = {"prompt": "Add one.", "entry_point": "f", "public_tests": ["assert f(1) == 2"]}
TASK = {"prompt": "Add one.", "tests": ["assert f(1) == 2"]}


def sandbox() -> RuleSandbox:
    return RuleSandbox(lambda code: "x + 1" in code)


def calling_model(arguments: dict[str, Any]) -> ScriptedModel:
    """Calls the tool once with the given arguments, then answers."""

    def reply(messages: list[BaseMessage], options: dict[str, Any]) -> AIMessage:
        if any(isinstance(message, ToolMessage) for message in messages):
            return AIMessage("done")
        call = {"name": options["tools"][0], "args": arguments, "id": "1", "type": "tool_call"}
        return AIMessage("", tool_calls=[call])

    return ScriptedModel(replies=reply, tools=True)


def agent_run(arguments: dict[str, Any], *, run_async: bool = False) -> ToolMessage:
    tool = create_solver_tool(ScriptedModel(replies=[fenced(GOOD)]), sandbox=sandbox(), n=2)
    agent = create_agent(calling_model(arguments), tools=[tool])
    given: Any = {"messages": [HumanMessage("write f")]}
    state = asyncio.run(agent.ainvoke(given)) if run_async else agent.invoke(given)
    return next(message for message in state["messages"] if isinstance(message, ToolMessage))


@pytest.mark.parametrize("run_async", [False, True])
def test_an_agent_calls_the_solver_and_reads_the_code(run_async: bool) -> None:
    answer = agent_run(TASK, run_async=run_async)
    assert answer.status == "success"
    assert GOOD in str(answer.content)
    assert "passes all tests" in str(answer.content)
    assert Solution.model_validate(answer.artifact).code == GOOD


def test_the_tool_tells_its_caller_what_is_wrong_with_a_task() -> None:
    answer = agent_run({"prompt": "Add one.", "tests": ["assert f(1 =="]})
    assert answer.status == "error"
    assert "public_tests[0] does not parse" in str(answer.content)


def test_the_tools_schema_describes_every_argument() -> None:
    schema = create_solver_tool("smollm2").args
    assert list(schema) == ["prompt", "tests", "entry_point", "setup"]
    assert all("description" in field for field in schema.values())


def test_a_broken_model_stops_the_tool_with_an_error() -> None:
    def broken(_: Any) -> AIMessage:
        raise ConnectionError("refused")

    tool = create_solver_tool(RunnableLambda(broken), sandbox=sandbox())
    with pytest.raises(InfrastructureError, match="refused"):
        tool.invoke(TASK)


def test_an_unsolved_tool_answer_says_what_still_fails() -> None:
    tool = create_solver_tool(ScriptedModel(replies=[fenced(BAD)]), sandbox=sandbox(), n=1, max_turns=1)
    assert tool.invoke(TASK).startswith("Not solved (max_turns)")


def subagent(replies: list[str], **settings: Any) -> Any:
    return create_solver_subagent(ScriptedModel(replies=replies), sandbox=sandbox(), **settings)


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(PROBLEM),
        f"Solve this:\n```json\n{json.dumps(PROBLEM)}\n```",
        "Write f, which adds one.\n\n```python\nassert f(1) == 2\nassert f(2) == 3\n```",
        "Write f, which adds one:\nassert f(1) == 2\nThank you.",
    ],
)
def test_a_subagent_reads_the_problem_in_the_last_human_message(text: str) -> None:
    spec = subagent([fenced(GOOD)], n=1)
    state = spec["runnable"].invoke({"messages": [HumanMessage("hello"), AIMessage("hi"), HumanMessage(text)]})
    assert set(spec) == {"name", "description", "runnable"}
    assert set(state) == {"messages", "structured_response"}
    assert (state["structured_response"]["solved"], state["structured_response"]["code"]) == (True, GOOD)
    assert GOOD in state["messages"][-1].text


def test_a_subagent_takes_a_problem_where_the_host_gives_one() -> None:
    given = {"messages": [HumanMessage("solve it")], "problem": PROBLEM}
    assert subagent([fenced(GOOD)])["runnable"].invoke(given)["structured_response"]["solved"]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "no human message"),
        ([HumanMessage(" \n")], "is empty"),
        ([HumanMessage('{"prompt": ""}')], "field prompt"),
        ([HumanMessage("{broken")], "not JSON"),
        ([HumanMessage("def f(x)\nassert True")], "asserts nothing"),
    ],
)
def test_a_subagent_answers_a_task_that_it_cannot_read(messages: list[Any], words: str) -> None:
    state = subagent([fenced(GOOD)])["runnable"].invoke({"messages": messages})
    assert words in state["messages"][-1].text
    assert state["structured_response"] is None


def test_a_subagent_answers_a_problem_that_it_cannot_use() -> None:
    state = subagent([fenced(GOOD)])["runnable"].invoke({"messages": [], "problem": {"prompt": ""}})
    assert "The task cannot be used: field prompt" in state["messages"][-1].text


def test_a_subagent_reads_the_message_where_the_problem_is_empty() -> None:
    given = {"messages": [HumanMessage("Add one.\nassert f(1) == 2")], "problem": {}}
    assert subagent([fenced(GOOD)])["runnable"].invoke(given)["structured_response"]["solved"]


@pytest.mark.parametrize("run_async", [False, True])
def test_the_tool_takes_a_bare_prompt(run_async: bool) -> None:
    tool = create_solver_tool(ScriptedModel(replies=[fenced(GOOD)]), sandbox=sandbox(), n=1, max_turns=1)
    prompt = "Complete def f(x): so that it adds one."
    answer = asyncio.run(tool.ainvoke(prompt)) if run_async else tool.invoke(prompt)
    assert GOOD in answer


def test_a_subagent_called_again_on_its_thread_reads_the_new_task() -> None:
    spec = subagent([fenced(BAD), fenced(GOOD)], n=1, max_turns=1)
    parent = StateGraph(spec["runnable"].builder.input_schema)
    parent.add_node("coder", spec["runnable"])
    parent.add_edge(START, "coder")
    graph = parent.compile(checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}
    for task, solved in [("def f(x): adds one\nassert f(1) == 2", False), ("assert f(3) == 4", True)]:
        state = graph.invoke({"messages": [HumanMessage(task)]}, config)
        assert ("passes all tests" in state["messages"][-1].text) == solved


def test_a_signature_without_tests_is_a_problem_without_tests() -> None:
    problem = problem_in("Complete `def add(a, b):` so that it adds.")
    assert (problem.entry_point, problem.public_tests) == ("add", ())


class Host(TypedDict, total=False):
    task: dict[str, Any]
    result: dict[str, Any]


def test_a_parent_may_call_its_keys_what_it_likes() -> None:
    graph = StateGraph(Host)
    solver = create_solver(ScriptedModel(replies=[fenced(GOOD)]), sandbox=sandbox(), n=1)
    add_solver(graph, solver, problem="task", solution="result")
    graph.add_edge(START, "solve")
    graph.add_edge("solve", END)
    compiled = graph.compile()
    assert compiled.invoke({"task": PROBLEM})["result"]["solved"]
    assert asyncio.run(compiled.ainvoke({"task": PROBLEM}))["result"]["solved"]
    with pytest.raises(ProblemError, match="no key 'problem'"):
        compiled.invoke({"result": {}})


def test_a_parent_without_our_keys_is_refused_by_name() -> None:
    solver = create_solver("smollm2")
    with pytest.raises(ProblemError, match="no key 'problem', only task, result"):
        add_solver(StateGraph(Host), solver)
    with pytest.raises(ProblemError, match="no key 'solution', only task, result"):
        add_solver(StateGraph(Host), solver, problem="task")


def test_a_verdict_tells_the_probability_where_there_is_one() -> None:
    verifier = LengthVerifier(calibrated=True)
    tool = create_solver_tool(ScriptedModel(replies=[fenced(GOOD)]), sandbox=sandbox(), verifier=verifier, n=1)
    assert "P(correct) is 0.26" in tool.invoke(TASK)


@pytest.mark.parametrize(
    ("message", "tests"),
    [
        ("Write `def f(x)`.\n\nTests:\n1. `assert f(1) == 2`", ["assert f(1) == 2"]),
        ("Write f. For example, assert f(1) == 2.", ["assert f(1) == 2"]),
        ("* assert f(1) == 2  # small\n- assert f(10) == 11\nwrite f", ["assert f(1) == 2", "assert f(10) == 11"]),
        ("Write f.\n\tassert f(1) == 2, 'one'", ["assert f(1) == 2"]),
        ("Write f.\n> assert f(1) == 2\n> assert f(2) == 3", ["assert f(1) == 2", "assert f(2) == 3"]),
        ("Write f.\n> ```python\n> assert f(1) == 2\n> ```", ["assert f(1) == 2"]),
        ("1. Write f:\n   ```\n   assert f(1) == 2\n   ```", ["assert f(1) == 2"]),
        ("It must hold that \"assert f('a') == 'b'\" passes.", ["assert f('a') == 'b'"]),
        ("Both `assert f(1) == 2` and `assert f(2) == 3` hold.", ["assert f(1) == 2", "assert f(2) == 3"]),
        ("(assert f(1) == 2), please", ["assert f(1) == 2"]),
        ("Write f so that\n- assert f([\n    1,\n]) == 2", ["assert f([1]) == 2"]),
        ("Write f. assert f(1.5) == 2.5, then stop.", ["assert f(1.5) == 2.5"]),
        ("I assert that the function f adds one.", []),
        ("Write a function f that adds one.", []),
    ],
)
def test_tests_are_found_wherever_they_stand_in_a_message(message: str, tests: list[str]) -> None:
    problem = problem_in(message)
    assert [test.code for test in problem.public_tests] == tests
    assert problem.entry_point == "f"


@pytest.mark.parametrize(
    "message",
    [
        "Write f(x), which adds one.\n\n>>> f(1)\n2\n\nThank you.",
        'Complete:\n```python\ndef f(x):\n    """Add one.\n\n    >>> f(1)\n    2\n    """\n```',
        "Write f(x).\n```\n>>> f(1)\n2\n```",
        "> Write f.\n> >>> f(1)\n> 2",
        "Write f. f(1) should return 2.",
        "Write the function f:\n- `f(1)` → `2`",
        "Write f(x).\nExamples:\nf(1) == 2",
        "Write f(x).\nInput: f(1)\nOutput: 2",
        "Write f(x).\n**Input:** `f(1)`\n**Output:** `2`",
    ],
)
def test_examples_in_a_message_become_tests(message: str) -> None:
    problem = problem_in(message)
    assert [test.code for test in problem.public_tests if isinstance(test, CodeTest)] == ["assert f(1) == 2"]
    assert problem.entry_point == "f"


@pytest.mark.parametrize(
    ("message", "tests"),
    [
        ("Double it.\nSample Input\n2\n3\nSample Output\n4\n6\n", [("2\n3\n", "4\n6\n")]),
        ("Double it.\nInput:\n```\n2\n```\nOutput:\n```\n4\n```\nGood luck.", [("2\n", "4\n")]),
        ("Double it.\n### Example input\n```text\n2\n```\n### Example output\n```text\n4\n```", [("2\n", "4\n")]),
        (
            "Double it.\nSample Input 1\n2\nSample Output 1\n4\n\nSample Input 2\n3\nSample Output 2\n6",
            [("2\n", "4\n"), ("3\n", "6\n")],
        ),
        ("Double it.\nInput:\nA number n.\nOutput:\nTwice n.\n", []),
        ("f(1) must not be 2; write f.", []),
    ],
)
def test_sample_inputs_and_outputs_become_tests_of_a_program(message: str, tests: list[tuple[str, str]]) -> None:
    found = [test for test in problem_in(message).public_tests if isinstance(test, StdioTest)]
    assert [(test.stdin, test.stdout) for test in found] == tests


def test_prose_alone_is_solved_without_tests_and_says_so() -> None:
    said = [HumanMessage("Write a program that prints twice the number it reads.")]
    reply = fenced("print(int(input()) * 2)")
    state = subagent([reply], n=1, max_turns=1)["runnable"].invoke({"messages": said})
    assert state["structured_response"]["code"] == "print(int(input()) * 2)"
    assert "A program on standard input was asked for, without tests" in state["messages"][-1].text
    assert problem_in("Write a function called add_one that adds one.").entry_point == "add_one"


def test_an_answer_says_what_was_understood() -> None:
    state = subagent([fenced(GOOD)])["runnable"].invoke({"messages": [HumanMessage("Add one: `assert f(1) == 2`")]})
    assert state["structured_response"]["understood"] == (
        "The function `f` was asked for, with 1 tests: assert f(1) == 2."
    )
    assert "with 1 tests: assert f(1) == 2." in state["messages"][-1].text


def test_the_tool_takes_tests_of_a_program() -> None:
    program = fenced("print(int(input()) * 2)")
    tool = create_solver_tool(ScriptedModel(replies=[program]), n=1, max_turns=1)
    answer = tool.invoke({"prompt": "Double the number.", "tests": [{"stdin": "2\n", "stdout": "4\n"}]})
    assert answer.startswith("The code passes all tests.")
    assert "A program on standard input was asked for, with 1 tests" in answer


IN_MESSAGES = {
    "a table": "Write f.\n| # | test |\n|---|---|\n| 1 | assert f(1) == 2 |",
    "a table of calls": "Write f(x).\n| call | result |\n|---|---|\n| `f(1)` | `2` |",
    "a list in JSON": 'Write f.\n```json\n["assert f(1) == 2"]\n```',
    "an object in JSON": 'Write f.\n```json\n{"tests": ["assert f(1) == 2"]}\n```',
    "a test function": "Write f.\n```python\ndef test_f():\n    assert f(1) == 2\n```",
    "tags": "Write f.\n<test>assert f(1) == 2</test>",
    "Windows' line ends": "Write f.\r\n```python\r\nassert f(1) == 2\r\n```\r\n",
}


@pytest.mark.parametrize("message", IN_MESSAGES.values(), ids=IN_MESSAGES.keys())
def test_a_test_is_found_whatever_holds_it(message: str) -> None:
    problem = problem_in(message)
    assert problem.entry_point == "f"
    assert [test.code for test in problem.public_tests if isinstance(test, CodeTest)] == ["assert f(1) == 2"]


SAMPLES = {
    "a heading": "Print the sum.\n\nExample\nInput\n1 2\nOutput\n3\n",
    "a contest's form": "--Input--\n\nTwo numbers.\n\n--Output--\n\nSum.\n\n--Examples--\nInput\n1 2\n\nOutput\n3\n",
    "two lines of numbers": "Print the sum.\nInput: 1 2\nOutput: 3",
    "JSON": 'Print the sum.\n```json\n[{"stdin": "1 2\\n", "stdout": "3\\n"}]\n```',
    "Windows' line ends": "Print the sum.\r\n\r\nSample Input:\r\n1 2\r\n\r\nSample Output:\r\n3\r\n",
}


@pytest.mark.parametrize("message", SAMPLES.values(), ids=SAMPLES.keys())
def test_a_sample_is_found_in_its_usual_forms(message: str) -> None:
    assert problem_in(message).public_tests == (StdioTest(stdin="1 2\n", stdout="3\n"),)


def test_words_about_a_format_are_no_sample() -> None:
    assert problem_in("Print the sum.\nInput: two numbers\nOutput: their sum").public_tests == ()


@pytest.mark.parametrize(
    "message",
    [
        "Write inc.\nassert inc(1) == 2\n# assert inc(1) == 3",
        "Write inc.\nassert inc(1) == 2\n// assert inc(1) == 3\n<!-- assert inc(1) == 4 -->",
        "Write inc.\n```python\n# assert inc(1) == 3\n```\nassert inc(1) == 2",
        "Write inc.\n```python\nassert inc(1) == 2  # assert inc(1) == 3\n```",
        "Issue #5: assert inc(1) == 2",
    ],
)
def test_an_assert_in_a_comment_is_no_test(message: str) -> None:
    assert problem_in(message).public_tests == (CodeTest(code="assert inc(1) == 2"),)


SET_UP = "import unittest\nclass T(unittest.TestCase):\n\n    def setUp(self):\n        self.x = 1\n"
EQUAL = "    def test_a(self):\n        self.assertEqual(inc(self.x), 2)"
RAISES = "try:\n    inc('a')\nexcept TypeError:\n    pass\nelse:\n    assert False"
FIXTURES = (
    "@pytest.fixture\ndef one():\n    return 1\n@pytest.fixture(scope='module')\ndef ones(one):\n    yield [one]\n"
)
GIVEN = (
    "def one():\n    return 1\none = one()\ndef ones(one):\n    yield [one]\nones = next(ones(one))\n"
    "assert inc(ones[0]) == 2"
)
TEST_CODE = {
    "unittest": (
        (
            "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        self.assertEqual(inc(1), 2)\n"
            "        self.assertFalse(inc(-1))"
        ),
        ["assert inc(1) == 2", "assert not inc(-1)"],
    ),
    "parametrize": (
        (
            "import pytest\n@pytest.mark.parametrize('x, want', [(1, 2), (3, 4)])\ndef test_inc(x, want):\n"
            "    assert inc(x) == want"
        ),
        ["x, want = (1, 2)\nassert inc(x) == want", "x, want = (3, 4)\nassert inc(x) == want"],
    ),
    "names in a tuple": (
        (
            "import math\nimport pytest\n@pytest.mark.parametrize(('x', 'want'), [(1, 2)])\ndef test_inc(x, want):\n"
            "    assert math.isclose(inc(x), want)"
        ),
        ["import math\nx, want = (1, 2)\nassert math.isclose(inc(x), want)"],
    ),
    "a test framework's own": (
        (
            "import pytest\ndef test_no():\n    with pytest.raises(TypeError):\n        inc('a')\n"
            "    assert inc(1) == 2\ndef test_yes():\n    assert inc(2) == 3"
        ),
        [
            "try:\n    inc('a')\nexcept TypeError:\n    pass\nelse:\n    assert False\nassert inc(1) == 2",
            "assert inc(2) == 3",
        ],
    ),
    "what only pytest knows": (
        "import pytest\ndef test_a():\n    assert inc(1) == pytest.approx(2)\ndef test_b(home):\n    assert inc(home)",
        [],
    ),
    "fixtures": (f"import pytest\n{FIXTURES}def test_inc(ones):\n    assert inc(ones[0]) == 2", [GIVEN]),
    "a set-up": (
        f"{SET_UP}{EQUAL}\n    def test_b(self):\n        self.assertTrue(inc(2))",
        [f"{SET_UP}\n{EQUAL}", "assert inc(2)"],
    ),
    "nearly equal": (
        f"{SET_UP}    def test_a(self):\n        self.assertAlmostEqual(inc(.1), 1)\n        self.assertIs(inc(1), X)",
        ["assert round(inc(0.1) - 1, 7) == 0", "assert inc(1) is X"],
    ),
    "a local name": ("def test_inc():\n    y = inc(1)\n    assert y == 2", ["y = inc(1)\nassert y == 2"]),
}


@pytest.mark.parametrize(("code", "tests"), TEST_CODE.values(), ids=TEST_CODE.keys())
def test_test_functions_in_a_message_are_its_tests_and_not_the_function_to_write(code: str, tests: list[str]) -> None:
    problem = problem_in(f"Write `inc(x)`.\n\n```python\n{code}\n```")
    assert problem.entry_point == "inc"
    assert [test.code for test in problem.public_tests if isinstance(test, CodeTest)] == tests


@pytest.mark.parametrize(
    "denial", ["Not `{}` but", "It should not be `{}`.", "Rather than {}, test", "Use, instead of `{}`,"]
)
def test_an_assert_that_the_message_denies_is_no_test(denial: str) -> None:
    problem = problem_in(f"Write `inc(x)`. {denial.format('assert inc(1) == 3')} `assert inc(1) == 2`")
    assert [test.code for test in problem.public_tests if isinstance(test, CodeTest)] == ["assert inc(1) == 2"]


@pytest.mark.parametrize(
    "examples",
    [
        "Example 1:\n\nInput: x = [1], y = 2\nOutput: 2\n\nExample 2:\nInput: x = [], y = 4\nOutput: 5",
        "In [1]: inc([1], 2)\nOut[1]: 2\n\nIn [2]: inc([], 4)\nOut[2]: 5",
    ],
)
def test_arguments_above_an_output_are_examples(examples: str) -> None:
    problem = problem_in(f"Write a function `inc`.\n\n{examples}\n")
    tests = [test.code for test in problem.public_tests if isinstance(test, CodeTest)]
    assert tests == ["assert inc([1], 2) == 2", "assert inc([], 4) == 5"]


@pytest.mark.parametrize(
    "message",
    [
        "<p>Write a function <code>inc</code>.</p>\n<pre>\n<b>Input:</b> x = 1\n<b>Output:</b> 2\n</pre>",
        "Write a function inc.<br>inc(1) is 2.",
        "Write `inc(x)`: inc(1) -&gt; 2",
        "Write `inc(x)`.\n\n**Example 1:**\n\n- **Input:** `1`\n- **Output:** `2`\n",
    ],
)
def test_marks_of_html_and_markdown_hide_no_example(message: str) -> None:
    problem = problem_in(message)
    assert [test.code for test in problem.public_tests if isinstance(test, CodeTest)] == ["assert inc(1) == 2"]


def test_one_tuple_is_no_two_arguments() -> None:
    assert problem_in("Implement `add(a, b)`.\nInput: (1, 2)\nOutput: 3").public_tests == ()
