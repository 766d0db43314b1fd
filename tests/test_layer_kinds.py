"""Layers of every kind are decomposed, Linear and Conv1d to Conv3d, where the method is for them."""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_linear_bn_eval

from amct_pytorch.benchmark import benchmark
from amct_pytorch.checkpoint import load_decomposed, save_decomposed
from amct_pytorch.errors import AmctWarning, InfoFileError, LayerError
from amct_pytorch.export import export_onnx
from amct_pytorch.finetune import Distillation, parameter_groups
from amct_pytorch.tensor_decompose import (
    DecomposedConv1d,
    DecomposedConv2d,
    DecomposedConv3d,
    DecomposedLayer,
    DecomposedLinear,
    DecompositionConfig,
    RatioRank,
    auto_decomposition,
    decompose_network,
    load_plan,
    plan_decomposition,
)
from amct_pytorch.tensor_decompose.methods import Method, register_method
from amct_pytorch.tensor_decompose.model.spec import LayerSpec
from amct_pytorch.validate import validate

from .models import VOLUME, EveryKind, TwoConvs, chains, conv, image, snapshot
from .split_methods import ChannelSplit, GroupedSplit, TwoRankSplit, pointwise


class _FourStages(TwoRankSplit):
    """Tucker-2 with a pointwise layer behind it that changes nothing."""

    name = "test-four-stages"
    stage_names = ("reduce", "core", "expand", "same")

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        *before, last = super().stages(layer, ranks)
        same = pointwise(layer, layer.out_channels, layer.out_channels, bias=layer.bias)
        return (*before, replace(last, bias=False), same)

    def split(self, weight: Tensor, layer: LayerSpec, *rest: Any) -> tuple[Tensor, ...]:
        weights = super().split(weight, layer, *rest)
        shape = (*weight.shape[:1], *weight.shape[:1], *[1] * layer.axes)
        return (*weights, torch.eye(len(weight), dtype=weight.dtype).reshape(shape))

    def ranks_of(self, layer: LayerSpec, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return tuple(shape[0] for shape in shapes[:2])


_METHODS = (ChannelSplit, TwoRankSplit, GroupedSplit, _FourStages)


def _config(method: type[Method], **settings: Any) -> DecompositionConfig:
    register_method(method())
    plain = {"rule": "any", "rank": RatioRank(0.5), "rank_multiple": 1, "require_gain": False}
    return DecompositionConfig(method=method.name, **{**plain, **settings})


def _net() -> EveryKind:
    torch.manual_seed(0)
    return EveryKind().eval()


def _layers_for(method: type[Method]) -> list[str]:
    return ["volume", "plane", "line", *(["head"] if 0 in method.axes else [])]


@pytest.mark.parametrize("method", _METHODS, ids=lambda method: method.name)
def test_every_kind_goes_from_plan_to_checkpoint_and_training(method: type[Method], tmp_path: Path) -> None:
    original, x = _net(), image(*VOLUME)
    plan = plan_decomposition(original, _config(method), example_inputs=x)
    assert [layer.name for layer in plan.layers if layer.decompose] == _layers_for(method)
    plan.save(tmp_path / "plan")
    assert load_plan(tmp_path / "plan") == plan
    small, changes = load_plan(tmp_path / "plan").apply(copy.deepcopy(original), tmp_path / "info.json")
    assert list(changes) == _layers_for(method)
    assert all(len(names) == len(method.stage_names) for names in changes.values())
    assert sum(parameter.numel() for parameter in small.parameters()) == plan.parameters_after

    rebuilt, again = decompose_network(copy.deepcopy(original), tmp_path / "info.json")
    rebuilt.load_state_dict(small.state_dict())
    assert again == changes
    assert torch.equal(rebuilt(x), small(x))
    save_decomposed(small, tmp_path / "checkpoint", plan=plan)
    loaded, _ = load_decomposed(copy.deepcopy(original), tmp_path / "checkpoint")
    assert torch.equal(loaded(x), small(x))

    report = validate(original, small, x)
    assert report.ok
    assert [layer.name for layer in report.runs[0].layers] == _layers_for(method)
    optimizer = torch.optim.SGD(parameter_groups(small.train(), lr=1e-3), lr=1e-4)
    with Distillation(original, small) as distillation:
        distillation.loss(small(x)).backward()
    assert all(parameter.grad is not None for chain in chains(small).values() for parameter in chain.parameters())
    optimizer.step()


@pytest.mark.slow
def test_every_kind_is_benchmarked_layer_by_layer() -> None:
    original = _net()
    small, _ = auto_decomposition(copy.deepcopy(original), config=_config(ChannelSplit))
    report = benchmark(original, small, image(*VOLUME))
    layers = report.runs[0].layers
    assert [(layer.name, layer.kind) for layer in layers] == [
        *(("volume", "Conv3d"), ("plane", "Conv2d"), ("line", "Conv1d"), ("head", "Linear"))
    ]
    assert layers[-1].mode == "12→4, 4→9"
    assert layers[-1].macs == 2 * 9 * 12 * 9
    assert "Linear 12→9" in report.text(width=300)


@pytest.mark.slow
def test_every_kind_is_exported_to_onnx(tmp_path: Path) -> None:
    small, _ = auto_decomposition(_net(), config=_config(ChannelSplit))
    report = export_onnx(small, image(*VOLUME), tmp_path / "net.onnx")
    assert all(check.ok for check in report.checks)


def test_macs_are_counted_over_all_leading_axes_of_a_linear_layer() -> None:
    model = nn.Sequential(nn.Linear(12, 9))
    for shape, items in (((12,), 1), ((5, 12), 5), ((2, 3, 4, 12), 24)):
        (layer,) = plan_decomposition(model, _config(ChannelSplit), example_inputs=image(*shape)).layers
        assert (layer.macs, layer.macs_after) == (items * 12 * 9, items * layer.rank * (12 + 9))


def test_the_plan_names_the_kinds_where_there_are_several() -> None:
    text = plan_decomposition(_net(), _config(ChannelSplit)).text(width=300)
    for cell in ("geometry", "Conv3d 3→8, 2×3×3, stride 1×2×1", "Conv1d 10→12, 5", "Linear 12→9"):
        assert cell in text
    assert "4 of 4 layers are decomposed." in text
    linear = plan_decomposition(nn.Sequential(nn.Linear(12, 9)), _config(ChannelSplit)).text(width=300)
    assert "1 of 1 Linear are decomposed." in linear


def test_with_defaults_a_plan_speaks_of_what_amct_decomposes() -> None:
    model = nn.ModuleDict({"conv": conv(), "head": nn.Linear(64, 64), "line": nn.Conv1d(64, 64, 3)})
    assert [layer.name for layer in plan_decomposition(model).layers] == ["conv"]
    assert str(plan_decomposition(nn.ReLU(), _config(ChannelSplit))) == (
        "The model has no Linear, Conv1d, Conv2d or Conv3d."
    )


def test_a_rule_gives_single_layers_a_method_for_their_kind() -> None:
    register_method(ChannelSplit())
    plan = plan_decomposition(TwoConvs(), DecompositionConfig(layers={"head": {"method": "test-channel"}}))
    assert [layer.name for layer in plan.layers] == ["stem", "conv1", "conv2", "head"]
    by_pattern = DecompositionConfig(layers={"re:^head$": {"method": "test-channel", "require_gain": False}})
    assert list(auto_decomposition(TwoConvs(), config=by_pattern)[1]) == ["conv1", "conv2", "head"]


def test_a_layer_of_another_kind_that_a_rule_names_is_kept_with_the_reason() -> None:
    model = nn.ModuleDict({"head": nn.Linear(8, 8), "up": nn.ConvTranspose2d(8, 8, 3), "conv": conv()})
    plan = plan_decomposition(model, DecompositionConfig(layers={"head": {"rule": "any"}, "up": {"rule": "any"}}))
    assert [(layer.name, layer.reason) for layer in plan.layers][:2] == [
        ("head", "it is a Linear, which the method 'separable' does not split"),
        ("up", "it is a transposed convolution, which no method splits"),
    ]
    with pytest.warns(AmctWarning, match="the pattern 're:head' matches no Conv2d of the model"):
        plan_decomposition(model, DecompositionConfig(layers={"re:head": False}))


def test_a_layer_that_shares_its_weight_with_one_that_no_plan_speaks_of_is_kept() -> None:
    register_method(ChannelSplit())
    model = nn.ModuleDict({"one": nn.Linear(8, 8), "other": nn.Linear(8, 8)})
    model["one"].weight = model["other"].weight
    (layer,) = plan_decomposition(model, DecompositionConfig(layers={"one": {"method": "test-channel"}})).layers
    assert layer.reason == (
        "its weight is also that of 'other', which is kept "
        "(it is a Linear, which the method 'separable' does not split)"
    )


def test_a_method_is_asked_of_layers_of_its_kinds_alone() -> None:
    class _Pairs(ChannelSplit):
        name = "test-pairs"
        axes = (2,)

        def impossible(self, layer: LayerSpec) -> str | None:
            _height, _width = layer.kernel_size
            return None

    config = _config(_Pairs, layers={"head": {"rule": "any"}})
    assert list(auto_decomposition(_net(), config=config)[1]) == ["plane"]


_MADE: dict[str, tuple[Callable[[], nn.Module], type[nn.Module], type[DecomposedLayer], tuple[int, ...]]] = {
    "Linear": (lambda: nn.Linear(12, 10), nn.BatchNorm1d, DecomposedLinear, (7, 12)),
    "Linear without bias": (lambda: nn.Linear(12, 10, bias=False), nn.BatchNorm1d, DecomposedLinear, (7, 12)),
    "Conv1d": (lambda: nn.Conv1d(6, 10, 3, stride=2, padding=1), nn.BatchNorm1d, DecomposedConv1d, (2, 6, 9)),
    "Conv2d": (lambda: nn.Conv2d(6, 10, 3, padding="same"), nn.BatchNorm2d, DecomposedConv2d, (2, 6, 8, 9)),
    "Conv3d": (
        lambda: nn.Conv3d(4, 10, 3, padding=1, padding_mode="replicate", bias=False),
        nn.BatchNorm3d,
        DecomposedConv3d,
        (2, 4, 5, 6, 7),
    ),
}  # fmt: skip


def _chain(kind: str, method: type[Method], dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(_MADE[kind][0]().to(dtype))).eval()
    return auto_decomposition(model, config=_config(method))[0][0][0]


def _norm(kind: str) -> nn.Module:
    norm = _MADE[kind][1](10).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.copy_(torch.linspace(-2, 3, 10))
        norm.running_var.copy_(torch.linspace(0.1, 3, 10))
    return norm


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        pytest.param(kind, method, id=f"{kind}-{method.name}")
        for kind in _MADE
        for method in _METHODS
        if 0 in method.axes or not kind.startswith("Linear")
    ],
)
def test_a_batchnorm_is_folded_into_a_chain_of_any_kind_and_any_other_write_refused(
    kind: str, method: type[Method]
) -> None:
    chain, norm, x = _chain(kind, method), _norm(kind), image(*_MADE[kind][3])
    fuse = fuse_linear_bn_eval if kind.startswith("Linear") else fuse_conv_bn_eval
    folded = fuse(chain, norm)
    assert type(folded) is _MADE[kind][2]
    torch.testing.assert_close(folded(x), norm(chain(x)), rtol=1e-4, atol=1e-5)
    check = snapshot(chain)
    for write in (_add_to_data, _add_in_place, _assign):
        with pytest.raises(LayerError, match=f"{kind.split(' ')[0]} .*found another, which the layers"):
            write(chain)
        check()


