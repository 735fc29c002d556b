"""Verifiers at inference: one text, the same scores however they are computed, calibration, and servers that fail."""

import json
import math
import random
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from fakes import candidates_of
from tiny import save_tiny
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mucode_agent import NoVerifier, Problem, ProblemError
from mucode_agent.models.identity import generator_identity, same_generator
from mucode_agent.types import InfrastructureError
from mucode_agent.verifiers import load_verifier
from mucode_agent.verifiers.calibration import Platt, fit_isotonic, fit_platt, sigmoid
from mucode_agent.verifiers.card import CARD, VerifierCard, calibration_mismatch, read_verifier_card
from mucode_agent.verifiers.local import LocalVerifier
from mucode_agent.verifiers.scoring import batches, load_scorer
from mucode_agent.verifiers.text import QUESTION, text_digest, verifier_text

PROBLEM = Problem(
    id="inc",
    prompt="Add one to a number and return the result.",
    entry_point="f",
    public_tests=("assert f(1) == 2",),
    private_tests=("assert f(41414141) == 41414142",),
    reference="def f(x): return 41414142",
)
CODES = [f"def f(x):\n    return x + {i}" + "  # more" * (i % 4) for i in range(12)]


def card(**changes: Any) -> VerifierCard:
    fields = {"base": "tiny", "text": text_digest(), "loss": "bt", "seed": 0, "training": {}, "data_sha256": "0"}
    return VerifierCard.model_validate(fields | changes)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random verifier with its card; what it says means nothing, but it says the same every time."""
    base = save_tiny(tmp_path_factory.mktemp("base"))
    out = tmp_path_factory.mktemp("verifier")
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    torch.nn.init.normal_(model.score.weight, std=1.0)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(base).save_pretrained(out)
    (out / CARD).write_text(card(calibration=Platt(mean=0.5, sigma=2.0), generators=("tiny",)).model_dump_json())
    return out


# --- the text ------------------------------------------------------------------------------------------------------


def test_the_text_holds_problem_public_tests_and_program_and_ends_in_the_question() -> None:
    text = verifier_text(PROBLEM, CODES[3])
    assert PROBLEM.prompt in text
    assert "assert f(1) == 2" in text
    assert CODES[3] in text
    assert text.endswith(QUESTION)


def test_private_tests_and_the_reference_never_reach_a_verifier() -> None:
    assert "4141414" not in verifier_text(PROBLEM, "pass")


def test_hidden_public_tests_are_hidden_from_the_verifier_too() -> None:
    assert "assert" not in verifier_text(PROBLEM.model_copy(update={"show_tests": False}), "pass")


# --- scores in process ---------------------------------------------------------------------------------------------


def test_scores_are_the_same_alone_batched_and_with_the_prefix_read_once(trained: Path) -> None:
    scorer = load_scorer(str(trained), "cpu", "float32")
    shared = scorer.logits(PROBLEM, CODES)
    whole = scorer.logits(PROBLEM, CODES, share_prefix=False)
    alone = [scorer.logits(PROBLEM, [code])[0] for code in CODES]
    assert shared == pytest.approx(whole, abs=1e-5)
    assert shared == pytest.approx(alone, abs=1e-5)
    assert len(set(shared)) > 6


def test_scores_are_those_of_transformers_own_pooling(trained: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(trained)
    ids = tokenizer(verifier_text(PROBLEM, CODES[5]), return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        expected = model(input_ids=ids).logits.item()
    assert load_scorer(str(trained), "cpu", "float32").logits(PROBLEM, [CODES[5]]) == pytest.approx(
        [expected], abs=1e-5
    )


def test_equal_programs_and_one_program_that_begins_as_another_are_scored_too(trained: Path) -> None:
    scorer = load_scorer(str(trained), "cpu", "float32")
    codes = ["def f(x):\n    return x", "def f(x):\n    return x", "def f(x):\n    return x + 1"]
    first, second, _ = scorer.logits(PROBLEM, codes)
    assert first == pytest.approx(second, abs=1e-6)


def test_a_calibrated_verifier_gives_probabilities_of_its_logits(trained: Path) -> None:
    verifier = LocalVerifier(str(trained), device="cpu", dtype="float32")
    for score in verifier.score(PROBLEM, candidates_of(CODES)):
        assert score.probability == pytest.approx(sigmoid((score.logit - 0.5) / 2))
    assert verifier.score(PROBLEM, []) == []


def test_a_program_longer_than_the_model_reads_is_refused_not_cut(trained: Path) -> None:
    with pytest.raises(ProblemError, match="reads at most 4096"):
        load_scorer(str(trained), "cpu", "float32").logits(PROBLEM, ["x = 1\n" * 1000])


def test_a_generators_checkpoint_is_no_verifier(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="no trained verifier: it has no weights for score"):
        load_scorer(str(save_tiny(tmp_path)))


def test_damaged_weights_are_an_infrastructure_error_never_a_score(trained: Path) -> None:
    scorer = load_scorer(str(trained), "cpu", "float32")
    torch.nn.init.constant_(scorer.model.score.weight, math.nan)
    with pytest.raises(InfrastructureError, match="computed no finite numbers"):
        scorer.logits(PROBLEM, CODES)


@pytest.mark.parametrize("most", [1, 10, 64, 10_000])
def test_batches_hold_every_row_once_within_their_bound(most: int) -> None:
    lengths = [random.Random(0).randrange(1, 40) for _ in range(50)]
    found = list(batches(lengths, most))
    assert sorted(i for batch in found for i in batch) == list(range(50))
    assert all(len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= most for batch in found)


# --- names and cards -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "words"),
    [("", "names no verifier"), ("vllm:name", "has no URL"), ("vllm:@ftp://x", "has no URL")],
)
def test_a_verifier_string_that_means_nothing_is_refused(spec: str, words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        load_verifier(spec)
    assert isinstance(load_verifier("none"), NoVerifier)


def test_a_missing_verifier_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="there is no verifier"):
        load_verifier(str(tmp_path / "nothing"))
    with pytest.raises(ProblemError, match="no verifier could be loaded"):
        load_verifier(str(tmp_path)).score(PROBLEM, candidates_of(CODES))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is no verifier card"),
        (
            card().model_dump_json().replace('"card_version":3', '"card_version":1'),
            "is no verifier card of this version",
        ),
        (card(text="0123456789ab").model_dump_json(), "trained on the input wording 0123456789ab"),
    ],
)
def test_a_card_that_is_damaged_or_of_other_words_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / CARD).write_text(text)
    with pytest.raises(ProblemError, match=words):
        read_verifier_card(tmp_path)


def test_a_verifier_trained_anew_has_another_name(trained: Path, tmp_path: Path) -> None:
    (tmp_path / CARD).write_text(card(seed=1).model_dump_json())
    names = {LocalVerifier(str(trained)).name.partition("@")[2], LocalVerifier(str(tmp_path)).name.partition("@")[2]}
    assert len(names) == 2
    assert LocalVerifier("org/model").name == "org/model"


def test_a_generator_is_the_same_served_or_in_a_directory(tmp_path: Path) -> None:
    checkpoint = save_tiny(tmp_path / "tiny")
    local, served = generator_identity(f"hf:{checkpoint}"), generator_identity("vllm:tiny@http://127.0.0.1:1/v1")
    assert local.startswith("tiny@")
    assert served == "tiny"
    assert same_generator(local, served)
    (checkpoint / "more.json").write_text("{}")
    assert not same_generator(local, generator_identity(f"hf:{checkpoint}"))
    assert not same_generator(served, generator_identity("smollm2"))


def test_a_verifier_says_when_it_was_calibrated_on_another_generator(trained: Path) -> None:
    verifier = LocalVerifier(str(trained))
    assert calibration_mismatch(verifier, "vllm:tiny@http://127.0.0.1:1/v1") is None
    assert "calibrated on programs of tiny, not of smollm2" in str(calibration_mismatch(verifier, "smollm2"))
    assert calibration_mismatch(NoVerifier(), "smollm2") is None


# --- calibration ---------------------------------------------------------------------------------------------------


def drawn(count: int, mean: float, sigma: float) -> tuple[list[float], list[bool]]:
    chance = random.Random(0)
    logits = [chance.uniform(-6, 6) for _ in range(count)]
    return logits, [chance.random() < sigmoid((logit - mean) / sigma) for logit in logits]


def test_platt_finds_the_scaling_that_made_the_labels() -> None:
    platt = fit_platt(*drawn(20_000, mean=1.5, sigma=0.7))
    assert platt.mean == pytest.approx(1.5, abs=0.05)
    assert platt.sigma == pytest.approx(0.7, abs=0.05)


def test_platt_is_finite_where_the_logits_part_the_labels_perfectly() -> None:
    platt = fit_platt([-2.0, -1.0, 1.0, 2.0], [False, False, True, True])
    assert 0.5 < platt.probability(2.0) < 1
    assert platt.probability(-1000) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        ([1.0, 2.0], [True, True], "2 right and 0 wrong"),
        ([1.0, 2.0, 3.0, 4.0], [True, True, False, False], "do not rise with correctness"),
        ([0.0] * 4, [True, False, True, False], "do not rise with correctness"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(logits: list[float], labels: list[bool], words: str) -> None:
    with pytest.raises(ProblemError, match=words):
        fit_platt(logits, labels)


def test_isotonic_is_the_least_squares_staircase() -> None:
    found = fit_isotonic([1, 2, 3, 4, 5], [False, True, False, True, True])
    assert found.thresholds == (1, 2, 4)
    assert found.probabilities == (0.0, 0.5, 1.0)
    assert [found.probability(x) for x in (0, 1, 2.5, 9)] == [0.0, 0.0, 0.5, 1.0]


def test_isotonic_never_parts_equal_logits_by_their_labels() -> None:
    found = fit_isotonic([1, 2, 2], [True, False, True])
    assert (found.thresholds, found.probabilities) == ((1,), pytest.approx((2 / 3,)))


# --- served --------------------------------------------------------------------------------------------------------


class Server:
    """Speaks vLLM's `/classify`: answers with what `reply` makes of the request's inputs."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.reply: Any = lambda texts: [[float(len(text))] for text in texts]
        self.status = 200

        class Handler(BaseHTTPRequestHandler):
            def do_POST(handler) -> None:  # noqa: N805
                request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
                self.requests.append({"path": handler.path, **request})
                answer = self.reply(request["input"])
                data = [{"index": i, "label": "LABEL_0", "probs": probs} for i, probs in enumerate(answer)]
                body = json.dumps({"object": "list", "data": data[::-1]} if self.status == 200 else answer).encode()
                handler.send_response(self.status)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    thread = Thread(target=made.http.serve_forever)
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


