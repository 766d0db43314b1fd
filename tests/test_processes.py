"""Decomposition in a process group: every process ends with the same model, and none is left waiting."""

from __future__ import annotations

import datetime
import hashlib
import os
import signal
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amct_pytorch._run.process_group import ProcessGroup, joined_processes
from amct_pytorch.errors import ConfigError, ProcessFailed
from amct_pytorch.tensor_decompose import Calibration, auto_decomposition, plan_decomposition

from .models import TwoConvs
from .processes import run_in_processes


def _net() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(TwoConvs())


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for key, value in model.state_dict().items():
        digest.update(key.encode() + value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _batches(index: int) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(index)
    return [torch.randn(4, 3, 16, 16, generator=draw) for _ in range(3)]


# Functions that run in the processes


def plain(index: int, folder: str) -> dict[str, object]:
    seen: list[str] = []
    path = Path(folder) / f"{index}.json"
    net, changes = auto_decomposition(_net(), path, progress=lambda done, total, name: seen.append(name))
    return {"digest": _digest(net), "changes": changes, "factored": seen, "wrote": path.exists()}


def calibrated(index: int, mode: str) -> dict[str, object]:
    plan = plan_decomposition(_net(), calibration=Calibration(_batches(index), mode=mode))
    text = plan.text(width=400)
    net, _ = plan.apply(_net())
    return {"digest": _digest(net), "plan": text}


def by_itself(index: int, folder: str) -> str:
    if index == 1:
        return "does something else"
    return _digest(auto_decomposition(_net(), Path(folder) / "info.json", distributed=False)[0])


def other_weights(index: int) -> None:
    net = _net()
    with torch.no_grad():
        net[0].conv2.weight += index
    auto_decomposition(net)


def one_fails(index: int, where: str, folder: str) -> list[str]:
    net = _net()
    before = _digest(net)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt("pressed")

    try:
        if where == "begin":
            auto_decomposition(net if index == 0 else None)
        elif where == "middle":
            auto_decomposition(net, progress=fail if index == 1 else False)
        elif where == "data":
            batches = _batches(index) if index == 0 else [torch.full((4, 3, 16, 16), torch.nan)]
            auto_decomposition(net, calibration=Calibration(batches))
        else:  # the first process cannot write, which it finds out last
            import amct_pytorch.tensor_decompose.plan.apply as apply

            def full(*_: object, **__: object) -> None:
                raise OSError(28, "No space left on device")

            apply.write_file = full
            auto_decomposition(net, Path(folder) / "info.json")
    except BaseException as error:
        assert _digest(net) == before
        return [type(error).__name__, str(error)]
    return ["none", ""]


def one_cannot_apply(index: int, path: str) -> list[object]:
    net = _net()
    if index == 1:  # which turns warnings into errors, and has something to be warned of as its layers are replaced
        warnings.simplefilter("error")
        net[0].alias = (net[0].conv1,)
    before = _digest(net)
    try:
        auto_decomposition(net, path)
    except BaseException as error:
        return [type(error).__name__, _digest(net) == before]
    return ["none", True]


def other_calls(index: int, folder: str) -> dict[str, list[str]]:
    batches, net = _batches(index), _net()
    before = _digest(net)
    pairs: dict[str, list[dict[str, object]]] = {
        "mode": [{"calibration": Calibration(batches)}, {"calibration": Calibration(batches, mode="refit")}],
        "passes": [{"calibration": Calibration(batches, mode=mode)} for mode in ("refit", "reconstruct")],
        "memory": [{"calibration": Calibration(batches, mode="refit", memory=memory)} for memory in (2**31, 0)],
        "biases": [{"calibration": Calibration(batches, add_bias=add)} for add in (True, False)],
        "none": [{"calibration": Calibration(batches)}, {}],
        "inputs": [{"example_inputs": batches[0]}, {}],
        "file": [{"decompose_info_path": Path(folder) / "info.json"}, {}],
    }
    found = {}
    for what, settings in [*pairs.items(), ("function", [{}, {}])]:
        function = plan_decomposition if what == "function" and index else auto_decomposition
        try:
            function(net, **settings[index])  # type: ignore[operator]
            found[what] = ["none", ""]
        except Exception as error:
            found[what] = [type(error).__name__, str(error)]
    assert _digest(net) == before
    return found


def one_stays_away(index: int, how: str) -> list[str]:
    if index == 1:
        if how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(15)
        return []
    begin = time.monotonic()
    try:
        auto_decomposition(_net(), distributed=datetime.timedelta(seconds=4))
    except ProcessFailed as error:
        return [str(error), str(time.monotonic() - begin)]
    return ["none", ""]


def one_is_stopped(index: int, pids: str) -> list[str]:
    (Path(pids) / str(index)).write_text(str(os.getpid()))

    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGSTOP)

    begin = time.monotonic()
    try:
        patience = datetime.timedelta(seconds=4)
        auto_decomposition(_net(), progress=stop if index == 1 else False, distributed=patience)
    except ProcessFailed as error:
        os.kill(int((Path(pids) / "1").read_text()), signal.SIGKILL)
        return [str(error), str(time.monotonic() - begin)]
    return ["none", ""]


