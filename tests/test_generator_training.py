"""A generator's training: which tokens are learned, that every row counts alike, and what is left on the disk."""

import math
import resource
import shutil
import warnings

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from tiny import END, PAD, TEMPLATE, save_tiny
from training_worker import rows
from transformers import AutoModelForCausalLM, AutoTokenizer

from mucode_agent.models.checkpoints import load_engine
from mucode_agent.models.decoding import Completion, Decoding
from mucode_agent.training.encoding import EncodedRow, answer_losses, collated, encode_row
from mucode_agent.training.fit import begin, fit, hold_training, last_checkpoint
from mucode_agent.training.generator import (
    ADAPTER,
    CARD,
    GeneratorSettings,
    encoded,
    read_generator_card,
    train_generator,
)
from mucode_agent.training.relabel import Message, Row
from mucode_agent.training.settings import FitSettings
from mucode_agent.types import InfrastructureError, ProblemError


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def tokenizer(base):
    return AutoTokenizer.from_pretrained(base)


def row(answer="```python\nx = 1\n```", *contents):
    contents = contents or ("Write f.",)
    roles = ["user", "assistant"] * len(contents)
    messages = [Message(role=role, content=text) for role, text in zip(roles, contents, strict=False)]
    return Row(problem_id="P", messages=tuple(messages), answer=answer, correct=True)


def settings(**changes):
    given = {"batch_size": 4, "micro_batch": 2, "learning_rate": 1e-2, "epochs": 1.5, "float32": True}
    return GeneratorSettings(**given | changes)


# --- which tokens --------------------------------------------------------------------------------------------------


def test_the_prompt_is_what_inference_encodes_and_the_target_the_answer_with_its_end(base, tokenizer):
    for each in (row(), row("é ```", "Write f.", "no", "Feedback:\nwrong é")):
        found = encode_row(each, tokenizer, {END})
        messages = [message.model_dump() for message in each.messages]
        assert list(found.prompt) == load_engine(str(base)).encode(messages)[0].tolist()
        assert found.target[:-1] == tuple(tokenizer.encode(each.answer))
        assert found.target[-1] == END  # and not the line end that the template writes after it


def test_a_batch_holds_every_token_in_its_place():
    batch = collated([EncodedRow((1, 2, 3), (7, 9)), EncodedRow((4,), (5, 6, 9))], PAD)
    assert batch["input_ids"].tolist() == [[1, 2, 3, 7, 9, PAD], [PAD, PAD, 4, 5, 6, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0], [0, 0, 1, 1, 1, 1]]
    assert batch["position_ids"].tolist()[1] == [0, 0, 0, 1, 2, 3]
    assert batch["targets"].tolist() == [[7, 9, -100], [5, 6, 9]]


def test_a_rows_loss_is_the_mean_over_its_answers_tokens_whatever_stands_beside_it(base, tokenizer):
    model = AutoModelForCausalLM.from_pretrained(base)
    encoded_rows = [encode_row(each, tokenizer, {END}) for each in rows(5)]
    together = answer_losses(model, collated(encoded_rows, PAD))
    for found, example in zip(together.tolist(), encoded_rows, strict=True):
        ids = torch.tensor([[*example.prompt, *example.target]])
        logprobs = model(ids).logits.log_softmax(-1)[0]
        start = len(example.prompt)
        expected = [-logprobs[start + i - 1, token].item() for i, token in enumerate(example.target)]
        assert found == pytest.approx(sum(expected) / len(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        (TEMPLATE.replace("{% for", "{{ messages | length }}{% for", 1), "does not continue its own prompt: token 0"),
        (TEMPLATE.replace("m.content", "m.content | upper"), "changes the answer"),
        (TEMPLATE.replace("<assistant>{% endif", "<other>{% endif"), "does not continue its own prompt"),
    ],
)
def test_a_template_that_cannot_be_trained_on_ends_in_one_sentence(tmp_path, template, words):
    tokenizer = AutoTokenizer.from_pretrained(save_tiny(tmp_path / "base", template=template))
    with pytest.raises(ProblemError, match=words) as caught:
        encode_row(row(), tokenizer, {END})
    assert "\n" not in str(caught.value)


def test_a_template_without_an_end_gets_the_token_that_generation_stops_at(tmp_path):
    plain = TEMPLATE.replace("<end>\n", "")
    tokenizer = AutoTokenizer.from_pretrained(save_tiny(tmp_path / "base", template=plain))
    assert encode_row(row("abc"), tokenizer, {END}).target == (*tokenizer.encode("abc"), END)


