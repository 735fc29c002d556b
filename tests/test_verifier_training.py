"""How a verifier is trained: where its head begins, and how far a step moves it. The losses: test_verifier_examples."""

from pathlib import Path

import pytest
from attempts import entry
from safetensors.torch import load_file, save_file
from tiny import save_tiny

from mucode_agent.training.verifier import VerifierSettings, train_verifier
from mucode_agent.types import ProblemError
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
