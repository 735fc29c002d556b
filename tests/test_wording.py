"""The digests that name a wording: they follow the texts, not the source files."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import pytest

from mucode_agent import extraction, program, prompts, wording
from mucode_agent.verifiers import text
from mucode_agent.verifiers.text import is_our_text, text_digest


def lines_run(module: ModuleType, call: Callable[[], object]) -> set[int]:
    """The lines of a module that a call runs."""
    found: set[int] = set()

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != module.__file__:
            return None
        if event == "line":
            found.add(frame.f_lineno)
        return trace

    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(None)
    return found


def functions(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from functions(constant)


def lines_of(module: ModuleType) -> set[int]:
    """The lines within a module's functions. A function's first line is no statement of it."""
    assert module.__file__
    source = compile(Path(module.__file__).read_text(), module.__file__, "exec")
    return {
        line
        for function in functions(source)
        for _, _, line in function.co_lines()
        if line and line != function.co_firstlineno
    }


def afresh(digest: Any) -> Callable[[], object]:
    """A digest that nobody has computed yet."""

    def call() -> object:
        program.parsed.cache_clear()
        return digest.__wrapped__()

    return call


@pytest.mark.parametrize(("module", "digest"), [(prompts, prompts.prompt_digest), (text, text_digest)])
def test_the_samples_reach_every_line_of_the_wording(module: ModuleType, digest: Any) -> None:
    missed = lines_of(module) - lines_run(module, afresh(digest))
    source = Path(str(module.__file__)).read_text().splitlines()
    others = ("return _OLD_NAMES",)
    assert [source[line - 1] for line in sorted(missed) if not source[line - 1].strip().startswith(others)] == []


@pytest.mark.parametrize("module", [extraction, program])
def test_the_samples_reach_almost_every_line_that_reads_a_reply(module: ModuleType) -> None:
    lines = lines_of(module)
    assert len(lines & lines_run(module, afresh(prompts.prompt_digest))) > 0.85 * len(lines)


@pytest.mark.parametrize("digest", [prompts.prompt_digest, text_digest])
def test_a_digest_is_the_same_for_the_same_texts(digest: Any) -> None:
    assert digest.__wrapped__() == digest()


def test_each_sample_counts() -> None:
    whole = [str(problem) for problem in wording.PROBLEMS]
    assert len({wording.digest(whole[:i] + whole[i + 1 :]) for i in range(len(whole))}) == len(whole)
    assert wording.digest(["a", "b"]) != wording.digest(["ab"])


def test_a_card_of_the_first_form_is_of_our_text_and_another_is_not() -> None:
    assert is_our_text(text_digest())
    assert is_our_text("f96d8f1fcbdf")
    assert not is_our_text("0123456789ab")