def test_a_served_verifier_reads_the_same_text_and_calibrates_by_its_card(server: Server, trained: Path) -> None:
    verifier = load_verifier(f"vllm:{trained}@{server.url}/v1")
    server.reply = lambda texts: [[i / 2] for i, _ in enumerate(texts)]
    scores = verifier.score(PROBLEM, candidates_of(CODES[:3]))
    assert [score.logit for score in scores] == [0.0, 0.5, 1.0]
    assert scores[1].probability == pytest.approx(0.5)
    [request] = server.requests
    assert request["path"] == "/classify"
    assert request["use_activation"] is False
    assert request["input"] == [verifier_text(PROBLEM, code) for code in CODES[:3]]
    assert verifier.name == LocalVerifier(str(trained)).name


def test_equal_programs_are_asked_once_and_remembered_over_waves(server: Server) -> None:
    verifier = load_verifier(f"vllm:m@{server.url}")
    first = verifier.score(PROBLEM, candidates_of([CODES[0], CODES[0]]))
    second = verifier.score(PROBLEM, candidates_of([CODES[0], CODES[0], CODES[1]]))
    assert [len(request["input"]) for request in server.requests] == [1, 1]
    assert [score.logit for score in second[:2]] == [score.logit for score in first]


@pytest.mark.parametrize("answer", [[[0.1, 0.9]] * 3, [[0.1]], [[math.nan]] * 3, [["high"]] * 3])
def test_an_answer_that_is_no_score_per_program_is_an_infrastructure_error(server: Server, answer: Any) -> None:
    server.reply = lambda _: answer
    with pytest.raises(InfrastructureError, match="3 programs with"):
        load_verifier(f"vllm:m@{server.url}").score(PROBLEM, candidates_of(CODES[:3]))


def test_a_server_that_ignores_use_activation_is_refused_and_not_read_as_logits(server: Server) -> None:
    server.reply = lambda texts: [[0.3], [0.9], [0.6]][: len(texts)]
    with pytest.raises(InfrastructureError, match="ignores use_activation"):
        load_verifier(f"vllm:m@{server.url}").score(PROBLEM, candidates_of(CODES[:3]))
    assert [request["use_activation"] for request in server.requests] == [False, True]


def test_a_dead_or_refusing_server_is_an_infrastructure_error_never_a_score(server: Server) -> None:
    server.status = 503
    with pytest.raises(InfrastructureError, match="gave no scores"):
        load_verifier(f"vllm:m@{server.url}").score(PROBLEM, candidates_of(CODES[:1]))
    with pytest.raises(InfrastructureError, match="gave no scores"):
        load_verifier("vllm:m@http://127.0.0.1:9").score(PROBLEM, candidates_of(CODES[:1]))
