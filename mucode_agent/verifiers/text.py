"""The text that a verifier reads, the same in training, in process and served.

The problem with its public tests, then one program; never the history (one-step recoverability, paper section 3.5). It
ends in a question, so the last token, where the score is read, is the same for every program and never padding.
"""

import functools

from mucode_agent import wording
from mucode_agent.prompts import shown_tests
from mucode_agent.types import Problem

QUESTION = "Is the program correct?"


def verifier_text(problem: Problem, code: str) -> str:
    """(x, y) as text."""
    return verifier_prefix(problem) + f"{code.strip()}\n\n{QUESTION}"


def verifier_prefix(problem: Problem) -> str:
    """The common prefix of the texts of one problem."""
    tests = f"Tests:\n{shown_tests(problem)}\n\n" if problem.public_tests and problem.show_tests else ""
    return f"Task:\n{problem.prompt.strip()}\n\n{tests}Program:\n"


@functools.cache
def text_digest() -> str:
    """Digest of the wording: a verifier trained on another wording must not score this text."""
    return wording.digest(verifier_text(problem, wording.CODE) for problem in wording.PROBLEMS)


_OLD_NAMES = {"f96d8f1fcbdf": "a08dbaf138ac"}
"""What the first cards call a text, by the digest of this file's source then, and its name today."""


def is_our_text(name: str) -> bool:
    """Whether a card's digest means the wording of this version."""
    return _OLD_NAMES.get(name, name) == text_digest()
