"""Runs that an earlier version wrote, one of each form in `old_runs`: they are read, and not gone on with."""

import json
import shutil
from pathlib import Path

import pytest
from evaluation_victim import CountingSandbox, SeededModel, benchmark, evaluate
from rollout_victim import rollouts

from mucode_agent.evaluation.report import write_report
from mucode_agent.runs.reading import read_shards
from mucode_agent.training.config import LoopConfig, as_identity
from mucode_agent.training.data import data_sha256, generators_of, read_attempts
from mucode_agent.types import ProblemError

STORED = Path(__file__).parent / "old_runs"
KINDS = ("evaluation", "rollouts")


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(STORED, tmp_path / "old_runs")


def figures(results):
    """Of each arm, what was already in the results of version 1."""
    return [{name: value for name, value in arm.items() if name not in ("arm", "unjudged")} for arm in results["arms"]]


def test_the_figures_of_an_earlier_evaluation_are_those_that_it_had(copy):
    before = json.loads((copy / "evaluation" / "results.json").read_text())

    results = write_report(copy / "evaluation")[0].model_dump(mode="json")

    assert figures(results) == figures(before)
    for name in ("finished", "unfinished", "best_of_k", "verifier", "comparisons", "outcomes"):
        assert results[name] == before[name]


@pytest.mark.parametrize(
    ("kind", "attempts", "generators", "digest"),
    [
        ("evaluation", [10, 10, 0], ["seeded"], "6008eebf3fa65fa3b297ea8edc6cbe466984a15a8af38c0cd889b504056ac4f4"),
        (
            "rollouts",
            [4, 3, 0],
            ["SeededModel@round-0"],
            "0a7eff931b710a6e46a330e48436f7fb53ca65782ee2afd4d297b54fa60d6642",
        ),
    ],
)
def test_training_reads_earlier_runs_as_the_version_that_wrote_them_did(kind, attempts, generators, digest):
    data = read_attempts([STORED / kind])

    assert [len(entry.attempts) for entry in data] == attempts
    assert {attempt.source for entry in data for attempt in entry.attempts} == {kind.removesuffix("s")}
    assert generators_of([STORED / kind]) == generators
    assert data_sha256(data) == digest


def test_a_run_of_today_makes_the_solves_of_an_earlier_one(tmp_path):
    sandbox = CountingSandbox(lambda: None)
    evaluate(tmp_path / "evaluation", model=SeededModel(), sandbox=sandbox, tasks=benchmark(2), n=2)
    rollouts(tmp_path / "rollouts", sandbox=sandbox, tasks=benchmark(2), per_problem=2)

    for kind in KINDS:
        earlier = {problem.id: shard for problem, shard in read_shards(STORED / kind)}
        for problem, shard in read_shards(tmp_path / kind):
            assert [made(solve) for solve in shard.solves] == [made(solve) for solve in earlier[problem.id].solves]


def made(solve):
    """What does not hang on the wording of prompts."""
    seeds = [candidate.sample.seed for candidate in solve.candidates if candidate.turn == 1]
    return solve.arm, seeds, solve.settings | {"prompt": ""}


def test_rollouts_have_no_report():
    with pytest.raises(ProblemError, match="holds rollouts, which have no report; count them with `traces stats`"):
        write_report(STORED / "rollouts")


@pytest.mark.parametrize("kind", KINDS)
def test_an_earlier_run_is_not_gone_on_with(copy, kind):
    before = {path: path.read_bytes() for path in (copy / kind).rglob("*") if path.is_file()}
    go_on = {"evaluation": evaluate, "rollouts": rollouts}[kind]

    with pytest.raises(
        ProblemError, match="was written by an earlier version of mucode_agent: it can be read, but not"
    ):
        go_on(copy / kind, model=SeededModel(), sandbox=CountingSandbox(lambda: None))

    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("kind", "change", "sentence"),
    [
        ("evaluation", {"store_version": 0}, "store_version 0, this version of mucode_agent reads 1"),
        ("rollouts", {"rollout_version": 0}, "rollout_version 0, this version of mucode_agent reads 1"),
        ("evaluation", {"arms": 3}, "config.json is damaged"),
        ("rollouts", {"policy": None}, "config.json is damaged"),
        ("rollouts", {"benchmark": None}, "config.json is damaged"),
    ],
)
def test_a_damaged_configuration_of_an_earlier_run_is_one_sentence(copy, kind, change, sentence):
    path = copy / kind / "config.json"
    held = json.loads(path.read_text())
    path.write_text(json.dumps(held | {"identity": held["identity"] | change}))

    with pytest.raises(ProblemError, match=sentence):
        read_attempts([copy / kind])


def test_a_training_that_an_earlier_version_began_goes_on():
    config = LoopConfig.model_validate({"base": "b", "seed": 3, "problems": {"train": "t", "validation": "v"}})
    earlier = config.identity() | {
        "rollouts": {"temperature": 0.7, "max_tokens": 1000, "per_problem": 15, "turns": 3, "n": 1},
        "validation": {
            "temperature": 0.7,
            "max_tokens": 1000,
            "n": 5,
            "turns": 3,
            "selector": "tests+verifier",
            "independent": False,
            "choose_by": "turns",
        },
    }

    assert as_identity(earlier) == config.identity()
    assert as_identity(earlier | {"rollouts": earlier["rollouts"] | {"turns": 2}}) != config.identity()
