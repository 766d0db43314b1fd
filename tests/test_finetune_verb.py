"""The verb finetune run as by users: alone, killed and gone on with, under torchrun, on the simulated NPU."""

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

from amct_pytorch._finetune import processes as process_group
from amct_pytorch.checkpoint import load_training_state
from amct_pytorch.cli.app import execute
from amct_pytorch.cli.exit_codes import ExitCode
from amct_pytorch.errors import ConfigError

from .test_checkpoint import _flip_a_byte

_ROOT = Path(__file__).resolve().parent.parent
_VERB = [sys.executable, "-m", "amct_pytorch", "finetune"]
_TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port"]

_ON_SIMULATED_NPU = [
    sys.executable,
    "-c",
    "import runpy, tests.simulated_npu; runpy.run_module('amct_pytorch', run_name='__main__')",
    "finetune",
]

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
    return torch.utils.data.DataLoader(Data(128), 16, shuffle=True)

def unlabelled():
    return [images for images, _ in data()]

def images_alone():
    return torch.utils.data.DataLoader(Data(128).images, 16, shuffle=True)

def empty():
    return torch.utils.data.DataLoader(Data(0), 16)

class Torn(Data):
    def __getitem__(self, index):
        raise ValueError("torn image")

def torn():
    return torch.utils.data.DataLoader(Torn(32), 16)

def score(model):
    test = Data(32)
    device = next(model.parameters()).device
    hits = model(test.images.to(device)).argmax(dim=1).cpu() == test.labels
    return 100 * hits.float().mean()

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
    return ["mine:model", "--output", output, "--data", "mine:data", "--eval", "mine:score", "--epochs", "3", *more]


