"""Model strings, n samples of any model, and the chat model that runs in this process, on a tiny random checkpoint."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypedDict

import pytest
import torch
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForLLMRun, UsageMetadataCallbackHandler
from langchain_core.globals import set_llm_cache
from langchain_core.language_models import BaseChatModel, FakeListChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import ConfigurableField, RunnableConfig, RunnableLambda
from langchain_openai import ChatOpenAI
from langchain_tests.unit_tests import ChatModelUnitTests
from langgraph.errors import GraphBubbleUp
from langgraph.graph import END, START, StateGraph
from pydantic import Field
from waiting import auntil

from mucode_agent.models import int8
from mucode_agent.models.chat import TransformersChatModel
from mucode_agent.models.decoding import LIKELIEST, Completion, Decoding, choose
from mucode_agent.models.int8 import Int8Linear
from mucode_agent.models.load import load_model
from mucode_agent.models.sampling import asample, sample
from mucode_agent.types import ContextOverflowError, InfrastructureError, ProblemError, Sample
from tests.fakes import ScriptedModel

PROMPT = [HumanMessage("Write f.")]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


# --- the model in this process -------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer Llama over bytes with 256 tokens of context; half of what it draws is not even UTF-8."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    directory = tmp_path_factory.mktemp("tiny")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", chat_template=TEMPLATE)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=256, bos_token_id=None, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture
def tiny(checkpoint: Path) -> TransformersChatModel:
    return TransformersChatModel(model=str(checkpoint), max_tokens=40, dtype="float32", device="cpu")


class TestTransformersChatModelKeepsLangChainsContract(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return TransformersChatModel

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "some/checkpoint"}


def test_the_same_seed_draws_the_same_completion_whatever_is_drawn_beside_it(tiny: TransformersChatModel) -> None:
    together = sample(tiny, PROMPT, n=5, seed=11)
    alone = [sample(tiny, PROMPT, n=1, seed=11 + i)[0] for i in range(5)]
    assert [s.text for s in together] == [s.text for s in alone]
    assert len({s.text for s in together}) == 5
    assert [s.seed for s in together] == [11, 12, 13, 14, 15]


def test_sync_async_and_repeated_draws_are_equal(tiny: TransformersChatModel) -> None:
    first = sample(tiny, PROMPT, n=3, seed=1)
    assert sample(tiny, PROMPT, n=3, seed=1) == first
    assert asyncio.run(asample(tiny, PROMPT, n=3, seed=1)) == first


def test_temperature_zero_is_the_greedy_completion_n_times(tiny: TransformersChatModel) -> None:
    samples = sample(tiny, PROMPT, n=3, seed=5, temperature=0)
    prompt = tiny.engine.encode([{"role": "user", "content": "Write f."}])
    greedy = tiny.engine.model.generate(prompt, do_sample=False, max_new_tokens=40)[0, prompt.shape[1] :]
    assert {s.text for s in samples} == {tiny.engine.tokenizer.decode(greedy, skip_special_tokens=True)}
    assert len(samples) == 3


def test_counts_are_of_each_completion_and_of_the_prompt_once(tiny: TransformersChatModel) -> None:
    samples = sample(tiny, PROMPT, n=4, seed=2)
    assert [s.prompt_tokens for s in samples] == [len("<user>Write f.<assistant>"), 0, 0, 0]
    assert all(0 < s.completion_tokens <= 40 for s in samples)
    assert all((s.completion_tokens == 40) == (s.finish_reason == "length") for s in samples)


def test_the_logprob_is_the_models_own_of_the_whole_completion(tiny: TransformersChatModel) -> None:
    engine = tiny.engine
    prompt = engine.encode([{"role": "user", "content": "Write f."}])
    rows = [Completion(3), Completion(4)]
    for _ in engine.draw(prompt, rows, Decoding(temperature=0.5, top_p=0.8, max_tokens=20)):
        pass
    for row in rows:
        whole = torch.cat([prompt, torch.tensor([row.ids])], dim=1)
        with torch.inference_mode():
            logits = engine.model(whole).logits.log_softmax(-1)[0, prompt.shape[1] - 1 : -1]
        expected = logits.gather(1, torch.tensor(row.ids).unsqueeze(1)).sum().item()
        assert sum(row.logprobs) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("stop", [None, ["a"], ["\u00e9", "zz", "qx"]])
def test_a_stream_gives_the_text_of_the_whole_answer(tiny: TransformersChatModel, stop: list[str] | None) -> None:
    for seed in range(3):
        whole = tiny.invoke(PROMPT, seed=seed, stop=stop)
        chunks = list(tiny.stream(PROMPT, seed=seed, stop=stop))
        assert "".join(str(chunk.text) for chunk in chunks) == whole.text
        assert whole.usage_metadata in [chunk.usage_metadata for chunk in chunks]


@pytest.mark.parametrize("option", [{"temperature": -0.1}, {"temperature": float("nan")}, {"max_tokens": 0}])
def test_options_of_one_call_are_checked_too(tiny: TransformersChatModel, option: dict[str, Any]) -> None:
    with pytest.raises(ProblemError, match=r"must be at least .*, got"):
        sample(tiny, PROMPT, n=1, seed=0, **option)


def test_a_temperature_close_to_zero_is_zero(tiny: TransformersChatModel) -> None:
    cold, zero = (sample(tiny, PROMPT, n=1, seed=0, temperature=t)[0].text for t in (1e-40, 0))
    assert cold == zero


def test_weights_that_are_not_numbers_are_a_failure_of_the_model(checkpoint: Path) -> None:
    model = TransformersChatModel(model=str(checkpoint), dtype="float64", device="cpu")
    model.engine.model.lm_head.weight.data[5] = float("nan")
    with pytest.raises(InfrastructureError, match="no finite numbers"):
        sample(model, PROMPT, n=2, seed=0)


def test_a_stop_word_ends_the_text_and_is_not_in_it(tiny: TransformersChatModel) -> None:
    free = tiny.invoke(PROMPT, seed=0).text
    word = free[5:7]
    stopped = sample(tiny.bind(stop=[word]), PROMPT, n=1, seed=0)[0]
    assert stopped.text == free[: free.index(word)]
    assert stopped.finish_reason == "stop"


def test_a_prompt_longer_than_the_context_is_refused_not_cut(tiny: TransformersChatModel) -> None:
    with pytest.raises(ProblemError, match=r"the prompt has 317 tokens and .* reads at most 256"):
        sample(tiny, [HumanMessage("x" * 300)], n=1, seed=0)


def test_a_completion_ends_with_the_context(tiny: TransformersChatModel) -> None:
    [one] = sample(tiny.bind(stop=[]), [HumanMessage("x" * 230)], n=1, seed=3, max_tokens=1000)
    assert one.prompt_tokens + one.completion_tokens <= 256


def test_messages_that_are_not_text_are_refused(tiny: TransformersChatModel) -> None:
    image = HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}])
    for message in (ToolMessage("4", tool_call_id="1"), image):
        with pytest.raises(ProblemError, match="not plain text"):
            sample(tiny, [message], n=1, seed=0)


def test_text_blocks_and_system_messages_are_read(tiny: TransformersChatModel) -> None:
    blocks = sample(tiny, [SystemMessage("s"), HumanMessage([{"type": "text", "text": "Write f."}])], n=1, seed=0)
    assert blocks[0].prompt_tokens == len("<system>s<user>Write f.<assistant>")


def test_threads_share_one_model(tiny: TransformersChatModel) -> None:
    expected = [sample(tiny, PROMPT, n=2, seed=seed) for seed in range(4)]
    drawn: dict[int, Any] = {}
    threads = [
        threading.Thread(target=lambda seed=seed: drawn.update({seed: sample(tiny, PROMPT, n=2, seed=seed)}))
        for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [drawn[seed] for seed in range(4)] == expected


def test_a_model_may_be_asked_while_it_streams(tiny: TransformersChatModel) -> None:
    stream = tiny.stream(PROMPT, seed=0)
    next(stream)
    assert tiny.invoke(PROMPT, seed=1).text is not None
    assert list(stream)


def test_cancelling_stops_the_drawing(tiny: TransformersChatModel) -> None:
    cancelled = threading.Event()
    cancelled.set()
    row = Completion(0)
    prompt = tiny.engine.encode([{"role": "user", "content": "Write f."}])
    list(tiny.engine.draw(prompt, [row], Decoding(1.0, 1.0, 40), cancelled=cancelled))
    assert len(row.ids) == 1


FIRST_IMPORT = """
import os, sys
class ProgressListener:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"))
            sys.meta_path.remove(self)
