"""The decomposition information file: read, checked, and written as a whole."""

from __future__ import annotations

import copy
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amct_pytorch.errors import AmctError, ConfigError, InfoFileAccessError, InfoFileError, InfoFileNotFound, LayerError
from amct_pytorch.tensor_decompose import Calibration, DecompositionConfig, auto_decomposition, decompose_network

from .models import TwoConvs, chains, conv, snapshot

# What the reference product writes for its documented example: no key of ours.
_REFERENCE = [
    {
        "ori_layer_info": {
            "name": "conv2",
            "in_channels": 64,
            "out_channels": 128,
            "kernel_size": [3, 3],
            "stride": [2, 2],
            "dilation": [1, 1],
            "groups": 1,
        },
        "mode": "SCFK",
        "decom_nodes": {"first": {"weight_shape": [32, 64, 3, 1]}, "last": {"weight_shape": [128, 32, 1, 3]}},
    }
]


def test_a_file_of_the_reference_is_read(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    path.write_text("\ufeff" + json.dumps(_REFERENCE, indent="\t"), encoding="utf-8")
    model, changes = decompose_network(TwoConvs(), path)
    assert changes == {"conv2": ["conv2.0", "conv2.1"]}
    assert [tuple(stage.weight.shape) for stage in model.conv2] == [(32, 64, 3, 1), (128, 32, 1, 3)]
    assert [stage.stride for stage in model.conv2] == [(2, 1), (1, 2)]


def test_a_file_of_ours_is_what_the_reference_reads_with_two_keys_more(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    auto_decomposition(TwoConvs(), path)
    text = path.read_text(encoding="utf-8")
    assert text.startswith('[\n\t{\n\t\t"ori_layer_info": {\n\t\t\t"name": "conv1",')
    entry = json.loads(text)[1]
    assert (entry.pop("version"), entry.pop("method")) == (1, "separable")
    assert entry == _REFERENCE[0]


def test_entries_stand_in_the_order_of_named_modules(tmp_path: Path) -> None:
    model = nn.ModuleDict({"b": conv(), "a": nn.ModuleDict({"z": conv()}), "c": conv()})
    auto_decomposition(model, tmp_path / "info.json", config=DecompositionConfig(layers={"a.z": False}))
    auto_decomposition(model, tmp_path / "info.json")
    names = [entry["ori_layer_info"]["name"] for entry in json.loads((tmp_path / "info.json").read_text())]
    assert names == ["b", "a.z", "c"] == list(chains(model))


def _edit(*keys: object, to: object) -> Callable[[list[Any]], None]:
    def change(entries: list[Any]) -> None:
        place: Any = entries
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return change


def _drop(*keys: object) -> Callable[[list[Any]], None]:
    def change(entries: list[Any]) -> None:
        place: Any = entries
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_edit(0, to=3), "entry 0: expected an object, found 3"),
        (_drop(0, "ori_layer_info"), "entry 0: the key 'ori_layer_info' is missing"),
        (_drop(0, "ori_layer_info", "groups"), "entry 0 ('conv1'), ori_layer_info: the key 'groups' is missing"),
        (_edit(0, "ori_layer_info", "name", to=["conv1"]), "name: expected a string, found ['conv1']"),
        (_edit(0, "ori_layer_info", "name", to="conv3"), "no Conv2d of that name (did you mean 'conv2', 'conv1'?)"),
        (_edit(0, "ori_layer_info", "name", to="head"), "is this the file of another model?"),
        (_edit(0, "ori_layer_info", "name", to="conv2"), "('conv2'), ori_layer_info, out_channels: expected 128"),
        (_edit(0, "ori_layer_info", "in_channels", to=True), "in_channels: expected 64 as in the model, found True"),
        (_edit(0, "ori_layer_info", "in_channels", to=64.0), "in_channels: expected 64 as in the model, found 64.0"),
        (_edit(0, "ori_layer_info", "stride", to=[1]), "stride: expected [1, 1] as in the model, found [1]"),
        (_edit(0, "ori_layer_info", "kernel_size", to=3), "kernel_size: expected [3, 3] as in the model, found 3"),
        (_edit(0, "mode", to="XYZ"), "entry 0 ('conv1'), mode: expected 'SCFK' for this geometry, found 'XYZ'"),
        (_edit(0, "mode", to=None), "mode: expected a string, found None"),
        (_edit(0, "method", to="tucker3"), "entry 0 ('conv1'), method: no decomposition method is named 'tucker3'"),
        (_edit(0, "version", to=4), "version: expected 1 to 3 (or none), the newest that this release reads, found 4"),
        (_edit(0, "added_bias", to=1), "entry 0 ('conv1'), added_bias: expected true or false, found 1"),
        (_drop(0, "decom_nodes", "last"), "decom_nodes: expected the keys first, last, found ['first']"),
        (_edit(0, "decom_nodes", "first", "weight_shape", to=[0, 64, 3, 1]), "four whole numbers from 1 on"),
        (_edit(0, "decom_nodes", "first", "weight_shape", to=[32, 64, 3]), "four whole numbers from 1 on"),
        (_edit(0, "decom_nodes", "first", "weight_shape", to="shape"), "weight_shape: expected a list, found 'shape'"),
        (_edit(0, "decom_nodes", "first", "weight_shape", to=[10**18, 64, 3, 1]), "expected a rank of 192 at most"),
        (_edit(0, "decom_nodes", "first", "weight_shape", to=[32, 64, 1, 3]), "expected [32, 64, 3, 1], found "),
        (_edit(0, "decom_nodes", "last", "weight_shape", to=[64, 32, 1, 2]), "expected [64, 32, 1, 3], found "),
        (lambda entries: entries.append(copy.deepcopy(entries[0])), "entry 2: the layer 'conv1' has an entry already"),
    ],
)  # fmt: skip
def test_a_wrong_entry_is_told_by_place_expectation_and_finding(
    tmp_path: Path, change: Callable[[list[Any]], None], message: str
) -> None:
    path = tmp_path / "info.json"
    auto_decomposition(TwoConvs(), path)
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))
    _refused(path, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no valid JSON, perhaps half written"),
        ('[{"ori_layer_info": {"name": "con', "no valid JSON, perhaps half written"),
        ("{}", "the file: expected a list"),
        ("[" * 100_000, "no valid JSON"),
        ("[" + "9" * 5000 + "]", "no valid JSON"),
        ("[1e999]", "entry 0: expected an object, found inf"),
        ("[NaN]", "the file holds NaN, which is no JSON number"),
        ('[{"mode": "SCFK", "mode": "FCFK"}]', "gives the key 'mode' twice"),
        ("[\ud800]", None),
    ],
)
def test_a_hostile_or_half_written_file_is_a_clear_error(tmp_path: Path, text: str, message: str | None) -> None:
    path = tmp_path / "info.json"
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    _refused(path, message or "expected UTF-8 text")


