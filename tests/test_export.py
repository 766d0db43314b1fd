"""export_onnx writes one file with the same outputs as PyTorch, or says why it cannot."""

from __future__ import annotations

import errno
import json
import stat
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from amct_pytorch.ascend import export_ascend
from amct_pytorch.demo import load_pretrained
from amct_pytorch.errors import (
    AmctError,
    ConfigError,
    DeviceError,
    ExportAccessError,
    ExportError,
    InputsError,
    MissingExtra,
    ModelError,
)
from amct_pytorch.export import export_onnx
from amct_pytorch.tensor_decompose import DecompositionConfig, FixedRank, auto_decomposition

from .models import TwoConvs, chains, conv, image, snapshot
from networks import resnet50

pytestmark = pytest.mark.usefixtures("onnx_operators_read_once")


def _decomposed() -> nn.Module:
    net, _ = auto_decomposition(TwoConvs().eval(), config=DecompositionConfig(rank=FixedRank(16)))
    return net


def _run(path: Path, *inputs: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return session.run(None, dict(zip(names, (tensor.numpy() for tensor in inputs), strict=True)))


def _relative(found: np.ndarray, expected: Tensor) -> float:
    return float(np.abs(found - expected.numpy()).max() / expected.abs().max())


def _agrees_at_batch_1_and_8(net: nn.Module, path: Path, shape: tuple[int, ...]) -> None:
    for batch in (1, 8):
        inputs = image(batch, *shape)
        with torch.no_grad():
            assert _relative(_run(path, inputs)[0], net(inputs)) < 1e-4


@pytest.mark.slow
def test_the_digits_net_matches_pytorch_at_batch_1_and_8_from_one_file(tmp_path: Path) -> None:
    net, changes = auto_decomposition(load_pretrained())
    assert changes
    report = export_onnx(net, image(4, 1, 8, 8), tmp_path / "digits.onnx", dynamic_batch=True)
    assert [path.name for path in tmp_path.iterdir()] == ["digits.onnx"]
    assert report.ok
    assert [check.shapes[0][0] for check in report.checks] == [4, 1, 8]
    assert report.opset == 18
    assert report.size == (tmp_path / "digits.onnx").stat().st_size
    assert report.inputs[0].shape == ("batch", 1, 8, 8)
    _agrees_at_batch_1_and_8(net, tmp_path / "digits.onnx", (1, 8, 8))


@pytest.mark.slow
def test_resnet_50_matches_pytorch_at_batch_1_and_8_from_one_file(tmp_path: Path) -> None:
    net, _ = auto_decomposition(resnet50())
    assert len(chains(net)) > 10
    report = export_onnx(
        net, image(1, 3, 64, 64), tmp_path / "net.onnx", dynamic_batch=[1, 8], dynamic_image_size=[(96, 64)]
    )
    assert report.ok
    _agrees_at_batch_1_and_8(net, tmp_path / "net.onnx", (3, 64, 64))


def test_the_image_size_can_stay_open(tmp_path: Path) -> None:
    net = _decomposed()
    report = export_onnx(net, image(), tmp_path / "net.onnx", dynamic_batch=[3], dynamic_image_size=True)
    assert [check.shapes for check in report.checks] == [((3, 3, 16, 16),), ((2, 3, 32, 32),)]
    assert report.inputs[0].shape == ("batch", 3, "height", "width")
    inputs = image(5, 3, 20, 28)
    with torch.no_grad():
        assert _relative(_run(tmp_path / "net.onnx", inputs)[0], net(inputs)) < 1e-4


def test_the_file_is_of_the_model_in_eval_mode_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    net = nn.Sequential(_decomposed(), nn.Dropout(0.9)).train()
    net[0].conv1.register_forward_hook(lambda *_: None)
    check, given = snapshot(net), image()
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert export_onnx(net, given, tmp_path / "net.onnx").ok
    check()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(given, image())
    with torch.no_grad():
        assert _relative(_run(tmp_path / "net.onnx", given)[0], net.eval()(given)) < 1e-4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_file_is_in_float32_whatever_the_model_is(dtype: torch.dtype, tmp_path: Path) -> None:
    net = nn.Sequential(conv(3, 4), nn.ReLU()).to(dtype, memory_format=torch.channels_last)
    report = export_onnx(net, image().to(dtype), tmp_path / "net.onnx")
    assert report.ok
    assert [item.dtype for item in (*report.inputs, *report.outputs)] == ["tensor(float)"] * 2
    assert net[0].weight.dtype == dtype


class _Fork(nn.Module):
    """Several inputs and outputs, some of them no tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(3, 4)

    def forward(self, x: Tensor, index: Tensor, scale: float = 1.0, unused: Tensor | None = None) -> dict[str, Any]:
        y = self.conv(x)
        return {"scaled": y * scale, "more": (y.flatten(1)[:, index], index + 1), "none": None}


@pytest.mark.parametrize("inputs", [(image(), torch.arange(3), 2.0), {"index": torch.arange(3), "x": image()}])
def test_arguments_and_keywords_and_several_outputs(inputs: Any, tmp_path: Path) -> None:
    report = export_onnx(_Fork(), inputs, tmp_path / "net.onnx", dynamic_batch=[1, 3])
    assert report.ok
    assert {item.name for item in report.inputs} == {"x", "index"}
    assert [item.dtype for item in report.outputs] == ["tensor(float)", "tensor(float)", "tensor(int64)"]


class _Nested(nn.Module):
    def forward(self, *pairs: dict[str, Any]) -> Tensor:
        return sum(pair["a"] + pair["b"][0] for pair in pairs)


def test_nested_and_variadic_arguments_stay_open_too(tmp_path: Path) -> None:
    pair = {"a": image(), "b": [image()]}
    report = export_onnx(_Nested(), (pair, pair), tmp_path / "net.onnx", dynamic_batch=True)
    assert report.ok
    assert [item.shape for item in report.inputs] == [("batch", 3, 16, 16)] * 4


def test_a_model_that_cannot_agree_with_itself_is_reported_wrong(tmp_path: Path) -> None:
    class Random(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    class NotANumber(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 100).log()

    for net in (Random(), NotANumber()):
        report = export_onnx(net, image(), tmp_path / "net.onnx")
        assert not report.ok
        assert "wrong: expected at most 1e-04 relative" in str(report)


def test_the_report_prints_and_is_saved(tmp_path: Path) -> None:
    report = export_onnx(_decomposed(), image(), tmp_path / "net.onnx")
    for word in ("net.onnx: opset 18", "2×3×16×16", "right", f"onnxruntime {onnxruntime.__version__}"):
        assert word in report.text(width=400)
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert (saved["format"], saved["version"]) == ("amct_pytorch.export", 1)
    assert saved["checks"][0]["max_difference"] == report.checks[0].max_difference
    assert saved["inputs"] == [{"name": "x", "dtype": "tensor(float)", "shape": [2, 3, 16, 16]}]


class _ShapedByTensors(nn.Module):
    """A flatten as onnx2torch makes it of Shape, Concat and Reshape: the new shape is computed in tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rest", torch.tensor([-1]))

    def forward(self, x: Tensor) -> Tensor:
        shape = torch.cat([torch.tensor(x.shape[:1]), self.rest])
        return x.reshape(shape.tolist()) if shape.numpy()[-1] < 0 else x


def _shaped_by_tensors() -> nn.Module:
    return nn.Sequential(_decomposed(), _ShapedByTensors(), nn.Dropout(0.9)).train()


def test_what_torch_export_cannot_follow_is_exported_by_torchscript(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    net = _shaped_by_tensors()
    check, state = snapshot(net), torch.get_rng_state()
    report = export_onnx(net, image(), tmp_path / "net.onnx")
    check()
    assert torch.equal(torch.get_rng_state(), state)
    assert report.ok
    assert (report.exporter, report.opset) == ("TorchScript", 18)
    assert "made by TorchScript" in report.text(width=400)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert "".join(capfd.readouterr()) == ""
    assert [str(warning.message) for warning in recwarn] == []
    file = onnx.load(tmp_path / "net.onnx")
    assert [(item.domain, item.version) for item in file.opset_import] == [("", 18)]
    assert [item.name for item in report.inputs] == ["input"]  # as torch.nn.Sequential names it
    with torch.no_grad():
        assert _relative(_run(tmp_path / "net.onnx", image())[0], net.eval()(image())) < 1e-4


def test_torchscript_takes_keywords_nested_inputs_and_numbers_too(tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, pair: dict[str, Any], scale: float, *more: Tensor) -> dict[str, Any]:
            return {"sum": _ShapedByTensors()(pair["a"] + pair["b"][0]) * scale, "none": None, "more": list(more)}

    report = export_onnx(Net(), ({"a": image(), "b": [image()]}, 2.0, image()), tmp_path / "net.onnx")
    assert report.ok
    assert report.exporter == "TorchScript"
    assert [item.name for item in report.inputs] == ["pair_a", "pair_b_0", "more_0"]
    assert len(report.outputs) == 2


def test_the_files_for_ascend_can_be_made_by_torchscript(tmp_path: Path) -> None:
    report = export_ascend(_shaped_by_tensors(), image(), tmp_path / "deploy", soc_versions=["Ascend910B3"])
    assert report.model.exporter == "TorchScript"
    assert "--input_shape" in (tmp_path / "deploy" / "atc_Ascend910B3.sh").read_text()


def test_torchscript_is_not_used_for_dynamic_sizes_as_it_records_one_run(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="older exporter: it records one run, .* leave out dynamic_batch"):
        export_onnx(_shaped_by_tensors(), image(), tmp_path / "net.onnx", dynamic_batch=[2])
    assert list(tmp_path.iterdir()) == []


def test_an_input_that_torchscript_leaves_out_is_named(tmp_path: Path) -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, unused: Tensor) -> Tensor:
            return _ShapedByTensors()(x)

    with pytest.raises(ExportError, match=r"takes 1 of the 2 input tensors \(x\): leave out those"):
        export_onnx(Net(), (image(), image()), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


class _Decides(nn.Module):
    """Computes one thing or another: a trace would record one of them."""

    def __init__(self, reads: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.reads = reads

    def forward(self, x: Tensor) -> Tensor:
        return x if self.reads(x) else -x


@torch.jit.script
def _total(x: Tensor) -> Tensor:
    return x.sum()


def _by_numpy(x: Tensor) -> bool:
    return bool(x.mean().numpy() > 0)


def _by_what_was_written(x: Tensor) -> bool:
    totals = torch.zeros(3)
    totals[1:].copy_(x.flatten()[:2])
    return totals.max().item() > 0


@pytest.mark.parametrize(
    ("reads", "function"),
    [
        (lambda x: x.sum() > 0, "__bool__"),
        (lambda x: _total(x) > 0, "__bool__"),
        (lambda x: torch.equal(x, x.abs()), "equal"),
        (lambda x: 0 in x, "__contains__"),
        (_by_numpy, "numpy"),
        (_by_what_was_written, "item"),
    ],
)
def test_what_a_trace_would_record_for_one_input_only_is_refused(
    reads: Callable[[Tensor], object], function: str, tmp_path: Path
) -> None:
    net = _shaped_by_tensors()
    net[2] = _Decides(reads)
    with pytest.raises(ExportError, match=rf"layer '2' reads values that depend .* \(Tensor\.{function}\)"):
        export_onnx(net, image(), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


class _Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class _Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("part", "reason"), [(_Bessel(), "No ONNX function found for .*bessel_j0"), (_Branch(), "data-dependent")]
)
def test_what_onnx_does_not_have_is_named_with_its_layer(part: nn.Module, reason: str, tmp_path: Path) -> None:
    net = _decomposed()
    net.norm = nn.Sequential(nn.BatchNorm2d(64), part)
    check = snapshot(net)
    with pytest.raises(ExportError, match=rf"in layer 'norm\.1': .*{reason}"):
        export_onnx(net, image(), tmp_path / "made" / "net.onnx")
    check()
    assert list(tmp_path.iterdir()) == []


def test_the_error_gives_the_reasons_of_both_exporters_in_short(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No ONNX function found for .*TorchScript.*special_bessel_j0") as caught:
        export_onnx(_Bessel(), image(), tmp_path / "net.onnx")
    assert len(str(caught.value)) < 1000


def _scripted() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(nn.ReLU())


class _FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.ones(2, 1, 1, 1) if x.shape[0] == 2 else x


def _export(
    model: object = None, inputs: object = None, name: str = "net.onnx", **options: Any
) -> Callable[[Path], object]:
    """An export that each test makes fail in its way; called with a folder."""
    return lambda folder: export_onnx(
        TwoConvs() if model is None else model,  # type: ignore[arg-type]
        image() if inputs is None else inputs,
        folder / name,
        **options,
    )


_REFUSALS: dict[str, tuple[type[AmctError], str, Callable[[Path], object]]] = {
    "no model": (ModelError, "found builtins.str", _export("net")),
    "never run": (ModelError, "weight, bias have no values yet: run the model once", _export(nn.LazyConv2d(4, 3))),
    "no inputs": (InputsError, "inputs must be a tensor", _export(inputs=3)),
    "inputs that do not fit": (InputsError, r"\(2, 4, 16, 16\)", _export(inputs=image(2, 4, 16, 16))),
    "NaN": (InputsError, "hold NaN", _export(inputs=image() * torch.nan)),
    "no values": (DeviceError, "cannot be moved", _export(TwoConvs().to("meta"))),
    "a folder": (ExportAccessError, "found a directory", _export(name=".")),
    "below a file": (
        ExportAccessError,
        "cannot be written: .*file is not a writable folder",
        _export(name="file/net.onnx"),
    ),
    "no path": (
        ConfigError,
        "path must be the path .*, found ''",
        lambda _: export_onnx(TwoConvs(), image(), ""),
    ),
    "no opset": (ConfigError, "opset must be a whole number from 1 on, found '18'", _export(opset="18")),
    "old opset": (ExportError, "at opset 18, not at 15", _export(opset=15)),
    "no batches": (ConfigError, "dynamic_batch must be", _export(dynamic_batch=[0])),
    "no list": (ConfigError, "dynamic_batch must be", _export(dynamic_batch=8)),
    "no sizes": (ConfigError, "dynamic_image_size must be", _export(dynamic_image_size=[64])),
    "no list of sizes": (ConfigError, "dynamic_image_size must be", _export(dynamic_image_size=64)),
    "no images": (
        ConfigError,
        r"dynamic_image_size needs inputs of shape \(N, C, H, W\)",
        _export(nn.ReLU(), image(3, 16), dynamic_image_size=True),
    ),
    "no samples": (ConfigError, "needs inputs with a first axis", _export(nn.ReLU(), {}, dynamic_batch=True)),
    "fixed batch": (ExportError, "static shape of 2", _export(_FixedBatch(), dynamic_batch=True)),
    "scripted": (
        ModelError,
        "was made by torch.jit: export the torch.nn.Module that was scripted or traced",
        _export(_scripted()),
    ),
}


@pytest.mark.parametrize("case", list(_REFUSALS))
def test_what_cannot_be_exported_is_refused_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    error, message, export = _REFUSALS[case]
    (tmp_path / "file").touch()
    with pytest.raises(error, match=message):
        export(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_nothing_of_the_extra_is_loaded_before_something_is_exported() -> None:
    program = "import sys, amct_pytorch.ascend, amct_pytorch.export; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {"amct_pytorch.export", "torch"} <= set(done.stdout.split())
    assert {"onnx", "onnxscript", "onnxruntime"}.isdisjoint(done.stdout.split())


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_says_what_to_install(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"needs {package}, .*pip install {package}"):
        export_onnx(TwoConvs(), image(), tmp_path / "net.onnx")


def test_the_file_goes_where_a_link_points_and_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "old.onnx").write_text("old")
    (tmp_path / "old.onnx").chmod(0o640)
    (tmp_path / "link.onnx").symlink_to(tmp_path / "old.onnx")
    export_onnx(conv(3, 4), torch.randn(1, 3, 8, 8), tmp_path / "link.onnx")
    assert (tmp_path / "link.onnx").is_symlink()
    assert (tmp_path / "old.onnx").read_bytes() != b"old"
    assert stat.S_IMODE((tmp_path / "old.onnx").stat().st_mode) == 0o640
    with pytest.raises(ExportAccessError, match="found a directory"):
        export_onnx(conv(3, 4), torch.randn(1, 3, 8, 8), f"{tmp_path}/new/")


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupt_or_a_full_disk_leaves_the_old_file(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.onnx").write_text("old")

    def save(self: object, destination: Path, **_: object) -> None:
        Path(destination).write_text("half")
        raise error

    monkeypatch.setattr(torch.onnx.ONNXProgram, "save", save)
    net = conv(3, 4)
    check = snapshot(net)
    expected = ExportAccessError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        export_onnx(net, image(), tmp_path / "net.onnx")
    with pytest.raises(expected):
        export_onnx(net, image(), tmp_path / "new" / "folder" / "net.onnx")
    check()
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_text() == "old"
