"""What every file and folder that is put into place has in common: its mode, and that nothing is left beside it."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from amct_pytorch.ascend import export_ascend
from amct_pytorch.checkpoint import load_decomposed, save_decomposed
from amct_pytorch.export import export_onnx
from amct_pytorch.tensor_decompose import DecompositionConfig, plan_decomposition, save_config

from .models import TwoConvs, conv, image

_ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=[0o022, 0o002, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return plan_decomposition(net := TwoConvs()).apply(net)[0].eval()


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _modes(folder: Path) -> dict[str, int]:
    return {path.name: _mode(path) for path in folder.iterdir()}


def _save_plan(path: Path) -> None:
    plan_decomposition(nn.Sequential(conv())).save(path)


def _save_report(path: Path) -> None:
    export_onnx(conv(3, 4), torch.randn(1, 3, 8, 8), path.with_suffix(".onnx")).save(path)


def _write_info(path: Path) -> None:
    plan_decomposition(net := nn.Sequential(conv())).apply(net, path)


_WRITERS: list[Callable[[Path], object]] = [
    _save_plan,
    _save_report,
    _write_info,
    lambda path: save_config(DecompositionConfig(), path),
    lambda path: export_onnx(conv(3, 4), torch.randn(1, 3, 8, 8), path),
]


@pytest.mark.slow
@pytest.mark.parametrize("write", _WRITERS)
def test_new_files_and_folders_have_the_mode_that_the_umask_says(
    write: Callable[[Path], object], umask: int, tmp_path: Path
) -> None:
    path = tmp_path / "new" / "file"
    write(path)
    assert _mode(path) == 0o666 & ~umask
    assert _mode(path.parent) == 0o777 & ~umask


@pytest.mark.slow
@pytest.mark.parametrize("mode", [0o600, 0o664, 0o444])
@pytest.mark.parametrize("write", _WRITERS)
def test_a_file_that_is_replaced_passes_its_mode_on(write: Callable[[Path], object], mode: int, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(mode)
    write(path)
    assert path.read_bytes() != b"old"
    assert _mode(path) == mode


def test_all_files_of_a_new_checkpoint_have_the_mode_that_the_umask_says(
    model: nn.Module, umask: int, tmp_path: Path
) -> None:
    save_decomposed(model, tmp_path / "new", plan="a plan", training_state={"epoch": 3})
    assert set(_modes(tmp_path / "new").values()) == {0o666 & ~umask}
    assert _mode(tmp_path / "new") == 0o777 & ~umask


@pytest.mark.slow
def test_scripts_may_be_run_by_whoever_may_read_them(umask: int, tmp_path: Path) -> None:
    place = tmp_path / "deploy"
    export_ascend(conv(3, 4), torch.randn(1, 3, 8, 8), place, soc_versions=["Ascend910B3"])
    modes = _modes(place)
    assert modes["run.sh"] == modes["atc_Ascend910B3.sh"] == 0o777 & ~umask
    assert modes["model.onnx"] == modes["report.json"] == 0o666 & ~umask
    assert modes["inputs"] == _mode(place) == 0o777 & ~umask


@pytest.mark.parametrize("mode", [0o750, 0o700, 0o775])
def test_a_checkpoint_that_is_replaced_passes_its_modes_on(mode: int, model: nn.Module, tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    save_decomposed(model, place)
    place.chmod(mode)
    (place / "weights.safetensors").chmod(0o640)
    (place / "manifest.json").chmod(0o664)
    before = _modes(place)
    save_decomposed(model, place, training_state={"epoch": 3})
    (tmp_path / "plain").touch()
    assert _mode(place) == mode
    assert _modes(place) == {**before, "training.pt": _mode(tmp_path / "plain")}
    assert torch.equal(load_decomposed(TwoConvs(), place)[0].eval()(image()), model(image()))


def test_a_private_checkpoint_is_private_while_it_is_written(
    model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "checkpoint"
    save_decomposed(model, place)
    place.chmod(0o700)
    seen = []
    real = torch.save

    def watched(content: object, file: object) -> None:
        seen.extend(_mode(path) for path in tmp_path.iterdir() if path.is_dir())
        real(content, file)  # type: ignore[arg-type]

    monkeypatch.setattr(torch, "save", watched)
    save_decomposed(model, place, training_state={"epoch": 3})
    assert set(seen) == {0o700}


_KILLED_AT_MANY_STEPS = """
import os, signal, sys
from pathlib import Path
import torch
from amct_pytorch import _storage
from amct_pytorch.checkpoint import load_decomposed, save_decomposed
from amct_pytorch.tensor_decompose import auto_decomposition
from tests.models import TwoConvs