def test_what_a_template_puts_before_an_answer_is_learned_with_it(tmp_path):
    """As Qwen3's, which writes an empty thought before the last answer."""
    thinking = TEMPLATE.replace(
        "{{ m.content }}", "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content }}"
    )
    tokenizer = AutoTokenizer.from_pretrained(save_tiny(tmp_path / "base", template=thinking))
    assert tokenizer.decode(encode_row(row("abc"), tokenizer, {END}).target) == "<think></think>abc<end>"


def test_rows_that_are_too_long_are_left_out_and_counted(base, tokenizer, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(base)
    given = [row("short"), row("long" * 300), row("x" * 5000)]
    assert len(encoded(given, tokenizer, model, settings(max_tokens=1000))) == 1
    assert len(encoded(given, tokenizer, model, settings(max_tokens=100_000))) == 2  # the context is 4096
    trained = train_generator(given, base=str(base), out=tmp_path / "out", settings=settings(max_tokens=1000))
    assert (trained.card.rows, trained.card.left_out) == (1, 2)
    with pytest.raises(ProblemError, match="each of the 3 rows has more than 16 tokens; raise max_tokens"):
        encoded(given, tokenizer, model, settings(max_tokens=16))
    with pytest.raises(ProblemError, match="no row to learn from"):
        encoded([], tokenizer, model, settings())


# --- the training --------------------------------------------------------------------------------------------------


def test_what_was_learned_is_answered_and_the_answer_ends(base, tmp_path):
    encoded_rows = [row("ab", "One"), row("cd", "Two")]
    how = settings(epochs=150, batch_size=2, learning_rate=3e-2)
    trained = train_generator(encoded_rows, base=str(base), out=tmp_path / "out", settings=how)
    assert trained.card.loss < 0.2
    engine = load_engine(str(tmp_path / "out"))
    for each in encoded_rows:
        answer = Completion(0)
        prompt = engine.encode([message.model_dump() for message in each.messages])
        for _ in engine.draw(prompt, [answer], Decoding(temperature=0, top_p=1, max_tokens=8)):
            pass
        assert (answer.text, answer.finish_reason) == (each.answer, "stop")


def test_micro_batches_change_nothing_and_the_last_step_may_be_smaller(base, tmp_path):
    """11 rows of 4 a step, 1.5 epochs: the last step has one row, and rows cross from one epoch into the next."""
    losses, even = {}, [row.model_copy(update={"weight": 1.0}) for row in rows(11)]
    for micro in (1, 2, 4):
        how = settings(micro_batch=micro)
        trained = train_generator(even, base=str(base), out=tmp_path / str(micro), settings=how)
        assert trained.card.steps == 5
        losses[micro] = trained.fitted.losses
    assert losses[1] == pytest.approx(losses[2], rel=1e-4)
    assert losses[1] == pytest.approx(losses[4], rel=1e-4)
    assert losses[1][-1] < losses[1][0]


def test_every_example_weighs_alike_and_is_read_once_an_epoch(tmp_path):
    """Plain gradient descent by hand on a model with one weight."""
    seen = []

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1))
            self.device = torch.device("cpu")

        def forward(self, x):
            return self.w * x

    def loss(net, batch):
        seen.append([float(x) for x in batch["x"]])
        return net(batch["x"])

    def collate(items):
        return {"x": torch.tensor(items), "attention_mask": torch.ones(len(items), 1)}

    how = FitSettings(batch_size=4, micro_batch=2, epochs=1, learning_rate=1e-3)
    examples = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    fitted = fit(Model(), examples, collate=collate, loss=loss, directory=tmp_path, settings=how)
    flat = [x for batch in seen for x in batch]
    assert sorted(flat[:7]) == examples
    assert flat[7:] == flat[6:7]  # fills the batch, with weight 0
    assert fitted.steps == 2


def test_a_weight_of_two_counts_like_two_examples(base, tmp_path):
    encoded_rows = [*rows(3), rows(3)[0]]
    weighted = [encoded_rows[0].model_copy(update={"weight": 2.0}), *encoded_rows[1:3]]
    first = {}
    for name, given in (("twice", encoded_rows), ("weighted", weighted)):
        trained = train_generator(given, base=str(base), out=tmp_path / name, settings=settings(epochs=1))
        first[name] = trained.fitted.losses[0]
    assert first["twice"] == pytest.approx(first["weighted"], rel=1e-4)


def test_lora_leaves_a_plain_checkpoint_and_its_adapter(base, tmp_path):
    from peft import PeftModel

    out = tmp_path / "out"
    train_generator(rows(8), base=str(base), out=out, settings=settings(lora_rank=4, learning_rate=3e-2))
    plain, original = AutoModelForCausalLM.from_pretrained(out), AutoModelForCausalLM.from_pretrained(base)
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # peft's use of transformers
        adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), out / ADAPTER)
    ids = torch.arange(60).unsqueeze(0)
    assert torch.allclose(plain(ids).logits, adapted(ids).logits, atol=1e-4)
    assert not torch.allclose(plain(ids).logits, original(ids).logits, atol=1e-2)
    assert plain.config.dtype == original.config.dtype
    assert not (out / "checkpoints").exists()
    assert "adapter" in (out / "README.md").read_text()


