"""Decomposed models work with PyTorch's compilers, exporters and quantisation like any other model."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from amct_pytorch.demo import load_digits_tensors, load_pretrained
from amct_pytorch.tensor_decompose import DecompositionConfig, FixedRank, auto_decomposition

from .models import TwoConvs, chains, image


def _decomposed() -> nn.Module:
    net, _ = auto_decomposition(TwoConvs().eval(), config=DecompositionConfig(rank=FixedRank(16)))
    assert list(chains(net)) == ["conv1", "conv2"]
    return net


def _compiled(backend: str) -> Callable[[nn.Module], Callable[[Tensor], Tensor]]:
    return lambda net: torch.compile(net, backend=backend, fullgraph=True)


def _exported(net: nn.Module) -> Callable[[Tensor], Tensor]:
    batch = torch.export.Dim("batch", min=2)
    return torch.export.export(net, (image(),), dynamic_shapes=({0: batch},)).module()


def _traced(net: nn.Module) -> Callable[[Tensor], Tensor]:
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(net, image()), file)
    return torch.jit.load(io.BytesIO(file.getvalue()))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "through",
    [
        pytest.param(_compiled("aot_eager"), id="compile in one graph"),
        pytest.param(_compiled("inductor"), id="compile", marks=pytest.mark.slow),
        pytest.param(_exported, id="export"),
        pytest.param(_traced, id="trace"),
        pytest.param(torch.jit.script, id="script"),
    ],
)
def test_outputs_are_the_same(through: Callable[[nn.Module], Callable[[Tensor], Tensor]]) -> None:
    net = _decomposed()
    other = through(net)
    for inputs in (image(), image(5, 3, 16, 16)):
        with torch.no_grad():
            torch.testing.assert_close(other(inputs), net(inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_gradients_are_the_same_when_compiled(backend: str) -> None:
    net = _decomposed().train()
    other = copy.deepcopy(net)
    for step, model in ((net, net), (torch.compile(other, backend=backend, fullgraph=True), other)):
        step(image()).square().mean().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_the_chain_as_it_does_plain_convolutions(dtype: torch.dtype) -> None:
    net = _decomposed()
    plain = copy.deepcopy(net)
    for name, chain in chains(plain).items():
        setattr(plain, name, nn.Sequential(*chain))
    with torch.no_grad(), torch.autocast("cpu", dtype):
        features = net.conv1(net.stem(image()))
        assert features.dtype == dtype
        assert torch.equal(net(image()), plain(image()))
    with torch.no_grad():
        full = net.conv1(net.stem(image()))
    assert float((features.float() - full).norm() / full.norm()) < 0.02


def test_channels_last_stays_channels_last_and_computes_the_same() -> None:
    net = _decomposed()
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    inputs = image().contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        torch.testing.assert_close(other(inputs), net(image()), rtol=1e-5, atol=1e-5)
        assert other.conv1(other.stem(inputs)).is_contiguous(memory_format=torch.channels_last)


def test_a_model_in_channels_last_is_decomposed_in_it() -> None:
    net, _ = auto_decomposition(TwoConvs().eval().to(memory_format=torch.channels_last))
    weights = [stage.weight for stage in net.conv1 if min(stage.weight.shape[1], max(stage.kernel_size)) > 1]
    assert weights
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_int8_quantisation_after_decomposition_keeps_the_accuracy() -> None:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    net, changes = auto_decomposition(load_pretrained(), config=DecompositionConfig(rank_multiple=32))
    assert changes
    train, _, test, labels = load_digits_tensors()
    quantizer = X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(_with_open_batch(net, train[:64]), quantizer)
    prepared(train[:256])  # calibration
    quantised = convert_pt2e(prepared)

    convs = [node for node in quantised.graph.nodes if node.target is torch.ops.aten.conv2d.default]
    assert len(convs) == sum(isinstance(module, nn.Conv2d) for module in net.modules())
    for conv in convs:
        assert all("dequantize" in str(argument.target) for argument in conv.args[:2])
    with torch.no_grad():
        exact, found = net(test), quantised(test)
    assert not torch.equal(exact, found)
    assert float((exact - found).norm() / exact.norm()) < 0.05
    before, after = ((scores.argmax(1) == labels).double().mean() for scores in (exact, found))
    assert after > before - 0.01


def _with_open_batch(net: nn.Module, inputs: Tensor) -> nn.Module:
    shapes = ({0: torch.export.Dim("batch", min=2)},)
    return torch.export.export(net, (inputs,), dynamic_shapes=shapes).module()
