"""One fine-tuning run, of a verifier or a generator: transformers' Trainer with our loss, resume and report.

The Trainer does gradient accumulation, schedule, checkpoints and torchrun; accelerate's configuration decides how
weights are sharded over processes.
"""

import contextlib
import functools
import json
import math
import os
import random
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from rich.console import Console
from safetensors import SafetensorError
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from mucode_agent.console import messages
from mucode_agent.files import check_same, lock_file, remedy, write_whole
from mucode_agent.models.checkpoints import best_device, quiet
from mucode_agent.runs.progress import BETWEEN_LINES_S, duration
from mucode_agent.training.settings import FitSettings
from mucode_agent.types import InfrastructureError, ProblemError, Record

BLOCKS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The linear layers of a decoder block that LoRA adapts, if the model has them."""


class Fitted(Record):
    """Figures of a run."""

    steps: int
    loss: float | None
    """Mean over the run's last tenth of steps."""
    losses: tuple[float, ...]
    """Loss of every step, including those before a resume."""
    seconds: float
    """Seconds since this start; a resumed run counts from its resume."""
    tokens: int
    peak_memory_mb: float


Loss = Callable[[Any, dict[str, Any]], torch.Tensor]
"""(model, batch) → the loss of each of the batch's examples, (B,)."""
Rates = Mapping[str, float]
"""By the suffix of a parameter's name, its factor on the learning rate; 1 for others."""
Report = Callable[[Any], str]
"""The model's current quality in words, for the progress line."""


def begin(directory: Path, identity: dict[str, Any]) -> None:
    """Creates the run's directory, or continues one of the same identity.

    Raises ProblemError if it holds another run; the message says what differs.
    """
    path = directory / "training.json"
    text = json.dumps(identity, indent=2, sort_keys=True, default=str)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        others = sorted(item.name for item in directory.iterdir() if not item.name.startswith("."))
    except OSError as error:
        raise ProblemError(f"cannot make {directory}: {error.strerror}; give another directory") from None
    if path.exists():  # checked after the others, because another process of this training may be creating it now
        check_same(_held(path), json.loads(text), directory, "another training")
    elif others:
        raise ProblemError(f"{directory} holds {others[0]} and no training; give a new or an empty directory")
    else:
        write_whole(path, text + "\n")