sys.meta_path.insert(0, ProgressListener())
from mucode_agent.models.load import load_model
from mucode_agent.models.sampling import sample
from langchain_core.messages import HumanMessage
sample(load_model("hf:" + sys.argv[1], max_tokens=1), [HumanMessage("hi")], n=1, seed=0)
"""


def test_threads_do_not_spin_from_the_first_import_of_torch(checkpoint: Path) -> None:
    command = [sys.executable, "-c", FIRST_IMPORT, str(checkpoint)]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    shown = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["PASSIVE"]


def test_equal_models_share_their_weights(checkpoint: Path, tiny: TransformersChatModel) -> None:
    other = TransformersChatModel(model=str(checkpoint), temperature=0.1, dtype="float32", device="cpu")
    assert other.engine is tiny.engine


def test_weights_load_at_the_first_call_and_a_missing_checkpoint_says_so(tmp_path: Path) -> None:
    model = load_model(f"hf:{tmp_path / 'nowhere'}")
    with pytest.raises(ProblemError, match=r"no causal language model could be loaded from .*nowhere"):
        sample(model, PROMPT, n=1, seed=0)


def test_a_hub_that_cannot_be_reached_says_so() -> None:
    with pytest.raises(ProblemError, match=r"huggingface.co cannot be reached"):
        sample(load_model("hf:somebody/some-model"), PROMPT, n=1, seed=0)


def test_a_damaged_checkpoint_says_so(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        content = file.read_bytes()
        (tmp_path / file.name).write_bytes(content[:1000] if file.suffix == ".safetensors" else content)
    with pytest.raises(ProblemError, match="no causal language model could be loaded"):
        sample(load_model(f"hf:{tmp_path}"), PROMPT, n=1, seed=0)


def test_a_checkpoint_without_a_chat_template_says_so(checkpoint: Path, tmp_path: Path) -> None:
    for file in checkpoint.iterdir():
        if file.name != "chat_template.jinja":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ProblemError, match="no chat template"):
        sample(load_model(f"hf:{tmp_path}"), PROMPT, n=1, seed=0)


# --- the choice of a token -----------------------------------------------------------------------------------------


def frequencies(logits: torch.Tensor, temperature: float, top_p: float, draws: int = 4000) -> torch.Tensor:
    streams = [torch.Generator().manual_seed(seed) for seed in range(draws)]
    tokens, _ = choose(logits.expand(draws, -1), streams, temperature, top_p)
    return torch.bincount(tokens, minlength=logits.shape[1]) / draws


def test_tokens_come_as_often_as_the_softmax_says() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    for temperature in (0.7, 1.0, 2.0):
        expected = (logits / temperature).softmax(-1)[0]
        assert torch.allclose(frequencies(logits, temperature, 1.0), expected, atol=0.03)


def test_the_nucleus_is_the_smallest_set_that_holds_the_mass() -> None:
    logits = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log()
    assert torch.allclose(frequencies(logits, 1.0, 0.6), torch.tensor([0, 4 / 7, 0, 3 / 7]), atol=0.03)
    assert torch.allclose(frequencies(logits, 1.0, 0.75), torch.tensor([0, 4 / 9, 2 / 9, 3 / 9]), atol=0.03)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_draws_beyond_the_likeliest_tokens_are_exact_too(top_p: float) -> None:
    logits = torch.zeros(1, 4 * LIKELIEST)
    logits[0, 7] = 5.0
    drawn = frequencies(logits, 1.0, top_p, draws=2000)
    assert drawn[7].item() == pytest.approx(logits.softmax(-1)[0, 7].item() / top_p, abs=0.03)
    assert (drawn > 0).sum() > LIKELIEST


# --- the embedded default ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not int8.available(), reason="int8 needs an x86 CPU")
def test_int8_layers_compute_what_the_layer_computes_whatever_lies_beside_a_row() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(896, 300)
    rows = torch.randn(7, 896)
    rows[:, 3] *= 200  # as a language model's activations have them
    rows[4] = 0
    with int8.packing():
        fast = Int8Linear(*int8.rounded_to_int8(layer.weight), layer.bias)
    whole = fast(rows)
    assert torch.allclose(whole, layer(rows), atol=0.01 * layer(rows).abs().max().item())
    assert torch.equal(whole[4], layer.bias)
    for i in range(len(rows)):
        assert torch.equal(fast(rows[i : i + 1])[0], whole[i])
    assert fast(rows.reshape(1, 7, 896)).shape == (1, 7, 300)


FIRST_RUN = "from mucode_agent.models.embedded import embedded_checkpoint as c; print(c('smollm2'))"


@pytest.mark.real
def test_two_first_runs_at_once_make_one_checkpoint(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", FIRST_RUN]
    environment = {"MUCODE_CACHE": str(tmp_path), "PATH": ""}
    runs = [subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) for _ in range(2)]
    answers = [run.communicate() for run in runs]
    assert answers[0] == answers[1]
    assert answers[0][1] == "", "a first run prints nothing on standard error"
    made = Path(answers[0][0].strip())
    assert {entry.name for entry in tmp_path.iterdir()} == {made.name, f"{made.name}.json", "smollm2.lock"}
    assert sample(load_model(f"hf:{answers[0][0].strip()}", max_tokens=4), PROMPT, n=2, seed=0)


@pytest.mark.real
def test_a_killed_first_run_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    environment = {"MUCODE_CACHE": str(tmp_path), "PATH": ""}
    run = subprocess.Popen([sys.executable, "-c", FIRST_RUN], env=environment)
    while not list(tmp_path.glob(".smollm2-*/*")):
        assert run.poll() is None
    run.kill()
    run.wait()
    subprocess.run([sys.executable, "-c", FIRST_RUN], env=environment, check=True)
    assert not list(tmp_path.glob(".smollm2-*"))


@pytest.mark.real
def test_a_gguf_file_loads_without_a_word_and_hides_nobody_elses(capsys: pytest.CaptureFixture[str]) -> None:
    from mucode_agent.models.embedded import EMBEDDED, _installed

    model = load_model(f"hf:{_installed(EMBEDDED['smollm2'])}", max_tokens=20)
    loaded, said = threading.Event(), 0

    def speak() -> None:
        nonlocal said
        while not loaded.wait(0.05):
            print("a word", file=sys.stderr)
            said += 1

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        [one] = sample(model, [HumanMessage("Say hello.")], n=1, seed=0)
    finally:
        loaded.set()
        speaker.join()
    assert one.text.strip()
    assert said > 1
    assert capsys.readouterr() == ("", "a word\n" * said)


# --- servers -------------------------------------------------------------------------------------------------------


class Server:
    """An OpenAI-compatible server on loopback: `answer` turns each request's body into a status and a reply."""

    def __init__(self, answer: Callable[[dict[str, Any]], tuple[int, Any]], owner: str = "me") -> None:
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.headers: dict[str, str] = {}
        self.models: Any = {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": owner}]}
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, server.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                server.requests.append(body)
                server.keys.append(self.headers["Authorization"])
                self.reply(*answer(body))

            def reply(self, status: int, content: Any) -> None:
                raw = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(raw)))
                self.send_header("x-should-retry", "false")
                for name, value in server.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def completion(body: dict[str, Any], n: int | None = None) -> tuple[int, Any]:
    """Choice i says its seed, in i + 1 tokens."""
    choices = []
    for i in range(body.get("n", 1) if n is None else n):
        tokens = [{"token": "t", "logprob": -0.5, "bytes": None, "top_logprobs": []}] * (i + 1)
        choices.append(
            {
                "index": i,
                "message": {"role": "assistant", "content": f"seed {body.get('seed', 0) + i}"},
                "finish_reason": "stop" if i else "length",
                "logprobs": {"content": tokens} if body.get("logprobs") else None,
            }
        )
    total = sum(i + 1 for i in range(len(choices)))
    usage = {"prompt_tokens": 10, "completion_tokens": total, "total_tokens": 10 + total}
    return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices, "usage": usage}


