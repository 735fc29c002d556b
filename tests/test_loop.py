"""The whole training on toy problems: what each stage holds, by value, and that nothing interrupts it for good."""

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from loop_world import HELD, TWIN, WORDS, Toys, problem, settings, train, weights_of, write_problems
from processes import children
from pydantic import ValidationError
from tiny import save_tiny
from transformers import AutoTokenizer
from waiting import until

from mucode_agent.evaluation.comparison import read_results
from mucode_agent.extraction import extract_code
from mucode_agent.graphs.selection import normal_form
from mucode_agent.prompts import task
from mucode_agent.training.config import LoopConfig, read_loop_config
from mucode_agent.training.data import data_sha256, read_attempts
from mucode_agent.training.examples import held_out
from mucode_agent.training.generator import read_generator_card
from mucode_agent.training.loop import plan, read_rows
from mucode_agent.training.loop_report import Gauge, gauge
from mucode_agent.training.rows import logits_of
from mucode_agent.training.serving import AdapterServer, StartedServer
from mucode_agent.training.settings import ExpertSettings
from mucode_agent.types import InfrastructureError, ProblemError
from mucode_agent.verifiers import load_verifier
from mucode_agent.verifiers.card import read_verifier_card
from mucode_agent.verifiers.evidence import EvidenceVerifier

WORLD = Path(__file__).parent / "loop_world.py"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    directory = write_problems(tmp_path_factory.mktemp("world"))
    save_tiny(directory / "base")
    return directory


@pytest.fixture(scope="module")
def done(world, tmp_path_factory):
    """A finished training."""
    out = tmp_path_factory.mktemp("done") / "run"
    best, serving = train(out, world / "base", world)
    return out, best, serving


def artefacts(out):
    """What must not differ between a run and one that was killed: weights, rows, facts, choice."""
    found = {}
    for path in sorted(Path(out).rglob("*")):
        name = str(path.relative_to(out))
        if path.name == "model.safetensors":
            found[name] = weights_of(path.parent)
        elif path.name == "rows.jsonl" or path.name == "training.json":
            found[name] = path.read_text().replace(str(out), "RUN")
        elif path.parent.name.startswith("round-") and path.suffix == ".json":
            found[name] = json.dumps(json.loads(path.read_text())["facts"])
        elif path.name == "best.json":
            found[name] = path.read_text().replace(str(out), "RUN")
        elif path.name == "results.json":
            results = json.loads(path.read_text())
            found[name] = json.dumps(results["outcomes"], sort_keys=True)
        assert "checkpoint-" not in name, "no checkpoint of a training is left behind"
    return found


# --- each stage by value -------------------------------------------------------------------------------------------


def test_every_round_draws_from_its_own_generator_and_the_base_is_first(done, world):
    out, _, serving = done
    base, first, second = str(world / "base"), str(out / "round-1/generator"), str(out / "round-2/generator")
    # each serves the rollouts and the validation of its round
    assert [(checkpoint, number) for checkpoint, _, number in serving.asked] == [
        (base, 0), (base, 0), (first, 1), (first, 1), (second, 2), (second, 2)
    ]  # fmt: skip
    assert len({weights_of(base), weights_of(first), weights_of(second)}) == 3
    assert [read_generator_card(out / f"round-{i}/generator").base for i in (1, 2)] == [base, base]


def test_the_verifier_learns_from_the_rollouts_of_all_rounds(done):
    out, _, _ = done
    held = {}
    for number in (1, 2, 3):
        data = read_attempts([out / f"round-{i}/rollouts" for i in range(1, number + 1)])
        assert {entry.problem.id for entry in data} == {*WORDS, TWIN}
        assert sum(len(entry.trajectories) for entry in data) == 3 * (len(WORDS) + 1) * number
        held[number] = read_verifier_card(out / f"round-{number}/verifier").data_sha256
    assert len(set(held.values())) == 3


def test_a_twin_of_a_held_out_problem_is_not_learned_from(done):
    out, _, _ = done
    data, apart = held_out(read_attempts([out / "round-1/rollouts"]), 0.2, 3)
    assert len({WORDS[0], TWIN} & {entry.problem.id for entry in apart}) == 1
    card = read_verifier_card(out / "round-1/verifier")
    assert card.data_sha256 == data_sha256([e for e in data if e.problem.id not in (WORDS[0], TWIN)])
    assert card.calibration_sha256 == data_sha256(apart)


