"""How a verifier is trained: where its head begins, and how far a step moves it. The losses: test_verifier_examples."""

from pathlib import Path

import pytest
import torch
from attempts import entry
from safetensors.torch import load_file, save_file
from tiny import save_tiny

from mucode_agent.training.verifier import VerifierSettings, train_verifier
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
def test_every_program_begins_at_a_logit_of_0(bases: list[Path], lora_rank: int, tmp_path: Path) -> None:
    assert logits(bases[0], tmp_path / "out", learning_rate=1e-12, lora_rank=lora_rank) == pytest.approx(
        [0] * 4, abs=1e-6
    )


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_a_step_moves_logits_alike_whatever_the_scale_of_the_base(
    bases: list[Path], lora_rank: int, tmp_path: Path
) -> None:
    quiet, loud = (
        torch.tensor(logits(base, tmp_path / str(i), learning_rate=1e-3, lora_rank=lora_rank))
        for i, base in enumerate(bases)
    )
    assert quiet.abs().max() > 1e-4
    assert loud.abs().max() < 2 * quiet.abs().max()
