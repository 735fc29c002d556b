"""Trainings by several processes, with a copy of the model each (DDP) or with shards of one (FSDP2): as one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import save_tiny
from training_worker import both, rows

from mucode_agent.training.fit import fit, last_checkpoint
from mucode_agent.training.generator import train_generator
from mucode_agent.training.settings import FitSettings, GeneratorSettings
from mucode_agent.types import ProblemError

WORKER = Path(__file__).parent / "training_worker.py"
FSDP2 = Path(__file__).parent.parent / "examples" / "training" / "fsdp2.yaml"
SETTINGS = ({"save_steps": 1}, {"lora_rank": 4})
RUN, LAUNCH = "torch.distributed.run", "accelerate.commands.launch"
STARTED = {
    "NO": [RUN, "--nproc-per-node", "2", "--standalone", "--monitor-interval", "5"],
    "FSDP": [LAUNCH, "--config_file", str(FSDP2), "--num_processes", "2", "--main_process_port", "0",
             "--monitor_interval", "5"],
}  # fmt: skip
"""How each kind is started; the interval leaves a process time to say that another is gone."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """One process's losses, and the directory of its weights."""
    out = tmp_path_factory.mktemp("alone")
    trained = [both(str(base), out / str(number), **given) for number, given in enumerate(SETTINGS)]
    return [[each.fitted.losses for each in pair] for pair in trained], out


def together(kind, base, out, **environment):
    how = {"OMP_NUM_THREADS": "1", "SHARDED_HERE": "1"} if kind == "FSDP" else {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *STARTED[kind], str(WORKER), str(base), str(out), *map(json.dumps, SETTINGS)],
        env=os.environ | how | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def check_same(kind, run, out, alone):
    assert run.returncode == 0, run.stderr[-3000:]
    outcome = json.loads((out / "outcome.json").read_text())
    assert outcome["distributed"] == ("FSDP" if kind == "FSDP" else "MULTI_CPU")
    losses, directory = alone
    for mine, theirs in zip(losses, outcome["losses"], strict=True):
        for one, two in zip(mine, theirs, strict=True):
            assert len(one) > 1
            assert two == pytest.approx(one, rel=1e-4)
    files = sorted(path.relative_to(directory) for path in directory.rglob("*.safetensors"))
    assert len(files) == 5  # two of each training, and the generator's adapter
    for file in files:
        one, two = load_file(directory / file), load_file(out / file)
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            rounding = 2**-7 if tensor.dtype == torch.bfloat16 else 1e-4
            assert torch.allclose(tensor.float(), two[name].float(), rtol=rounding, atol=1e-5), (file, name)
    assert run.stderr.count("step 6/6") == 2  # of the generators, told by the first process alone
    for part in ("generator", "verifier"):
        assert not (out / "0" / part / "checkpoints").exists()


@pytest.mark.parametrize("kind", STARTED)
def test_two_processes_train_what_one_does(kind, base, alone, tmp_path):
    check_same(kind, together(kind, base, tmp_path), tmp_path, alone)


@pytest.mark.real
@pytest.mark.parametrize("kind", STARTED)
def test_a_killed_process_ends_all_in_one_sentence_and_the_same_command_goes_on(kind, base, alone, tmp_path):
    killed = together(kind, base, tmp_path, DIES_AT="7")
    assert killed.returncode != 0
    assert killed.stderr.count("rank 0: another of the 2 processes of this training ended") == 1
    assert last_checkpoint(tmp_path / "0" / "generator" / "checkpoints") is not None
    check_same(kind, together(kind, base, tmp_path), tmp_path, alone)


def test_sharding_without_a_gpu_is_refused_in_one_sentence(base, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ProblemError, match=r"accelerate shards a model \(FSDP\) only over several processes with GPUs"):
        train_generator(rows(8), base=str(base), out=tmp_path / "out", settings=GeneratorSettings(float32=True))


def test_a_checkpoint_of_the_other_kind_is_not_gone_on_with(base, tmp_path):
    from transformers import AutoModelForCausalLM

    checkpoint = tmp_path / "checkpoints" / "checkpoint-3"
    (checkpoint / "pytorch_model_fsdp_0").mkdir(parents=True)
    (checkpoint / "trainer_state.json").write_text("{}")
    model = AutoModelForCausalLM.from_pretrained(base)
    with pytest.raises(ProblemError, match="was written with FSDP; continue as the training was started"):
        fit(model, [0], collate=list, loss=lambda *_: None, directory=tmp_path, settings=FitSettings(float32=True))
