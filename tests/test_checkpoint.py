"""Checkpoints: a loaded model equals the saved one, and a damaged or unfitting checkpoint changes nothing."""

from __future__ import annotations

import copy
import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import amct_pytorch._storage.manifest as manifest_module
from amct_pytorch.checkpoint import has_checkpoint, load_decomposed, load_training_state, save_decomposed
from amct_pytorch.errors import (
    CheckpointAccessError,
    CheckpointError,
    ConfigError,
    InfoFileError,
    LayerError,
    MissingExtra,
    ModelError,
)
from amct_pytorch.tensor_decompose import (
    Calibration,
    DecompositionConfig,
    FixedRank,
    auto_decomposition,
    decompose_network,
    plan_decomposition,
)

from .models import TwoConvs, conv, image, snapshot

_ROOT = Path(__file__).resolve().parent.parent


def _saved(folder: Path, **options: object) -> tuple[nn.Module, Path]:
    torch.manual_seed(3)
    net, _ = auto_decomposition(TwoConvs())
    save_decomposed(net.eval(), folder / "checkpoint", **options)  # type: ignore[arg-type]
    return net, folder / "checkpoint"


@pytest.fixture(params=["safetensors", "torch"])
def _format(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "safetensors":
        pytest.importorskip("safetensors")
    else:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    return str(request.param)


def test_what_is_loaded_computes_the_same_bit_for_bit(_format: str, tmp_path: Path) -> None:  # noqa: PT019  # its value
    net, place = _saved(tmp_path)
    fresh = TwoConvs()
    loaded, changes = load_decomposed(fresh, place)
    assert loaded is fresh
    assert changes == {"conv1": ["conv1.0", "conv1.1"], "conv2": ["conv2.0", "conv2.1"]}
    assert torch.equal(loaded.eval()(image()), net(image()))
    weights = {"safetensors": "weights.safetensors", "torch": "weights.pt"}[_format]
    assert {path.name for path in place.iterdir()} == {"decompose_info.json", weights, "manifest.json"}


def test_a_model_that_is_decomposed_alike_is_loaded_too(tmp_path: Path) -> None:
    net, place = _saved(tmp_path)
    torch.manual_seed(4)
    other, _ = auto_decomposition(TwoConvs())
    loaded, changes = load_decomposed(other, place)
    assert changes == {}
    assert torch.equal(loaded.eval()(image()), net(image()))


def test_biases_that_calibration_has_added_come_back(tmp_path: Path) -> None:
    blank = nn.Sequential(conv(bias=False), nn.ReLU(), conv(bias=False)).eval()
    x = image(2, 64, 9, 9)
    net, _ = auto_decomposition(copy.deepcopy(blank), calibration=Calibration([x]))
    save_decomposed(net, tmp_path / "checkpoint")
    loaded, _ = load_decomposed(blank, tmp_path / "checkpoint")
    assert net[2][1].bias.count_nonzero() > 0
    assert torch.equal(loaded(x), net(x))


def test_the_files_serve_without_us(tmp_path: Path) -> None:
    """The offline flow with the files of a checkpoint, as with the user's own files."""
    from safetensors.torch import load_file

    net, place = _saved(tmp_path)
    rebuilt, _ = decompose_network(TwoConvs(), place / "decompose_info.json")
    rebuilt.load_state_dict(load_file(place / "weights.safetensors"))
    assert torch.equal(rebuilt.eval()(image()), net(image()))


class _Tied(nn.Module):
    """A layer under two names, a weight in two layers, and buffers that are views of one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(), conv()
        self.second.weight = self.first.weight
        self.again = self.first
        whole = torch.arange(8.0)
        self.register_buffer("low", whole[:4])
        self.register_buffer("high", whole[4:])
        self.register_buffer("empty", torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.second(self.first(x))) * (self.low.sum() + self.high.sum())


def test_tied_weights_are_written_once_and_come_back_tied(_format: str, tmp_path: Path) -> None:  # noqa: PT019
    torch.manual_seed(1)
    net, _ = auto_decomposition(_Tied())
    x = torch.randn(1, 64, 8, 8)
    save_decomposed(net, tmp_path / "tied")
    loaded, _ = load_decomposed(_Tied(), tmp_path / "tied")
    assert torch.equal(loaded(x), net(x))
    assert loaded.second[0].weight is loaded.first[0].weight  # type: ignore[index,union-attr]
    assert loaded.again is loaded.first
    tensors = sum(value.nbytes for value in {id(v): v for v in net.state_dict(keep_vars=True).values()}.values())
    weights = next((tmp_path / "tied").glob("weights.*"))
    assert tensors < weights.stat().st_size < tensors + 8000


@given(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]), st.integers(1, 192))
@settings(max_examples=12, deadline=None)
def test_every_type_and_rank_comes_back(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, rank: int
) -> None:
    place = tmp_path_factory.mktemp("any") / "checkpoint"
    config = DecompositionConfig(rank=FixedRank(rank), require_gain=False)
    net, _ = auto_decomposition(nn.Sequential(conv()).to(dtype), config=config)
    save_decomposed(net, place)
    loaded, _ = load_decomposed(nn.Sequential(conv()).to(dtype), place)
    for key, value in net.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_model_that_is_a_convolution_itself(tmp_path: Path) -> None:
    net, _ = auto_decomposition(conv())
    save_decomposed(net, tmp_path / "one")
    layer = conv()
    unchanged = snapshot(layer)
    loaded, _ = load_decomposed(layer, tmp_path / "one")
    x = torch.randn(1, 64, 8, 8)
    assert torch.equal(loaded(x), net(x))
    unchanged()


def test_plan_and_training_state_come_back(tmp_path: Path) -> None:
    plan = plan_decomposition(TwoConvs())
    state = {"epoch": 3, "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "lr": [0.1]}}
    _, place = _saved(tmp_path, plan=plan, training_state=state)
    assert (place / "plan.txt").read_text(encoding="utf-8") == f"{plan}\n"
    assert load_training_state(place) == state


def test_without_a_training_state_there_is_none_to_load(tmp_path: Path) -> None:
    _, place = _saved(tmp_path)
    with pytest.raises(CheckpointError, match="holds no training state"):
        load_training_state(place)


@pytest.mark.parametrize("unsafe", [{"path": Path("a")}, {"function": lambda: None}], ids=["object", "unpicklable"])
def test_a_training_state_that_could_not_be_read_back_is_refused(unsafe: dict[str, object], tmp_path: Path) -> None:
    _, place = _saved(tmp_path, training_state={"epoch": 1})
    with pytest.raises(ConfigError, match="training_state .*expected tensors, numbers, strings"):
        save_decomposed(auto_decomposition(TwoConvs())[0], place, training_state=unsafe)
    assert load_training_state(place) == {"epoch": 1}


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _edit(place: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest, whose hash is then wrong."""
    manifest = json.loads((place / "manifest.json").read_text())
    change(manifest)
    (place / "manifest.json").write_text(json.dumps(manifest))


def _reseal(place: Path, change: Callable[[dict[str, Any]], object] = lambda found: None) -> None:
    """Change a manifest, and give it the hashes of the files that are there, and its own."""

    def seal(found: dict[str, Any]) -> None:
        for name in found["files"]:
            if (place / name).is_file():
                content = (place / name).read_bytes()
                found["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        change(found)
        found.pop("sha256", None)
        if found["version"] != 1:
            text = json.dumps(found, sort_keys=True, separators=(",", ":"))
            found["sha256"] = hashlib.sha256(text.encode()).hexdigest()

    _edit(place, seal)


def _as_version_1(found: dict[str, Any]) -> None:
    found["version"] = 1


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda place: _flip_a_byte(place / "weights.safetensors"),
            CheckpointError,
            "weights.safetensors: expected sha",
        ),
        (
            lambda place: _flip_a_byte(place / "decompose_info.json"),
            CheckpointError,
            "decompose_info.json: expected sha",
        ),
        (
            lambda place: os.truncate(place / "weights.safetensors", 90),
            CheckpointError,
            "expected bytes 138208, found 90",
        ),
        (lambda place: (place / "weights.safetensors").unlink(), CheckpointError, "weights.safetensors: is missing"),
        (lambda place: (place / "manifest.json").unlink(), CheckpointAccessError, "without manifest.json"),
        (
            lambda place: os.truncate(place / "manifest.json", 50),
            CheckpointError,
            "no valid JSON, perhaps half written",
        ),
        (lambda place: (place / "manifest.json").write_text("[1]"), CheckpointError, "expected an object with the key"),
        (
            lambda place: _reseal(place, lambda found: found.update(version=3)),
            CheckpointError,
            "expected version 1 or 2, found 3: it was written by another release",
        ),
        (lambda place: _reseal(place, lambda found: found.update(format="x")), CheckpointError, "expected format"),
        (
            lambda place: _reseal(place, lambda found: found.update(tied={"a": "b"})),
            CheckpointError,
            "'a' is tied to 'b'",
        ),
        (lambda place: _reseal(place, lambda found: found.update(tied=3)), CheckpointError, "tied: expected names"),
        (
            lambda place: _reseal(place, lambda found: found["files"].pop("decompose_info.json")),
            CheckpointError,
            "expected decompose_info.json and one file of weights",
        ),
        (
            lambda place: _reseal(place, lambda found: found.update(files=[])),
            CheckpointError,
            "files: expected an object, found list",
        ),
        *(
            (
                lambda place, entry=entry: _reseal(place, lambda found: found["files"].update({"plan.txt": entry})),
                CheckpointError,
                "files, 'plan.txt': expected bytes and sha256",
            )
            for entry in (3, {}, {"bytes": "1", "sha256": ""}, {"bytes": 1, "sha256": "", "more": 1})
        ),
        *(
            (
                lambda place, version=version: _edit(place, lambda found: found.update(version=version)),
                CheckpointError,
                "expected version 1 or 2, found",
            )
            for version in (True, 2.0, "2", [2], {}, None)
        ),
        (
            lambda place: _reseal(place, lambda found: found.update(more=1)),
            CheckpointError,
            "'more' is missing or unknown: it is damaged, or was changed after it was saved: copy or save the check",
        ),
        (
            lambda place: _edit(place, lambda found: found.pop("sha256")),
            CheckpointError,
            "'sha256' is missing or unknown",
        ),
        (lambda place: _edit(place, _as_version_1), CheckpointError, "'sha256' is missing or unknown"),
        *(
            (
                lambda place, key=key, value=value: _edit(place, lambda found: found[key].update(value)),
                CheckpointError,
                "manifest.json: expected sha256 [0-9a-f]+, found [0-9a-f]+: it is damaged, or was changed",
            )
            for key, value in (
                ("tied", {"conv1.1.bias": "conv2.1.bias"}),
                ("versions", {"torch": "1"}),
                ("files", {"plan.txt": {"bytes": 1, "sha256": ""}}),
            )
        ),
    ],
)
def test_a_damaged_checkpoint_is_told_and_loads_nothing(
    damage: Callable[[Path], object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    _, place = _saved(tmp_path)
    damage(place)
    net = TwoConvs()
    unchanged = snapshot(net)
    with pytest.raises(error, match=message):
        load_decomposed(net, place)
    unchanged()


@pytest.mark.parametrize("version", [1, 2])
def test_a_name_that_is_stored_and_tied_is_refused(version: int, tmp_path: Path) -> None:
    _, place = _saved(tmp_path)
    _reseal(place, lambda found: found.update(version=version, tied={"conv1.1.bias": "conv2.1.bias"}))
    with pytest.raises(CheckpointError, match="'conv1.1.bias' is tied to 'conv2.1.bias', but the file holds it too"):
        load_decomposed(TwoConvs(), place)


def test_a_changed_tie_is_refused(tmp_path: Path) -> None:
    net, _ = auto_decomposition(_Tied())
    save_decomposed(net, tmp_path / "tied")
    _edit(tmp_path / "tied", lambda found: found["tied"].update({"again.0.weight": "first.1.weight"}))
    with pytest.raises(CheckpointError, match="manifest.json: expected sha256"):
        load_decomposed(_Tied(), tmp_path / "tied")


def test_a_checkpoint_of_version_1_is_loaded_and_checked(tmp_path: Path) -> None:
    net, place = _saved(tmp_path, training_state={"epoch": 3})
    _reseal(place, _as_version_1)
    assert torch.equal(load_decomposed(TwoConvs(), place)[0].eval()(image()), net(image()))
    assert load_training_state(place) == {"epoch": 3}
    _flip_a_byte(place / "training.pt")
    with pytest.raises(CheckpointError, match="training.pt: expected sha256"):
        load_decomposed(TwoConvs(), place)


@pytest.mark.parametrize(
    "name", ["../../secret", "/proc/kmsg", "/dev/zero", "notes.txt", "", ".", "a\0b", "manifest.json"]
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_file_that_no_checkpoint_has_is_not_opened(
    version: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, place = _saved(tmp_path)
    stranger = {name: {"bytes": 1, "sha256": "x"}}
    _reseal(place, lambda found: found.update(version=version, files={**found["files"], **stranger}))
    opened = _opened(monkeypatch)
    with pytest.raises(CheckpointError, match="expected decompose_info.json and one file of weights, found"):
        load_decomposed(TwoConvs(), place)
    assert opened == ["manifest.json"]


def test_sizes_are_compared_before_anything_is_read(tmp_path: Path) -> None:
    _, place = _saved(tmp_path)
    os.truncate(place / "weights.safetensors", 2**42)  # bytes that would take hours to read
    with pytest.raises(CheckpointError, match="weights.safetensors: expected bytes 138208, found 4398046511104"):
        load_decomposed(TwoConvs(), place)


def test_a_manifest_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    _, place = _saved(tmp_path)
    os.truncate(place / "manifest.json", 2**42)
    with pytest.raises(CheckpointError, match="expected a manifest of 67108864 bytes at most, found 4398046511104"):
        load_decomposed(TwoConvs(), place)


def _socket(path: Path) -> None:
    place = Path.cwd()
    os.chdir(path.parent)  # the paths of sockets are short ones
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(place)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: os.mkfifo(path), "a pipe"),
        (lambda path: path.mkdir(), "a directory"),
        (lambda path: path.symlink_to("/dev/zero"), "a symbolic link"),
        (lambda path: path.symlink_to(path.parent.parent / "elsewhere"), "a symbolic link"),
        (_socket, "a socket"),
    ],
)
@pytest.mark.parametrize("name", ["manifest.json", "weights.safetensors", "decompose_info.json"])
def test_what_is_no_regular_file_is_not_opened(
    name: str, make: Callable[[Path], object], kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, place = _saved(tmp_path)
    (place / name).rename(tmp_path / "elsewhere")  # whole, so that a link to it would do
    make(place / name)
    opened = _opened(monkeypatch)
    with pytest.raises(CheckpointError, match=f"{name}: expected a regular file, found {kind}: put the file itself"):
        load_decomposed(TwoConvs(), place)
    assert name not in opened


def _opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that are opened from now on."""
    names: list[str] = []
    real = os.open

    def noting(path: Any, *arguments: Any, **keywords: Any) -> int:
        names.append(Path(path).name)
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(os, "open", noting)
    return names


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_file_that_becomes_a_pipe_when_it_is_opened_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, place = _saved(tmp_path)
    path, real = place / "decompose_info.json", os.open

    def swapping(opened: Any, *arguments: Any, **keywords: Any) -> int:
        if opened == path:
            path.unlink()
            os.mkfifo(path)
        return real(opened, *arguments, **keywords)

    monkeypatch.setattr(os, "open", swapping)
    with pytest.raises(CheckpointError, match="decompose_info.json: expected a regular file, found a pipe"):
        load_decomposed(TwoConvs(), place)


def test_what_was_checked_is_what_is_loaded(_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: PT019
    """Files that change as soon as they are checked."""
    net, place = _saved(tmp_path, training_state={"epoch": 3})
    config = DecompositionConfig(rank=FixedRank(20))
    other, _ = auto_decomposition(TwoConvs(), config=config)
    save_decomposed(other, tmp_path / "other", training_state={"epoch": 4})
    real = manifest_module.read_verified

    def then_changed(*arguments: Any) -> dict[str, bytes]:
        contents = real(*arguments)
        for path in place.iterdir():
            path.write_bytes((tmp_path / "other" / path.name).read_bytes())
        return contents

    keep = {path: path.read_bytes() for path in place.iterdir()}
    monkeypatch.setattr("amct_pytorch.checkpoint.read_verified", then_changed)
    assert torch.equal(load_decomposed(TwoConvs(), place)[0].eval()(image()), net(image()))
    for path, content in keep.items():
        path.write_bytes(content)
    assert load_training_state(place) == {"epoch": 3}


def _nested() -> Tensor:
    return torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "weights.pt: expected a dict, found list"),
        (torch.ones(3), "weights.pt: expected a dict, found Tensor"),
        (3, "weights.pt: expected a dict, found int"),
        ({}, "only the model has "),
        ({1: torch.ones(3)}, "weights.pt: expected tensors by name, found the name 1"),
        ({None: 1, "a": 2}, "weights.pt: expected tensors by name, found the name None"),
        ({("a", "b"): 1}, r"weights.pt: expected tensors by name, found the name \('a', 'b'\)"),
        ({"model": {"a": torch.ones(3)}}, "only the model has"),
        ({"a": 1}, "only the model has"),
    ],
)
def test_weights_of_another_kind_are_refused(content: object, message: str, tmp_path: Path) -> None:
    _, place = _saved_by_torch(tmp_path)
    torch.save(content, place / "weights.pt")
    _refused(place, message)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, "an object NoneType"),
        ({"a": 3}, "an object dict"),
        ([torch.ones(10)], "an object list"),
        (torch.ones(10, dtype=torch.float64), r"a tensor \(10,\) of float64"),
        (torch.ones(10, device="meta"), r"a tensor \(10,\) of float32 without values, on the meta device"),
        (torch.ones(10).to_sparse(), r"a sparse_coo tensor \(10,\) of float32"),
        (torch.ones(10, dtype=torch.complex64), r"a tensor \(10,\) of complex64"),
        (_nested(), "a nested tensor of float32"),
    ],
    ids=repr,
)
def test_a_value_of_another_kind_is_refused(value: object, found: str, tmp_path: Path) -> None:
    net, place = _saved_by_torch(tmp_path)
    torch.save({**net.state_dict(), "head.bias": value}, place / "weights.pt")
    _refused(place, rf"'head.bias': expected a tensor \(10,\) of float32 as in the model, found {found}")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"nothing",
        b"3",
        b"null",
        b"{}",
        b"[3]",
        b"[[]]",
        b'["conv1"]',
        b'[{"ori_layer_info": 3}]',
        b'[{"ori_layer_info": {"name": 3}}]',
        b'[{"version": [1]}]',
        b"[" * 100_000,
        b"9" * 10_000,
    ],
    ids=lambda content: content[:20],
)
def test_an_information_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    _, place = _saved(tmp_path)
    (place / "decompose_info.json").write_bytes(content)
    _refused(place, "decompose_info.json: ")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"\x02\0\0\0\0\0\0\0{}", b"PK", b'{"a": 1}', b"\x80\x02."])
def test_weights_that_are_no_such_file_are_refused(content: bytes, _format: str, tmp_path: Path) -> None:  # noqa: PT019
    _, place = _saved(tmp_path)
    next(place.glob("weights.*")).write_bytes(content)
    _refused(place, "weights..*: cannot be loaded|only the model has")


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "I3", "C64"])
def test_safetensors_of_types_that_torch_may_not_know_are_refused(dtype: str, tmp_path: Path) -> None:
    _, place = _saved(tmp_path)
    header = json.dumps({"a": {"dtype": dtype, "shape": [2], "data_offsets": [0, 1]}}).encode()
    (place / "weights.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1")
    _refused(place, "weights.safetensors: cannot be loaded|only the model has")


@pytest.mark.parametrize("content", [[1], torch.ones(3), 3, None, "state"], ids=repr)
def test_a_training_state_of_another_kind_is_refused(content: object, tmp_path: Path) -> None:
    _, place = _saved(tmp_path, training_state={"epoch": 3})
    torch.save(content, place / "training.pt")
    _reseal(place)
    with pytest.raises(CheckpointError, match="training.pt: expected a dict, found"):
        load_training_state(place)


def test_an_error_of_the_models_own_names_the_checkpoint(tmp_path: Path) -> None:
    class WithExtra(TwoConvs):
        def get_extra_state(self) -> object:
            return torch.tensor(3)

        def set_extra_state(self, state: Any) -> None:
            raise KeyError("epochs")

    net, _ = auto_decomposition(WithExtra())
    save_decomposed(net, tmp_path / "extra")
    blank = WithExtra()
    unchanged = snapshot(blank)
    with pytest.raises(CheckpointError, match=r"extra: the model does not take the weights \(KeyError\): 'epochs'"):
        load_decomposed(blank, tmp_path / "extra")
    unchanged()


def _saved_by_torch(folder: Path) -> tuple[nn.Module, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        return _saved(folder)


def _refused(place: Path, message: str) -> None:
    """A checkpoint whose files have other content, by their hashes intact, is refused and changes nothing."""
    _reseal(place)
    net = TwoConvs()
    unchanged = snapshot(net)
    with pytest.raises(CheckpointError, match=message):
        load_decomposed(net, place)
    unchanged()


class _Wider(TwoConvs):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(128, 12)


class _Longer(TwoConvs):
    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Linear(3, 3)


class _Other(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(), conv(64, 64)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            _Wider,
            CheckpointError,
            r"'head.weight': expected a tensor \(12, 128\) of float32 .* found a tensor \(10, 128\)",
        ),
        (_Longer, CheckpointError, "only the model has 'more.bias', 'more.weight'"),
        (_Other, InfoFileError, "conv2.*out_channels: expected 64"),
        (lambda: TwoConvs().half(), CheckpointError, "expected a tensor .* of float16 .* of float32"),
        (lambda: TwoConvs().to("meta"), ModelError, "on the meta device"),
        (
            lambda: auto_decomposition(TwoConvs(), config=DecompositionConfig(rank=FixedRank(20)))[0],
            InfoFileError,
            "decomposed already, and not as the file says: expected rank 32, found rank 20",
        ),
        (lambda: nn.DataParallel(TwoConvs()), ModelError, "wrapped in DataParallel"),
    ],
)
def test_a_checkpoint_of_another_model_is_told_before_anything_is_loaded(
    build: Callable[[], nn.Module], error: type[Exception], message: str, tmp_path: Path
) -> None:
    _, place = _saved(tmp_path)
    net = build()
    unchanged = snapshot(net) if not next(net.parameters()).is_meta else lambda: None
    with pytest.raises(error, match=message):
        load_decomposed(net, place)
    unchanged()


def test_structure_and_weights_of_two_models_do_not_mix(tmp_path: Path) -> None:
    _, place = _saved(tmp_path)
    config = DecompositionConfig(rank=FixedRank(20))
    save_decomposed(auto_decomposition(TwoConvs(), config=config)[0], tmp_path / "other")
    (place / "decompose_info.json").write_bytes((tmp_path / "other" / "decompose_info.json").read_bytes())
    _reseal(place)
    net = TwoConvs()
    unchanged = snapshot(net)
    with pytest.raises(CheckpointError, match=r"conv1.0.weight.*\(20, 64, 3, 1\).*found a tensor \(32, 64, 3, 1\)"):
        load_decomposed(net, place)
    unchanged()


def test_an_interrupt_while_loading_leaves_the_model_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, place = _saved(tmp_path)
    net = TwoConvs()
    unchanged = snapshot(net)
    net.head._register_load_state_dict_pre_hook(_interrupt)  # the convolutions are loaded by then
    with pytest.raises(KeyboardInterrupt):
        load_decomposed(net, place)
    net.head._load_state_dict_pre_hooks.clear()
    unchanged()


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


_FILL_THE_DISK = """
import resource, sys, torch
from amct_pytorch.checkpoint import save_decomposed
from amct_pytorch.errors import CheckpointAccessError
from amct_pytorch.tensor_decompose import auto_decomposition
from tests.models import TwoConvs
net, _ = auto_decomposition(TwoConvs())
if sys.argv[2] == "torch":
    import importlib.util
    importlib.util.find_spec = lambda name: None
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # no room for the weights
try:
    save_decomposed(net, sys.argv[1])
except CheckpointAccessError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_checkpoint(_format: str, tmp_path: Path) -> None:  # noqa: PT019
    pytest.importorskip("resource")
    net, place = _saved(tmp_path)
    program = [sys.executable, "-c", _FILL_THE_DISK, str(place), _format]
    done = subprocess.run(program, cwd=_ROOT, capture_output=True, text=True, check=True)
    assert f"{place}: cannot be written" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert torch.equal(load_decomposed(TwoConvs(), place)[0].eval()(image()), net(image()))


@pytest.mark.parametrize("failing", ["fsync", "rename"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failure_at_any_step_leaves_one_whole_checkpoint(
    failing: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, place = _saved(tmp_path)
    other, _ = auto_decomposition(TwoConvs())
    old, new = net(image()), other.eval()(image())
    holder = os if failing == "fsync" else Path
    failed = 0
    for step in range(100):  # fail at the first call, at the second, …
        with monkeypatch.context() as patch:
            patch.setattr(holder, failing, _failing_at(step, getattr(holder, failing), error))
            try:
                save_decomposed(other, place)
                break
            except (CheckpointAccessError, KeyboardInterrupt):
                failed += 1
        found = load_decomposed(TwoConvs(), place)[0].eval()(image())
        # An interrupt may come when all is done.
        assert torch.equal(found, old) or (isinstance(error, KeyboardInterrupt) and torch.equal(found, new))
        assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]
    assert failed >= 2
    assert torch.equal(load_decomposed(TwoConvs(), place)[0].eval()(image()), new)


@pytest.mark.parametrize(("holder", "failing"), [(os, "fsync"), (Path, "mkdir"), (Path, "rename")])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()], ids=repr)
def test_a_failure_at_any_step_leaves_no_new_folders(
    holder: object, failing: str, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, _ = auto_decomposition(TwoConvs())
    place = tmp_path / "a" / "b" / "checkpoint"
    for step in range(100):
        with monkeypatch.context() as patch:
            patch.setattr(holder, failing, _failing_at(step, getattr(holder, failing), error))
            try:
                save_decomposed(net, place)
                break
            except (CheckpointAccessError, KeyboardInterrupt):
                if has_checkpoint(place):  # an interrupt may come when all is done
                    break
        assert list(tmp_path.iterdir()) == []
    assert step >= 1
    assert [path.name for path in place.parent.iterdir()] == ["checkpoint"]


def test_a_state_that_cannot_be_written_leaves_no_new_folders(tmp_path: Path) -> None:
    net, _ = auto_decomposition(TwoConvs())
    with pytest.raises(ConfigError, match="training_state holds objects of"):
        save_decomposed(net, tmp_path / "a" / "b" / "c", training_state={"path": Path("a")})
    assert list(tmp_path.iterdir()) == []


def _failing_at(step: int, real: Callable[..., object], error: BaseException) -> Callable[..., object]:
    calls = iter(range(1000))

    def fail(*arguments: object, **keywords: object) -> object:
        if next(calls) == step:
            raise error
        return real(*arguments, **keywords)

    return fail


_DIE_BETWEEN_THE_RENAMES = """
import os, signal, sys
from pathlib import Path
from amct_pytorch.checkpoint import save_decomposed
from amct_pytorch.tensor_decompose import auto_decomposition
from tests.models import TwoConvs
real = Path.rename
def rename(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)
Path.rename = rename
save_decomposed(auto_decomposition(TwoConvs())[0], sys.argv[1])
"""


@pytest.mark.slow
def test_a_process_killed_between_the_renames_leaves_the_earlier_checkpoint(tmp_path: Path) -> None:
    net, place = _saved(tmp_path)
    program = [sys.executable, "-c", _DIE_BETWEEN_THE_RENAMES, str(place)]
    done = subprocess.run(program, cwd=_ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not place.exists()
    assert has_checkpoint(place)
    assert torch.equal(load_decomposed(TwoConvs(), place)[0].eval()(image()), net(image()))
    save_decomposed(net, place)
    assert torch.equal(load_decomposed(TwoConvs(), place)[0].eval()(image()), net(image()))
    assert not (tmp_path / ".checkpoint.previous").exists()


def test_what_is_no_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    net, place = _saved(tmp_path)
    (place / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"found 'notes.txt': a checkpoint would replace all of it"):
        save_decomposed(net, place)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="found a file"):
        save_decomposed(net, tmp_path / "file")
    with pytest.raises(ConfigError, match="a directory of its own"):
        save_decomposed(net, _ROOT)
    with pytest.raises(ConfigError, match="directory must be the path"):
        save_decomposed(net, 3)  # type: ignore[arg-type]
    assert (place / "notes.txt").read_text() == (tmp_path / "file").read_text() == "mine"


def test_what_cannot_be_saved_writes_nothing(tmp_path: Path) -> None:
    net, _ = auto_decomposition(TwoConvs())
    with pytest.raises(ModelError, match="'stem.weight' is on the meta device"):
        save_decomposed(copy.deepcopy(net).to("meta"), tmp_path / "new")
    with pytest.raises(ModelError, match="decompose model.module"):
        save_decomposed(nn.DataParallel(net), tmp_path / "new")
    net.conv1[0] = nn.Identity()  # type: ignore[index,operator]
    with pytest.raises(LayerError, match="layer 'conv1'"):
        save_decomposed(net, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_checkpoint_and_a_missing_library_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointAccessError, match="expected a checkpoint .*, found no directory"):
        load_decomposed(TwoConvs(), tmp_path / "nowhere")
    _, place = _saved(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors.torch", None)
    net = TwoConvs()
    unchanged = snapshot(net)
    with pytest.raises(MissingExtra, match="pip install safetensors"):
        load_decomposed(net, place)
    unchanged()


@pytest.mark.slow
def test_the_modules_load_nothing_optional() -> None:
    program = (
        "import sys, torch; known = set(sys.modules); import amct_pytorch.checkpoint, amct_pytorch.finetune; "
        "print(*set(sys.modules) - known)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert not {"safetensors", "matplotlib", "tqdm", "torch_npu"} & set(done.stdout.split())