def _run(
    folder: Path, *options: str, program: list[str] = _VERB, fails: bool = False, **environment: str
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
    process = subprocess.Popen([*_VERB, *_options("killed", "--distill")], cwd=folder, env=_environment())
    _wait_until(lambda: _done_epochs(folder / "killed") >= 1)
    time.sleep(0.5)  # into the next epoch, of 2.5 s and more
    process.send_signal(signal.SIGKILL)
    process.wait()
    (folder / "slow").unlink()
    assert 1 <= len(load_training_state(folder / "killed" / "checkpoint")["rows"]) - 1 < 3
    resumed = _run(folder, *_options("killed", "--distill"))
    assert "epoch 3" in resumed.stderr
    assert "epoch 1 " not in resumed.stderr  # goes on after it
    assert _weights(folder / "killed") == _weights(folder / "whole")
    assert _curves(folder / "killed") == _curves(folder / "whole")
    assert {path.name for path in (folder / "killed").iterdir()} == _FILES
    scores = json.loads((folder / "killed" / "scores.json").read_text())
    rows = _curves(folder / "killed")
    assert scores["fine_tuned"] == float(rows[-1]["score"])
    assert scores["after"] == float(rows[0]["score"])


@pytest.mark.slow
def test_a_decomposed_folder_is_trained_as_a_model_decomposed_here_would_be(folder: Path) -> None:
    decompose = [sys.executable, "-m", "amct_pytorch", "run", "mine:model", "--output", "decomposed"]
    _run(folder, program=decompose)
    _run(folder, *_options("online"))
    _run(folder, *_options("offline", "--decomposed", "decomposed"))
    rows = _curves(folder / "online")
    assert rows == _curves(folder / "offline")
    assert len({row["loss"] for row in rows}) == 4  # none before training, and one for each epoch
    assert _weights(folder / "online") == _weights(folder / "offline")
    rebuild = [sys.executable, "-m", "amct_pytorch", "rebuild", "mine:model", "--decomposed", "offline"]
    _run(folder, "--input", "2x1x6x6", program=rebuild)


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
    done = _run(folder, *_options("run", *options), program=_ON_SIMULATED_NPU)
    assert "epoch 3" in done.stderr
    assert "epoch 1 " not in done.stderr
    rows = _curves(folder / "run")
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert all(0 < float(row["loss"]) < 10 for row in rows[1:])
    assert json.loads((folder / "run" / "run.json").read_text())["device"] == "Ascend910B3"
    groups = load_training_state(folder / "run" / "checkpoint")["optimizer"]["param_groups"]
    assert {group["fused"] for group in groups} == {dtype == "bfloat16"}  # not with scaled gradients


@pytest.mark.slow
def test_float16_is_refused_where_overflow_is_not_infinite(folder: Path) -> None:
    options = _options("run", "--backend", "npu", "--autocast", "float16")
    done = _run(folder, *options, program=_ON_SIMULATED_NPU, fails=True, INF_NAN_MODE_FORCE_DISABLE="1")
    assert "mixed precision in float16: Ascend910B3 is in saturation mode" in done.stderr
    assert not (folder / "run").exists()


@pytest.mark.slow
def test_two_processes_decompose_and_train_to_the_same_weights_and_survive_a_kill(folder: Path) -> None:
    torchrun = [*_TORCHRUN, str(_free_port()), *_VERB[1:]]
    whole = _run(folder, *_options("whole"), program=torchrun)
    assert whole.stdout.count("fine-tuned") == 1  # one process prints

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
    _run(folder, *_options("killed"), program=torchrun)
    assert _weights(folder / "killed") == _weights(folder / "whole")
    assert _curves(folder / "killed") == _curves(folder / "whole")


@pytest.mark.slow
def test_without_torchrun_too_the_other_process_ends_with_an_error(folder: Path) -> None:
    (folder / "slow").touch()
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    processes = [
        subprocess.Popen(
            [*_VERB, *_options("run")],
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
    assert "error: process 0 of 2 lost another" in errors
    processes[1].communicate()


@pytest.mark.slow
@pytest.mark.parametrize("index", ["0", "1"])
def test_a_rendezvous_that_nobody_comes_to_ends_with_an_error(index: str, folder: Path) -> None:
    group = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    begin = time.monotonic()
    done = _run(folder, *_options("run"), fails=True, MASTER_PORT=str(_free_port()), **group)
    assert time.monotonic() - begin < 60 + 10  # seconds to start
    assert re.search(rf"error: process {index} of 2 did not meet the others at 127.0.0.1:\d+ within 45 s", done.stderr)


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
        [*_VERB, *_options("run")], cwd=folder, env=_environment(), stderr=subprocess.PIPE, text=True
    )
    _wait_until(lambda: _done_epochs(folder / "run") >= 1)
    (folder / "nan").touch()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == ExitCode.USAGE
    (epoch,) = re.findall(r"error: epoch (\d), step \d of 8: the loss is nan: use a smaller learning rate", errors)
    assert f"checkpoint holds epoch {int(epoch) - 1}" in errors
    assert len(load_training_state(folder / "run" / "checkpoint")["rows"]) == int(epoch)
    (folder / "nan").unlink()
    (folder / "slow").unlink()
    _run(folder, *_options("run"))
    _run(folder, *_options("good"))
    assert _weights(folder / "run") == _weights(folder / "good")


_FILES = {
    "checkpoint",
    "curves.csv",
    "curves.png",
    "decompose_info.json",
    "weights.pth",
    "scores.json",
    "run.json",
}


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with the user's module, as the current one of this process."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return folder


def test_a_run_trains_and_leaves_what_other_verbs_read(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["finetune", *_options("run", "--epochs", "1", "--distill", "--json")]) == ExitCode.OK
    printed = json.loads(capsys.readouterr().out)
    assert {path.name for path in (here / "run").iterdir()} == _FILES
    before, after = printed["epochs"]
    assert before.keys() == {"epoch", "original", "score"}
    assert after["loss"] == pytest.approx(after["task"] + after["logits"] + after["responses"], rel=1e-5)
    assert execute(["rebuild", "mine:model", "--decomposed", "run", "--input", "1x1x6x6"]) == ExitCode.OK


def test_without_a_loss_the_original_alone_teaches(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["mine:model", "-o", "run", "--data", "mine:images_alone", "--loss", "none", "--epochs", "1"]
    assert execute(["finetune", *options]) == ExitCode.USAGE
    assert "--distill" in capsys.readouterr().err
    assert execute(["finetune", *options, "--distill"]) == ExitCode.OK
    assert not (here / "run" / "scores.json").exists()  # as there was no --eval
    assert _curves(here / "run")[1]["task"] == ""


def test_a_finished_run_or_one_of_other_settings_is_not_replaced(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = _options("run", "--epochs", "1")
    assert execute(["finetune", *short]) == ExitCode.OK
    before = _weights(here / "run")
    assert execute(["finetune", *short]) == ExitCode.USAGE
    assert "--force" in capsys.readouterr().err
    for path in (here / "run").iterdir():  # as a run leaves it that was interrupted
        if path.name not in ("checkpoint", "curves.csv"):
            path.unlink()
    assert execute(["finetune", *short, "--lr", "0.1"]) == ExitCode.FILE
    assert "other settings (lr: 0.0005, not 0.1)" in capsys.readouterr().err
    _flip_a_byte(here / "run" / "checkpoint" / "training.pt")
    assert execute(["finetune", *short]) == ExitCode.FILE
    assert "training.pt: expected sha256" in capsys.readouterr().err
    assert _weights(here / "run") == before
    assert execute(["finetune", *short, "--force", "--lr", "0.1"]) == ExitCode.OK
    assert _weights(here / "run") != before


_MISTAKES = [
    (["--data", "nothing:data"], ExitCode.USAGE, "--data: nothing cannot be imported"),
    (["--data", "mine:model"], ExitCode.USAGE, "expected a torch.utils.data.DataLoader"),
    (["--data", "mine:empty"], ExitCode.USAGE, "no batch"),
    (["--data", "mine:unlabelled"], ExitCode.USAGE, "expected a torch.utils.data.DataLoader"),
    (["--data", "mine:images_alone"], ExitCode.USAGE, r"expected batches \(inputs, targets\), found Tensor"),
    (["--data", "mine:torn"], ExitCode.USAGE, "--data: the DataLoader fails at batch 0: ValueError: torn image"),
    (["--loss", "mine:missing"], ExitCode.USAGE, "'missing'"),
    (["--backend", "tpu"], ExitCode.DEVICE, "there is no backend 'tpu'"),
    (["--decomposed", "nowhere"], ExitCode.USAGE, "nowhere"),
    (["--epochs", "0"], ExitCode.USAGE, "--epochs: expected a number above 0"),
    (["--lr", "-1"], ExitCode.USAGE, "--lr: expected a number above 0, found -1"),
    (["--autocast", "int8"], ExitCode.USAGE, "expected float16 or bfloat16"),
    (["--temperature", "0", "--distill"], ExitCode.USAGE, "temperature must be above 0"),
]


@pytest.mark.parametrize(("options", "code", "message"), _MISTAKES, ids=[" ".join(case[0]) for case in _MISTAKES])
def test_a_mistake_is_reported_in_a_line_and_writes_nothing(
    options: list[str], code: ExitCode, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert execute(["finetune", *_options("run"), *options]) == code
    errors = capsys.readouterr().err
    assert re.search(message, errors), errors
    assert not (here / "run").exists()


@pytest.mark.slow
def test_without_matplotlib_the_training_is_not_lost(folder: Path) -> None:
    (folder / "matplotlib.py").write_text("raise ImportError('not here')")
    done = _run(folder, *_options("run", "--epochs", "1", "--freeze-others"), PYTHONPATH=f"{folder}{os.pathsep}{_ROOT}")
    assert "needs matplotlib: pip install matplotlib" in " ".join(done.stdout.split())
    assert {path.name for path in (folder / "run").iterdir()} == _FILES - {"curves.png"}


_DIGITS = """
from torch.utils.data import DataLoader, TensorDataset
from amct_pytorch.demo import accuracy, load_digits_tensors, load_pretrained

train, train_labels, test, test_labels = load_digits_tensors()

def data():
    return DataLoader(TensorDataset(train, train_labels), 64, shuffle=True)

def score(model):
    return accuracy(model, test, test_labels)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_fine_tuning_brings_the_digits_network_back(tmp_path: Path) -> None:
    """At 0.03 of the full rank most accuracy is lost; minutes of training restore it, distillation at least as much."""
    (tmp_path / "digits.py").write_text(_DIGITS)
    decompose = [sys.executable, "-m", "amct_pytorch", "run", "digits:load_pretrained", "--output", "low"]
    _run(tmp_path, "--rank", "ratio:0.03", "--rank-multiple", "1", program=decompose)
    tuned: dict[str, list[float]] = {"plain": [], "distilled": []}
    options = ["digits:load_pretrained", "--decomposed", "low", "--data", "digits:data", "--eval", "digits:score"]
    for seed in ("0", "1", "2"):
        for name, more in [("plain", []), ("distilled", ["--distill"])]:
            _run(tmp_path, *options, "--output", name + seed, "--seed", seed, *more)
            rows = _curves(tmp_path / (name + seed))
            original = float(rows[0]["original"])
            assert float(rows[0]["score"]) < original - 5
            tuned[name].append(float(rows[-1]["score"]))
    medians = {name: statistics.median(found) for name, found in tuned.items()}
    assert original - 0.5 <= medians["plain"] <= medians["distilled"]
