"""Texts are parsed from many threads at once, and each has a tree or is refused as a SyntaxError."""

import ast
import gc
import sys
import threading
from collections.abc import Iterator

import pytest

from mucode_agent.syntax import parse, parse_expression

SOURCE = "\n".join(f"def f{i}(a):\n    return [a + {i}, (a, {i}), {{a: {i}}}]" for i in range(60))


class Finalized:
    """An object whose finalizer lets another thread run: a parse in progress is interrupted."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        for _ in range(20):
            pass


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads and the garbage collector interrupt as often as they can."""
    interval, threshold = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50, 2, 2)
    yield
    sys.setswitchinterval(interval)
    gc.set_threshold(*threshold)


@pytest.mark.usefixtures("restless")
def test_parsing_from_many_threads_at_once_gives_every_tree() -> None:
    failures: list[BaseException] = []
    trees: list[ast.Module] = []

    def work() -> None:
        try:
            for _ in range(20):
                for _ in range(20):
                    Finalized()
                trees.append(parse(SOURCE))
        except BaseException as error:  # noqa: BLE001 - a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert {len(tree.body) for tree in trees} == {60}
    assert len(trees) == 120


@pytest.mark.parametrize("source", ["def f(", "a\0b", "(" * 300 + ")" * 300, "-" * 100_000 + "1", "\ud800"])
def test_a_text_without_a_tree_is_a_syntax_error(source: str) -> None:
    with pytest.raises(SyntaxError):
        parse(source)


def test_a_questionable_escape_is_no_warning() -> None:
    assert parse("x = '\\d'").body


@pytest.mark.parametrize("source", ["f(1); g(2)", "x = 1", "", "import os"])
def test_what_is_not_one_expression_is_refused(source: str) -> None:
    with pytest.raises(SyntaxError):
        parse_expression(source)


def test_an_expression_may_stand_between_spaces() -> None:
    assert ast.unparse(parse_expression("  f(1, [2]) ")) == "f(1, [2])"