def one_dies(index: int) -> list[str]:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    begin = time.monotonic()
    try:
        auto_decomposition(_net(), progress=die if index == 1 else False)
    except ProcessFailed as error:
        return [str(error), str(time.monotonic() - begin)]
    return ["none", ""]


class _OnABrokenDevice:
    def __reduce__(self) -> str:
        raise RuntimeError("NPU function error: AclrtSynchronizeDeviceWithTimeout, error code is 507011")


def one_cannot_read_its_value(index: int) -> None:
    with joined_processes(True) as together:
        together.gather(_OnABrokenDevice() if index == 1 else 0)


# Tests of their results


@pytest.mark.slow
def test_the_layers_are_shared_out_and_every_process_has_the_same_model_as_one_alone(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    alone, changes = auto_decomposition(_net())
    answers = [answer["value"] for answer in run_in_processes("tests.test_processes", "plain", str(tmp_path), count=3)]
    assert [one["digest"] for one in answers] == [_digest(alone)] * 3
    assert all(one["changes"] == changes for one in answers)
    assert sorted(name for one in answers for name in one["factored"]) == sorted(changes)
    assert [len(one["factored"]) for one in answers] == [1, 1, 0]
    assert [one["wrote"] for one in answers] == [True, False, False]


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["whiten", "refit", "reconstruct", "refine"])
def test_calibration_pools_the_batches_of_all_processes(mode: str) -> None:
    answers = [answer["value"] for answer in run_in_processes("tests.test_processes", "calibrated", mode)]
    assert answers[0] == answers[1]
    one = plan_decomposition(_net(), calibration=Calibration(_batches(0), mode=mode))
    assert _digest(one.apply(_net())[0]) != answers[0]["digest"]
    assert "2 batches held out" in answers[0]["plan"]  # one of each process


@pytest.mark.slow
def test_one_process_can_work_by_itself(tmp_path: Path) -> None:
    answers = run_in_processes("tests.test_processes", "by_itself", str(tmp_path))
    assert answers[0]["value"] == _digest(auto_decomposition(_net())[0])
    assert (tmp_path / "info.json").exists()


@pytest.mark.slow
def test_processes_with_other_weights_are_told_which_layer_differs() -> None:
    for answer in run_in_processes("tests.test_processes", "other_weights"):
        kind, message, _ = answer["error"]
        assert kind == "LayerError"
        assert "layer '0.conv2' is not to be decomposed alike in process" in message


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "failing", "own", "others"),
    [
        ("begin", 1, "ModelError", "process 1 failed: ModelError: model must be a torch.nn.Module"),
        ("middle", 1, "KeyboardInterrupt", "process 1 failed: KeyboardInterrupt: pressed"),
        ("data", 1, "InputsError", "process 1 failed: InputsError: layer '0.conv1'"),
        ("end", 0, "OSError", "process 0 failed: OSError: [Errno 28] No space left on device"),
    ],
)
def test_a_process_that_fails_fails_all_and_changes_nothing(
    where: str, failing: int, own: str, others: str, tmp_path: Path
) -> None:
    answers = [
        answer["value"] for answer in run_in_processes("tests.test_processes", "one_fails", where, str(tmp_path))
    ]
    assert answers[failing][0] == own
    assert answers[1 - failing][0] == "ProcessFailed"
    assert answers[1 - failing][1].startswith(others)
    assert not (tmp_path / "info.json").exists()


