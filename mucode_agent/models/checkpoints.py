"""Loads a checkpoint (a directory, a GGUF file or a hub id) into an `Engine`; converts GGUF to a directory, optionally
with an adapter.

All model objects of a process share one copy of the same weights. transformers is imported where it is needed: that
takes seconds.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from safetensors import SafetensorError

from mucode_agent.models.adapter import merge
from mucode_agent.models.decoder import EmbeddedEngine
from mucode_agent.models.decoding import Engine, TransformersEngine
from mucode_agent.models.int8 import available, to_int8
from mucode_agent.types import ProblemError

_engines: WeakValueDictionary[tuple[str, str, str], Engine] = WeakValueDictionary()
_loading = threading.Lock()
INT8 = "int8"
"""In addition to torch's dtypes: linear layers in int8, see `models.int8`."""


def load_engine(model: str, device: str | None = None, dtype: str | None = None) -> Engine:
    """The model at `model`, on the fastest device of this machine and in its fastest dtype unless they are given."""
    device = device or best_device()
    dtype = dtype or best_dtype(device)
    if dtype == INT8 and not int8_runs(device):
        raise ProblemError(
            f"dtype 'int8' needs an x86 CPU, got device {device!r}: give another dtype, such as 'float32'"
        )
    return _shared((model, device, dtype), lambda: _load(model, device, dtype))


def load_embedded(directory: Path, dtype: str) -> Engine:
    """An embedded model's directory on the CPU, without transformers; `dtype` is `int8` or `float32`."""
    return _shared((str(directory), "embedded", dtype), lambda: EmbeddedEngine(directory, int8=dtype == INT8))


def _shared(key: tuple[str, str, str], load: Callable[[], Engine]) -> Engine:
    with _loading:
        engine = _engines.get(key)
        if engine is None:
            try:
                engine = _engines[key] = load()
            except (OSError, ValueError, KeyError, ImportError, SafetensorError) as error:
                raise ProblemError(
                    f"no causal language model could be loaded from {key[0]!r} ({first_line(error)}): give a directory "
                    "made by `save_pretrained`, a .gguf file, or a hub id that this machine can reach"
                ) from error
        return engine


def first_line(error: Exception) -> str:
    """The first line of a library's error, or its type if it is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def best_device() -> str:
    """Each process that torchrun starts gets its own GPU."""
    if torch.cuda.is_available():
        rank = os.environ.get("LOCAL_RANK", "")
        return f"cuda:{int(rank) % torch.cuda.device_count()}" if rank.isdecimal() else "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def best_dtype(device: str) -> str:
    """bfloat16 if the hardware supports it; other CPUs emulate it, several times slower than float32."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if device.startswith("mps"):
        return "float16"
    features = torch.cpu.get_capabilities()
    return "bfloat16" if features.get("avx512_bf16") or features.get("amx_bf16") else "float32"


def int8_runs(device: str | None) -> bool:
    """Whether a model on this device (None: the best one) can have its linear layers in int8."""
    return (device or best_device()) == "cpu" and available()


def convert(source: Path, directory: Path, adapter: Path | None = None) -> None:
    """Writes a GGUF file, dequantised, or a checkpoint as one in bfloat16, with its tokenizer; `adapter` is merged.

    Raises OSError if the directory cannot be written, ProblemError if the adapter does not fit.
    """
    model, tokenizer = _read(str(source), torch.bfloat16)
    if adapter is not None:
        merge(model, adapter)
    try:
        with quiet():
            tokenizer.save_pretrained(directory)
            model.save_pretrained(directory)
    except SafetensorError as error:  # how safetensors reports a full disk
        raise OSError(str(error)) from error


def _load(name: str, device: str, dtype: str) -> Engine:
    if dtype == INT8:
        model, tokenizer = _read(name, torch.bfloat16)
        to_int8(model)
    else:
        model, tokenizer = _read(name, getattr(torch, dtype))
    return TransformersEngine(model.train(False).to(device=device), tokenizer)


def _read(name: str, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    path = Path(name).expanduser()
    with quiet():
        if not (path.suffix == ".gguf" and path.is_file()):
            place = str(path) if path.exists() else of_the_hub(name)
            return AutoModelForCausalLM.from_pretrained(place, dtype=dtype), AutoTokenizer.from_pretrained(place)
        from transformers import modeling_gguf_pytorch_utils as gguf_reader
        from transformers.utils import logging

        gguf_reader.tqdm = logging.tqdm  # type: ignore[attr-defined]  # obeys `quiet`, unlike the one that it imports
        tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
        )
        return model, tokenizer


def of_the_hub(name: str) -> str:
    """The argument of `from_pretrained` for a hub id: its copy in the hub's cache, or the id if the hub answers."""
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return huggingface_hub.snapshot_download(name, local_files_only=True)
    except LocalEntryNotFoundError:
        pass
    except HFValidationError:
        raise FileNotFoundError("there is no such file, and it is no hub id") from None
    try:  # without this check, the hub's client retries for a minute
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=10)
    except Exception as error:
        raise ConnectionError(f"{huggingface_hub.constants.ENDPOINT} cannot be reached") from error
    return name


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No log lines and no progress bars of transformers, whose switches are global."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
