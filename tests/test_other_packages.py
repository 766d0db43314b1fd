"""Decomposed models in the packages that people use them with: loaders, adapters, detectors, converters."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from amct_pytorch.checkpoint import load_decomposed, save_decomposed
from amct_pytorch.export import export_onnx
from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    RatioRank,
    auto_decomposition,
    plan_decomposition,
)

from .models import TwoConvs, chains, image

pytestmark = pytest.mark.slow

_LOW = DecompositionConfig(rank=RatioRank(0.2), rule="any")


def test_a_network_of_diffusers_is_built_from_its_configuration_then_loaded(tmp_path: Path) -> None:
    kind = pytest.importorskip("diffusers").AutoencoderKL
    blocks: dict[str, Any] = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    net, changes = auto_decomposition(kind(block_out_channels=[64, 64], **blocks).eval())
    assert changes
    net.save_pretrained(tmp_path / "pretrained")
    save_decomposed(net, tmp_path / "checkpoint")
    again = kind.from_config(kind.load_config(tmp_path / "pretrained")).eval()
    again, _ = load_decomposed(again, tmp_path / "checkpoint")
    assert torch.equal(again(image(1, 3, 32, 32)).sample, net(image(1, 3, 32, 32)).sample)


_ADAPTERS: dict[str, dict[str, Any]] = {
    "LoraConfig": {"init_lora_weights": False},
    "LoHaConfig": {"init_weights": False},
    "LoKrConfig": {"init_weights": False},
    "DoRA": {"init_lora_weights": False, "use_dora": True},
}


def _adapted(net: nn.Module, adapter: str, targets: list[str]) -> Any:
    peft = pytest.importorskip("peft")
    config = getattr(peft, adapter.replace("DoRA", "LoraConfig"))(target_modules=targets, **_ADAPTERS[adapter])
    return peft.get_peft_model(net, config).eval()


def _difference(first: Tensor, second: Tensor) -> float:
    first, second = first.detach(), second.detach()
    return float((first - second).abs().max() / first.abs().max())


@pytest.mark.parametrize("adapter", list(_ADAPTERS))
def test_an_adapted_layer_is_kept_and_merges_as_it_would_have(adapter: str) -> None:
    net = _adapted(TwoConvs().eval(), adapter, ["conv1"])
    reasons = {layer.name: layer.reason for layer in plan_decomposition(net).layers}
    assert "an adapter" in reasons["base_model.model.conv1.base_layer"]
    net, changes = auto_decomposition(net)
    assert list(changes) == ["base_model.model.conv2"]
    before = net(image())
    assert _difference(net.merge_and_unload()(image()), before) < 1e-5


@pytest.mark.parametrize("adapter", list(_ADAPTERS))
def test_the_stages_of_a_decomposed_layer_are_adapted_trained_and_merged(adapter: str) -> None:
    net, changes = auto_decomposition(TwoConvs().eval(), config=_LOW)
    assert "conv2" in changes
    with pytest.raises((ValueError, TypeError), match="DecomposedConv2d"):  # PEFT knows the layers of torch alone
        _adapted(copy.deepcopy(net), adapter, ["conv2"])
    net = _adapted(net, adapter, ["conv2.0", "conv2.1"])
    before = net(image())
    optimizer = torch.optim.SGD([item for item in net.parameters() if item.requires_grad], lr=0.1)
    before.square().sum().backward()
    optimizer.step()
    trained = net(image())
    assert not torch.equal(trained, before)
    merged = net.merge_and_unload()
    assert _difference(merged(image()), trained) < 1e-5
    assert "conv2" in chains(merged)


def _detector(name: str) -> Any:
    ultralytics = pytest.importorskip("ultralytics")
    yolo = ultralytics.YOLO(name)
    for module in yolo.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    yolo.model.eval()
    return yolo


@pytest.mark.parametrize("config", [None, _LOW], ids=["default", "low ranks"])
@pytest.mark.parametrize("name", ["yolov5n.yaml", "yolov8n.yaml", "yolov9t.yaml", "yolov10n.yaml", "yolo11n.yaml"])
def test_a_detector_of_ultralytics_fuses_and_is_copied_and_saved(
    name: str, config: DecompositionConfig | None, tmp_path: Path
) -> None:
    yolo, inputs = _detector(name), image(1, 3, 64, 64).abs()
    net, changes = auto_decomposition(yolo.model, config=config)
    assert changes
    save_decomposed(net, tmp_path / "checkpoint")
    with torch.no_grad():
        before = net(inputs)[0]
        again, _ = load_decomposed(_detector(name).model, tmp_path / "checkpoint")
        assert torch.equal(again(inputs)[0], before)
        yolo.model.fuse(verbose=False)
        assert not any(isinstance(module, nn.BatchNorm2d) for module in net.modules())
        fused = net(inputs)[0]
        assert _difference(before, fused) < 1e-4
        torch.save({"model": copy.deepcopy(net).half()}, file := io.BytesIO())  # as Ultralytics saves it
        file.seek(0)
        assert _difference(fused, torch.load(file, weights_only=False)["model"].float()(inputs)[0]) < 1e-2
        summed = {name for name, module in again.named_modules() if hasattr(module, "fuse_convs")}
        _, after_fusing = auto_decomposition(again.fuse(verbose=False), config=config)
        # All others were decomposed before; branches that are summed become one convolution by fusing.
        assert {name.rpartition(".")[0] for name in after_fusing} <= summed
    report = export_onnx(net, inputs, tmp_path / "net.onnx")
    assert report.ok


def test_a_model_of_onnx2torch_is_decomposed_and_leaves_as_onnx_again(tmp_path: Path) -> None:
    onnx2torch = pytest.importorskip("onnx2torch")
    from onnx import TensorProto, helper, numpy_helper

    constants = {
        "weight": torch.randn(64, 64, 3, 3, generator=torch.Generator().manual_seed(0)),
        **{name: torch.tensor([value]) for name, value in (("start", 0), ("end", 4), ("axis", 2), ("step", 1))},
    }
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["c"], kernel_shape=[3, 3]),
        helper.make_node("Slice", ["c", "start", "end", "axis", "step"], ["y"]),  # by values from tensors
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.numpy(), name) for name, value in constants.items()],
    )
    net = onnx2torch.convert(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])).eval()
    net, changes = auto_decomposition(net)
    assert len(changes) == 1
    report = export_onnx(net, image(1, 64, 8, 8), tmp_path / "net.onnx")
    assert report.ok
    assert report.exporter == "TorchScript"