def refusal(status: int, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "e", "code": None, "param": None}}


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(answer: Callable[[dict[str, Any]], tuple[int, Any]] = completion, owner: str = "me") -> Server:
        servers.append(Server(answer, owner))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


Serve = Callable[..., Server]


def asked(server: Server) -> list[dict[str, Any]]:
    """The requests without those of one token, which fill a prefix cache."""
    return [request for request in server.requests if request.get("max_tokens") != 1]


def draw(model: BaseChatModel, run: str, **options: Any) -> list[Sample]:
    return sample(model, PROMPT, **options) if run == "sync" else asyncio.run(asample(model, PROMPT, **options))


@pytest.mark.parametrize("run", ["sync", "async"])
def test_vllm_draws_n_in_one_request_with_consecutive_seeds(serve: Serve, run: str) -> None:
    server = serve()
    model = load_model(f"vllm:m@{server.url}", temperature=0.4, max_tokens=99)
    samples = draw(model, run, n=3, seed=7)
    [request] = asked(server)
    assert (request["n"], request["seed"], request["temperature"], request["max_tokens"]) == (3, 7, 0.4, 99)
    assert [s.text for s in samples] == ["seed 7", "seed 8", "seed 9"]
    assert [s.completion_tokens for s in samples] == [1, 2, 3]
    assert [s.prompt_tokens for s in samples] == [10, 0, 0]
    assert [s.logprob for s in samples] == [-0.5, -1.0, -1.5]
    assert [s.finish_reason for s in samples] == ["length", "stop", "stop"]


