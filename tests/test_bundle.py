"""A run as one file: it opens elsewhere with the same figures, says nothing of this machine, and cannot be changed."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import shard_of, write_run
from typer.testing import CliRunner

from mucode_agent.cli.app import app
from mucode_agent.evaluation.bundle import open_bundle, write_bundle
from mucode_agent.evaluation.report import write_report
from mucode_agent.runs.directory import read_config, read_problems
from mucode_agent.runs.reading import read_shards, read_solves
from mucode_agent.types import ProblemError

KEY = "sk-proj-0123456789abcdefghijklmnop"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "here" / "run"
    write_run(directory)
    return directory


def test_a_bundle_opens_elsewhere_with_the_same_figures(run: Path, tmp_path: Path) -> None:
    results, _ = write_report(run)
    file = tmp_path / "there" / "made.tar.gz"
    file.parent.mkdir()
    write_bundle(run, file)
    opened = open_bundle(file)
    assert opened == tmp_path / "there" / "made"
    assert write_report(opened)[0] == results
    assert (opened / "report.html").exists()
    assert read_config(opened) == read_config(run)
    assert list(read_shards(opened)) == list(read_shards(run))
    assert open_bundle(file) == opened


def test_the_same_run_gives_the_same_bytes(run: Path, tmp_path: Path) -> None:
    for name in ("a.tar.gz", "b.tar.gz"):
        write_bundle(run, tmp_path / name)
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


def test_nothing_of_this_machine_is_packed(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    home = str(Path.home())
    said = f"evaluate run x --model hf:{home}/models/m --trace /srv/of/me/t --api-key abc http://me:pw@h:1/v1/x {KEY}"
    config = json.loads((run / "config.json").read_text())
    config["command"] = said
    (run / "config.json").write_text(json.dumps(config))
    shard = shard_of(run, "Made/0")
    rows = json.loads(shard.read_text())
    rows["solves"][0]["settings"]["model"] = f"hf:{home}/models/m"
    rows["solves"][0]["candidates"][0]["report"]["error"] = f"{home}/x.py: correct-horse-battery"
    shard.write_text(json.dumps(rows))
    file = tmp_path / "run.tar.gz"
    write_bundle(run, file)
    text = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
    for secret in (home + "/", KEY, "correct-horse", "me:pw", "--api-key abc", "/srv/of", "tmp_path", str(tmp_path)):
        assert secret not in text, secret
    opened = open_bundle(file)
    assert read_config(opened).command == (
        "evaluate run x --model hf:m --trace t --api-key *** http://***@h:1/v1/x ***"
    )
    assert len(read_solves(opened)) == len(read_solves(run))


def test_a_run_whose_model_lies_on_this_machine_is_whole_in_the_bundle(tmp_path: Path) -> None:
    run = tmp_path / "here" / "run"
    write_run(run, count=3, model=f"hf:{Path.home()}/models/m")
    write_bundle(run, tmp_path / "run.tar.gz")
    opened = open_bundle(tmp_path / "run.tar.gz")
    assert read_config(opened).identity.model == "hf:m"
    assert [solve.run_id for solve in read_solves(opened)] == [solve.run_id for solve in read_solves(run)]


def test_a_problem_about_paths_keeps_them(run: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (run / "problems.jsonl").read_text().splitlines()]
    rows[0]["prompt"] = "Simplify '/home//foo/../bar/baz'."
    (run / "problems.jsonl").write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    write_bundle(run, tmp_path / "run.tar.gz")
    assert read_problems(open_bundle(tmp_path / "run.tar.gz"))[0].prompt == rows[0]["prompt"]


def repacked(file: Path, change: Any, extra: str | None = None) -> None:
    """The same members with other bytes, and one more."""
    with tarfile.open(file) as archive:
        members = [(m, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    with tarfile.open(file, "w:gz") as archive:
        for member, data in members:
            new = change(member.name, data)
            member.size = len(new)
            archive.addfile(member, io.BytesIO(new))
        if extra:
            link = tarfile.TarInfo(extra)
            link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(link)


def test_a_changed_bundle_is_refused(run: Path, tmp_path: Path) -> None:
    file, shard = tmp_path / "run.tar.gz", shard_of(run, "Made/0")
    write_bundle(run, file)
    changed = f"shards/{shard.parent.name}/{shard.name}"
    repacked(file, lambda name, data: data.replace(b"passed", b"failed") if name == changed else data)
    with pytest.raises(ProblemError, match=rf"{shard.name} in .* does not have the hash"):
        open_bundle(file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "run.tar.gz"]


def test_nothing_but_a_runs_files_is_unpacked(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.tar.gz"
    write_bundle(run, file)
    repacked(file, lambda name, data: data, extra="../outside")
    assert sorted(path.name for path in open_bundle(file).iterdir()) == ["config.json", "problems.jsonl", "shards"]
    other = tmp_path / "other.tar.gz"
    write_bundle(run, other)
    repacked(
        other, lambda name, data: data.replace(b"problems.jsonl", b"../blems.jsonl") if name == "bundle.json" else data
    )
    with pytest.raises(ProblemError, match="which no run has"):
        open_bundle(other)


@pytest.mark.parametrize("content", [b"", b"no archive", gzip.compress(b"no tar", mtime=0)])
def test_what_is_no_bundle_is_told_in_one_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.tar.gz"
    file.write_bytes(content)
    with pytest.raises(ProblemError, match=r"is no bundle|cannot open") as caught:
        open_bundle(file)
    assert "\n" not in str(caught.value)
    with pytest.raises(ProblemError, match="cannot open"):
        open_bundle(tmp_path / "none.tar.gz")


def test_the_commands_pack_and_open(run: Path, tmp_path: Path) -> None:
    file, shell = tmp_path / "given.tar.gz", CliRunner()
    assert shell.invoke(app, ["evaluate", "bundle", str(run), "--out", str(file)]).exit_code == 0
    assert shell.invoke(app, ["evaluate", "report", str(file)]).exit_code == 0
    assert (tmp_path / "given" / "report.html").exists()
    assert shell.invoke(app, ["evaluate", "report", str(file)]).exit_code == 0