@contextlib.contextmanager
def hold_training(directory: Path) -> Iterator[None]:
    """Locks a training for this process and its helpers. Raises ProblemError if another holds it."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(lock_file(directory / "training.json"))
        except BlockingIOError:
            raise ProblemError(
                f"{directory} is in use by another training; wait for it, or give another directory"
            ) from None
        yield


def _held(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(path.read_bytes())
    except (OSError, ValueError):
        held = None
    if not isinstance(held, dict):
        raise ProblemError(f"{path} is damaged; give another directory")
    return held


def fit(
    model: Any,
    examples: Sequence[Any],
    *,
    collate: Callable[[list[Any]], dict[str, Any]],
    loss: Loss,
    directory: Path,
    settings: FitSettings,
    length: Callable[[Any], int] | None = None,
    weight: Callable[[Any], float] = lambda _: 1.0,
    rates: Rates | None = None,
    report: Report | None = None,
    console: Console | None = None,
) -> Fitted:
    """Trains `model` in place, from the last complete checkpoint in `directory` if there is one.

    The gradient of a step is that of the mean of its examples' losses, whatever the micro-batches and processes;
    `weight` scales an example relative to the mean example. Deterministic for a seed, device and number of threads.
    With `length`, examples of one step with similar length are batched together. Raises ProblemError if the training
    diverges, InfrastructureError if the disk fails.
    """
    world = world_size()
    if settings.batch_size % (settings.micro_batch * world):
        raise ProblemError(
            f"batch_size {settings.batch_size} must be a multiple of micro_batch {settings.micro_batch} × {world} "
            "processes; change one of them"
        )
    checkpoints = directory / "checkpoints"
    watch = _Progress(console or messages(), report)
    trainer = _Trainer(
        model=model,
        args=_arguments(checkpoints, settings, world),
        train_dataset=_Order(examples, settings, world, length, weight),
        data_collator=functools.partial(_weighted, collate),
        callbacks=[watch],
        loss=loss,
        world=world,
        rates=rates or {},
    )
    _check_sharding(trainer)
    last = last_checkpoint(checkpoints)
    if last is not None and any(Path(last).glob("pytorch_model_fsdp*")) != sharded():
        raise ProblemError(
            f"{last} was written {'without' if sharded() else 'with'} FSDP; continue as the training was "
            "started, or give "
            "another directory"
        )
    for callback in list(trainer.callback_handler.callbacks):
        if type(callback).__name__ in ("PrinterCallback", "ProgressCallback"):
            trainer.remove_callback(callback)
    started = time.monotonic()
    with writing(directory), _together(world), quiet():
        trainer.train(resume_from_checkpoint=last)
    if not all(bool(p.isfinite().all()) for p in model.parameters() if p.requires_grad):
        raise _diverged("a weight after the last step", math.nan, settings.learning_rate)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    tail = losses[-max(1, len(losses) // 10) :]
    return Fitted(
        steps=trainer.state.global_step,
        loss=sum(tail) / len(tail) if tail else None,
        losses=tuple(losses),
        seconds=time.monotonic() - started,
        tokens=trainer.tokens,
        peak_memory_mb=peak_memory_mb(),
    )


def _arguments(checkpoints: Path, settings: FitSettings, world: int) -> TrainingArguments:
    device = best_device().partition(":")[0]
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=1,  # the order holds every epoch
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=settings.batch_size // (settings.micro_batch * world),
        warmup_steps=settings.warmup,
        weight_decay=settings.weight_decay,
        lr_scheduler_type="linear",
        max_grad_norm=1.0,
        bf16=not settings.float32 and _mixed(device),
        use_cpu=device == "cpu",
        seed=settings.seed,
        data_seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would report a NaN loss as 0
        save_steps=settings.save_steps,
        save_total_limit=1,
        report_to=[],
        disable_tqdm=True,
        log_level="error",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        label_names=[],
        ddp_backend="gloo" if world > 1 and device == "cpu" else None,
        ddp_find_unused_parameters=False,
    )
    arguments._n_gpu = 1  # noqa: SLF001 - several devices take several processes: batches here are no plain tensors
    return arguments


def trainable(model: Any, settings: FitSettings, *, task: Literal["SEQ_CLS", "CAUSAL_LM"]) -> Any:
    """`model` with only the trained part trainable: all of it, its last blocks, or LoRA adapters."""
    if settings.compile:
        if not any(map(shutil.which, filter(None, (os.environ.get("CXX"), "g++", "clang++")))):
            raise ProblemError("compile needs a C++ compiler and found neither $CXX nor g++ nor clang++; install one")
        for name, block in model.named_modules():
            if re.search(r"\.layers\.\d+$", name):
                block.compile(dynamic=True)
    count = model.config.get_text_config().num_hidden_layers
    if settings.last_layers > count:
        raise ProblemError(f"last_layers must be at most {count}, the blocks of this model, got {settings.last_layers}")
    kept = range(count - settings.last_layers if settings.last_layers else 0, count)
    if settings.lora_rank:
        return _with_lora(model, settings, list(kept), task)
    if settings.last_layers:
        marks = tuple(f".layers.{number}." for number in kept)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(any(mark in name for mark in marks) or name.startswith("score"))
    return model


def write_card(directory: Path, name: str, card: Record, readme: str) -> None:
    """Ends a training: a directory with its card is finished, and needs no checkpoint."""
    write_whole(directory / "README.md", readme)
    write_whole(directory / name, card.model_dump_json(indent=2) + "\n")
    shutil.rmtree(directory / "checkpoints", ignore_errors=True)


def merged(model: Any) -> Any:
    """Plain weights, with LoRA adapters merged."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def whole(model: Any, again: Callable[[], Any]) -> Any:
    """The trained model with all its weights. Every process must call it; only the main one's result has them.

    If processes hold shards, these are gathered in main memory, in the model that `again` makes.
    """
    if not sharded():
        return model
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not is_main_process():
        return model
    made = again()
    made.load_state_dict(weights)
    return made


def sharded() -> bool:
    """Whether accelerate's configuration shards the model over the processes (FSDP)."""
    return os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def place() -> str:
    """The device on which a model is loaded for training; a sharded one is loaded in main memory, then split."""
    return "cpu" if sharded() else best_device()


