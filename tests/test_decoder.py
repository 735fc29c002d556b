"""The embedded models' own forward pass, against transformers', on tiny random checkpoints; its int8 form on disk."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import save_tiny
from transformers import Qwen2Config, Qwen2ForCausalLM

from mucode_agent.models import int8
from mucode_agent.models.checkpoints import load_engine
from mucode_agent.models.checksums import damage
from mucode_agent.models.decoder import EmbeddedEngine, write_int8
from mucode_agent.models.embedded import Weights, int8_of

pytestmark = pytest.mark.skipif(not int8.available(), reason="int8 needs an x86 CPU")
MESSAGES = [
    {"role": "system", "content": "Be  brief.\n"},
    {"role": "user", "content": "Write\t`é`: 日本 <end> 😀\n\n x"},
]
SHA256 = "0" * 64
TINY = Weights(sha256=SHA256, parts=(), megabytes=1, room=1)


def llama(directory: Path) -> Path:
    return save_tiny(directory)


def tied(directory: Path) -> Path:
    return rewritten(directory, tie_word_embeddings=True)


def qwen2(directory: Path) -> Path:
    return rewritten(directory, tie_word_embeddings=False)


def rewritten(directory: Path, *, tie_word_embeddings: bool) -> Path:
    """Qwen2 with biases, and several queries to each key, in the place of the tiny Llama."""
    save_tiny(directory)
    config = Qwen2Config(
        vocab_size=258, hidden_size=48, intermediate_size=80, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=4096, eos_token_id=256, bos_token_id=None, pad_token_id=257,
        initializer_range=0.2, tie_word_embeddings=tie_word_embeddings,
    )  # fmt: skip
    torch.manual_seed(1)
    model = Qwen2ForCausalLM(config)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("kind", [llama, tied, qwen2])
def test_prompt_and_rows_get_the_logits_of_transformers(kind, tmp_path: Path) -> None:
    directory = kind(tmp_path / "tiny")
    own, other = EmbeddedEngine(directory, int8=False), load_engine(str(directory), "cpu", "float32")
    prompt = own.encode(MESSAGES)
    assert torch.equal(prompt, other.encode(MESSAGES))
    assert own._decode(prompt[0].tolist()) == other._decode(prompt[0].tolist())
    assert (own.ends, own.context) == (other.ends, other.context)
    with torch.inference_mode():
        a, b = own._rows(), other._rows()
        logits, expected = a.read(prompt, 4), b.read(prompt, 4)
        for place in range(140):  # the room for the rows' own keys grows twice
            assert torch.allclose(logits, expected, atol=1e-4)
            tokens = torch.randint(0, 256, (len(logits),))
            if place in (5, 70):
                keep = torch.tensor([0, 2, 3][: len(tokens) - 1])
                a.keep(keep)
                b.keep(keep)
                tokens = tokens[keep]
            logits, expected = a.step(tokens), b.step(tokens)


@pytest.mark.parametrize("kind", [llama, tied, qwen2])
def test_the_int8_form_is_what_rounding_at_the_start_gives(kind, tmp_path: Path) -> None:
    directory, form = kind(tmp_path / "tiny"), tmp_path / "form"
    form.mkdir()
    write_int8(directory, form)
    forms = ((form, True), (directory, True), (directory, False))
    with torch.inference_mode():
        kept, rounded, exact = (
            engine._rows().read(engine.encode(MESSAGES), 1)
            for engine in (EmbeddedEngine(place, int8=rounds) for place, rounds in forms)
        )
    assert torch.equal(kept, rounded)
    assert torch.allclose(kept, exact, atol=0.05 * exact.abs().max().item())


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    config = json.loads((qwen2(tmp_path / "tiny") / "config.json").read_bytes())
    config["rope_parameters"]["rope_type"] = "yarn"
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="no plain Llama or Qwen2"):
        EmbeddedEngine(tmp_path / "tiny", int8=True)


def test_no_transformers_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from mucode_agent.models.checkpoints import load_embedded;"
        "load_embedded(Path(sys.argv[1]), 'int8'); assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(qwen2(tmp_path / "tiny"))], check=True)


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MUCODE_CACHE", str(tmp_path))
    return llama(tmp_path / f"tiny-{SHA256[:8]}")


def test_the_int8_form_is_made_once_and_serves_without_the_checkpoint(checkpoint: Path, capsys) -> None:
    made = int8_of("tiny", TINY)
    assert made == checkpoint.with_name(f"{checkpoint.name}-int8")
    shutil.rmtree(checkpoint)
    before = made.stat().st_mtime_ns
    assert int8_of("tiny", TINY) == made
    assert made.stat().st_mtime_ns == before
    assert capsys.readouterr().err == ""


def test_a_damaged_int8_form_is_made_again_and_that_is_said_once(checkpoint: Path, capsys) -> None:
    made = int8_of("tiny", TINY)
    whole = (made / "model.safetensors").read_bytes()
    (made / "model.safetensors").write_bytes(whole[:100])
    assert int8_of("tiny", TINY) == made
    assert (made / "model.safetensors").read_bytes() == whole
    told = capsys.readouterr().err
    assert told.startswith(f"mucode_agent: the weights in {made} are damaged (model.safetensors has 100 bytes and had")
    assert told.count("\n") == 1
    assert not list(checkpoint.parent.glob(".*"))


def test_what_a_killed_run_left_is_removed(checkpoint: Path) -> None:
    left = checkpoint.with_name(".tiny-abc")
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    assert damage(int8_of("tiny", TINY)) is None
    assert not left.exists()


def test_where_the_cache_takes_nothing_more_the_checkpoint_serves(checkpoint: Path) -> None:
    checkpoint.with_name("tiny.lock").mkdir()  # as on a read-only disk, no lock can be had
    assert int8_of("tiny", TINY) == checkpoint
    assert EmbeddedEngine(checkpoint, int8=True).encode(MESSAGES).shape[0] == 1


FULL_DISK = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
from mucode_agent.models.embedded import Weights, int8_of
print(int8_of("tiny", Weights(sha256="0" * 64, parts=(), megabytes=1, room=1)))
"""


def test_a_file_that_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    checkpoint = qwen2(tmp_path / f"tiny-{SHA256[:8]}")
    environment = {"MUCODE_CACHE": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", FULL_DISK],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout.strip(), done.stderr) == (str(checkpoint), "")
    assert {entry.name for entry in tmp_path.iterdir()} == {checkpoint.name, f"{checkpoint.name}.json", "tiny.lock"}