@pytest.mark.parametrize("name", ["openai:m@", ""])
def test_an_unknown_server_is_asked_n_times_with_distinct_seeds(serve: Serve, name: str) -> None:
    server = serve()
    model = load_model(f"{name}{server.url}")
    samples = sample(model, PROMPT, n=3, seed=7)
    assert sorted(request["seed"] for request in server.requests) == [7, 8, 9]
    assert all("n" not in request and "logprobs" not in request for request in server.requests)
    assert [s.text for s in samples] == ["seed 7", "seed 8", "seed 9"]
    assert [s.prompt_tokens for s in samples] == [10, 10, 10]


def test_a_bare_url_is_asked_for_its_model_and_vllm_is_recognised(serve: Serve) -> None:
    model = load_model(serve(owner="vllm").url)
    assert (model.model_name, model.native_n) == ("m", True)  # type: ignore[attr-defined]


def test_a_url_that_serves_something_else_says_so(serve: Serve) -> None:
    server = serve()
    server.models = "<html>hello</html>"
    for spec in (server.url, f"vllm:{server.url}", f"openai:@{server.url}"):
        with pytest.raises(InfrastructureError, match="did not say which model"):
            load_model(spec)
    server.models = {"object": "list", "data": []}
    with pytest.raises(InfrastructureError, match="lists no model"):
        load_model(server.url)


def test_a_langchain_openai_client_with_its_own_url_is_asked_n_times(serve: Serve) -> None:
    server = serve()
    model = ChatOpenAI(model="m", base_url=server.url, api_key="k")
    assert [s.text for s in sample(model, PROMPT, n=2, seed=5)] == ["seed 5", "seed 6"]
    assert len(server.requests) == 2


def test_a_server_that_refuses_n_is_asked_one_at_a_time_from_then_on(serve: Serve) -> None:
    server = serve(lambda body: refusal(400, "n must be 1") if body.get("n", 1) > 1 else completion(body))
    model = load_model(f"vllm:m@{server.url}")
    for _ in range(2):
        assert [s.text for s in sample(model, PROMPT, n=2, seed=0)] == ["seed 0", "seed 1"]
    assert [request.get("n") for request in asked(server)] == [2, None, None, None, None]


def test_a_server_that_refuses_seeds_is_asked_without_from_then_on(serve: Serve) -> None:
    server = serve(lambda body: refusal(422, "unknown field: seed") if "seed" in body else completion(body))
    model = load_model(f"openai:m@{server.url}")
    for _ in range(2):
        assert [s.seed for s in sample(model, PROMPT, n=2, seed=3)] == [3, 4]
    assert ["seed" in request for request in server.requests[-2:]] == [False, False]


@pytest.mark.parametrize("run", ["sync", "async"])
def test_a_server_that_ignores_n_is_asked_for_the_rest_and_nothing_paid_for_is_lost(serve: Serve, run: str) -> None:
    server = serve(lambda body: completion(body, n=min(2, body.get("n", 1))))
    model = load_model(f"vllm:m@{server.url}")
    assert [s.text for s in draw(model, run, n=5, seed=0)] == [f"seed {i}" for i in range(5)]
    assert [request.get("n") for request in asked(server)] == [5, *[None] * 3]


