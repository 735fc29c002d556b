"""An embedded model that is another one's weights with an adapter: how it is written, merged, named and kept whole."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import HumanMessage
from loop_world import weights_of
from synthetic_run import problems, write_run
from tiny import save_tiny
from training_worker import rows
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from mucode_agent.cli.train import train
from mucode_agent.models.adapter import CARD, TENSORS, read_adapter_card
from mucode_agent.models.embedded import EMBEDDED, Weights, checkpoint_of, embedded_identity, held
from mucode_agent.models.identity import generator_identity, same_generator
from mucode_agent.models.load import load_model
from mucode_agent.models.sampling import sample
from mucode_agent.training.adapter import Origin, export_adapter
from mucode_agent.training.generator import train_generator
from mucode_agent.training.rollouts import weights_digest
from mucode_agent.training.settings import GeneratorSettings
from mucode_agent.types import ProblemError

ORIGIN = {"made": "python -m mucode_agent train export-adapter", "licence": "MIT", "data": "made up, CC0"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="module")
def generator(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a loop's first round, by its place."""
    loop = tmp_path_factory.mktemp("loop")
    (loop / "config.json").write_text(json.dumps({"identity": {"train": "mbpp:/data/mine/train.jsonl", "seed": 1}}))
    write_run(loop / "round-1" / "rollouts", count=3)
    out = loop / "round-1" / "generator"
    settings = GeneratorSettings(lora_rank=2, epochs=1, batch_size=4, learning_rate=3e-2, float32=True)
    train_generator(rows(), base=str(base), out=out, settings=settings)
    return out


