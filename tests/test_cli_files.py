"""The output folder when something fails: it holds the files of one decomposition, complete, or what it held before."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from amct_pytorch.cli.exit_codes import ExitCode
from amct_pytorch.errors import ReportAccessError
from amct_pytorch.export import ExportReport
from amct_pytorch.tensor_decompose import auto_decomposition
from tests.cli_user import Network
from tests.command_line import NETWORK, SHAPE, USER, Command, Ended, command

__all__ = ["command"]  # a fixture

_WRITES = ("fsync", "rename", "replace")
"""Of `os`: what every file that is put into place goes through."""

_JOURNAL = ("search.jsonl", "search.jsonl.plan")
_SEARCH = ("--eval", f"{USER}:agreement", "--drop", 0.5, "--evaluations", 2, *SHAPE)


def _contents(folder: Path) -> dict[str, bytes]:
    """What a folder holds, but for times, and for the journal, which a search appends to as it goes."""
    contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in _JOURNAL}
    return {name: _without_times(content) if name.endswith(".json") else content for name, content in contents.items()}


def _without_times(content: bytes) -> bytes:
    return re.sub(rb'"(began|seconds)": [^,]+', b"", content)


def _with_a_full_disk(step: int, run: Callable[[], Ended], monkeypatch: pytest.MonkeyPatch) -> tuple[Ended, bool]:
    """How a command ends whose write of this number fails, and whether it came that far."""
    count = 0

    def failing(write: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **keywords: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return write(*arguments, **keywords)

        return call

    with monkeypatch.context() as patched:
        for name in _WRITES:
            patched.setattr(os, name, failing(getattr(os, name)))
        return run(), count >= step


@pytest.mark.slow  # each runs the command dozens of times
@pytest.mark.parametrize(
    ("verb", "options", "added"),
    [
        ("run", ["--rank", 16, "--eval", f"{USER}:agreement"], "scores.json"),  # a score of what is written already
        ("search", _SEARCH, ""),
        ("rebuild", ["--decomposed", "other"], ""),
    ],
)
def test_a_full_disk_at_any_write_leaves_the_files_of_one_decomposition(
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    options: Sequence[object],
    added: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("run", NETWORK, "--rank", 8, "-o", "other").code == 0
    assert command("run", NETWORK, "--rank", 32, "-o", "first").code == 0
    before = _contents(tmp_path / "first")

    def ended_at(step: int) -> tuple[Ended, bool, dict[str, bytes]]:
        shutil.rmtree("out", ignore_errors=True)
        shutil.copytree("first", "out")
        given = (verb, NETWORK, *options, "-o", "out", "--force", "-q")
        ended, reached = _with_a_full_disk(step, lambda: command(*given), monkeypatch)
        return ended, reached, _contents(tmp_path / "out")

    _, _, after = ended_at(0)
    without_added = {name: content for name, content in after.items() if name != added}
    step, reached = 0, True
    while reached:
        step += 1
        ended, reached, found = ended_at(step)
        if ended.code == ExitCode.OK:  # it was a write that only waits for the disk, or there was none to fail
            assert found == after
            continue
        assert ended.code == ExitCode.FILE, ended.err
        assert ended.err.count("\n") == 1
        assert "No space left on device" in ended.err
        assert ".tmp" not in ended.err
        assert found in (before, without_added)
    assert step > 5
    assert {path.name for path in tmp_path.iterdir()} == {"first", "other", "out"}


@pytest.mark.slow  # torch's exporter takes seconds
def test_a_report_of_an_earlier_export_does_not_lie_beside_a_new_file(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("export", NETWORK, "--decomposed", tmp_path, *SHAPE, "-o", tmp_path)
    assert command("run", NETWORK, "-o", tmp_path).code == 0
    assert command(*given).code == 0
    before = _contents(tmp_path)
    assert command(*given, "--opset", 0, "--force").code != 0  # the export fails: nothing is lost
    assert _contents(tmp_path) == before

    def full(*_: object) -> None:
        raise ReportAccessError("export.json: cannot be written: No space left on device")

    monkeypatch.setattr(ExportReport, "save", full)
    assert command(*given, "--force").code == ExitCode.FILE
    assert _contents(tmp_path).keys() == before.keys() - {"export.json"}


def test_a_full_disk_leaves_no_folder_where_there_was_none(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "out"
    ended, _ = _with_a_full_disk(4, lambda: command("run", NETWORK, "-o", out), monkeypatch)
    assert ended.code == ExitCode.FILE
    assert f"error: {out}" in ended.err
    assert not out.parent.exists()


def test_a_full_disk_while_weights_are_written(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")  # as torch says it

    assert command("run", NETWORK, "-o", tmp_path / "out").code == 0
    before = _contents(tmp_path / "out")
    monkeypatch.setattr(torch, "save", full)
    ended = command("run", NETWORK, "--rank", 8, "-o", tmp_path / "out", "--force")
    assert (ended.code, ended.out) == (ExitCode.FILE, "")
    assert "weights.pth: cannot be written" in ended.err
    assert _contents(tmp_path / "out") == before


def test_a_killed_command_leaves_nothing_that_another_must_be_forced_over(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    draft = out / f".{'0' * 16}.{'1' * 32}.tmp"
    draft.mkdir()
    (draft / "weights.pth").write_bytes(b"half")
    draft.with_suffix(".lock").touch()
    assert command("run", NETWORK, "-o", out).code == 0


def test_what_described_an_earlier_decomposition_goes_with_it(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    out = tmp_path / "out"
    assert command("run", NETWORK, "--eval", f"{USER}:agreement", "-o", out).code == 0
    assert command("validate", NETWORK, *SHAPE, "--decomposed", out, "-o", out).code == 0
    (out / "notes.txt").write_text("mine")
    (out / "model.onnx").write_bytes(b"exported earlier")
    (out / "ascend").mkdir()
    (out / "ascend" / "compile.sh").touch()
    ended = command("run", NETWORK, "--rank", 8, "--safetensors", "-o", out)
    assert ended.code == ExitCode.USAGE
    assert "--force" in ended.err
    assert command("run", NETWORK, "--rank", 8, "--safetensors", "-o", out, "--force").code == 0
    names = {path.name for path in out.iterdir()}
    assert names == {"decompose_info.json", "weights.safetensors", "plan.pt", "spectra.json", "run.json", "notes.txt"}
    rebuilt = command("rebuild", NETWORK, "--decomposed", out, "--json")
    assert rebuilt.json["layers"][0]["ranks"] == [8]


def test_reports_of_another_decomposition_are_not_put_beside_one(command: Command, tmp_path: Path) -> None:
    for name, rank in (("a", 8), ("b", 16)):
        assert command("run", NETWORK, "--rank", rank, "-o", tmp_path / name).code == 0
    before = _contents(tmp_path / "a")
    for others in (("--decomposed", tmp_path / "b"), ()):
        ended = command("validate", NETWORK, *SHAPE, *others, "-o", tmp_path / "a", "--force")
        assert ended.code == ExitCode.USAGE
        assert "holds another decomposition" in ended.err
    ended = command("plan", NETWORK, "-o", tmp_path / "a", "--force")
    assert ended.code == ExitCode.USAGE
    assert "choose another folder" in ended.err
    assert _contents(tmp_path / "a") == before


def test_two_files_of_weights_beside_one_structure_are_refused(command: Command, tmp_path: Path) -> None:
    assert command("run", NETWORK, "-o", tmp_path / "out").code == 0
    (tmp_path / "out" / "weights.safetensors").write_bytes(b"")
    ended = command("rebuild", NETWORK, "--decomposed", tmp_path / "out")
    assert ended.code == ExitCode.USAGE
    assert "give --decomposed-weights" in ended.err


def test_the_structure_is_written_as_the_python_function_writes_it(command: Command, tmp_path: Path) -> None:
    auto_decomposition(Network(), tmp_path / "decompose_info.json")
    assert command("run", NETWORK, "-o", tmp_path / "out").code == 0
    names = (tmp_path / "decompose_info.json", tmp_path / "out" / "decompose_info.json")
    assert names[0].read_bytes() == names[1].read_bytes()