def test_every_row_is_a_visited_state_with_the_experts_choice(done):
    out, _, _ = done
    for number in (1, 2):
        data = read_attempts([out / f"round-{i}/rollouts" for i in range(1, number + 1)])
        logits = logits_of(data, load_verifier(str(out / f"round-{number}/verifier")))
        rows = read_rows(out / f"round-{number}/rows")
        by_problem = {entry.problem.id: entry for entry in data}
        assert rows
        for entry in data:
            values = {
                attempt.form: 1.0 * attempt.correct + 0.1 * logits[entry.problem.id, attempt.form]
                for attempt in entry.attempts
            }
            mine = [row for row in rows if row.problem_id == entry.problem.id]
            if not any(attempt.correct for attempt in entry.attempts):
                assert not mine
                continue
            assert 0 < len(mine) <= 4
            for row in mine:
                assert values[normal_form(extract_code(row.answer, "f"))] == max(values.values())
        states = {
            (id_, json.dumps([str(turn.best.sample.text) for turn in turns]))
            for id_, entry in by_problem.items()
            for trajectory in entry.trajectories
            for turns in trajectory.states
        }
        for row in rows:
            assert row.messages[0].content == task(by_problem[row.problem_id].problem.public())
            said = [message.content for message in row.messages if message.role == "assistant"]
            assert (row.problem_id, json.dumps(said)) in states


def test_the_generator_learned_from_exactly_the_rows(done, world):
    out, _, _ = done
    for number in (1, 2):
        rows, card = read_rows(out / f"round-{number}/rows"), read_generator_card(out / f"round-{number}/generator")
        tokenizer = AutoTokenizer.from_pretrained(world / "base")
        assert (card.rows, card.left_out) == (len(rows), 0)
        assert card.target_tokens == sum(len(tokenizer.encode(row.answer)) + 1 for row in rows)


def test_validation_problems_are_never_learned_from(done):
    out, _, _ = done
    for number in (1, 2):
        assert not {row.problem_id for row in read_rows(out / f"round-{number}/rows")} & set(HELD)
    text = "".join(path.read_text() for path in out.rglob("rows.jsonl"))
    assert "secret" not in text
    assert not any(word in text for word in HELD)


def test_the_best_pair_on_validation_is_kept(done):
    out, best, _ = done
    accuracy = {}
    for pair in best.pairs:
        arms = {arm.arm.name: arm.accuracy[-1].value for arm in read_results(pair.results).arms}
        accuracy[pair.number] = (arms["turns"], arms["greedy"], -pair.number)
    assert best.pair.number == max(accuracy, key=accuracy.get)
    kept = json.loads((out / "best.json").read_text())
    assert kept["pair"]["verifier"] == str(out / f"round-{best.pair.number + 1}/verifier")
    assert load_verifier(kept["pair"]["verifier"]).card is not None


def test_the_page_loads_nothing_and_says_what_was_found(done):
    out, _, _ = done
    page = (out / "report.html").read_text()
    assert not re.search(r"(?:src|href)=[\"'](?!#)", page)
    for words in ("Accuracy on validation", "Verifiers", "Data and diversity", "Over-optimisation", "generator 2"):
        assert words in page
    assert page.count("<svg") == 4


def test_a_finished_training_is_not_done_again_and_another_is_refused(done, world):
    out, best, _ = done
    before = artefacts(out)
    again, serving = train(out, world / "base", world)
    assert (again, serving.asked) == (best, [])
    assert artefacts(out) == before
    with pytest.raises(ProblemError, match=r"holds another training: expert\.mode was \"both\", now \"oracle\""):
        train(out, world / "base", world, expert={"mode": "oracle"})
    train(out, world / "base", world, concurrency=1, patience=5.0)  # of no account for what is made


