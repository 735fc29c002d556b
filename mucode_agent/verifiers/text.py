"""The one text that a verifier reads, the same in training, in process and served.

The problem with its public tests, then one program; never the history (one-step recoverability, paper section 3.5). It
ends in a question, so that the last token, where the score is read, is the same for every program and never padding.
"""

import functools
import hashlib
from pathlib import Path

from mucode_agent.prompts import shown_tests
from mucode_agent.types import Problem

QUESTION = "Is the program correct?"


def verifier_text(problem: Problem, code: str) -> str:
    """(x, y) as text."""
    return verifier_prefix(problem) + f"{code.strip()}\n\n{QUESTION}"


def verifier_prefix(problem: Problem) -> str:
    """What the texts of one problem have in common."""
    tests = f"Tests:\n{shown_tests(problem)}\n\n" if problem.public_tests and problem.show_tests else ""
    return f"Task:\n{problem.prompt.strip()}\n\n{tests}Program:\n"


@functools.cache
def text_digest() -> str:
    """Names the wording of this file: a verifier trained on other words must not score these."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]