SENT = ("n", "seed", "temperature", "top_p", "logprobs", "max_tokens", "max_completion_tokens")

# What servers say, from public reports: OpenAI's reasoning models, Moonshot, Mistral, Azure's Mistral, vLLM on Gaudi,
# Groq, Gemini and llama.cpp.
REFUSED: dict[str, tuple[str, int, Any]] = {
    "openai temperature": (
        "temperature",
        400,
        {
            "error": {
                "message": "Unsupported value: 'temperature' does not support 0.3 with this model. "
                "Only the default (1) value is supported.",
                "type": "invalid_request_error",
                "param": "temperature",
                "code": "unsupported_value",
            }
        },
    ),
    "moonshot temperature": (
        "temperature",
        400,
        {"message": "invalid temperature: only 1 is allowed for this model", "type": "invalid_request_error"},
    ),
    "openai max_tokens": (
        "max_tokens",
        400,
        {
            "error": {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": "unsupported_parameter",
            }
        },
    ),
    "mistral max_completion_tokens": (
        "max_completion_tokens",
        422,
        {
            "object": "error",
            "message": {
                "detail": [
                    {
                        "type": "extra_forbidden",
                        "loc": ["body", "max_completion_tokens"],
                        "msg": "Extra inputs are not permitted",
                        "input": 99,
                    }
                ]
            },
        },
    ),
    "azure seed": (
        "seed",
        422,
        {
            "detail": [
                {
                    "type": "extra_forbidden",
                    "loc": ["body", "seed"],
                    "msg": "Extra inputs are not permitted",
                    "input": 123,
                }
            ]
        },
    ),
    "unknown field seed": ("seed", 400, "unknown field: seed"),
    "gaudi logprobs": (
        "logprobs",
        400,
        {
            "error": {
                "message": "Gaudi doesn't support logprobs. Please remove 'logprobs'/'top_logprobs' from your request.",
                "type": "BadRequestError",
                "param": None,
                "code": 400,
            }
        },
    ),
    "openai logprobs": (
        "logprobs",
        403,
        {"error": {"message": "You are not allowed to request logprobs from this model.", "param": None}},
    ),
    "gemini logprobs": (
        "logprobs",
        400,
        [{"error": {"code": 400, "message": "Logprobs is not enabled for models/m", "status": "INVALID_ARGUMENT"}}],
    ),
    "groq n": (
        "n",
        400,
        {"error": {"message": "'n' : number must be at most 1", "type": "invalid_request_error"}},
    ),
    "llama.cpp n": ("n", 400, {"error": {"code": 400, "message": "Only one completion choice is allowed"}}),
    "a word only": ("n", 422, {"detail": "Unprocessable Entity"}),
}


def test_a_refusal_of_one_server_says_nothing_of_another_with_the_same_model(serve: Serve) -> None:
    strict = serve(lambda request: (400, {"detail": "seed"}) if "seed" in request else completion(request))
    lenient = serve(lambda request: completion(request))
    for server in (strict, lenient):
        draw(load_model(f"openai:m@{server.url}"), "sync", n=1, seed=7)
    assert "seed" not in strict.requests[-1]
    assert lenient.requests[-1]["seed"] == 7


@pytest.mark.parametrize("run", ["sync", "async"])
@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("kind", ["vllm", "openai", "ChatOpenAI"])
def test_a_refused_option_is_left_out_asked_again_once_and_remembered(
    serve: Serve, kind: str, name: str, run: str
) -> None:
    option, status, body = REFUSED[name]

    def refuses(request: dict[str, Any]) -> bool:
        return request.get(option) not in (None, False) and (option != "n" or request["n"] > 1)

    server = serve(lambda request: (status, body) if refuses(request) else completion(request))
    if kind == "ChatOpenAI":
        model: Any = ChatOpenAI(
            model="m", base_url=server.url, api_key="k", temperature=0.3, max_tokens=99, max_retries=0
        )
    else:
        model = load_model(f"{kind}:m@{server.url}", temperature=0.3, max_tokens=99)
    samples = draw(model, run, n=3, seed=7)
    assert len(samples) == 3
    assert sum(s.completion_tokens for s in samples) == (6 if server.requests[-1].get("n") == 3 else 3)
    first = sum(map(refuses, server.requests))
    assert first <= 3
    draw(model, run, n=3, seed=70)
    assert sum(map(refuses, server.requests)) == first
    last = server.requests[-1]
    sent = {key for key in SENT if last.get(key) not in (None, False)}
    assert {"max_tokens", "max_completion_tokens"} & sent
    if option != "temperature":
        assert last["temperature"] == 0.3
    if option != "seed":
        assert "seed" in sent


def test_a_value_out_of_range_is_the_callers_mistake_and_not_left_out(serve: Serve) -> None:
    server = serve(lambda _: refusal(400, "temperature must be between 0 and 2, got 5"))
    with pytest.raises(InfrastructureError, match="between 0 and 2"):
        sample(load_model(f"openai:m@{server.url}", temperature=5), PROMPT, n=1, seed=0)
    assert len(server.requests) == 1