def is_main_process() -> bool:
    import torch.distributed as distributed

    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0


def end_processes() -> None:
    """Leaves the process group of a training, if there is one.

    Call it after the last training, in every process: PyTorch may abort a process that ends while in a group.
    """
    import torch.distributed as distributed

    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def seed_everything(seed: int) -> None:
    set_seed(seed, deterministic=False)


def peak_memory_mb() -> float:
    """Peak memory of this process on its device, in MiB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextlib.contextmanager
def writing(directory: Path) -> Iterator[None]:
    """Raises InfrastructureError if the disk fails, for any writer's own kind of error."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch.save's file
            raise
        cause = " ".join(str(error).split())[:200]
        what = remedy(error) if isinstance(error, OSError) else _remedy(cause)
        raise InfrastructureError(
            f"cannot write the training into {directory} ({cause}); {what}, then run the same command"
        ) from error


def _remedy(cause: str) -> str:
    """The cause in an error of a writer that quotes the system's error, or only says that the file is too short."""
    number = re.search(r"\(os error (\d+)\)", cause)
    return remedy(OSError(int(number[1]), cause)) if number else "check whether the disk is full"


@contextlib.contextmanager
def _together(world: int) -> Iterator[None]:
    """Raises InfrastructureError if another process of this training has ended."""
    import torch.distributed as distributed

    try:
        yield
    except RuntimeError as error:
        if world == 1 or not (isinstance(error, distributed.DistError) or "gloo" in str(error)):
            raise
        raise InfrastructureError(
            f"another of the {world} processes of this training ended ({' '.join(str(error).split())[:120]}); see its "
            "message, then run the same command, which continues from the last checkpoint"
        ) from error


def _check_sharding(trainer: Trainer) -> None:
    """Raises ProblemError if FSDP is requested but accelerate cannot do it, or does it as version 1."""
    if not sharded():
        return
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None)
    if plugin is None:
        raise ProblemError(
            "accelerate shards a model (FSDP) only over several processes with GPUs, which are missing "
            "here; start with "
            "`accelerate launch` or torchrun on GPUs, or without ACCELERATE_USE_FSDP"
        )
    if plugin.fsdp_version != 2:
        raise ProblemError(
            f"fsdp_version must be 2, got {plugin.fsdp_version}; change accelerate's file, or set FSDP_VERSION=2"
        )


def last_checkpoint(checkpoints: Path) -> str | None:
    """The last complete checkpoint, or None. A checkpoint of a killed writer lacks the file that is written last."""
    whole = [int(path.parent.name.rpartition("-")[2]) for path in checkpoints.glob("checkpoint-*/trainer_state.json")]
    return str(checkpoints / f"checkpoint-{max(whole)}") if whole else None


class Weighted(NamedTuple):
    """An example with its share of the step's loss; 0 for one that only fills a batch."""

    example: Any
    weight: float


class _Order(torch.utils.data.Dataset[Weighted]):
    """Every example of every epoch in the order read, so a resumed run only skips what it has read.

    Epochs follow each other without a gap; only the last step may hold fewer examples than the others.
    """

    def __init__(
        self,
        examples: Sequence[Any],
        settings: FitSettings,
        world: int,
        length: Callable[[Any], int] | None,
        weight: Callable[[Any], float],
    ) -> None:
        count, size = math.ceil(settings.epochs * len(examples)), settings.batch_size
        order: list[int] = []
        for epoch in range(math.ceil(settings.epochs)):
            indices = list(range(len(examples)))
            random.Random(f"{settings.seed}/{epoch}").shuffle(indices)  # noqa: S311
            order += indices
        weights = [weight(example) for example in examples]
        mean = sum(weights) / len(weights)
        self._items: list[Weighted] = []
        for start in range(0, count, size):
            step = order[start : min(start + size, count)]
            if length is not None:
                step.sort(key=lambda i: length(examples[i]))
            self._items += [Weighted(examples[i], weights[i] / mean / len(step)) for i in step]
        missing = -count % (settings.micro_batch * world)
        self._items += [Weighted(self._items[-1].example, 0.0)] * missing

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, number: int) -> Weighted:
        return self._items[number]


