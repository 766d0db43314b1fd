"""tools/finetune.py run as by users: alone, killed and resumed, offline, under torchrun, on the simulated NPU."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from amct_pytorch.checkpoint import load_training_state
from amct_pytorch.errors import ConfigError

import process_group
from .test_checkpoint import _flip_a_byte

_ROOT = Path(__file__).resolve().parent.parent
_TOOL = [sys.executable, str(_ROOT / "tools" / "finetune.py")]
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]

_START = (
    "import sys, runpy, tests.simulated_npu; tool = sys.argv[1]; sys.argv[:2] = [tool]; "
    "sys.path.insert(0, tool.rpartition('/')[0]); runpy.run_path(tool, run_name='__main__')"
)
_ON_SIMULATED_NPU = [sys.executable, "-c", _START, _TOOL[1]]

# As in the README.
_DIGITS = ["--ratio", "0.03", "--rank-multiple", "1", "--epochs", "5"]

# A small net, and data for which a test sets the time per item and the place of a NaN.
_MINE = """
import atexit, os, time
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
                        nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Dropout(0.1),
                        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 3))
    with open(f"pid.{os.environ.get('RANK', 0)}", "w") as file:
        file.write(str(os.getpid()))
    return net

class Data:
    def __init__(self, size):
        draw = torch.Generator().manual_seed(1)
        self.images = torch.randn(size, 1, 6, 6, generator=draw)
        self.labels = torch.randint(3, (size,), generator=draw)
    def __len__(self):
        return len(self.labels)
    def __getitem__(self, index):
        if os.path.exists("slow"):
            time.sleep(0.02)
        # As an augmentation would, from the generator that is torch's default.
        image = self.images[index] + 0.1 * torch.randn(1, 6, 6)
        return image * (float("nan") if os.path.exists("nan") else 1), self.labels[index]

def data():
    return Data(128), Data(32)

def empty():
    return Data(0), Data(32)

def no_model():
    return 3

number = 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(_MINE)
    return tmp_path


def _environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(_ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path, **more}


def _options(output: str, *more: str) -> list[str]:
    own = ["--output", output, "--model", "mine:model", "--data", "mine:data", "--batch-size", "16", "--epochs", "3"]
    return [*own, *more]


def _run(
    folder: Path, *options: str, program: list[str] = _TOOL, fails: bool = False, **environment: str
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*program, *options],
        cwd=folder,
        env=_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done


def _curves(output: Path) -> list[dict[str, str]]:
    """The rows of the curves without the times."""
    with (output / "curves.csv").open(newline="") as file:
        return [{key: value for key, value in row.items() if key != "seconds"} for row in csv.DictReader(file)]


def _weights(output: Path) -> bytes:
    return next((output / "checkpoint").glob("weights.*")).read_bytes()


def _wait_until(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def _done_epochs(output: Path) -> int:
    try:
        return len(_curves(output)) - 1
    except FileNotFoundError:
        return -1


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_resumes_to_the_same_bits(folder: Path) -> None:
    _run(folder, *_options("whole", "--distill"))
    (folder / "slow").touch()
    process = subprocess.Popen([*_TOOL, *_options("killed", "--distill")], cwd=folder, env=_environment())
    _wait_until(lambda: _done_epochs(folder / "killed") >= 1)
    time.sleep(0.5)  # into the next epoch, of 2.5 s and more
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder / "slow").unlink()
    assert 1 <= len(load_training_state(folder / "killed" / "checkpoint")["rows"]) - 1 < 3
    resumed = _run(folder, *_options("killed", "--distill", "--resume"))
    assert re.search(r"resumed .* after epoch [12] of 3", resumed.stdout)
    assert _weights(folder / "killed") == _weights(folder / "whole")
    assert _curves(folder / "killed") == _curves(folder / "whole")
    assert {path.name for path in (folder / "killed").iterdir()} == {"checkpoint", "curves.csv", "curves.png"}
    assert "are decomposed" not in resumed.stdout  # not decomposed again
    assert "1 of 2 Conv2d are decomposed" in (folder / "killed" / "checkpoint" / "plan.txt").read_text()