@pytest.fixture(scope="module")
def adapter(base: Path, generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("adapters") / "tiny-mucode"
    export_adapter(generator, out, Origin(base=str(base), **ORIGIN), apart_from={"none": ()})
    return out


@pytest.fixture
def tiny(base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """An adapted model whose base lies in the cache, so that nothing is downloaded."""
    monkeypatch.setenv("MUCODE_CACHE", str(tmp_path))
    sha256 = read_adapter_card(adapter).base_sha256
    shutil.copytree(base, tmp_path / f"tiny-{sha256[:8]}")
    return Weights(sha256=sha256, parts=(), megabytes=1, room=1).adapted("tiny", adapter)


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.bfloat16).state_dict()


def test_base_and_adapter_are_the_generator_that_was_trained(tiny: Weights, generator: Path, base: Path) -> None:
    made, trained, before = (weights(each) for each in (checkpoint_of("tiny-mucode", tiny), generator, base))
    assert any(not torch.equal(trained[name], before[name]) for name in trained)
    for name, tensor in trained.items():
        assert torch.allclose(made[name].float(), tensor.float(), atol=2e-3, rtol=2**-6), name


def test_a_card_names_its_origin_and_no_path_of_this_machine(adapter: Path) -> None:
    card, text = read_adapter_card(adapter), (adapter / CARD).read_text()
    assert (card.base, card.rank, card.licence, card.data) == ("tiny", 2, "MIT", "made up, CC0")
    assert card.loop == {"train": "mbpp:train.jsonl", "seed": 1}
    assert {"mucode-agent", "torch", "source_sha256"} <= set(card.code)
    assert card.rows == len(rows())
    assert not re.search(r"/(?:tmp|data|work)", text)
    assert [file.name for file in sorted(adapter.iterdir())] == [TENSORS, CARD]


def test_the_command_writes_a_card_without_a_path(
    generator: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = {"id": "p", "prompt": "Multiply.", "public_tests": ["assert f(2) == 4"]}
    (tmp_path / "apart.jsonl").write_text(json.dumps(problem))
    command = ["export-adapter", generator, "--out", tmp_path / "out", "--base", base, "--licence", "MIT"]
    command += ["--data", "made up, CC0", "--evaluation", f"jsonl:{tmp_path}/apart.jsonl", "--trained-by", "by hand"]
    monkeypatch.setattr("sys.argv", ["mucode_agent", "train", *map(str, command)])
    outcome = CliRunner().invoke(train, [str(word) for word in command], catch_exceptions=False)
    assert (outcome.exit_code, outcome.stderr.count("rank 2, ")) == (0, 1)
    card = read_adapter_card(tmp_path / "out")
    assert (card.apart_from, card.trained_by) == (("jsonl:apart.jsonl",), "by hand")
    assert "/" not in card.made


def test_an_adapter_of_another_base_is_not_written(generator: Path, tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=1)
    with pytest.raises(ProblemError, match=r"was trained from other weights than those of .*other"):
        export_adapter(generator, tmp_path / "out", Origin(base=str(other), **ORIGIN), apart_from={})
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_saw_an_evaluation_problem_is_not_written(generator: Path, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="3 training problems are also in an evaluation set"):
        export_adapter(generator, tmp_path / "out", Origin(base=str(base), **ORIGIN), apart_from={"made": problems(9)})
    alone = shutil.copytree(generator, tmp_path / "alone")
    with pytest.raises(ProblemError, match="is in no loop's directory; give the --traces"):
        export_adapter(alone, tmp_path / "out", Origin(base=str(base), **ORIGIN), apart_from={"made": problems(9)})
    assert not (tmp_path / "out").exists()


def test_a_generator_without_a_plain_adapter_is_named(generator: Path, base: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(generator, tmp_path / "bare")
    config = bare / "adapter" / "adapter_config.json"
    given = json.loads(config.read_bytes())
    config.write_text(json.dumps(given | {"use_dora": True}))
    with pytest.raises(ProblemError, match="is no plain LoRA adapter: it has use_dora"):
        export_adapter(bare, tmp_path / "out", Origin(base=str(base), **ORIGIN), apart_from={})
    shutil.rmtree(bare / "adapter")
    with pytest.raises(ProblemError, match=r"holds no LoRA adapter .*--lora-rank"):
        export_adapter(bare, tmp_path / "out", Origin(base=str(base), **ORIGIN), apart_from={})
    with pytest.raises(ProblemError, match="is no finished generator"):
        export_adapter(base, tmp_path / "out", Origin(base=str(base), **ORIGIN), apart_from={})


def test_a_damaged_adapter_is_not_merged(tiny: Weights, tmp_path: Path) -> None:
    assert tiny.adapter is not None
    damaged = shutil.copytree(tiny.adapter, tmp_path / "damaged")
    data = (damaged / TENSORS).read_bytes()
    (damaged / TENSORS).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(ProblemError, match=r"has sha256 \w{12}, and its card says \w{12}: install this package again"):
        checkpoint_of("tiny-mucode", tiny.adapted("tiny", damaged))


def test_an_adapter_for_other_weights_is_refused(tiny: Weights) -> None:
    assert tiny.adapter is not None
    other = Weights(sha256="0" * 64, parts=(), megabytes=1, room=1).adapted("tiny", tiny.adapter)
    with pytest.raises(ProblemError, match=r"was trained on weights with sha256 .*, and 'tiny' has 0{12}"):
        checkpoint_of("tiny-mucode", other)


def test_a_checkpoint_is_merged_once_and_another_adapter_makes_another(tiny: Weights, tmp_path: Path) -> None:
    made = checkpoint_of("tiny-mucode", tiny)
    before = (made / "model.safetensors").stat().st_mtime_ns
    assert checkpoint_of("tiny-mucode", tiny) == made
    assert (made / "model.safetensors").stat().st_mtime_ns == before
    assert tiny.adapter is not None
    second = shutil.copytree(tiny.adapter, tmp_path / "second")
    card = read_adapter_card(second).model_copy(update={"adapter_sha256": "1" * 64})
    (second / CARD).write_text(card.model_dump_json())
    assert tiny.adapted("tiny", second).sha256_of_all != tiny.sha256_of_all


def truncated(path: Path) -> str:
    os.truncate(path / "model.safetensors", 100)
    return "model.safetensors has 100 bytes and had"


def overwritten(path: Path) -> str:
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-64] + bytes(64))
    return "model.safetensors holds other bytes than were written"


def without_tokenizer(path: Path) -> str:
    (path / "tokenizer.json").unlink()
    return "tokenizer.json: No such file or directory"


def unsealed_and_truncated(path: Path) -> str:
    path.with_name(f"{path.name}.json").unlink()
    os.truncate(path / "model.safetensors", 2000)
    return "model.safetensors "


def emptied(path: Path) -> str:
    shutil.rmtree(path)
    path.with_name(f"{path.name}.json").unlink()
    path.mkdir()
    return "config.json: No such file or directory"


@pytest.mark.parametrize("damage", [truncated, overwritten, without_tokenizer, unsealed_and_truncated, emptied])
def test_a_damaged_checkpoint_is_made_again_and_that_is_said_once(
    tiny: Weights, damage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = checkpoint_of("tiny-mucode", tiny)
    whole = weights_of(made)
    assert capsys.readouterr().err == ""
    fault = damage(made)
    assert checkpoint_of("tiny-mucode", tiny) == made
    assert weights_of(made) == whole
    printed = capsys.readouterr().err
    assert printed.startswith(f"mucode_agent: the weights in {made} are damaged ({fault}")
    assert printed.endswith("and are made again\n")
    assert printed.count("\n") == 1
    assert sorted(path.name for path in made.parent.glob(".*")) == []


def test_a_file_in_the_place_of_a_checkpoint_is_replaced(tiny: Weights) -> None:
    made = checkpoint_of("tiny-mucode", tiny)
    shutil.rmtree(made)
    made.write_text("")
    assert weights_of(checkpoint_of("tiny-mucode", tiny))


@pytest.mark.parametrize("sealed", [True, False])
def test_a_copied_checkpoint_is_taken_as_it_is(tiny: Weights, sealed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    made = checkpoint_of("tiny-mucode", tiny)
    seal = made.with_name(f"{made.name}.json")
    for file in made.iterdir():
        os.utime(file, (1, 1))
    if not sealed:
        seal.unlink()
    assert checkpoint_of("tiny-mucode", tiny) == made
    assert capsys.readouterr().err == ""
    assert all(entry["time_ns"] == 10**9 for entry in json.loads(seal.read_bytes()).values())


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_shipped_adapter_is_whole_and_for_the_weights_that_it_is_merged_into(name: str) -> None:
    shipped = EMBEDDED[name]
    assert (shipped.adapter is None) == (not shipped.base)
    if shipped.adapter is not None:
        assert shipped.sha256 == EMBEDDED[shipped.base].sha256
        assert len(shipped.sha256_of_all) == 64


def test_a_generator_with_an_adapter_is_known_by_both(tiny: Weights, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EMBEDDED, "tiny-mucode", tiny)
    identity = generator_identity("tiny-mucode")
    assert identity == embedded_identity("tiny-mucode") == f"tiny-mucode@{tiny.sha256_of_all[:12]}"
    assert same_generator(identity, generator_identity("vllm:tiny-mucode@http://localhost:8000/v1"))
    assert not same_generator(identity, "tiny")
    assert generator_identity("smollm2") == "smollm2"


def test_an_adapted_model_draws_and_its_rollouts_know_the_adapter(
    tiny: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EMBEDDED, "tiny-mucode", tiny)
    model = load_model("tiny-mucode", max_tokens=4)
    assert len(sample(model, [HumanMessage("Write f.")], n=2, seed=0)) == 2
    assert weights_digest(model) == tiny.sha256_of_all[:12]


def test_what_the_cache_holds_is_told_without_a_download(
    tiny: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EMBEDDED, "tiny", Weights(sha256=tiny.sha256, parts=(("none==1", "x"),), megabytes=7, room=9))
    monkeypatch.setitem(EMBEDDED, "tiny-mucode", tiny)
    assert held("tiny").there
    assert f"MB in {tmp_path / 'tiny-'}" in held("tiny").detail
    assert (held("tiny-mucode").there, held("tiny-mucode").detail) == (
        False,
        f"not in {tmp_path}: the first use makes it from tiny",
    )
    made = checkpoint_of("tiny-mucode", tiny)
    assert held("tiny-mucode").there
    truncated(made)
    assert "is damaged (model.safetensors has 100 bytes" in held("tiny-mucode").detail
    absent = held("smollm2")
    assert (absent.there, absent.detail) == (
        False,
        f"not in {tmp_path}: the first use downloads 99 MB and takes up to 460 MB of room",
    )