@pytest.mark.slow
def test_the_file_is_written_only_after_every_process_could_apply_the_plan(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    path.write_text("an earlier file")
    told = [answer["value"] for answer in run_in_processes("tests.test_processes", "one_cannot_apply", str(path))]
    assert told == [["ProcessFailed", True], ["AmctWarning", True]]
    assert path.read_text() == "an earlier file"


@pytest.mark.slow
def test_processes_with_other_settings_all_get_an_error_that_names_them(tmp_path: Path) -> None:
    one, other = (answer["value"] for answer in run_in_processes("tests.test_processes", "other_calls", str(tmp_path)))
    names = {"inputs": "example_inputs", "file": "decompose_info_path", "function": "the function called"}
    for what, errors in one.items():
        for kind, message in (errors, other[what]):
            assert kind == "ConfigError", what
            assert message.startswith(f"{names.get(what, 'calibration')} differs between the processes of the group: ")
            assert "in process 0" in message
            assert "in process 1" in message
    assert not (tmp_path / "info.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["dies", "does something else"])
def test_a_process_that_does_not_come_is_given_up_in_the_time_for_arrival(how: str) -> None:
    message, seconds = run_in_processes("tests.test_processes", "one_stays_away", how)[0]["value"]
    assert message.startswith("not every process came to decompose within 0:00:04")
    assert float(seconds) < 12


@pytest.mark.slow
def test_a_process_that_is_stopped_is_given_up_in_the_time_that_the_user_sets(tmp_path: Path) -> None:
    waiting, stopped = run_in_processes("tests.test_processes", "one_is_stopped", str(tmp_path))
    assert stopped == {}
    message, seconds = waiting["value"]
    assert message.startswith("another process is gone, or has not answered for 0:00:04")
    assert float(seconds) < 12


@pytest.mark.slow
def test_a_device_that_fails_is_not_taken_for_a_lost_process() -> None:
    other, failing = (
        answer["error"] for answer in run_in_processes("tests.test_processes", "one_cannot_read_its_value")
    )
    assert failing[:2] == [
        "RuntimeError",
        "NPU function error: AclrtSynchronizeDeviceWithTimeout, error code is 507011",
    ]
    assert other[0] == "ProcessFailed"
    assert other[1].startswith("process 1 failed: RuntimeError: NPU function error")


@pytest.mark.parametrize("wanted", [3, None, "yes", datetime.timedelta()])
def test_distributed_is_a_flag_or_a_time(wanted: Any) -> None:
    with pytest.raises(ConfigError, match="distributed must be True, False, or a datetime.timedelta above 0, found"):
        auto_decomposition(_net(), distributed=wanted)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_within_a_minute() -> None:
    alive, dead = run_in_processes("tests.test_processes", "one_dies")
    assert dead == {}
    message, seconds = alive["value"]
    assert message.startswith("another process is gone")
    assert float(seconds) < 60


def test_the_most_expensive_go_to_the_process_with_the_least_to_do() -> None:
    groups = []
    for index in range(3):
        one = ProcessGroup()
        one.index, one.size = index, 3
        groups.append(one)
    shares = [one.mine([1.0, 8.0, 2.0, 3.0, 4.0, 1.0]) for one in groups]
    assert sorted(index for share in shares for index in share) == list(range(6))
    assert shares[0] == [1]
    assert ProcessGroup().mine([3.0, 1.0]) == [0, 1]
