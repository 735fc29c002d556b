"""The generator of a round: in this process, as an adapter on a vLLM server, or on a server started for it."""

import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from mucode_agent.models.embedded import EMBEDDED, embedded_checkpoint
from mucode_agent.models.load import load_model
from mucode_agent.types import InfrastructureError, ProblemError


class Serving(Protocol):
    """What serves generators."""

    def generator(self, checkpoint: str, adapter: Path | None, number: int, *, max_tokens: int) -> tuple[Any, str]:
        """A chat model of a checkpoint, ready to draw from, and its name in results.

        `adapter` is the checkpoint's LoRA adapter; None for the base. `number` counts trained generators, 0 the base.
        """
        ...

    def close(self) -> None:
        """Frees the last generator's resources; a next one may follow."""
        ...


def _api(url: str) -> str:
    return url.rstrip("/").removesuffix("/v1") + "/v1"


class InProcess:
    """Loads the checkpoint here, at the first draw."""

    def generator(self, checkpoint: str, adapter: Path | None, number: int, *, max_tokens: int) -> tuple[Any, str]:
        del adapter, number
        name = checkpoint if checkpoint in EMBEDDED else f"hf:{checkpoint}"
        return load_model(name, max_tokens=max_tokens), name

    def close(self) -> None:
        """Does nothing: the model is freed with its last reference."""


class AdapterServer:
    """A vLLM server of the base model that loads and unloads LoRA adapters while it runs.

    https://docs.vllm.ai/en/stable/features/lora/ : POST /v1/load_lora_adapter and /v1/unload_lora_adapter. The server
    reads the adapter's directory itself, so it must see the same files under the same path.
    """

    def __init__(self, url: str, *, base: str | None = None, adapter: str = "mucode", timeout: float = 600) -> None:
        self.url = _api(url)
        self._base, self._adapter, self._timeout = base, adapter, timeout

    def generator(self, checkpoint: str, adapter: Path | None, number: int, *, max_tokens: int) -> tuple[Any, str]:
        """Raises InfrastructureError if the server is missing or refuses, ProblemError without an adapter."""
        if number == 0:
            spec = f"vllm:{self._base}@{self.url}" if self._base else f"vllm:{self.url}"
            model = load_model(spec, max_tokens=max_tokens, timeout=self._timeout)
            return model, f"vllm:{getattr(model, 'model_name', self._base)}@{self.url}"
        if adapter is None or not adapter.is_dir():
            raise ProblemError(
                f"{checkpoint} has no LoRA adapter that {self.url} could load; train with lora_rank of at least 1"
            )
        self._swap(adapter, number)
        spec = f"vllm:{self._name(number)}@{self.url}"
        return load_model(spec, max_tokens=max_tokens, timeout=self._timeout), spec

    def close(self) -> None:
        """Does nothing: the server belongs to the user."""

    def _name(self, number: int) -> str:
        return f"{self._adapter}-{number}"

    def _swap(self, adapter: Path, number: int) -> None:
        """Replaces the previous adapter. An adapter of the same name, from an earlier start, is replaced too."""
        for old in (number - 1, number):
            self._post("unload_lora_adapter", {"lora_name": self._name(old)})
        wanted = {"lora_name": self._name(number), "lora_path": str(adapter.resolve())}
        status, text = self._post("load_lora_adapter", wanted)
        if status in (404, 405):
            raise InfrastructureError(
                f"{self.url} does not swap adapters (HTTP {status}): start vLLM with --enable-lora and "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1"
            )
        if status != 200:
            raise InfrastructureError(
                f"{self.url} refused the adapter {adapter} (HTTP {status}: {text}): see that it reads that path "
                "and that its --max-lora-rank is large enough"
            )

    def _post(self, path: str, body: dict[str, str]) -> tuple[int, str]:
        import httpx

        try:
            response = httpx.post(f"{self.url}/{path}", json=body, timeout=self._timeout)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise InfrastructureError(
                f"the model server at {self.url} cannot be reached ({type(error).__name__}: {error}): "
                "start it, or fix serving.server"
            ) from error
        return response.status_code, " ".join(response.text.split())[:200]


_BOUND = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
"""Runs a command that gets SIGTERM when this process dies (prctl's PR_SET_PDEATHSIG, Linux)."""
_LOOK_S = 0.5
_GRACE_S = 30.0


class StartedServer:
    """A separate server for each generator: serves any checkpoint, and takes no memory while models are trained.

    `command` serves {checkpoint} at `url`; its output goes to `log`.
    """

    def __init__(self, url: str, command: str, log: Path, *, start_s: float = 900, timeout: float = 600) -> None:
        self.url = _api(url)
        self._command, self._log, self._start_s, self._timeout = command, log, start_s, timeout
        self._process: subprocess.Popen[bytes] | None = None

    def generator(self, checkpoint: str, adapter: Path | None, number: int, *, max_tokens: int) -> tuple[Any, str]:
        """Raises InfrastructureError if something else serves there, or the command ends or does not answer."""
        del adapter, number
        self.close()
        if self._answers():
            raise InfrastructureError(
                f"something else serves at {self.url}, and drawing from it would mistake the model: end it, or change "
                "serving.server and serving.command"
            )
        self._start(checkpoint)
        model = load_model(f"vllm:{self.url}", max_tokens=max_tokens, timeout=self._timeout)
        return model, f"vllm:{checkpoint}@{self.url}"

    def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        until = time.monotonic() + _GRACE_S
        while self._answers() and time.monotonic() < until:  # its own children may take longer
            time.sleep(_LOOK_S)

    def _start(self, checkpoint: str) -> None:
        if checkpoint in EMBEDDED:
            checkpoint = str(embedded_checkpoint(checkpoint))
        words = [word.replace("{checkpoint}", checkpoint) for word in shlex.split(self._command)]
        command = [sys.executable, "-c", _BOUND, *words] if sys.platform == "linux" else words
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = time.monotonic() + self._start_s
        while not self._answers():
            if (status := self._process.poll()) is not None:
                self._process = None
                raise InfrastructureError(
                    f"serving.command ended with status {status} before it served {checkpoint}; {self._log} says why"
                )
            if time.monotonic() > until:
                self.close()
                raise InfrastructureError(
                    f"serving.command did not serve {checkpoint} at {self.url} within {self._start_s:g} s; see "
                    f"{self._log}, fix serving.server, or raise serving.start_s"
                )
            time.sleep(_LOOK_S)

    def _answers(self) -> bool:
        import httpx

        try:
            return httpx.get(f"{self.url}/models", timeout=5).status_code == 200
        except (httpx.HTTPError, httpx.InvalidURL):
            return False