torch.set_num_threads(1)
place = Path(sys.argv[1])
net, _ = auto_decomposition(TwoConvs())

def die_at(step):
    count = 0
    def trace(frame, event, arg):
        nonlocal count
        if Path(frame.f_code.co_filename).parent != Path(_storage.__file__).parent:
            return None
        count += event == "line"
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

left, step = 0, 0
while True:
    step += 17
    child = os.fork()
    if child == 0:
        die_at(step)
        save_decomposed(net, place, training_state={"epoch": 3})
        os._exit(0)
    _, status = os.waitpid(child, 0)
    left += any(path.name.endswith(".tmp") for path in place.parent.iterdir())
    save_decomposed(net, place)
    assert [path.name for path in place.parent.iterdir()] == ["checkpoint"], list(place.parent.iterdir())
    if not os.WIFSIGNALED(status):
        break
load_decomposed(TwoConvs(), place)
print(step, left)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_killed_process_leaves_is_removed_by_the_next_one(tmp_path: Path) -> None:
    program = [sys.executable, "-c", _KILLED_AT_MANY_STEPS, str(tmp_path / "checkpoint")]
    done = subprocess.run(program, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    steps, left = map(int, done.stdout.split())
    assert steps > 100
    assert left > 5


_STOPPED_IN_THE_MIDDLE = """
import os, signal, socket, sys
import torch
from amct_pytorch.tensor_decompose import plan_decomposition
path, host = sys.argv[1:]
socket.gethostname = lambda: host
real = torch.save
def save(content, file):
    real(content, file)
    print("half", flush=True)
    sys.stdin.readline()
torch.save = save
plan_decomposition(torch.nn.Sequential()).save(path)
"""


@pytest.fixture
def writers() -> Iterator[Callable[[Path, str], subprocess.Popen[str]]]:
    """Starts processes that are in the middle of writing a plan to a path, on a host, until they get a line."""
    processes: list[subprocess.Popen[str]] = []

    def start(path: Path, host: str) -> subprocess.Popen[str]:
        program = [sys.executable, "-c", _STOPPED_IN_THE_MIDDLE, str(path), host]
        process = subprocess.Popen(program, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "half\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_a_draft_of_a_process_that_lives_stays_until_it_is_killed(
    writers: Callable[[Path, str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = tmp_path / "plan.pt"
    finishing, killed = (writers(path, socket.gethostname()) for _ in range(2))
    plan = plan_decomposition(nn.Sequential())
    plan.save(path)
    assert len(list(tmp_path.glob(".*.tmp"))) == 2
    finishing.communicate("go on\n")
    assert finishing.returncode == 0
    assert len(list(tmp_path.glob(".*.tmp"))) == 1
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    plan.save(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_a_draft_for_another_file_or_of_another_host_stays(
    writers: Callable[[Path, str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    path = tmp_path / "plan.pt"
    for process in (writers(tmp_path / "plan.pt2", socket.gethostname()), writers(path, "another")):
        process.kill()
        process.wait()
    (tmp_path / ".plan.pt.tmp").touch()
    (tmp_path / f".{'0' * 32}.tmp").touch()
    before = set(tmp_path.iterdir())
    plan_decomposition(nn.Sequential()).save(path)
    assert set(tmp_path.iterdir()) == before | {path}


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_where_there_are_no_locks_files_are_written_and_drafts_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def fail(*_: object) -> None:
        raise OSError("Function not implemented")

    path = tmp_path / "plan.pt"
    plan = plan_decomposition(nn.Sequential())
    monkeypatch.setattr(fcntl, "flock", fail)
    real = torch.save

    def save(content: object, file: object) -> None:
        real(content, file)  # type: ignore[arg-type]
        monkeypatch.setattr(torch, "save", real)
        plan.save(path)  # by another, meanwhile

    monkeypatch.setattr(torch, "save", save)
    plan.save(path)
    assert list(tmp_path.iterdir()) == [path]