def test_two_names_of_one_layer_must_have_one_rank(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    auto_decomposition(TwoConvs(), path)
    entries = json.loads(path.read_text())[:1]
    entries.append(copy.deepcopy(entries[0]))
    entries[1]["ori_layer_info"]["name"] = "alias"
    entries[1]["decom_nodes"] = {"first": {"weight_shape": [48, 64, 3, 1]}, "last": {"weight_shape": [64, 48, 1, 3]}}
    path.write_text(json.dumps(entries))
    model = TwoConvs()
    model.alias = model.conv1
    check = snapshot(model)
    with pytest.raises(InfoFileError, match="'conv1' and 'alias' are one layer .* found rank 32 and rank 48"):
        decompose_network(model, path)
    check()


def test_an_entry_of_a_version_cannot_say_what_later_ones_brought(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    calibration = Calibration([torch.randn(4, 64, 8, 8)])
    auto_decomposition(nn.Sequential(conv(bias=False)), path, calibration=calibration)
    (entry,) = json.loads(path.read_text())
    assert entry["version"] == 2
    path.write_text(json.dumps([{**entry, "version": 1}]))
    with pytest.raises(InfoFileError, match="version: expected 2 of an entry with this method and added_bias"):
        decompose_network(nn.Sequential(conv(bias=False)), path)


def test_a_lazy_layer_is_told_to_be_run_first(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    auto_decomposition(nn.Sequential(conv()), path)
    with pytest.raises(LayerError, match="'0' cannot be decomposed as the file says: .* run the model once"):
        decompose_network(nn.Sequential(nn.LazyConv2d(64, 3, padding=1)), path)


def _refused(path: Path, message: str) -> None:
    model = TwoConvs()
    check = snapshot(model)
    with pytest.raises(InfoFileError) as error:
        decompose_network(model, path)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")
    assert len(str(error.value)) < 600
    check()


def test_paths_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(InfoFileNotFound, match="there is no such"):
        decompose_network(TwoConvs(), tmp_path / "none.json")
    with pytest.raises(FileNotFoundError):
        decompose_network(TwoConvs(), str(tmp_path / "none" / "none.json"))
    with pytest.raises(InfoFileAccessError, match="found a directory"):
        decompose_network(TwoConvs(), tmp_path)
    with pytest.raises(InfoFileAccessError, match="found no regular file"):
        decompose_network(TwoConvs(), "/dev/zero")
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(InfoFileError, match="bytes at most"):
        decompose_network(TwoConvs(), large)
    for wrong in (None, 3, b"info.json", "", "a\0b"):
        with pytest.raises(ConfigError, match="must be the path of a file"):
            decompose_network(TwoConvs(), wrong)  # type: ignore[arg-type]


def test_paths_that_cannot_be_written_are_told_before_any_work(tmp_path: Path) -> None:
    model = TwoConvs()
    check = snapshot(model)
    (tmp_path / "file").write_text("")
    calls: list[object] = []
    below_a_file, too_long = tmp_path / "file" / "info.json", tmp_path / ("x" * 300)
    for wrong in (tmp_path, f"{tmp_path}/new/", below_a_file, too_long, "/dev/null", 3, ""):
        with pytest.raises(AmctError):
            auto_decomposition(model, wrong, progress=lambda *call: calls.append(call))  # type: ignore[arg-type]
    check()
    assert calls == []
    assert sorted(item.name for item in tmp_path.iterdir()) == ["file"]


def test_a_folder_without_permission_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # File permissions do not stop a superuser, who may be running the tests.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(InfoFileAccessError, match="cannot be written: .* is not a writable folder"):
        auto_decomposition(TwoConvs(), tmp_path / "info.json")


def test_missing_folders_are_made_and_links_followed_and_modes_kept(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "info.json"
    auto_decomposition(TwoConvs(), path)
    path.chmod(0o640)
    link = tmp_path / "link.json"
    link.symlink_to(path)
    auto_decomposition(nn.Sequential(conv()), link)
    assert link.is_symlink()
    assert [entry["ori_layer_info"]["name"] for entry in json.loads(path.read_text())] == ["0"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    fresh = tmp_path / "fresh.json"
    auto_decomposition(nn.Sequential(conv()), fresh)
    (tmp_path / "plain").write_text("")
    assert fresh.stat().st_mode == (tmp_path / "plain").stat().st_mode


_CRASH = """
import os, signal, sys
import torch
from torch import nn
import amct_pytorch._storage.atomic as durable
from amct_pytorch.tensor_decompose import plan_decomposition

torch.set_num_threads(1)
path = sys.argv[1]
old = open(path, "rb").read()
model = nn.Sequential(nn.Conv2d(64, 64, 3))
plan = plan_decomposition(model)

def die_at(step):
    # Counts the lines run in the modules that write, and kills the process before one of them.
    count = 0
    def trace(frame, event, arg):
        nonlocal count
        if os.path.dirname(frame.f_code.co_filename) != os.path.dirname(durable.__file__):
            return None
        if event == "line":
            count += 1
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)

contents, step = [], 0
while True:
    step += 1
    child = os.fork()
    if child == 0:
        die_at(step)
        plan.apply(model, path)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    contents.append(open(path, "rb").read())
    if not os.WIFSIGNALED(status):
        break
    open(path, "wb").write(old)
new = contents[-1]
assert new != old and new.endswith(b"]\\n")
assert all(content in (old, new) for content in contents)
assert os.listdir(os.path.dirname(path)) == [os.path.basename(path)]  # the last one removes what the others left
print(len(contents), contents.count(old), contents.count(new))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_between_any_two_steps_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    path.write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", _CRASH, str(path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    steps, old, new = map(int, done.stdout.split())
    assert steps > 20
    assert old > 10
    assert new > 1