def test_a_finished_directory_is_not_trained_again_and_another_training_not_mixed_in(base, tmp_path):
    out = tmp_path / "out"
    train_generator(rows(6), base=str(base), out=out, settings=settings())
    before = (out / "model.safetensors").stat().st_mtime_ns
    again = train_generator(rows(6), base=str(base), out=out, settings=settings())
    assert again.fitted is None
    assert (out / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ProblemError, match="data_sha256 was"):
        train_generator(rows(5), base=str(base), out=out, settings=settings())
    with pytest.raises(ProblemError, match=r"learning_rate was 0\.01, now 0\.02"):
        train_generator(rows(6), base=str(base), out=out, settings=settings(learning_rate=2e-2))


@pytest.mark.parametrize("text", ["", "[]", '{"card_version": 1}', "\x00"])
def test_a_damaged_directory_is_named(tmp_path, text):
    (tmp_path / CARD).write_text(text)
    with pytest.raises(ProblemError, match=r"mucode_generator\.json is no generator card"):
        read_generator_card(tmp_path)
    (tmp_path / "training.json").write_text(text)
    with pytest.raises(ProblemError, match=r"training\.json is damaged|holds another training"):
        begin(tmp_path, {"kind": "generator"})


def test_a_checkpoint_whose_writer_was_killed_is_passed_over(tmp_path):
    for step, whole in ((5, True), (10, True), (15, False)):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "model.safetensors").touch()
        if whole:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    assert last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
    assert last_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("kilobytes", [1, 16, 60])
def test_a_full_disk_ends_in_one_sentence_and_the_training_goes_on_from_there(base, tmp_path, kilobytes):
    """The checkpoint's files are of unlike size, and each writer has an error of its own."""
    out, how = tmp_path / "out", settings(save_steps=1, epochs=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (kilobytes * 1024, hard))
    try:
        with pytest.raises(
            InfrastructureError, match=r"(free room|check whether the disk is full), then run the same"
        ) as caught:
            train_generator(rows(8), base=str(base), out=out, settings=how)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    trained = train_generator(rows(8), base=str(base), out=out, settings=how)
    whole = train_generator(rows(8), base=str(base), out=tmp_path / "whole", settings=how)
    assert trained.fitted.losses == whole.fitted.losses


# --- what ends a training ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "rate"), [(1, 1e39), (8, 1e30)])
def test_a_training_that_diverges_ends_in_one_sentence_and_leaves_no_generator(base, tmp_path, steps, rate):
    encoded_rows, asked = [row()] * (4 * steps), settings(learning_rate=rate, epochs=1)
    with pytest.raises(ProblemError, match=r"has diverged at a learning rate of 1e\+3[09]; take a lower one"):
        train_generator(encoded_rows, base=str(base), out=tmp_path / "g", settings=asked)
    assert not (tmp_path / "g" / CARD).exists()
    assert not list((tmp_path / "g").glob("*.safetensors"))


def test_other_weights_under_the_same_path_are_another_training(base, tmp_path):
    moving = shutil.copytree(base, tmp_path / "base")
    train_generator([row()], base=str(moving), out=tmp_path / "g", settings=settings())
    weights = load_file(moving / "model.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, moving / "model.safetensors", {"format": "pt"})
    with pytest.raises(ProblemError, match="holds another training: base_sha256 was"):
        train_generator([row()], base=str(moving), out=tmp_path / "g", settings=settings())


def test_data_that_teach_nothing_leave_no_directory(base, tmp_path):
    for rows_, words in (([], "no problem is solved"), ([row("x" * 4000)], "raise max_tokens")):
        with pytest.raises(ProblemError, match=words):
            train_generator(rows_, base=str(base), out=tmp_path / "g", settings=settings(max_tokens=64))
        assert not (tmp_path / "g").exists()


def test_two_trainings_in_one_directory_are_refused(tmp_path):
    begin(tmp_path / "t", {"kind": "test"})
    with (
        hold_training(tmp_path / "t"),
        pytest.raises(ProblemError, match="in use by another training"),
        hold_training(tmp_path / "t"),
    ):
        raise AssertionError


@pytest.mark.parametrize(
    "changes", [{"seed": -1}, {"seed": 1 << 32}, {"epochs": math.inf}, {"learning_rate": math.nan}]
)
def test_settings_out_of_range_are_refused(changes):
    with pytest.raises(ValidationError):
        settings(**changes)