def test_the_authors_variant_keeps_the_rows_of_earlier_rounds(world, tmp_path):
    how = {
        "fresh_labels": False,
        "final_verifier": False,
        "expert": {"mode": "lexicographic", "unsolved": "best-wrong", "pool": "final"},
        "relabel": {"method": "authors"},
    }
    best, _ = train(tmp_path / "run", world / "base", world, **how)
    first, second = (read_rows(tmp_path / f"run/round-{i}/rows") for i in (1, 2))
    assert second[: len(first)] == first
    assert len(second) > len(first)
    # without a last verifier the newest generator is measured with the one before
    assert best.pairs[2].verifier == str(tmp_path / "run/round-2/verifier")
    assert not (tmp_path / "run/round-3/rollouts").exists()


# --- other verifiers of a round --------------------------------------------------------------------------------------


def many_problems(directory, count=24):
    """As many as the evidence verifier asks for."""
    write_problems(directory)
    lines = [json.dumps(problem(f"{WORDS[i % 10]} number {i * i}", f"P{i}")) + "\n" for i in range(count)]
    (directory / "train.jsonl").write_text("".join(lines))
    return directory


SHORT = {"iterations": 1, "rollouts": {"per_problem": 3, "turns": 1, "max_tokens": 64}, "final_verifier": False}


def test_evidence_fitted_on_the_rollouts_is_the_experts_verifier(world, tmp_path):
    problems = many_problems(tmp_path)
    best, _ = train(tmp_path / "run", world / "base", problems, verifier={"kind": "evidence"}, **SHORT)
    place = tmp_path / "run/round-1/verifier/evidence.json"
    verifier = load_verifier(str(place))
    assert isinstance(verifier, EvidenceVerifier)
    assert verifier.card.data == "jsonl:train.jsonl, split fixed"
    assert {pair.verifier for pair in best.pairs} == {str(place)}
    facts = json.loads((tmp_path / "run/round-1/verifier.json").read_text())["facts"]
    assert facts["quality"]["problems"] == 24
    data = read_attempts([tmp_path / "run/round-1/rollouts"])
    logits = logits_of(data, verifier)
    for row in read_rows(tmp_path / "run/round-1/rows"):
        entry = next(each for each in data if each.problem.id == row.problem_id)
        values = {a.form: 1.0 * a.correct + 0.1 * logits[entry.problem.id, a.form] for a in entry.attempts}
        assert values[normal_form(extract_code(row.answer, "f"))] == max(values.values())


def test_an_expert_that_reads_no_score_needs_no_verifier(world, tmp_path):
    given = {"verifier": {"kind": "none"}, "expert": {"mode": "oracle"}}
    best, _ = train(tmp_path / "run", world / "base", world, **given, **{**SHORT, "final_verifier": True})
    assert {pair.verifier for pair in best.pairs} == {"none"}
    stages = sorted(path.name for path in (tmp_path / "run").glob("round-*/*.json"))
    assert stages == ["generator.json", "rollouts.json", "rows.json", "validation.json", "validation.json"]


def test_an_expert_that_reads_scores_is_refused_without_a_verifier(world):
    with pytest.raises(ValidationError, match=r"expert\.mode 'both' reads scores: give verifier\.kind evidence"):
        LoopConfig.model_validate(settings(world, world / "base", verifier={"kind": "none"}))


def test_the_kind_of_earlier_trainings_changes_no_identity(world):
    assert "kind" not in LoopConfig.model_validate(settings(world, world / "base")).identity()["verifier"]


# --- killed --------------------------------------------------------------------------------------------------------


