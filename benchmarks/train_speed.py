"""Peak memory and tokens per second of our fine-tuning beside plain scripts with the same settings.

Generator: `train_generator` against transformers.Trainer fed with padded rows whose prompt labels are -100, which is
what a script of twenty lines does. Verifier: `train_verifier`'s fit against a torch loop over the same groups, and
against a loop that reads every pair's two programs again, as preference trainers do. Same base, data, batch, rate, LoRA
and dtype; two epochs. Every training is a process of its own, so that its peak is its own; the variants take turns, so
that other load on the machine meets all. Tokens are those of the data without padding; of `pairs`, those of the groups,
so that its rate is comparable. Data: HumanEval's problems with their references, and made-up failing attempts.

    python benchmarks/train_speed.py CHECKPOINT [--rows 16] [--runs 3] [--lora-rank 8] [--micro-batch 2]
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VARIANTS = {"generator": ("ours", "Trainer"), "verifier": ("ours", "loop", "pairs")}
BATCH, RATE, EPOCHS = 8, 1e-4, 2


def rows(count: int) -> list[Any]:
    """Each problem with nothing before it, and after one failing attempt."""
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.prompts import task
    from mucode_agent.training.relabel import Message, Row, answer_text

    made = []
    for problem in load_benchmark("humaneval").problems[: (count + 1) // 2]:
        asked = Message(role="user", content=task(problem.public()))
        failed = Message(role="assistant", content=f"```python\n{problem.reference}\n```")
        feedback = Message(role="user", content="Feedback:\n1 of 3 tests passed.\n\nCorrect the code.")
        for messages in ((asked,), (asked, failed, feedback)):
            answer = answer_text(problem.reference or "pass")
            made.append(Row(problem_id=problem.id, messages=messages, answer=answer, correct=True))
    return made[:count]


def groups(count: int, tokenizer: Any) -> list[Any]:
    """Four right and four wrong programs of each problem, as tokens."""
    from mucode_agent.evaluation.benchmarks import load_benchmark
    from mucode_agent.training.verifier import Encoded
    from mucode_agent.verifiers.text import verifier_text

    made = []
    for problem in load_benchmark("humaneval").problems[:count]:
        codes = [f"{problem.reference}\n{'x' * i} = {i}" for i in range(1, 9)]
        ids = tuple(tuple(tokenizer(verifier_text(problem.public(), code))["input_ids"]) for code in codes)
        made.append(Encoded(ids=ids, labels=(True, False) * 4, starts=(0.0,) * 8))
    return made


def adapted(model: Any, rank: int, task: str) -> Any:
    from mucode_agent.training.fit import trainable
    from mucode_agent.training.settings import FitSettings

    return trainable(model, FitSettings(lora_rank=rank), task=task)  # type: ignore[arg-type]


def generator_ours(base: str, count: int, rank: int, micro: int, out: Path) -> tuple[int, float]:
    from mucode_agent.training.generator import train_generator
    from mucode_agent.training.settings import GeneratorSettings

    how = GeneratorSettings(
        batch_size=BATCH, micro_batch=micro, learning_rate=RATE, epochs=EPOCHS, lora_rank=rank, save_steps=1000
    )
    fitted = train_generator(rows(count), base=base, out=out, settings=how).fitted
    assert fitted is not None
    return fitted.tokens, fitted.seconds


def generator_trainer(base: str, count: int, rank: int, micro: int, out: Path) -> tuple[int, float]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, DataCollatorForSeq2Seq, Trainer, TrainingArguments

    from mucode_agent.models.checkpoints import best_dtype

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype="auto" if rank else torch.float32)
    model = adapted(model, rank, "CAUSAL_LM")
    data = []
    for row in rows(count):
        messages = [message.model_dump() for message in row.messages]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        whole = [*messages, {"role": "assistant", "content": row.answer}]
        ids = tokenizer.apply_chat_template(whole, return_dict=True)["input_ids"]
        labels = [-100] * len(prompt) + ids[len(prompt) :]
        data.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    arguments = TrainingArguments(
        output_dir=str(out), num_train_epochs=EPOCHS, learning_rate=RATE, per_device_train_batch_size=micro,
        gradient_accumulation_steps=BATCH // micro, bf16=best_dtype("cpu") == "bfloat16", use_cpu=True, report_to=[],
        save_steps=1000, logging_steps=1, disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, train_dataset=data, data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True)
    )
    started = time.monotonic()
    trainer.train()
    return EPOCHS * sum(len(row["input_ids"]) for row in data), time.monotonic() - started


def verifier(base: str, count: int, rank: int, out: Path, variant: str) -> tuple[int, float]:
    import torch
    from torch.nn.functional import logsigmoid
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from mucode_agent.training.fit import fit
    from mucode_agent.training.settings import FitSettings
    from mucode_agent.training.verifier import Encoded, collated, group_losses

    tokenizer = AutoTokenizer.from_pretrained(base)
    dtype = torch.bfloat16 if rank else torch.float32
    model: Any = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=dtype)
    model.config.pad_token_id = tokenizer.pad_token_id
    model = adapted(model, rank, "SEQ_CLS")
    data = groups(max(2, count // 4), tokenizer)
    total = EPOCHS * sum(len(ids) for group in data for ids in group.ids)
    size = min(4, len(data))

    def loss(net: Any, batch: Any) -> Any:
        logits = net(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.squeeze(-1).float()
        return group_losses(logits, batch["groups"], "bt")

    def collate(items: Any) -> Any:
        return collated(items, tokenizer.pad_token_id)

    started = time.monotonic()
    if variant == "ours":
        how = FitSettings(batch_size=size, micro_batch=1, learning_rate=RATE, epochs=EPOCHS, save_steps=1000)
        return total, fit(model, data, collate=collate, loss=loss, directory=out, settings=how).seconds
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    model.train()
    for _ in range(EPOCHS):
        for start in range(0, len(data), size):
            step = data[start : start + size]
            for group in step:
                with torch.autocast("cpu", torch.bfloat16):
                    if variant == "loop":
                        value = loss(model, collate([group])).mean() / len(step)
                        value.backward()
                        continue
                    right = [ids for ids, y in zip(group.ids, group.labels, strict=True) if y]
                    wrong = [ids for ids, y in zip(group.ids, group.labels, strict=True) if not y]
                    for a in right:
                        for b in wrong:
                            batch = collate([Encoded(ids=(a, b), labels=(True, False), starts=(0.0, 0.0))])
                            logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
                            pair = logits.squeeze(-1).float()
                            share: Any = -logsigmoid(pair[0] - pair[1]) / (len(right) * len(wrong) * len(step))
                            share.backward()
            optimizer.step()
            optimizer.zero_grad()
    return total, time.monotonic() - started


def worker(what: str, variant: str, base: str, count: int, rank: int, micro: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "out"
        if what == "verifier":
            tokens, seconds = verifier(base, count, rank, out, variant)
        else:
            train = generator_ours if variant == "ours" else generator_trainer
            tokens, seconds = train(base, count, rank, micro, out)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    facts = {
        "tokens": tokens,
        "wall": seconds,
        "cpu": usage.ru_utime + usage.ru_stime,
        "peak": usage.ru_maxrss / 1024,
    }
    print(json.dumps(facts))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):9.1f} ({min(values):.1f}-{max(values):.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lora-rank", type=int, default=8)
    parser.add_argument("--micro-batch", type=int, default=2, help="rows of one forward pass")
    parser.add_argument("--only", choices=sorted(VARIANTS))
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        what, variant = options.worker
        worker(what, variant, options.checkpoint, options.rows, options.lora_rank, options.micro_batch)
        return
    sizes = ["--rows", str(options.rows), "--lora-rank", str(options.lora_rank)]
    sizes += ["--micro-batch", str(options.micro_batch)]
    for what in [options.only] if options.only else VARIANTS:
        found: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS[what]}
        for _ in range(options.runs):
            for variant, runs in found.items():
                command = [sys.executable, __file__, options.checkpoint, *sizes, "--worker", what, variant]
                output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
                runs.append(json.loads(output.splitlines()[-1]))
        print(f"{what}: median (range) of {options.runs} runs, {int(found['ours'][0]['tokens'])} tokens")
        middle = {}
        for variant, runs in found.items():
            wall = [run["tokens"] / run["wall"] for run in runs]
            cpu, peak = [run["cpu"] for run in runs], [run["peak"] for run in runs]
            middle[variant] = [statistics.median(values) for values in (wall, cpu, peak)]
            print(f"  {variant:8} tokens/s {spread(wall)}  CPU s {spread(cpu)}  peak MiB {spread(peak)}")
        for variant in VARIANTS[what][1:]:
            (a, b, c), (x, y, z) = middle["ours"], middle[variant]
            print(f"  ours / {variant}: tokens/s {a / x:.2f}, CPU {b / y:.2f}, peak {c / z:.2f}")


if __name__ == "__main__":
    main()
