"""How a verifier is trained: where its head begins, and how far a step moves it. The losses: test_verifier_examples."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from attempts import entry
from safetensors.torch import load_file, save_file
from tiny import save_tiny

from mucode_agent.training.data import ProblemAttempts
from mucode_agent.training.settings import VerifierSettings
from mucode_agent.training.verifier import train_verifier
from mucode_agent.types import ProblemError, Sample
from mucode_agent.verifiers.calibration import Platt
from mucode_agent.verifiers.card import start_logit
from mucode_agent.verifiers.local import LocalVerifier
from mucode_agent.verifiers.scoring import load_scorer

DATA = [entry(["y1", "b", "y2"], ["c"], id_=f"P{number}") for number in range(4)]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One random model, and the same with a last norm that makes its hidden states 40 times as large."""
    plain, loud = (save_tiny(tmp_path_factory.mktemp(name)) for name in ("plain", "loud"))
    weights = load_file(loud / "model.safetensors")
    weights["model.norm.weight"] *= 40
    save_file(weights, loud / "model.safetensors", metadata={"format": "pt"})
    return [plain, loud]


def logits(base: Path, out: Path, **settings: object) -> list[float]:
    given = {"batch_size": 4, "micro_batch": 2, "epochs": 1, "loss": "bce", "float32": True}
    train_verifier(DATA, base=str(base), out=out, settings=VerifierSettings.model_validate(given | settings))
    codes = [attempt.candidate.code for attempt in DATA[0].attempts]
    return load_scorer(str(out), "cpu", "float32").logits(DATA[0].problem, codes)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_logits_begin_and_move_alike_whatever_the_scale_of_the_base(
    bases: list[Path], lora_rank: int, tmp_path: Path
) -> None:
    for name, rate in (("begin", 1e-12), ("step", 1e-3)):
        quiet, loud = (
            logits(base, tmp_path / f"{name}-{i}", learning_rate=rate, lora_rank=lora_rank)
            for i, base in enumerate(bases)
        )
        assert max(map(abs, quiet)) > 0.01
        assert loud == pytest.approx(quiet, rel=0.2)


def with_logprobs(data: Sequence[ProblemAttempts]) -> list[ProblemAttempts]:
    """The same attempts, with right programs likelier to their generator than wrong ones, but for one of each."""
    found = []
    for e in data:
        attempts = []
        for number, attempt in enumerate(e.attempts):
            mean = (-0.1 if attempt.correct else -0.4) - (0.35 if number == 1 else 0.01 * number)
            of_code = {"code_logprob": 20 * mean, "code_tokens": 20}
            of_reply = {"logprob": 20 * mean - 1, "completion_tokens": 22}
            sample = attempt.candidate.sample.model_copy(update=of_code | of_reply)
            candidate = attempt.candidate.model_copy(update={"sample": sample})
            attempts.append(attempt.model_copy(update={"candidate": candidate}))
        found.append(e.model_copy(update={"attempts": tuple(attempts)}))
    return found


def trained(base: Path, out: Path, data: Sequence[ProblemAttempts], **settings: object) -> LocalVerifier:
    given = {"batch_size": 4, "micro_batch": 2, "epochs": 1, "float32": True, "learning_rate": 1e-12}
    train_verifier(data, base=str(base), out=out, settings=VerifierSettings.model_validate(given | settings))
    return LocalVerifier(str(out), device="cpu", dtype="float32")


def test_training_starts_from_the_order_of_the_generators_log_probabilities(bases: list[Path], tmp_path: Path) -> None:
    data = with_logprobs(DATA)
    verifier = trained(bases[0], tmp_path / "out", data)
    candidates = [attempt.candidate for attempt in data[0].attempts]
    means = [candidate.sample.mean_logprob for candidate in candidates]
    found = [score.logit for score in verifier.score(data[0].problem, candidates)]
    assert verifier.card is not None
    assert verifier.card.start is not None
    assert found == pytest.approx([verifier.card.start.scaled(mean) for mean in means if mean is not None], abs=1e-6)
    assert sorted(found) == [logit for _, logit in sorted(zip(means, found, strict=True))]


def test_what_is_trained_is_added_to_the_start(bases: list[Path], tmp_path: Path) -> None:
    data = with_logprobs(DATA)
    candidates = [attempt.candidate for attempt in data[0].attempts]
    start, later = (
        [
            s.logit
            for s in trained(bases[0], tmp_path / str(rate), data, learning_rate=rate).score(
                data[0].problem, candidates
            )
        ]
        for rate in (1e-12, 1e-3)
    )
    assert later != pytest.approx(start, abs=1e-3)


@pytest.mark.parametrize("start", ["logprob", "nothing"])
def test_without_log_probabilities_training_starts_from_nothing(bases: list[Path], start: str, tmp_path: Path) -> None:
    verifier = trained(bases[0], tmp_path / "out", DATA if start == "logprob" else with_logprobs(DATA), start=start)
    assert verifier.card is not None
    assert verifier.card.start is None


def test_a_sample_without_log_probabilities_starts_at_even_odds() -> None:
    assert start_logit(Platt(mean=-0.3, sigma=0.1), Sample(text="", seed=0)) == 0.0


def test_compiling_without_a_compiler_is_refused(
    bases: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ProblemError, match="compile needs a C\\+\\+ compiler"):
        logits(bases[0], tmp_path / "out", compile=True)


@pytest.mark.real
@pytest.mark.filterwarnings("default")  # the compiler of torch warns of torch
@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_compiled_training_ends_where_a_plain_one_does(bases: list[Path], lora_rank: int, tmp_path: Path) -> None:
    plain, compiled = (
        logits(bases[0], tmp_path / str(way), learning_rate=1e-2, lora_rank=lora_rank, compile=way)
        for way in (False, True)
    )
    assert compiled == pytest.approx(plain, rel=1e-3)