def killed(world, out, kill_at):
    return subprocess.run(
        [sys.executable, str(WORLD), str(out), str(world / "base"), str(kill_at)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def events(world, tmp_path_factory):
    """How many moments there are at which an undisturbed run may be killed."""
    run = killed(world, tmp_path_factory.mktemp("events") / "run", 0)
    assert run.returncode == 0, run.stderr
    return int(run.stdout.split()[-1])


@pytest.mark.timeout(900)  # five trainings, while other tests run
def test_killed_again_and_again_it_ends_with_the_same_artefacts(done, world, events, tmp_path):
    out = tmp_path / "run"
    for share in (0.15, 0.3, 0.4):  # of what a whole run does; each start goes on from the last
        assert killed(world, out, max(2, int(share * events))).returncode == -9
    finished = killed(world, out, 0)
    assert finished.returncode == 0, finished.stderr
    assert artefacts(out) == artefacts(done[0])


@pytest.mark.real
@pytest.mark.timeout(3600)
def test_killed_at_ten_random_moments_it_ends_with_the_same_artefacts(done, world, events, tmp_path):
    chance = random.Random(20261124)
    for number in range(10):
        out, moment = tmp_path / str(number), chance.randrange(2, events)
        assert killed(world, out, moment).returncode == -9
        finished = killed(world, out, 0)
        assert finished.returncode == 0, finished.stderr
        assert artefacts(out) == artefacts(done[0]), f"killed at event {moment} of {events}"


def test_two_processes_do_not_share_a_run(done, world):
    import fcntl

    with (done[0] / "lock").open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ProblemError, match="is in use by another run"):
            train(done[0], world / "base", world)


# --- the configuration ---------------------------------------------------------------------------------------------


def written(tmp_path, text):
    path = tmp_path / "c.toml"
    path.write_text(text)
    return path


MINIMAL = 'base = "b"\n[problems]\ntrain = "humaneval"\nvalidation = "humaneval"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            MINIMAL + "[generator]\nlerning_rate = 1.0\n",
            r"generator\.lerning_rate is unknown; known are .*learning_rate",
        ),
        ("bse = 1\n" + MINIMAL, "bse is unknown; known are .*, base, "),
        ("base = 'b'\n", "problems is missing"),
        (MINIMAL + "[expert]\nmode = 'best'\n", r"expert\.mode must be 'both', 'oracle'"),
        ("base = ", "is no TOML"),
        ("iterations = 0\n" + MINIMAL, "iterations must be at least 1, got 0"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path, text, words):
    with pytest.raises(ProblemError, match=words) as caught:
        read_loop_config(written(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_one_seed_serves_every_part_that_names_none(tmp_path):
    config = read_loop_config(written(tmp_path, "seed = 7\n" + MINIMAL + "[generator]\nseed = 1\n"))
    assert (config.verifier.seed, config.relabel.seed, config.generator.seed) == (7, 7, 1)


@pytest.mark.parametrize("path", sorted((Path(__file__).parent.parent / "examples/training").glob("*.toml")), ids=str)
def test_every_example_is_a_configuration_and_baselines_draw_as_much(path):
    config = read_loop_config(path)
    # On two cores 5 trajectories of up to 2 turns were 7.9 programs, as they stop at a right one.
    most = {"two-cores": 10, "two-cores-rft": 8}.get(path.stem, 45)
    assert config.rollouts.per_problem * config.rollouts.max_turns == most
    assert plan(config)


def test_the_papers_defaults_stand_in_the_configuration(tmp_path):
    config = read_loop_config(written(tmp_path, MINIMAL))
    assert config.expert == ExpertSettings(mode="both", beta_oracle=1.0, beta_learned=0.1, pool="all")
    assert (config.iterations, config.generator.learning_rate, config.verifier.learning_rate) == (2, 5e-7, 1e-6)
    assert (config.validation.n, config.validation.max_turns, config.validation.temperature) == (5, 3, 0.7)


def test_training_problems_of_the_validation_set_end_the_run_or_are_left_out(world, tmp_path):
    lines = (world / "train.jsonl").read_text() + (world / "validation.jsonl").read_text()
    (tmp_path / "train.jsonl").write_text(lines)
    (tmp_path / "validation.jsonl").write_text((world / "validation.jsonl").read_text())
    with pytest.raises(ProblemError, match="3 training problems are also in an evaluation set"):
        train(tmp_path / "run", world / "base", tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["loop", "nothing.toml"], "cannot read nothing.toml: No such file or directory"),
        (["generator", "--traces", "nothing", "--base", "b", "--out", "o"], "nothing"),
        (
            ["generator", "--traces", ".", "--base", "b", "--out", "o", "--expert", "best"],
            "--expert must be 'both'",
        ),
    ],
)
def test_a_command_that_cannot_begin_says_so_with_code_2(tmp_path, arguments, words):
    command = [sys.executable, "-m", "mucode_agent", "train", *arguments]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (2, "")
    assert words in run.stderr
    assert len(run.stderr.splitlines()) == 1