@pytest.mark.slow
def test_online_and_offline_runs_have_the_same_losses(folder: Path) -> None:
    decompose = (
        "import mine, torch; from amct_pytorch.tensor_decompose import auto_decomposition; "
        "net, _ = auto_decomposition(mine.model(), 'info.json'); torch.save(net.state_dict(), 'weights.pth')"
    )
    _run(folder, "-c", decompose, program=[sys.executable])
    _run(folder, *_options("online"))
    _run(folder, *_options("offline", "--decompose-info", "info.json", "--weights", "weights.pth"))
    rows = _curves(folder / "online")
    assert rows == _curves(folder / "offline")
    assert len({row["loss"] for row in rows}) == 4  # none before training, and one for each epoch
    assert _weights(folder / "online") == _weights(folder / "offline")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_epoch_with_autocast_on_the_simulated_npu_and_its_resumption(dtype: str, folder: Path) -> None:
    """A run killed after an epoch resumes there."""
    options = ("--backend", "npu", "--autocast", dtype, "--distill")
    (folder / "slow").touch()
    process = subprocess.Popen([*_ON_SIMULATED_NPU, *_options("run", *options)], cwd=folder, env=_environment())
    _wait_until(lambda: _done_epochs(folder / "run") >= 1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder / "slow").unlink()
    done = _run(folder, *_options("run", *options, "--resume"), program=_ON_SIMULATED_NPU)
    assert re.search(r"resumed .* after epoch [12] of 3", done.stdout)
    rows = _curves(folder / "run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert all(0 < float(row["loss"]) < 10 for row in rows[1:])
    assert "npu:0 (Ascend910B3): HF32 conv True, HF32 matmul False" in done.stdout
    groups = load_training_state(folder / "run" / "checkpoint")["optimizer"]["param_groups"]
    assert {group["fused"] for group in groups} == {dtype == "bfloat16"}  # not with scaled gradients


@pytest.mark.slow
def test_float16_is_refused_where_overflow_is_not_infinite(folder: Path) -> None:
    options = _options("run", "--backend", "npu", "--autocast", "float16")
    done = _run(folder, *options, program=_ON_SIMULATED_NPU, fails=True, INF_NAN_MODE_FORCE_DISABLE="1")
    assert "ConfigError: --autocast float16: Ascend910B3 is in saturation mode" in done.stderr
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_two_processes_decompose_and_train_to_the_same_weights_and_survive_a_kill(folder: Path) -> None:
    torchrun = [*_TORCHRUN, str(_free_port()), _TOOL[1]]
    whole = _run(folder, *_options("whole"), program=torchrun)
    assert whole.stdout.count("the same in 2 processes") == 4  # as decomposed, and after each epoch
    digests = dict(re.findall(r"process (\d): weights ([0-9a-f]{64})", whole.stdout))
    assert digests.keys() == {"0", "1"}
    assert digests["0"] == digests["1"]

    (folder / "slow").touch()
    process = subprocess.Popen(
        [*torchrun, *_options("killed")], cwd=folder, env=_environment(), stderr=subprocess.PIPE, text=True
    )
    _wait_until(lambda: _done_epochs(folder / "killed") >= 1)
    begin = time.monotonic()
    os.kill(int((folder / "pid.1").read_text()), signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < 60
    assert process.returncode != 0
    assert "SIGKILL" in errors or "exitcode: -9" in errors or "Signal 9" in errors
    assert not _is_alive(int((folder / "pid.0").read_text()))
    (folder / "slow").unlink()
    _run(folder, *_options("killed", "--resume"), program=torchrun)
    assert _weights(folder / "killed") == _weights(folder / "whole")
    assert _curves(folder / "killed") == _curves(folder / "whole")


@pytest.mark.slow
def test_without_torchrun_too_the_other_process_ends_with_an_error(folder: Path) -> None:
    (folder / "slow").touch()
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    processes = [
        subprocess.Popen(
            [*_TOOL, *_options("run")],
            cwd=folder,
            env=_environment(RANK=str(index), LOCAL_RANK=str(index), **group),
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    _wait_until(lambda: _done_epochs(folder / "run") >= 1)
    processes[1].send_signal(signal.SIGKILL)
    begin = time.monotonic()
    _, errors = processes[0].communicate(timeout=60)
    assert time.monotonic() - begin < 60
    assert processes[0].returncode != 0
    assert "DeviceError: process 0 of 2 lost another" in errors
    processes[1].communicate()


@pytest.mark.slow
@pytest.mark.parametrize("index", ["0", "1"])
def test_a_rendezvous_that_nobody_comes_to_ends_with_an_error(index: str, folder: Path) -> None:
    group = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    begin = time.monotonic()
    done = _run(folder, *_options("run"), fails=True, MASTER_PORT=str(_free_port()), **group)
    assert time.monotonic() - begin < 60 + 10  # seconds to start
    assert re.search(
        rf"DeviceError: process {index} of 2 did not meet the others at 127.0.0.1:\d+ within 45 s", done.stderr
    )


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1", True),
        ("Timed out waiting 45000ms for recv operation to complete", True),
        ("Connection reset by peer", True),
        (
            "NCCL error: ncclRemoteError: A call failed possibly due to a network error or a remote process exiting",
            True,
        ),
        ("HCCL function error: HcclAllReduce. EI0002: The wait execution of the Notify register times out.", True),
        ("NPU function error: AclrtSynchronizeStreamWithTimeout, error code is 507048", True),
        ("NPU function error: AclrtSynchronizeDeviceWithTimeout, error code is 507011", False),
        ("NPU function error: AclrtSynchronizeDeviceWithTimeout, error code is 507014. The aicore times out.", False),
        ("NPU function error: AclrtSynchronizeDeviceWithTimeout", False),
        ("NCCL error: ncclUnhandledCudaError: Call to CUDA function failed. CUDA error: illegal memory access", False),
        ("CUDA error: the launch timed out and was terminated", False),
        ("Expected all tensors to be on the same device", False),
    ],
)
def test_an_error_of_the_device_is_not_one_of_another_process(message: str, lost: bool) -> None:
    assert process_group.is_of_a_lost_process(message) == lost


@pytest.mark.parametrize(
    ("name", "given", "hccl", "group"),
    [
        ("gloo", None, None, 45),
        ("nccl", None, None, 45),
        ("hccl", None, "45", 170),  # the first exchange may take 140 s
        ("hccl", "600", "600", 630),
        ("hccl", "0", "0", 170),  # HCCL waits for good, torch does not
    ],
)
def test_hccl_gives_up_before_the_watchdog_ends_the_process(
    name: str, given: str | None, hccl: str | None, group: float
) -> None:
    environment = {} if given is None else {"HCCL_EXEC_TIMEOUT": given}
    assert process_group.group_timeout(name, 45.0, environment) == group
    assert environment.get("HCCL_EXEC_TIMEOUT") == hccl


def test_a_timeout_of_hccl_that_is_no_number_is_an_error() -> None:
    with pytest.raises(ConfigError, match="HCCL_EXEC_TIMEOUT must be a number of seconds, found 'soon'"):
        process_group.group_timeout("hccl", 45.0, {"HCCL_EXEC_TIMEOUT": "soon"})


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
    return port


def _is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


@pytest.mark.slow
def test_a_nan_loss_stops_the_run_and_keeps_the_last_good_epoch(folder: Path) -> None:
    (folder / "slow").touch()
    process = subprocess.Popen(
        [*_TOOL, *_options("run")], cwd=folder, env=_environment(), stderr=subprocess.PIPE, text=True
    )
    _wait_until(lambda: _done_epochs(folder / "run") >= 1)
    (folder / "nan").touch()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    (epoch,) = re.findall(r"Diverged: epoch (\d), step \d of 8: the loss is nan: use a smaller --lr", errors)
    assert f"checkpoint holds epoch {int(epoch) - 1}" in errors
    assert len(load_training_state(folder / "run" / "checkpoint")["rows"]) == int(epoch)
    (folder / "nan").unlink()
    (folder / "slow").unlink()
    _run(folder, *_options("run", "--resume"))
    _run(folder, *_options("good"))
    assert _weights(folder / "run") == _weights(folder / "good")


@pytest.mark.slow
def test_a_checkpoint_of_another_configuration_or_a_damaged_one_is_refused(folder: Path) -> None:
    _run(folder, *_options("run", "--epochs", "1"))
    before = _weights(folder / "run")
    for options, message in [
        (("--epochs", "1"), "there is a checkpoint already: give --resume"),
        (("--resume", "--epochs", "1", "--lr", "0.1"), r"another configuration .*\(lr: 0.0005, not 0.1\): resume with"),
        (("--resume", "--epochs", "1", "--ratio", "0.3"), "decomposition: .*EvbmfRank.*, not .*RatioRank"),
    ]:
        done = _run(folder, *_options("run", *options), fails=True)
        assert re.search(message, done.stderr), done.stderr
        assert "Traceback" not in done.stderr
    assert _weights(folder / "run") == before
    assert "resumed" in _run(folder, *_options("run", "--resume", "--epochs", "1")).stdout
    assert _weights(folder / "run") == before
    _flip_a_byte(folder / "run" / "checkpoint" / "training.pt")
    done = _run(folder, *_options("run", "--resume", "--epochs", "1"), fails=True)
    assert "training.pt: expected sha256" in done.stderr


_MISTAKES = [
    (["--model", "nothing:model"], "ConfigError: 'nothing:model': there is no module 'nothing'"),
    (["--model", "mine:missing"], "'mine:missing': expected a function in .*mine.py, found no such name"),
    (["--model", "mine:number"], "expected a function in .*mine.py, found int"),
    (["--model", "mine"], "expected module:function, found 'mine'"),
    (
        ["--model", "mine:no_model"],
        "ModelError: --model mine:no_model: expected .* torch.nn.Module, found int",
    ),
    (["--data", "mine:model"], "InputsError: --data mine:model: expected it to return two data sets"),
    (["--data", "mine:empty"], "InputsError: --data mine:empty"),
    (["--backend", "tpu"], "BackendUnavailable: there is no backend 'tpu'"),
    (["--decompose-info", "info.json"], "--decompose-info and --weights go together"),
    (["--decompose-info", "no.json", "--weights", "no.pth"], "FileNotFoundError.*no.json"),
    (
        ["--decompose-info", "info.json", "--weights", "other.pth"],
        "LayerError: other.pth does not fit .*Missing",
    ),
    (["--decompose-info", "info.json", "--weights", "mine.py"], "mine.py: cannot be loaded as weights"),
    (["--ratio", "7"], "ConfigError: RatioRank"),
    (["--keep", "nolayer"], "ConfigError: .*nolayer"),
    (["--epochs", "0"], "--epochs and --batch-size must be 1 or more"),
    (["--lr", "-1"], "expected a number above 0, found -1"),
]


@pytest.mark.slow
def test_mistakes_are_reported_in_a_line_and_write_nothing(folder: Path) -> None:
    """All cases in one process, as most of the time would go into imports."""
    program = """
import contextlib, io, json, runpy, sys
import mine, torch
from amct_pytorch.tensor_decompose import auto_decomposition
auto_decomposition(mine.model(), "info.json")
torch.save({}, "other.pth")
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
import finetune
reported = []
for options in json.loads(sys.argv[2]):
    sys.argv = [sys.argv[0], "--output", "run", "--model", "mine:model", "--data", "mine:data", *options]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        try:
            finetune.main()
        except SystemExit as error:
            print(error, file=errors)
    reported.append(errors.getvalue())
print("REPORTED" + json.dumps(reported))
"""
    done = _run(
        folder, "-c", program, _TOOL[1], json.dumps([mistake for mistake, _ in _MISTAKES]), program=[sys.executable]
    )
    reported = json.loads(done.stdout.partition("REPORTED")[2])
    for (mistake, message), text in zip(_MISTAKES, reported, strict=True):
        assert re.search(message, text, re.DOTALL), (mistake, text)
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_without_matplotlib_the_training_is_not_lost(folder: Path) -> None:
    (folder / "matplotlib.py").write_text("raise ImportError('not here')")
    done = _run(folder, *_options("run", "--epochs", "1", "--freeze-others"), PYTHONPATH=f"{folder}{os.pathsep}{_ROOT}")
    assert "needs matplotlib: pip install matplotlib; the training is complete" in done.stdout
    assert {path.name for path in (folder / "run").iterdir()} == {"checkpoint", "curves.csv"}


@pytest.mark.slow
def test_fine_tuning_brings_the_digits_network_back(tmp_path: Path) -> None:
    """At 0.03 of the full rank most accuracy is lost; minutes of training restore it, distillation at least as much."""
    tuned: dict[str, list[float]] = {"plain": [], "distilled": []}
    for seed in ("0", "1", "2"):
        for name, options in [("plain", []), ("distilled", ["--distill"])]:
            begin = time.monotonic()
            _run(tmp_path, "--output", name + seed, "--seed", seed, *_DIGITS, *options)
            assert time.monotonic() - begin < 120
            rows = _curves(tmp_path / (name + seed))
            original = float(rows[0]["original"])
            assert float(rows[0]["accuracy"]) < original - 5
            tuned[name].append(float(rows[-1]["accuracy"]))
    medians = {name: statistics.median(found) for name, found in tuned.items()}
    assert original - 0.5 <= medians["plain"] <= medians["distilled"]