@pytest.mark.parametrize("run", ["sync", "async"])
def test_a_busy_server_is_asked_again_after_the_pause_that_it_names(serve: Serve, run: str) -> None:
    turned_away: list[int] = []

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        if len(turned_away) < 4:
            turned_away.append(1)
            return refusal(429, "slow down")
        return completion(body)

    server = serve(answer)
    server.headers = {"Retry-After": "0"}
    assert [s.text for s in draw(load_model(f"openai:m@{server.url}"), run, n=2, seed=3)] == ["seed 3", "seed 4"]


def test_a_failure_carries_the_samples_that_were_paid_for(serve: Serve) -> None:
    server = serve(lambda body: refusal(500, "boom") if body["seed"] == 4 else completion(body))
    with pytest.raises(InfrastructureError, match="boom") as failure:
        sample(load_model(f"openai:m@{server.url}"), PROMPT, n=3, seed=3, config={"max_concurrency": 3})
    assert {s.text for s in failure.value.samples} <= {"seed 3", "seed 5"}
    assert failure.value.samples


# From the sources and public reports of each.
OVERFLOWS = {
    "openai": (
        400,
        {
            "message": "This model's maximum context length is 4097 tokens. However, your messages resulted in 6988 "
            "tokens. Please reduce the length of the messages.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        },
    ),
    "openai gpt-5": (
        400,
        {
            "message": "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300000.",
            "param": "messages",
            "code": "context_length_exceeded",
        },
    ),
    "vllm": (
        400,
        {
            "message": "This model's maximum context length is 6048 tokens. However, you requested 6616 tokens (568 in "
            "the messages, 6048 in the completion). Please reduce the length of the messages or completion.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "vllm max_tokens": (
        400,
        {
            "message": "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context "
            "length is 4096 tokens and your request has 200 input tokens (4096 > 4096 - 200).",
            "code": 400,
        },
    ),
    "vllm decoder": (
        400,
        {"message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096.", "code": 400},
    ),
    "vllm negative": (400, {"message": "max_tokens must be at least 1, got -186.", "code": 400}),
    "llama.cpp": (
        400,
        {
            "code": 400,
            "message": "request (4390 tokens) exceeds the available context size (4096 tokens), try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 4390,
            "n_ctx": 4096,
        },
    ),
    "llama.cpp 2025": (
        500,
        {
            "code": 500,
            "message": "the request exceeds the available context size. try increasing the context size or enable "
            "context shift",
            "type": "exceed_context_size_error",
        },
    ),
    "llama.cpp while it writes": (
        500,
        {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"},
    ),
    "textgen, whose status is 200": (
        200,
        {"code": 400, "message": "the request exceeds the available context size", "type": "exceed_context_size_error"},
    ),
    "llama-cpp-python": (500, {"message": "Requested tokens (2285) exceed context window of 2048"}),
    "sglang": (
        400,
        {"message": "The input (5000 tokens) is longer than the model's context length (4096 tokens)."},
    ),
}


@pytest.mark.parametrize("name", OVERFLOWS)
@pytest.mark.parametrize("kind", ["vllm", "openai"])
def test_a_context_overflow_is_known_in_every_servers_words(serve: Serve, kind: str, name: str) -> None:
    status, error = OVERFLOWS[name]
    server = serve(lambda _: (status, {"error": error}))
    with pytest.raises(ContextOverflowError, match="shorten the prompt"):
        sample(load_model(f"{kind}:m@{server.url}"), PROMPT, n=2, seed=0)


@pytest.mark.parametrize("logprobs", [True, False])
@pytest.mark.parametrize("run", ["sync", "async"])
def test_usage_is_right_for_n_in_one_request_and_for_callbacks(serve: Serve, logprobs: bool, run: str) -> None:
    server = serve(lambda body: completion(body if logprobs else {**body, "logprobs": False}))
    handler = UsageMetadataCallbackHandler()
    samples = draw(load_model(f"vllm:m@{server.url}"), run, n=3, seed=0, config={"callbacks": [handler]})
    assert sum(s.prompt_tokens for s in samples) == 10
    assert sum(s.completion_tokens for s in samples) == 6
    assert handler.usage_metadata["m"]["input_tokens"] == 10
    assert handler.usage_metadata["m"]["output_tokens"] == 6


@pytest.mark.parametrize("run", ["sync", "async"])
def test_openais_own_n_is_counted_once_and_seen_by_callbacks(serve: Serve, run: str) -> None:
    handler = UsageMetadataCallbackHandler()
    server = serve()
    model = ChatOpenAI(model="m", base_url=f"{server.url}//api.openai.com/v1", api_key="k")
    samples = draw(model, run, n=3, seed=0, config={"callbacks": [handler]})
    assert [request["n"] for request in server.requests] == [3]
    assert (sum(s.prompt_tokens for s in samples), sum(s.completion_tokens for s in samples)) == (10, 6)
    assert handler.usage_metadata["m"]["input_tokens"] == 10
    assert handler.usage_metadata["m"]["output_tokens"] == 6


def test_an_in_process_draw_is_seen_whole_by_callbacks(tiny: TransformersChatModel) -> None:
    handler = UsageMetadataCallbackHandler()
    samples = sample(tiny, PROMPT, n=3, seed=0, config={"callbacks": [handler]})
    [usage] = handler.usage_metadata.values()
    assert usage["output_tokens"] == sum(s.completion_tokens for s in samples)
    assert usage["input_tokens"] == samples[0].prompt_tokens


@pytest.mark.parametrize("run", ["sync", "async"])
@pytest.mark.parametrize(
    ("status", "message", "remedy"),
    [(500, "out of memory", "server's log"), (401, "no", "MUCODE_API_KEY"), (404, "no such model", "model's name")],
)
def test_a_failing_server_is_named_with_a_remedy(
    serve: Serve, run: str, status: int, message: str, remedy: str
) -> None:
    server = serve(lambda _: refusal(status, message))
    model = load_model(f"openai:m@{server.url}")
    with pytest.raises(InfrastructureError, match=rf"'m' at {server.url} failed .*{message}.*{remedy}"):
        draw(model, run, n=2, seed=0)


def test_a_reply_that_is_no_completion_is_a_failure_of_the_server(serve: Serve) -> None:
    for reply in ({"choices": None}, "hello", [], {"choices": []}):
        server = serve(lambda _, reply=reply: (200, reply))
        model = load_model(f"openai:m@{server.url}")
        with pytest.raises(InfrastructureError, match="'m' at http"):
            sample(model, PROMPT, n=1, seed=0)


def test_a_dead_server_is_named(serve: Serve) -> None:
    server = Server(completion)
    server.close()
    model = load_model(f"vllm:m@{server.url}").model_copy(update={"max_retries": 0})
    with pytest.raises(InfrastructureError, match=rf"at {server.url} failed .*start the server"):
        sample(model, PROMPT, n=2, seed=0)
    with pytest.raises(InfrastructureError, match=rf"{server.url}/models did not say"):
        load_model(server.url)


def test_a_prompt_beyond_the_servers_context_is_the_callers_to_mend(serve: Serve) -> None:
    server = serve(lambda _: refusal(400, "This model's maximum context length is 4096 tokens."))
    model = load_model(f"vllm:m@{server.url}")
    with pytest.raises(ProblemError, match="shorten the prompt"):
        sample(model, PROMPT, n=2, seed=0)
    assert len(server.requests) == 1


def test_the_openai_key_is_not_sent_to_other_servers(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve()
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    for key in (None, "mine"):
        if key:
            monkeypatch.setenv("MUCODE_API_KEY", key)
        model = load_model(f"vllm:m@{server.url}")
        sample(model, PROMPT, n=1, seed=0)
    assert server.keys == ["Bearer none", "Bearer mine"]


def test_a_cache_does_not_repeat_candidates(serve: Serve) -> None:
    server = serve()
    model = load_model(f"vllm:m@{server.url}")
    set_llm_cache(InMemoryCache())
    try:
        for _ in range(2):
            assert len(sample(model, PROMPT, n=2, seed=0)) == 2
    finally:
        set_llm_cache(None)
    assert [request.get("n") for request in server.requests] == [1, 2, 1, 2]  # the prompt alone, then the choices


# --- any other model -----------------------------------------------------------------------------------------------


def test_a_model_that_ignores_n_is_asked_n_times() -> None:
    model = ScriptedModel(replies=["a", "b", "c"], native_n=False)
    samples = sample(model, PROMPT, n=3, seed=4, config={"max_concurrency": 1})
    assert [s.text for s in samples] == ["a", "b", "c"]
    assert model.seeds == [4, 5, 6]
    assert (samples[0].prompt_tokens, samples[0].completion_tokens) == (10, 5)


def test_a_stateful_fake_keeps_its_state_between_calls() -> None:
    model = FakeListChatModel(responses=["a", "b"])
    assert [sample(model, PROMPT, n=1, seed=0)[0].text for _ in range(2)] == ["a", "b"]


def test_a_runnable_gets_the_messages_and_nothing_else() -> None:
    model = RunnableLambda(lambda messages: AIMessage(messages[0].content.upper()))
    assert [s.text for s in sample(model, PROMPT, n=2, seed=0, temperature=1)] == ["WRITE F."] * 2


def test_an_answer_that_is_no_message_is_refused() -> None:
    with pytest.raises(ProblemError, match="answered with str"):
        sample(RunnableLambda(lambda _: "text"), PROMPT, n=1, seed=0)


def test_n_below_one_is_refused() -> None:
    with pytest.raises(ProblemError, match="n must be at least 1, got 0"):
        sample(ScriptedModel(replies=["a"]), PROMPT, n=0, seed=0)


class Choosy(ScriptedModel):
    """Draws n natively, and says what it was given."""

    replies: Any = ()
    given: list[dict[str, Any]] = Field(default_factory=list)
    level: int = 0

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self.given.append({**kwargs, "stop": stop})
        one = ChatGeneration(message=AIMessage(f"level {self.level}"))
        return ChatResult(generations=[one] * kwargs["n"])


def test_bound_arguments_reach_a_native_draw_and_n_and_seed_are_ours() -> None:
    model = Choosy()
    sample(model.bind(stop=["x"], n=9, seed=9).with_config(tags=["mine"]), PROMPT, n=2, seed=1, temperature=0.3)
    [given] = model.given
    assert (given["stop"], given["n"], given["seed"], given["temperature"]) == (["x"], 2, 1, 0.3)


def test_configurable_fields_reach_a_native_draw() -> None:
    model = Choosy()
    configurable = model.configurable_fields(level=ConfigurableField(id="level"))
    samples = sample(configurable, PROMPT, n=2, seed=1, config={"configurable": {"level": 3}})
    assert [s.text for s in samples] == ["level 3"] * 2


class Watcher(BaseCallbackHandler):
    def __init__(self) -> None:
        self.tags: list[list[str]] = []
        self.generations: list[int] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, *, tags: list[str] | None = None, **_: Any) -> None:
        self.tags.append(tags or [])

    def on_llm_end(self, response: Any, **_: Any) -> None:
        self.generations.append(len(response.generations[0]))


@pytest.mark.parametrize("run", ["sync", "async"])
def test_a_native_draw_is_seen_by_callbacks_and_hidden_from_message_streams(run: str) -> None:
    watcher = Watcher()
    config: RunnableConfig = {"callbacks": [watcher], "tags": ["mine"]}
    draw(Choosy(), run, n=4, seed=0, config=config)
    assert watcher.generations == [4]
    assert {"mine", "nostream"} <= set(watcher.tags[0])


class Texts(TypedDict):
    texts: list[str]


@pytest.mark.parametrize("run", ["sync", "async"])
def test_a_host_that_streams_messages_still_gets_n_and_sees_no_tokens(tiny: TransformersChatModel, run: str) -> None:
    def node(_: Texts, config: RunnableConfig) -> Texts:
        return {"texts": [s.text for s in sample(tiny, PROMPT, n=3, seed=0, config=config)]}

    async def anode(_: Texts, config: RunnableConfig) -> Texts:
        return {"texts": [s.text for s in await asample(tiny, PROMPT, n=3, seed=0, config=config)]}

    graph = StateGraph(Texts)
    graph.add_node("draw", node if run == "sync" else anode)
    graph.add_edge(START, "draw")
    graph.add_edge("draw", END)
    compiled = graph.compile()

    async def events() -> list[Any]:
        return [event async for event in compiled.astream({"texts": []}, stream_mode=["messages", "updates"])]

    if run == "sync":
        seen = list(compiled.stream({"texts": []}, stream_mode=["messages", "updates"]))
    else:
        seen = asyncio.run(events())
    assert [mode for mode, _ in seen] == ["updates"]
    assert seen[0][1]["draw"]["texts"] == [s.text for s in sample(tiny, PROMPT, n=3, seed=0)]


@pytest.mark.parametrize("error", [GraphBubbleUp(), KeyboardInterrupt(), ProblemError("bad")])
def test_interrupts_pass_through(error: BaseException) -> None:
    with pytest.raises(type(error)):
        sample(ScriptedModel(replies=[error]), PROMPT, n=1, seed=0)


def test_a_failure_of_any_client_is_named() -> None:
    with pytest.raises(InfrastructureError, match=r"'scripted' failed \(OSError: boom\)"):
        sample(ScriptedModel(replies=[OSError("boom")]), PROMPT, n=2, seed=0)


def test_a_client_without_seeds_is_asked_without() -> None:
    class Seedless(ScriptedModel):
        native_n: bool = False

        def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
            if "seed" in kwargs:
                raise TypeError("create() got an unexpected keyword argument 'seed'")
            return super()._generate(messages, seed=0)

    assert [s.text for s in sample(Seedless(replies=["a"]), PROMPT, n=2, seed=0)] == ["a", "a"]


def test_cancelling_an_async_draw_cancels_its_requests() -> None:
    begun: list[str] = []
    ended: list[str] = []

    class Slow(ScriptedModel):
        replies: Any = ()
        native_n: bool = False

        async def _agenerate(self, *args: Any, **kwargs: Any) -> ChatResult:
            begun.append("begun")
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            raise AssertionError

    async def main() -> None:
        task = asyncio.create_task(asample(Slow(), PROMPT, n=3, seed=0))
        await auntil(lambda: len(begun) == 3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ended == ["cancelled"] * 3


# --- model strings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "names no model"),
        ("gpt", "names no model"),
        ("hf:", "names no model"),
        ("http://[::1/v1", "cannot be used: Invalid IPv6 URL; write http://host:port/v1"),
        ("http://host:99999/v1", "cannot be used: Port out of range.*; write http://host:port/v1"),
        ("vllm:m@http:///v1", "cannot be used: it names no host and port"),
        ("vllm:m", "names no model"),
        ("vllm:m@localhost:8000", "no URL after its @"),
        ("nobody:m", "unknown or incomplete"),
        ("anthropic:m", "pip install langchain-anthropic"),
    ],
)
def test_a_string_that_names_no_model_says_what_would(spec: str, message: str) -> None:
    with pytest.raises(ProblemError, match=message):
        load_model(spec)


def test_a_missing_key_of_a_provider_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ProblemError, match="OPENAI_API_KEY"):
        load_model("openai:gpt-4o")


def test_options_out_of_range_are_refused() -> None:
    for options in ({"temperature": -1}, {"top_p": 0}, {"max_tokens": 0}):
        with pytest.raises(ProblemError, match="cannot be used"):
            load_model("smollm2", **options)


def test_the_generator_loads_no_torch_until_it_is_asked() -> None:
    code = (
        "import sys; from mucode_agent.models.load import load_model; load_model('smollm2'); load_model('hf:x');"
        "print([m for m in ('torch', 'transformers', 'langchain_openai', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
