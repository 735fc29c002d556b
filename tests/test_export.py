"""Traces out and in: the forms that other trainers read, counts, trajectories as text, and users' verdicts."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from evaluation_victim import SeededModel, benchmark, evaluate
from fakes import RuleSandbox, ScriptedModel, fenced
from rollout_victim import rollouts
from test_rollouts import DOUBLE, made

from mucode_agent.graphs.selection import normal_form
from mucode_agent.prompts import task
from mucode_agent.tools.local import LocalSandbox
from mucode_agent.training.data import data_sha256, read_attempts, stream_traces
from mucode_agent.training.export import (
    flat,
    openai,
    trl_preference,
    trl_sft,
    write_jsonl,
    write_parquet,
)
from mucode_agent.training.feedback import Added, add_feedback, holds_feedback, read_feedback, votes
from mucode_agent.training.stats import trace_stats, trajectories_as_text
from mucode_agent.types import ProblemError

RIGHT, ALSO, WRONG = "def f(x):\n    return x * 2", "def f(x):\n    return x + x", "def f(x):\n    return x"


def answers(directory, *bodies, **options):
    """Rollouts of DOUBLE by a model that gives `bodies` in order, over trajectories and turns."""
    model = ScriptedModel(replies=[fenced(body) for body in bodies])
    with contextlib.closing(LocalSandbox(workers=1)) as sandbox:
        settings = {"max_turns": 2, "concurrency": 1} | options
        rollouts(directory, model=model, sandbox=sandbox, tasks=made(DOUBLE), **settings)
    return directory


@pytest.fixture(scope="module")
def doubles(tmp_path_factory):
    """Trajectories: wrong → right; right; right again, laid out otherwise; wrong → also right."""
    again = RIGHT + "  # twice"
    return answers(tmp_path_factory.mktemp("traces") / "run", WRONG, RIGHT, RIGHT, again, WRONG, ALSO, per_problem=4)


def user_rows(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def said(code=RIGHT, **fields):
    problem = {"id": "p", "prompt": "Double x.", "entry_point": "f"}
    return {"problem": problem, "code": code, "accepted": True, "consent": True} | fields


# --- the shapes ----------------------------------------------------------------------------------------------------


def test_sft_rows_are_the_correct_replies_in_their_states_each_program_once_per_state(doubles):
    rows = list(trl_sft(read_attempts([doubles])))

    first = {"role": "user", "content": task(DOUBLE)}
    assert [(len(row["prompt"]), row["completion"][0]["content"]) for row in rows] == [
        (3, fenced(RIGHT)),
        (1, fenced(RIGHT)),
        (3, fenced(ALSO)),
    ]
    assert all(row["prompt"][0] == first and set(row) == {"prompt", "completion"} for row in rows)
    assert [message["role"] for message in rows[0]["prompt"]] == ["user", "assistant", "user"]
    assert rows[0]["prompt"][1]["content"] == fenced(WRONG)
    assert "Actual: 1" in rows[0]["prompt"][2]["content"]
    assert all(row["completion"][0]["role"] == "assistant" for row in rows)


def test_openai_rows_are_the_same_as_whole_conversations(doubles):
    data = read_attempts([doubles])

    assert list(openai(data)) == [{"messages": row["prompt"] + row["completion"]} for row in trl_sft(data)]


def test_preference_pairs_are_every_right_program_with_every_wrong_one_once(doubles):
    rows = list(trl_preference(read_attempts([doubles])))

    assert sorted((row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in rows) == sorted(
        [(fenced(RIGHT), fenced(WRONG)), (fenced(ALSO), fenced(WRONG))]
    )
    assert all(row["prompt"] == [{"role": "user", "content": task(DOUBLE)}] for row in rows)


def test_preference_pairs_are_bounded_and_drawn_by_the_seed(tmp_path):
    rollouts(tmp_path / "run", per_problem=8)
    data = read_attempts([tmp_path / "run"])

    def drawn(**options):
        return [json.dumps(row) for row in trl_preference(data, **options)]

    every, some = drawn(pairs=999), drawn(pairs=2, seed=1)
    assert len(every) == len(set(every))
    assert set(some) < set(every)
    assert some == drawn(pairs=2, seed=1) != drawn(pairs=2, seed=2)
    mixed = [entry for entry in data if 0 < sum(a.correct for a in entry.attempts) < len(entry.attempts)]
    assert len(some) <= 2 * len(mixed)
    with pytest.raises(ProblemError, match="pairs must be at least 1, got 0"):
        drawn(pairs=0)


def test_private_tests_stand_in_no_export(doubles):
    data = read_attempts([doubles])

    rows = [*trl_sft(data), *openai(data), *trl_preference(data), *flat(data)]
    assert "f(5)" not in json.dumps(rows)
    assert "f(5)" in data[0].problem.model_dump_json()


def test_what_there_is_nothing_of_is_not_written(tmp_path):
    data = read_attempts([answers(tmp_path / "run", WRONG)])

    for rows in (trl_sft(data), openai(data), trl_preference(data)):
        with pytest.raises(ProblemError, match="nothing to export"):
            write_jsonl(rows, tmp_path / "out.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_export_that_fails_leaves_the_file_before_it(tmp_path):
    (tmp_path / "out.jsonl").write_text("of yesterday")

    def rows():
        yield {"a": 1}
        raise ProblemError("a damaged shard")

    with pytest.raises(ProblemError, match="a damaged shard"):
        write_jsonl(rows(), tmp_path / "out.jsonl")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"out.jsonl": "of yesterday"}


def test_the_same_traces_export_the_same_bytes(tmp_path, doubles):
    data = read_attempts([doubles])
    for name in ("a", "b"):
        write_jsonl(trl_sft(data), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != b""


@pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="needs pyarrow")
def test_parquet_holds_every_attempt_with_its_state_and_label(tmp_path, doubles):
    from pyarrow import parquet

    data = read_attempts([doubles])
    count = write_parquet(flat(data), tmp_path / "out.parquet")

    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.schema.metadata[b"mucode_agent.export_version"] == b"1"
    assert table.to_pylist() == list(flat(data))
    assert (count, table.num_rows) == (6, 6)
    assert table["correct"].to_pylist() == [False, True, True, True, False, True]
    assert table["turn"].to_pylist() == [1, 2, 1, 1, 1, 2]
    assert table["public_passed"].to_pylist() == [0, 1, 1, 1, 0, 1]


# --- what directories hold -----------------------------------------------------------------------------------------


def test_rollouts_and_evaluations_of_the_same_problems_are_read_together(tmp_path):
    rollouts(tmp_path / "rollouts")
    evaluate(tmp_path / "run", model=SeededModel(), sandbox=RuleSandbox(lambda code: "return 3" in code))

    both = read_attempts([tmp_path / "rollouts", tmp_path / "run"])

    alone = [read_attempts([tmp_path / name]) for name in ("rollouts", "run")]
    assert [entry.problem for entry in both] == list(benchmark().problems)
    for together, *parts in zip(both, *alone, strict=True):
        assert list(together.attempts) == [attempt for part in parts for attempt in part.attempts]
        assert {attempt.source for attempt in together.attempts} == {"rollout", "evaluation"}
        assert all(attempt.correct == ("return 3" in attempt.candidate.code) for attempt in together.attempts)


def test_a_directory_given_twice_counts_once(doubles):
    assert read_attempts([doubles, doubles]) == read_attempts([doubles])
    assert trace_stats(stream_traces([doubles, doubles])) == trace_stats(stream_traces([doubles]))


def test_a_directory_of_unfinished_rollouts_gives_what_is_there(tmp_path):
    rollouts(tmp_path / "run")
    whole = read_attempts([tmp_path / "run"])
    next(tmp_path.glob("run/shards/*/*.json")).unlink()

    part = read_attempts([tmp_path / "run"])

    assert len(part) == len(whole)
    assert sum(not entry.attempts for entry in part) == 1


def test_stats_count_what_the_traces_hold(doubles):
    stats = trace_stats(stream_traces([doubles]))

    assert (stats.problems, stats.trajectories, stats.replies, stats.attempts, stats.correct) == (1, 4, 6, 6, 4)
    assert (stats.distinct_programs, stats.distinct_correct) == (3, 2)
    assert (stats.mixed, stats.all_pass, stats.all_fail, stats.unattempted) == (1, 0, 0, 0)
    assert [(turn.turn, turn.attempts, turn.correct) for turn in stats.turns] == [(1, 4, 2), (2, 2, 2)]
    assert (stats.prompt_tokens, stats.completion_tokens) == (60, 30)
    assert stats.by_source == {"rollout": 6}


def test_stats_tell_hopeless_and_easy_problems_apart(tmp_path):
    hopeless = trace_stats(stream_traces([answers(tmp_path / "a", WRONG, "no code", WRONG)]))
    easy = trace_stats(stream_traces([answers(tmp_path / "b", RIGHT)]))

    assert (hopeless.all_fail, hopeless.without_program, hopeless.replies - hopeless.attempts) == (1, 0, 0)
    assert (easy.all_pass, easy.mixed) == (1, 0)


def test_the_story_tells_turns_verdicts_and_feedback_and_escapes_what_moves_a_cursor(tmp_path):
    evil = WRONG + "  # \x1b[2J\x07\u202e [bold]:smile:\r"
    directory = answers(tmp_path / "run", evil, RIGHT, per_problem=1)
    [(entry, solves)] = stream_traces([directory])

    text = "\n".join(trajectories_as_text(entry, solves))

    assert "turn 1 · 5 tokens · ended · wrong" in text
    assert "public tests · wrong_answer, 0 of 1 passed" in text
    assert "turn 2 · 5 tokens · ended · correct" in text
    assert "return x  # \\x1b[2J\\x07\\u202e [bold]:smile:\\r" in text
    assert not set(text) & set("\x1b\x07\u202e\r")
    assert "Actual: 1" in text


# --- what users said -----------------------------------------------------------------------------------------------


def test_consented_rows_become_attempts_with_their_weight_and_the_others_leave_nothing_behind(tmp_path):
    file = user_rows(
        tmp_path / "rows.jsonl",
        said(weight=0.5),
        said(WRONG, accepted=False),
        said("def f(x):\n    return 'private matter'", consent=False),
        {key: value for key, value in said("def f(x):\n    return 'private matter too'").items() if key != "consent"},
    )

    added = add_feedback(file, tmp_path / "users")

    assert added == Added(rows=4, kept=2, without_consent=2)
    [entry] = read_attempts([tmp_path / "users"])
    assert [(a.candidate.code, a.correct, a.weight, a.source) for a in entry.attempts] == [
        (RIGHT, True, 0.5, "user"),
        (WRONG, False, 1.0, "user"),
    ]
    assert "private matter" not in "".join(path.read_text() for path in (tmp_path / "users").iterdir())
    [row] = trl_sft([entry])
    assert row["completion"] == [{"role": "assistant", "content": f"```python\n{RIGHT}\n```"}]
    assert [row["weight"] for row in flat([entry])] == [0.5, 1.0]


def test_adding_a_file_twice_adds_it_once_and_rows_with_ids_are_events_of_their_own(tmp_path):
    alike = user_rows(tmp_path / "alike.jsonl", said(), said())
    named = user_rows(tmp_path / "named.jsonl", said(id="a"), said(id="b"))

    assert add_feedback(alike, tmp_path / "users") == Added(rows=2, kept=1, known=1)
    assert add_feedback(alike, tmp_path / "users") == Added(rows=2, known=2)
    assert add_feedback(named, tmp_path / "users").kept == 2
    [entry] = read_attempts([tmp_path / "users"])
    assert [attempt.weight for attempt in entry.attempts] == [3.0]


def test_users_who_disagree_are_weighed_and_a_tie_is_left_out(tmp_path):
    file = user_rows(
        tmp_path / "rows.jsonl",
        said(weight=1.0),
        said(accepted=False, weight=3.0),
        said(WRONG, weight=2.0),
        said(WRONG, accepted=False, weight=2.0),
    )
    add_feedback(file, tmp_path / "users")

    assert votes(read_feedback(tmp_path / "users")) == {normal_form(RIGHT): (RIGHT, -2.0)}
    [entry] = read_attempts([tmp_path / "users"])
    assert [(a.correct, a.weight) for a in entry.attempts] == [(False, 2.0)]


def test_where_tests_and_users_disagree_the_tests_are_believed(tmp_path, doubles):
    problem = DOUBLE.model_dump(mode="json")
    file = user_rows(
        tmp_path / "rows.jsonl",
        said(RIGHT, problem=problem, accepted=False, weight=4.0),
        said("def f(x):\n    return 2 * x", problem=problem),
    )
    add_feedback(file, tmp_path / "users")

    [entry] = read_attempts([tmp_path / "users", doubles])

    assert [(a.correct, a.weight) for a in entry.attempts if a.source == "user"] == [(True, 4.0), (True, 1.0)]
    labels = {}
    for attempt in entry.attempts:
        assert labels.setdefault(attempt.form, attempt.correct) == attempt.correct
    assert data_sha256([entry]) != data_sha256(read_attempts([doubles]))


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", r"line 2 is not JSON; give one JSON object per line"),
        ("[]", r"line 2 holds a JSON list; give one JSON object"),
        ("\udcff", r"line 2 is not JSON"),
        (said(weight=0), r"line 2: weight must be more than 0"),
        (said(weight=float("inf")), r"line 2: weight must be a finite number"),
        (said(consent="yes"), r"line 2: consent must be true or false"),
        (said(accepted=1), r"line 2: accepted must be true or false"),
        (said(""), r"line 2: code must have at least 1 character"),
        (said("x = '\ud800'"), r"line 2: code must be text"),
        (said(reviewer="me"), r"line 2: reviewer is unknown"),
        (said(problem={"prompt": ""}), r"line 2: problem: .*prompt"),
        (said(problem={"id": "p", "prompt": "Another."}), r"line 2: the id 'p' means another problem than before"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_nothing_of_its_file_is_kept(tmp_path, line, sentence):
    text = line if isinstance(line, str) else json.dumps(line)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(f"{json.dumps(said())}\n{text}\n".encode("utf-8", "surrogateescape"))

    with pytest.raises(ProblemError, match=sentence):
        add_feedback(file, tmp_path / "users")

    assert holds_feedback(tmp_path / "users") is False or list(read_feedback(tmp_path / "users")) == []


@pytest.mark.parametrize("version", [0, 2])
def test_rows_of_another_version_are_refused_in_one_sentence(tmp_path, version):
    add_feedback(user_rows(tmp_path / "rows.jsonl", said()), tmp_path / "users")
    path = tmp_path / "users" / "feedback.jsonl"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"feedback_version": version}) + "\n")
    sentence = rf"line 1 has feedback_version {version}, this version of mucode_agent reads 1"

    for use in (
        lambda: read_attempts([tmp_path / "users"]),
        lambda: add_feedback(tmp_path / "rows.jsonl", tmp_path / "users"),
    ):
        with pytest.raises(ProblemError, match=sentence):
            use()


def test_half_a_last_row_of_a_killed_writer_is_passed_over_and_mended(tmp_path):
    add_feedback(user_rows(tmp_path / "rows.jsonl", said(), said(WRONG)), tmp_path / "users")
    path = tmp_path / "users" / "feedback.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])

    assert len(list(read_feedback(tmp_path / "users"))) == 1
    assert add_feedback(tmp_path / "rows.jsonl", tmp_path / "users") == Added(rows=2, kept=1, known=1)
    assert path.read_bytes() == whole


def test_rows_are_not_added_among_other_files(tmp_path, doubles):
    with pytest.raises(ProblemError, match=r"is no run directory and holds config\.json"):
        add_feedback(user_rows(tmp_path / "rows.jsonl", said()), doubles)


# --- the command line ----------------------------------------------------------------------------------------------


def command(*words):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-W", "error", "-m", "mucode_agent", "traces", *map(str, words)]
    return subprocess.run(line, capture_output=True, text=True, env=environment, check=False, timeout=60)


def test_the_commands_export_count_show_and_add(tmp_path, doubles):
    exported = command("export", doubles, "--format", "trl-sft", "--out", tmp_path / "out.jsonl")
    counted = command("stats", doubles, "--json")
    tables = command("stats", doubles)
    shown = command("show", doubles, DOUBLE.id)
    added = command("add", user_rows(tmp_path / "rows.jsonl", said(), said(consent=False)), "--out", tmp_path / "users")

    for done in (exported, counted, tables, shown, added):
        assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 3
    assert json.loads(counted.stdout)["attempts"] == 6
    assert "distinct programs" in tables.stdout
    assert "trajectory 3" in shown.stdout
    assert "2 rows: 1 kept, 1 left out without consent" in added.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["show", "RUN", "nothing"], "has no problem 'nothing'"),
        (["stats", "nowhere"], "nowhere is no run directory"),
        (["export", "RUN", "--format", "csv", "--out", "x"], "format must be one of trl-sft, trl-preference"),
        (["export", "RUN", "--format", "openai", "--out", "/dev/null"], "it is no plain file"),
        (["export", "RUN", "--format", "openai", "--out", "/nowhere/x"], "give a path in a writable directory"),
        (["add", "nowhere", "--out", "x"], "cannot read nowhere"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_exit_code_2(doubles, words, sentence):
    done = command(*[doubles if word == "RUN" else word for word in words])

    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
