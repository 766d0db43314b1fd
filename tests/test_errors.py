"""A setting of a wrong type raises a TypeError too, one of a wrong value a ValueError only."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from amct_pytorch.ascend import export_ascend
from amct_pytorch.benchmark import benchmark
from amct_pytorch.checkpoint import (
    has_checkpoint,
    load_decomposed,
    load_training_state,
    save_decomposed,
)
from amct_pytorch.errors import AmctError, ConfigError, ConfigTypeError
from amct_pytorch.export import export_onnx
from amct_pytorch.finetune import Distillation
from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    auto_decomposition,
    decompose_network,
    load_plan,
    plan_decomposition,
)
from amct_pytorch.validate import validate

from .models import TwoConvs, conv, image


def _pair() -> tuple[nn.Module, nn.Module]:
    original = TwoConvs()
    return original, auto_decomposition(copy.deepcopy(original))[0]


def _onnx(**options: object) -> Callable[[Path], object]:
    return lambda folder: export_onnx(TwoConvs(), image(), **{"path": folder / "net.onnx", **options})  # type: ignore[arg-type]


def _ascend(**options: object) -> Callable[[Path], object]:
    settings = {"soc_versions": ["Ascend910B3"], **options}
    return lambda folder: export_ascend(TwoConvs(), image(), **{"directory": folder / "new", **settings})  # type: ignore[arg-type]


def _benchmark(**options: object) -> Callable[[Path], object]:
    return lambda _: benchmark(*_pair(), image(), **options)  # type: ignore[arg-type]


def _validate(**options: object) -> Callable[[Path], object]:
    return lambda _: validate(*_pair(), image(), **options)  # type: ignore[arg-type]


def _save(**options: object) -> Callable[[Path], object]:
    return lambda folder: save_decomposed(TwoConvs(), **{"directory": folder / "new", **options})  # type: ignore[arg-type]


def _distill(**options: object) -> Callable[[Path], object]:
    return lambda _: Distillation(*_pair(), **options)  # type: ignore[arg-type]


_WRONG_TYPES: list[tuple[str, Callable[[Path], object]]] = [
    ("decompose_info_path must be the path of a file, found 3", lambda _: auto_decomposition(TwoConvs(), 3)),  # type: ignore[arg-type]
    (
        "decompose_info_path must be the path of a file, found b'info'",
        lambda _: plan_decomposition(TwoConvs()).apply(TwoConvs(), b"info"),  # type: ignore[arg-type]
    ),
    ("decompose_info_path must be the path of a file, found None", lambda _: decompose_network(TwoConvs(), None)),  # type: ignore[arg-type]
    ("directory must be the path of a directory, found 3", _save(directory=3)),
    ("directory must be the path of a directory, found 3", lambda _: load_decomposed(TwoConvs(), 3)),  # type: ignore[arg-type]
    ("directory must be the path of a directory, found 3", lambda _: load_training_state(3)),  # type: ignore[arg-type]
    ("directory must be the path of a directory, found 3", lambda _: has_checkpoint(3)),  # type: ignore[arg-type]
    ("plan must be a DecompositionPlan or its text, found int", _save(plan=3)),
    ("training_state must be a dict, found list", _save(training_state=[3])),
    ("path must be the path of a file, found 3", _onnx(path=3)),
    ("opset must be a whole number from 1 on, found '18'", _onnx(opset="18")),
    ("dynamic_batch must be True or a list .*, found 3", _onnx(dynamic_batch=3)),
    ("dynamic_batch must be True or a list .*, found .'4'.", _onnx(dynamic_batch=["4"])),
    ("dynamic_image_size must be True or a list .*, found 3", _onnx(dynamic_image_size=3)),
    (r"dynamic_image_size must be True or a list .*, found \[32\]", _onnx(dynamic_image_size=[32])),
    ("directory must be the path of a directory, found 3", _ascend(directory=3)),
    ("soc_versions must be a list of names", _ascend(soc_versions="Ascend910B3")),
    (r"soc_versions must be a list of names .*, found \[3\]", _ascend(soc_versions=[3])),
    ("precision must be one of .*, found 3", _ascend(precision=3)),
    (r"such as dynamic_batch=\[1, 8\]", _ascend(dynamic_batch=True)),
    ("backend must be a name or a Backend, found 3", _validate(backend=3)),
    ("dtypes must be a list of torch.dtype, found torch.float16", _validate(dtypes=torch.float16)),
    ("dtypes must be a list of torch.dtype, found 3", _validate(dtypes=3)),
    (r"dtypes must be a list of torch.dtype, found \['float16'\]", _validate(dtypes=["float16"])),
    ("batch_sizes must be a list of numbers, found 2.5", _benchmark(batch_sizes=2.5)),
    ("batch_sizes must hold whole numbers from 1 on, found 'x'", _benchmark(batch_sizes=["x"])),
    ("progress must be True, False or a function", _benchmark(progress=3)),
    ("temperature must be a number from 0 on, found 'hot'", _distill(temperature="hot")),
    ("config must be a DecompositionConfig", lambda _: plan_decomposition(TwoConvs(), {"rank": 3})),  # type: ignore[arg-type]
    ("calibration must be a Calibration", lambda _: plan_decomposition(TwoConvs(), calibration=[image()])),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("message", "call"), _WRONG_TYPES, ids=[message for message, _ in _WRONG_TYPES])
def test_a_wrong_type_is_a_type_error_and_a_config_error(
    message: str, call: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=message) as caught:
        call(tmp_path)
    assert isinstance(caught.value, ConfigTypeError)
    assert isinstance(caught.value, ConfigError)
    assert list(tmp_path.iterdir()) == []


_WRONG_VALUES: list[tuple[str, Callable[[Path], object]]] = [
    ("decompose_info_path must be the path of a file, found ''", lambda _: auto_decomposition(TwoConvs(), "")),
    ("directory must be the path of a directory, found 'a.x00b'", _save(directory="a\0b")),
    ("opset must be a whole number from 1 on, found 0", _onnx(opset=0)),
    ("dynamic_batch must be True or a list .*, found .0.", _onnx(dynamic_batch=[0])),
    (r"dynamic_image_size must be True or a list .*, found \[\(32,\)\]", _onnx(dynamic_image_size=[(32,)])),
    ("soc_versions must be a list of names", _ascend(soc_versions=[])),
    ("precision must be one of .*, found 'fp8'", _ascend(precision="fp8")),
    ("dtypes must be a list of torch.dtype, found ..", _validate(dtypes=[])),
    ("batch_sizes must be a list of numbers, found ..", _benchmark(batch_sizes=[])),
    ("batch_sizes must hold whole numbers from 1 on, found -1", _benchmark(batch_sizes=[-1])),
    ("temperature must be a number from 0 on, found -1", _distill(temperature=-1)),
]


@pytest.mark.parametrize(("message", "call"), _WRONG_VALUES, ids=[message for message, _ in _WRONG_VALUES])
def test_a_wrong_value_is_no_type_error(message: str, call: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        call(tmp_path)
    assert type(caught.value) is ConfigError
    assert list(tmp_path.iterdir()) == []


class _WithoutRepr:
    def __repr__(self) -> str:
        raise RuntimeError("mine")


def _broken_weights() -> nn.Module:
    layers = {f"layer{number}": conv() for number in range(40)}
    for layer in layers.values():
        nn.init.constant_(layer.weight, torch.nan)
    return nn.ModuleDict(layers)


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        (lambda _: DecompositionConfig(layers={"x" * 100_000: True}), r"layers\['xxx.*\.\.\.x"),  # type: ignore[dict-item]
        (lambda _: DecompositionConfig(rank_multiple=-(10**5000)), "found <int without a repr: ValueError>"),
        (lambda _: DecompositionConfig(rank=_WithoutRepr()), "found <_WithoutRepr without a repr: RuntimeError>"),  # type: ignore[arg-type]
        (lambda _: DecompositionConfig(layers=[3] * 10_000), r"layers must map names to rules, found \[3, 3"),  # type: ignore[arg-type]
        (lambda _: plan_decomposition(TwoConvs(), DecompositionConfig(layers={"y" * 10**6: False})), "named 'yyy"),
        (lambda _: plan_decomposition(TwoConvs(), DecompositionConfig(layers={"a\nb": False})), r"named 'a\\nb'"),
        (lambda _: plan_decomposition(TwoConvs(), DecompositionConfig(method="z" * 10**6)), "is named 'zzz"),
        (lambda _: plan_decomposition(_broken_weights()), "in 'layer0', 'layer1', 'layer2' and 37 more"),
        (lambda folder: decompose_network(TwoConvs(), folder / "a\nb.json"), r"a b.json: there is no such"),
        (lambda folder: load_decomposed(TwoConvs(), folder / "c\x1b[2J"), r"c\\x1b\[2J: expected a checkpoint"),
        (lambda folder: load_plan(folder / "\u202enalp"), r"\\u202enalp: there is no such plan"),
    ],
)
def test_what_a_message_quotes_is_cut_and_in_one_line(
    fail: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(AmctError, match=message) as caught:
        fail(tmp_path)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isprintable()


def test_a_name_of_ordinary_length_is_quoted_whole() -> None:
    name = "block." * 33 + "x"
    with pytest.raises(ConfigError, match=f"named '{name}'"):
        plan_decomposition(TwoConvs(), DecompositionConfig(layers={name: False}))