def _add_to_data(chain: nn.Module) -> None:
    chain.weight.data += 1


def _add_in_place(chain: nn.Module) -> None:
    with torch.no_grad():
        chain.weight.add_(torch.ones_like(chain.weight))


def _assign(chain: nn.Module) -> None:
    chain.weight = nn.Parameter(torch.ones_like(chain.weight))


@pytest.mark.parametrize("kind", _MADE)
def test_a_chain_answers_as_the_layer_that_it_replaced(kind: str) -> None:
    original, chain, x = _MADE[kind][0](), _chain(kind, ChannelSplit), image(*_MADE[kind][3])
    for name in (*original.__constants__, *(["transposed"] if hasattr(original, "transposed") else [])):
        assert getattr(chain, name) == getattr(original, name), name
    assert not isinstance(chain, type(original))
    assert chain.weight.shape == original.weight.shape
    original.weight, original.bias = nn.Parameter(chain.weight.detach().clone()), chain[-1].bias
    torch.testing.assert_close(chain(x), original(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", _MADE)
def test_copies_pickles_scripts_and_exports_of_every_kind_work(kind: str) -> None:
    chain, x = _chain(kind, ChannelSplit), image(*_MADE[kind][3])
    buffer = io.BytesIO()
    torch.save(chain, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(chain),
        torch.load(buffer, weights_only=False),
        torch.jit.script(chain),
        torch.fx.symbolic_trace(chain),
        torch.export.export(chain, (x,)).module(),
    ):
        torch.testing.assert_close(other(x), chain(x))
    assert repr(chain).startswith(f"{_MADE[kind][2].__name__}(\n  (0): {kind.split(' ')[0]}(")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", _MADE)
def test_every_kind_keeps_its_dtype_and_runs_in_autocast(kind: str, dtype: torch.dtype) -> None:
    chain, x = _chain(kind, ChannelSplit, dtype), image(*_MADE[kind][3])
    assert {chain.weight.dtype, chain(x.to(dtype)).dtype} == {dtype}
    mixed = _chain(kind, ChannelSplit)
    with torch.autocast("cpu", torch.bfloat16):
        assert mixed.weight.dtype == torch.float32
        assert mixed(x).dtype == torch.bfloat16


def test_a_conv3d_in_channels_last_stays_so() -> None:
    model = nn.Sequential(nn.Conv3d(4, 6, 3)).to(memory_format=torch.channels_last_3d)
    auto_decomposition(model, config=_config(ChannelSplit))
    assert model[0][0].weight.is_contiguous(memory_format=torch.channels_last_3d)


class _LinearWithItsOwnInit(nn.Linear):
    def __init__(self, size: int) -> None:
        super().__init__(size, size)

    def reset_parameters(self) -> None:
        nn.init.eye_(self.weight)


class _LinearWithItsOwnForward(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        return super().forward(input) + 1


def test_odd_layers_of_every_kind_are_kept_with_the_reason() -> None:
    replaced = nn.Conv3d(8, 8, 3)
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    model = nn.ModuleDict(
        {
            "plain": _LinearWithItsOwnInit(8),
            "extended": _LinearWithItsOwnForward(8, 8),
            "grouped": nn.Conv1d(8, 8, 3, groups=2),
            "depthwise": nn.Conv3d(8, 8, 3, groups=8),
            "lazy": nn.LazyConv1d(8, 3),
            "scripted": torch.jit.script(nn.Linear(8, 8)),
            "quantised": torch.ao.nn.quantized.Linear(8, 8),
            "parametrised": nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)),
            "replaced": replaced,
            "transposed": nn.ConvTranspose1d(8, 8, 3),
            "recurrent": nn.LSTM(8, 8),
        }
    )
    reasons = {layer.name: layer.reason for layer in plan_decomposition(model, _config(ChannelSplit)).layers}
    assert "full rank" in reasons.pop("plain")
    for name, part in {
        "extended": "with forward of its own: only torch.nn.Linear itself",
        "grouped": "it has 2 groups",
        "depthwise": "it has 8 groups",
        "lazy": "run the model once",
        "scripted": "then script",
        "quantised": "decompose first, then quantise",
        "parametrised": "remove_parametrizations",
        "replaced": "forward method was replaced",
    }.items():
        assert part in reasons.pop(name)
    assert reasons == {}


# The file


def test_the_file_says_of_every_kind_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    auto_decomposition(_net(), path, config=_config(ChannelSplit))
    volume, plane, line, head = json.loads(path.read_text())
    assert head == {
        "ori_layer_info": {"name": "head", "in_features": 12, "out_features": 9},
        "mode": "test-channel",
        "decom_nodes": {"first": {"weight_shape": [4, 12]}, "last": {"weight_shape": [9, 4]}},
        "version": 3,
        "method": "test-channel",
        "layer": "Linear",
    }
    assert (volume["layer"], line["layer"]) == ("Conv3d", "Conv1d")
    assert "layer" not in plane
    assert line["ori_layer_info"]["kernel_size"] == [5]


def _set(*keys: object, to: object) -> Callable[[dict[str, Any]], None]:
    def change(entry: dict[str, Any]) -> None:
        place: Any = entry
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = to

    return change


def _drop(*keys: object) -> Callable[[dict[str, Any]], None]:
    def change(entry: dict[str, Any]) -> None:
        place: Any = entry
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("index", "change", "message"),
    [
        (3, _drop("layer"), "entry 3 ('head'): the model has no Conv2d of that name, but a Linear: is this the file"),
        (3, _set("layer", to="Conv1d"), "the model has no Conv1d of that name, but a Linear"),
        (3, _set("layer", to="GRU"), "('head'), layer: expected one of Linear, Conv1d, Conv2d, Conv3d, found 'GRU'"),
        (3, _set("layer", to=["Linear"]), "('head'), layer: expected a string, found ['Linear']"),
        (3, _set("ori_layer_info", "name", to="heads"), "has no Linear of that name (did you mean 'head'?)"),
        (3, _drop("ori_layer_info", "in_features"), "ori_layer_info: the key 'in_features' is missing"),
        (3, _set("ori_layer_info", "out_features", to=9.0), "out_features: expected 9 as in the model, found 9.0"),
        (3, _set("decom_nodes", "first", "weight_shape", to=[5, 12, 1]), "two whole numbers from 1 on"),
        (3, _set("decom_nodes", "last", "weight_shape", to=[9, 5]), "weight_shape: expected [9, 4], found [9, 5]"),
        (3, _set("decom_nodes", "first", "weight_shape", to=[10**18, 12]), "expected a rank of 9 at most"),
        (3, _set("method", to="separable"), "the model's layer cannot be decomposed: it is a Linear"),
        (2, _set("ori_layer_info", "kernel_size", to=5), "kernel_size: expected [5] as in the model, found 5"),
        (2, _set("ori_layer_info", "stride", to=[1, 1]), "stride: expected [1] as in the model, found [1, 1]"),
        (2, _set("decom_nodes", "first", "weight_shape", to=[6, 10]), "three whole numbers from 1 on"),
        (1, _set("layer", to="Conv3d"), "the model has no Conv3d of that name, but a Conv2d"),
        (0, _set("ori_layer_info", "dilation", to=[1, 1]), "dilation: expected [1, 1, 1] as in the model"),
        (0, _set("decom_nodes", "last", "weight_shape", to=[8, 4, 1, 1]), "five whole numbers from 1 on"),
    ],
)  # fmt: skip
def test_a_wrong_entry_of_any_kind_is_refused(
    tmp_path: Path, index: int, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    path = tmp_path / "info.json"
    auto_decomposition(_net(), path, config=_config(ChannelSplit))
    entries = json.loads(path.read_text())
    change(entries[index])
    path.write_text(json.dumps(entries))
    model = _net()
    check = snapshot(model)
    with pytest.raises(InfoFileError) as error:
        decompose_network(model, path)
    assert message in str(error.value)
    check()


def test_layers_and_weights_held_outside_of_the_tree_are_found_for_every_kind() -> None:
    model = _net()
    model.weights, model.heads = [model.line.weight], [model.head]
    plan = plan_decomposition(model, _config(ChannelSplit))
    assert "its weight is also kept in model.weights[0]" in plan.layers[2].reason
    with pytest.warns(AmctWarning, match=r"model.heads\[0\] holds the layer 'head'"):
        plan.apply(model)
    assert model.heads[0] is model.head


def test_linear_layers_of_one_weight_share_their_factors() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    auto_decomposition(model, config=_config(ChannelSplit))
    assert model[0][0].weight is model[1][0].weight
    assert model[0][1].bias is not model[1][1].bias
