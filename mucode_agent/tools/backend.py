"""Any sandbox backend of deepagents or LangChain as our Sandbox; it needs only three methods.

The backend provides the machine, and our runner judges on it, so exit codes and printed text of a program decide
nothing. The runner writes its answer to a file, because backends merge, decorate and truncate a command's output.
"""

import contextlib
import inspect
import math
import secrets
import shlex
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from mucode_agent.tools.remote import Machine, MachineError, RemoteSandbox, runner_command, runner_files
from mucode_agent.types import ProblemError

_SHORT_S = 60
_GRACE_S = 30


class _ExecuteResponse(Protocol):
    output: str
    exit_code: int | None


class _UploadResponse(Protocol):
    error: str | None


class _DownloadResponse(Protocol):
    content: bytes | None
    error: str | None


@runtime_checkable
class Backend(Protocol):
    """The three methods of deepagents' `SandboxBackendProtocol` that are used here."""

    def execute(self, command: str) -> _ExecuteResponse:
        """Runs a shell command. Most backends also take `timeout`, in whole seconds."""
        ...

    def upload_files(self, files: list[tuple[str, bytes]]) -> Sequence[_UploadResponse]: ...

    def download_files(self, paths: list[str]) -> Sequence[_DownloadResponse]: ...


class BackendSandbox(RemoteSandbox):
    """Judges programs inside a backend, which needs a shell, coreutils and Python 3.11 or newer.

    The backend is used by one thread at a time and is not closed, because it belongs to the caller. `isolation` is
    `backend`, followed by the layers that the runner adds inside.
    """

    def __init__(self, backend: Backend, *, directory: str = "/tmp", batch: int = 64, backoff_s: float = 1.0) -> None:  # noqa: S108
        """`directory` is absolute and writable both for commands and for uploads."""
        missing = [name for name in ("execute", "upload_files", "download_files") if not hasattr(backend, name)]
        if missing:
            raise ProblemError(
                f"a {type(backend).__name__} cannot run programs: it has no {', '.join(missing)}; "
                "give a sandbox backend, for example one of deepagents"
            )
        super().__init__(
            lambda: _BackendMachine(backend, directory),
            layer="backend",
            batch=batch,
            idle_s=None,
            machine_s=math.inf,
            jobs_per_machine=1 << 62,
            backoff_s=backoff_s,
        )


class _BackendMachine:
    """A directory in the backend with the runner in it."""

    def __init__(self, backend: Any, directory: str) -> None:
        self._backend = backend
        self._takes_timeout = _takes_timeout(backend)
        self._home = f"{directory.rstrip('/')}/mucode-{secrets.token_hex(8)}"
        try:
            self._execute(f"mkdir -p -m 700 {shlex.quote(self._home)}/runner", _SHORT_S)
            self._upload({f"{self._home}/runner/{name}": content for name, content in runner_files().items()})
        except MachineError:
            self.close()
            raise

    def judge(self, jobs: bytes, nonce: str, time_s: float) -> str:
        given, answer = f"{self._home}/{nonce}.json", f"{self._home}/{nonce}.out"
        self._upload({given: jobs})
        command = runner_command(f"{self._home}/runner", given, nonce, time_s)
        printed = self._execute(f"({command}) > {shlex.quote(answer)}", time_s + _GRACE_S)
        content = self._download(answer)
        self._execute(f"rm -f {shlex.quote(answer)}", _SHORT_S)
        if not content:
            raise MachineError(f"the runner ended without an answer: {printed[-500:].strip()}")
        return content.decode("utf-8", "replace")

    def close(self) -> None:
        with contextlib.suppress(MachineError):
            self._execute(f"rm -rf {shlex.quote(self._home)}", _SHORT_S)

    def _execute(self, command: str, time_s: float) -> str:
        options = {"timeout": math.ceil(time_s)} if self._takes_timeout else {}
        try:
            return str(self._backend.execute(command, **options).output)
        except Exception as error:  # every backend raises its own
            raise MachineError(f"the backend failed to execute: {type(error).__name__}: {error}") from error

    def _upload(self, files: dict[str, bytes]) -> None:
        try:
            errors = [answer.error for answer in self._backend.upload_files(list(files.items()))]
        except Exception as error:  # every backend raises its own
            raise MachineError(f"the backend failed to upload: {type(error).__name__}: {error}") from error
        if failed := [error for error in errors if error]:
            raise MachineError(f"the backend refused an upload: {failed[0]}")

    def _download(self, path: str) -> bytes:
        try:
            [answer] = self._backend.download_files([path])
        except Exception as error:  # every backend raises its own
            raise MachineError(f"the backend failed to download: {type(error).__name__}: {error}") from error
        if answer.error:
            raise MachineError(f"the backend gave no answer file: {answer.error}")
        return answer.content or b""


def _takes_timeout(backend: Any) -> bool:
    try:
        parameters = inspect.signature(backend.execute).parameters
    except (TypeError, ValueError):
        return False
    return "timeout" in parameters or any(each.kind is each.VAR_KEYWORD for each in parameters.values())


_: type[Machine] = _BackendMachine