def _weighted(collate: Callable[[list[Any]], dict[str, Any]], items: Sequence[Weighted]) -> dict[str, Any]:
    return {**collate([item.example for item in items]), "weights": torch.tensor([item.weight for item in items])}


class _Trainer(Trainer):
    """Trainer that reads examples in the order given, each with its weight."""

    def __init__(self, *, loss: Loss, world: int, rates: Rates, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._loss, self._world, self._rates = loss, world, rates
        self.model_accepts_loss_kwargs = False  # Trainer then divides by the micro-batches of a step
        self.tokens = 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        return torch.utils.data.SequentialSampler(dataset)

    def create_optimizer(self, model: Any = None) -> Any:
        optimizer = super().create_optimizer(model)
        for end, share in self._rates.items():
            named = self.model.named_parameters() if self.model is not None else ()
            own = {id(p) for name, p in named if name.endswith(end)}
            for group in list(optimizer.param_groups):
                apart = [p for p in group["params"] if id(p) in own]
                if apart:
                    group["params"] = [p for p in group["params"] if id(p) not in own]
                    optimizer.add_param_group({**group, "params": apart, "lr": share * group["lr"]})
        return optimizer

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        del num_items_in_batch
        weights = inputs.pop("weights")
        self.tokens += int(inputs["attention_mask"].sum())
        # Undoes Trainer's mean over micro-batches and the mean over processes: the weights are the mean.
        loss = (weights * self._loss(model, inputs)).sum() * self.current_gradient_accumulation_steps * self._world
        return (loss, None) if return_outputs else loss


class _Progress(TrainerCallback):
    """Prints a training's progress: a line now and then, with the quality from `report`."""

    def __init__(self, console: Console, report: Report | None) -> None:
        self._console, self._report = console, report
        self._started = self._last_line = time.monotonic()
        self._first = 0
        self._words = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        del args, control, kwargs
        self._started = self._last_line = time.monotonic()
        self._first = state.global_step

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        del control, kwargs
        last = state.global_step >= state.max_steps
        if logs and not math.isfinite(logs.get("loss", 0.0)):
            raise _diverged(f"the loss of step {state.global_step}", logs["loss"], args.learning_rate)
        if not state.is_world_process_zero or not logs or "loss" not in logs:
            return
        if last or time.monotonic() - self._last_line >= BETWEEN_LINES_S:
            elapsed, done = time.monotonic() - self._started, state.global_step - self._first
            left = duration(elapsed / max(1, done) * (state.max_steps - state.global_step))
            self._console.print(
                f"step {state.global_step}/{state.max_steps} · loss {logs['loss']:.4f}{self._words}"
                f" · {left} left · {duration(elapsed)}",
                markup=False,
                soft_wrap=True,
            )
            self._last_line = time.monotonic()

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        del args, control, kwargs
        # Each process has a shard of a sharded model, so all must read.
        reads = state.is_world_process_zero or sharded()
        if self._report is not None and reads and state.global_step < state.max_steps:
            self._words = f" · {self._report(model)}"


def _diverged(what: str, value: float, rate: float) -> ProblemError:
    return ProblemError(
        f"{what} is {value}: the training has diverged at a learning rate of {rate:g}; take a lower one, and another "
        "directory"
    )


def _with_lora(model: Any, settings: FitSettings, layers: list[int], task: str) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ProblemError(f"LoRA needs {error.name}: pip install 'mucode-agent[train]'") from error
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    targets = [name for name in BLOCKS if name in names] or "all-linear"
    config = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=2 * settings.lora_rank,
        target_modules=targets,
        layers_to_transform=layers if settings.last_layers else None,
        modules_to_save=["score"] if task == "SEQ_CLS" else None,
        task_type=task,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it asks transformers by a name that is about to change
        return get_peft_model(model, config)


def _mixed(device: str) -> bool:
    """Whether matrices are multiplied in bfloat16 while trained weights stay in float32."""
    from mucode_agent.models.checkpoints import best_dtype

    return best_dtype(device) == "bfloat16"


def world_size() -> int:
    with contextlib.suppress(ValueError):
        return max(1, int(os.environ.get("WORLD_SIZE", "1")))
    return 1