# --- the gauge -----------------------------------------------------------------------------------------------------


def test_the_gauge_shows_a_verifier_that_promises_more_than_it_keeps(done):
    assert Gauge(score=(0.0, 2.0), right=(0.5, 0.3)).over_optimised
    assert not Gauge(score=(0.0, 2.0), right=(0.5, 0.5)).over_optimised
    assert gauge([], lambda *_: True) is None


# --- serving -------------------------------------------------------------------------------------------------------


class _Server(BaseHTTPRequestHandler):
    """As much of vLLM as swaps adapters."""

    def do_GET(self):
        self.answer(200, {"object": "list", "data": [{"id": "the-base", "owned_by": "vllm"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, body))
        loaded, name = self.server.loaded, body.get("lora_name")
        if self.server.refuses:
            self.answer(*self.server.refuses)
        elif self.path == "/v1/unload_lora_adapter":
            self.answer(200 if loaded.pop(name, None) else 404, {})
        elif name in loaded:
            self.answer(400, {"error": "has already been loaded"})
        else:
            loaded[name] = body["lora_path"]
            self.answer(200, {})

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    made = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    made.seen, made.loaded, made.refuses = [], {}, None
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def test_each_round_swaps_its_adapter_in_and_the_one_before_out(server, tmp_path):
    serving = AdapterServer(f"http://127.0.0.1:{server.server_port}")
    model, name = serving.generator("base", None, 0, max_tokens=8)
    assert (model.model_name, server.loaded) == ("the-base", {})
    for number in (1, 2, 2):  # the last as after a restart of ours, with the adapter still loaded
        adapter = tmp_path / f"adapter{number}"
        adapter.mkdir(exist_ok=True)
        model, name = serving.generator("checkpoint", adapter, number, max_tokens=8)
        assert (model.model_name, model.native_n, model.max_tokens) == (f"mucode-{number}", True, 8)
        assert name == f"vllm:mucode-{number}@http://127.0.0.1:{server.server_port}/v1"
        assert server.loaded == {f"mucode-{number}": str(adapter)}


@pytest.mark.parametrize(
    ("refuses", "words"),
    [
        ((404, {}), "start vLLM with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"),
        ((400, {"error": "rank 64 is too large"}), "rank 64 is too large.*--max-lora-rank"),
    ],
)
def test_a_server_that_refuses_is_told_in_one_sentence(server, tmp_path, refuses, words):
    server.refuses = refuses
    serving = AdapterServer(f"http://127.0.0.1:{server.server_port}/v1")
    with pytest.raises(InfrastructureError, match=words) as caught:
        serving.generator("checkpoint", tmp_path, 1, max_tokens=8)
    assert "\n" not in str(caught.value)


def test_a_dead_server_and_a_missing_adapter_are_told(tmp_path):
    serving = AdapterServer("http://127.0.0.1:9")
    with pytest.raises(InfrastructureError, match="cannot be reached"):
        serving.generator("checkpoint", tmp_path, 1, max_tokens=8)
    with pytest.raises(ProblemError, match="has no LoRA adapter"):
        serving.generator("checkpoint", None, 1, max_tokens=8)


def test_a_toy_serves_what_the_loop_asks_for(world):
    config = LoopConfig.model_validate(settings(world, world / "base"))
    assert Toys().generator(config.base, None, 0, max_tokens=1)[1] == "toy-0"


SERVED = Path(__file__).parent / "served_checkpoint.py"
PYTHON = shlex.quote(sys.executable)
HERE = shlex.join([sys.executable, str(SERVED)])
"""The command that serves, up to its arguments."""


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def started(port, tmp_path, command=f"{HERE} {{port}} {{checkpoint}}", **options):
    text = command.replace("{port}", str(port))
    return StartedServer(f"http://127.0.0.1:{port}", text, tmp_path / "server.log", **options)


def test_a_server_is_begun_for_each_checkpoint_and_ended_with_the_stage(port, tmp_path):
    others = set(children(os.getpid()))
    with contextlib.closing(started(port, tmp_path)) as serving:
        for number, checkpoint in enumerate(["base dir", "round-1"]):
            model, name = serving.generator(checkpoint, None, number, max_tokens=8)
            assert (model.model_name, model.native_n) == (checkpoint, True)
            assert name == f"vllm:{checkpoint}@http://127.0.0.1:{port}/v1"
        serving.close()
        assert set(children(os.getpid())) <= others


def test_no_server_of_another_is_drawn_from(port, tmp_path):
    other = subprocess.Popen([sys.executable, SERVED, str(port), "another"])
    try:
        until(lambda: answers(port))
        with pytest.raises(InfrastructureError, match=f"something else serves at http://127.0.0.1:{port}/v1"):
            started(port, tmp_path).generator("base", None, 0, max_tokens=8)
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize(
    ("command", "limit", "words"),
    [
        (
            "sh -c 'echo out of memory; exit 3' {checkpoint}",
            60,
            "ended with status 3 before it served base; .*server.log",
        ),
        ("sleep 60 {checkpoint}", 60, "ended with status 1"),
        (f"{PYTHON} -c 'import time; time.sleep(60)' {{checkpoint}}", 1, "did not serve base .* within 1 s"),
    ],
)
def test_a_command_that_does_not_serve_is_told_in_one_sentence(port, tmp_path, command, limit, words):
    others = set(children(os.getpid()))
    with pytest.raises(InfrastructureError, match=words) as caught:
        started(port, tmp_path, command, start_s=limit).generator("base", None, 0, max_tokens=8)
    assert "\n" not in str(caught.value)
    assert set(children(os.getpid())) <= others


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_a_killed_training_leaves_no_server(port, tmp_path):
    program = (
        "import sys, time; from pathlib import Path; from mucode_agent.training.serving import StartedServer\n"
        f"s = StartedServer('http://127.0.0.1:{port}', {f'{HERE} {port} {{checkpoint}}'!r}, "
        f"Path({str(tmp_path / 'log')!r}))\n"
        "s.generator('base', None, 0, max_tokens=8); print('up', flush=True); time.sleep(60)"
    )
    victim = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert victim.stdout.readline() == "up\n"
    victim.kill()
    victim.communicate()
    until(lambda: not answers(port))


def answers(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("serving", "words"),
    [
        ('server = "http://h:1"', "serving.server swaps LoRA adapters: give generator.lora_rank"),
        ('server = "http://h:1"\ncommand = "vllm serve base"', "serving.command must serve {checkpoint}"),
        ('command = "vllm serve {checkpoint}"', "serving.command must serve {checkpoint} at an address"),
        ('server = "http://h:1"\ncommand = "serve \'{checkpoint}"', "serving.command is no command line: No closing"),
    ],
)
def test_a_server_that_could_not_serve_every_generator_is_refused_at_once(tmp_path, serving, words):
    with pytest.raises(ProblemError, match=words):
        read_loop_config(written(tmp_path, MINIMAL + f"[serving]\n{serving}\n"))


def test_batches_that_cannot_be_parted_are_refused_at_once(tmp_path):
    text = MINIMAL + "[verifier]\nbatch_size = 3\nmicro_batch = 2\n"
    with pytest.raises(ProblemError, match="verifier: batch_size 3 must be a multiple of micro_batch 2"):
        read_loop_config(written(tmp_path, text))


@pytest.mark.parametrize(
    "changes", [{"base": "/nowhere"}, {"verifier": {"base": "/nowhere"}}], ids=["generator", "verifier"]
)
def test_a_base_that_cannot_be_read_ends_a_loop_before_it_makes_a_directory(tmp_path, world, changes):
    with pytest.raises(ProblemError, match="no base model could be loaded from '/nowhere'"):
        train(tmp_path / "out", **{"base": world / "base", "problems": world} | changes)
    assert not (tmp_path / "out").exists()


def test_other_weights_under_the_same_path_are_another_training(tmp_path, world):
    base = shutil.copytree(world / "base", tmp_path / "base")

    def stop(*_):
        raise InfrastructureError("stop")

    with pytest.raises(InfrastructureError):
        train(tmp_path / "out", base, world, before=stop)
    (base / "model.safetensors").write_bytes((world / "base" / "model.safetensors").read_bytes()[::-1])
    with pytest.raises(ProblemError, match="holds another training: base_sha256"):
        train(tmp_path / "out", base, world, before=stop)
