"""Networks of other libraries: planned, decomposed, run, saved, rebuilt, and compared bit for bit.

At full ranks, by every method, they also compute what they did before.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    RatioRank,
    auto_decomposition,
    decompose_network,
    plan_decomposition,
)
from amct_pytorch.tensor_decompose.methods import get_method

from .foreign_architectures import ARCHITECTURES, OF_EVERY_KIND, Architecture
from .models import chains, snapshot

# The full ranks, whatever a split costs at them.
_FULL: dict[str, Any] = {"rule": "any", "rank": RatioRank(1.0), "rank_multiple": 1, "require_gain": False}


def _outputs(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    with torch.no_grad():
        outputs = model(**inputs)
    # A ModelOutput is a mapping, but not necessarily registered as a pytree node.
    leaves = tree_leaves(dict(outputs) if isinstance(outputs, dict) else outputs)
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _build(architecture: Architecture, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    return architecture.build().eval()


# Some keep a convolution in a plain list too. The warning says so; the reference is put right, or the outputs differed.
@pytest.mark.filterwarnings("ignore::amct_pytorch.errors.AmctWarning")
@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=lambda architecture: architecture.name)
def test_a_network_of_another_library(architecture: Architecture, tmp_path: Path) -> None:
    model, inputs = _build(architecture, 0), architecture.inputs()
    original = _outputs(model, inputs)

    check = snapshot(model)
    plan = plan_decomposition(model, example_inputs=inputs)
    check()
    assert {name for layer in plan.layers for name in layer.names} >= {
        name for name, module in model.named_modules(remove_duplicate=False) if isinstance(module, nn.Conv2d)
    }
    assert str(plan)
    decomposed = [name for layer in plan.layers if layer.decompose for name in layer.names]

    model, changes = plan.apply(model, tmp_path / "info.json")
    assert sorted(changes) == sorted(decomposed)
    assert list(chains(model)) == list(changes)
    assert plan.parameters_after == sum(parameter.numel() for parameter in model.parameters())
    expected = _outputs(model, inputs)
    assert [tensor.shape for tensor in expected] == [tensor.shape for tensor in original]
    assert all(torch.isfinite(tensor).all() for tensor in expected if tensor.is_floating_point())
    torch.save(model.state_dict(), tmp_path / "weights.pth")

    rebuilt, rebuilt_changes = decompose_network(_build(architecture, 1), tmp_path / "info.json")
    assert rebuilt_changes == changes
    rebuilt.load_state_dict(torch.load(tmp_path / "weights.pth"))
    for found, wanted in zip(_outputs(rebuilt, inputs), expected, strict=True):
        assert torch.equal(found.nan_to_num(), wanted.nan_to_num())

    # With the inputs, without which layers that never run on them would be decomposed now.
    assert auto_decomposition(model, example_inputs=inputs)[1] == {}


def _in_double(values: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in values.items()
    }


def _assert_close(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in wanted]
    for one, other in zip(found, wanted, strict=True):
        if one.numel():
            # Some compute a part in single precision whatever their weights are in.
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6 * float(other.abs().max()), equal_nan=True)


@pytest.mark.filterwarnings("ignore::amct_pytorch.errors.AmctWarning")
@pytest.mark.slow
@pytest.mark.parametrize("method", ["separable", "channel", "tucker2", "auto"])
@pytest.mark.parametrize("architecture", OF_EVERY_KIND, ids=lambda architecture: architecture.name)
def test_full_ranks_change_nothing(architecture: Architecture, method: str, tmp_path: Path) -> None:
    model, inputs = _build(architecture, 0).double(), _in_double(architecture.inputs())
    original = _outputs(model, inputs)
    plan = plan_decomposition(model, DecompositionConfig(method=method, **_FULL), example_inputs=inputs)
    decomposed = [layer for layer in plan.layers if layer.decompose]
    assert decomposed or method in ("separable", "tucker2")
    if method != "auto":  # at the cost of its first method, the others have other ranks
        for layer in decomposed:
            assert layer.spec is not None
            assert layer.ranks == get_method(method).full_ranks(layer.spec)

    model, changes = plan.apply(model, tmp_path / "info.json")
    expected = _outputs(model, inputs)
    _assert_close(expected, original)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    rebuilt, rebuilt_changes = decompose_network(_build(architecture, 1).double(), tmp_path / "info.json")
    assert rebuilt_changes == changes
    rebuilt.load_state_dict(torch.load(tmp_path / "weights.pth"))
    assert all(map(torch.equal, _outputs(rebuilt, inputs), expected))


def _named(name: str) -> Architecture:
    return next(architecture for architecture in OF_EVERY_KIND if architecture.name == name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "t5", "t5-gated", "whisper"])
def test_what_is_generated_at_full_ranks_is_the_same(name: str) -> None:
    architecture = _named(name)
    original: Any = _build(architecture, 0).double()
    inputs = {key: value for key, value in _in_double(architecture.inputs()).items() if not key.startswith("decoder")}
    model: Any = copy.deepcopy(original)
    model, changes = auto_decomposition(model, config=DecompositionConfig(method="channel", **_FULL))
    assert changes
    wanted = original.generate(**inputs, max_new_tokens=5, do_sample=False)
    assert torch.equal(model.generate(**inputs, max_new_tokens=5, do_sample=False), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "vit", "unet-condition"])
def test_gradients_through_checkpoints_are_those_of_the_original(name: str) -> None:
    architecture = _named(name)
    original: Any = _build(architecture, 0).double()
    inputs = _in_double(architecture.inputs())
    model: Any = copy.deepcopy(original)
    model, changes = auto_decomposition(model, config=DecompositionConfig(method="auto", **_FULL))
    assert changes
    for network in (original, model):
        if hasattr(network, "enable_gradient_checkpointing"):
            network.enable_gradient_checkpointing()
        else:
            network.gradient_checkpointing_enable()
        network.train()
        torch.manual_seed(0)  # of dropout
        next(iter(network(**inputs).values())).square().mean().backward()
    gradients = {key: parameter.grad for key, parameter in model.named_parameters()}
    both = [key for key, parameter in original.named_parameters() if key in gradients and parameter.grad is not None]
    assert both
    _assert_close([gradients[key] for key in both], [original.get_parameter(key).grad for key in both])


@pytest.mark.slow
def test_attention_is_fused_after_a_decomposition() -> None:
    architecture = _named("autoencoder-kl")
    model: Any = _build(architecture, 0).double()
    inputs = _in_double(architecture.inputs())
    wanted = _outputs(model, inputs)
    model, changes = auto_decomposition(model, config=DecompositionConfig(method="channel", **_FULL))
    assert any("to_q" in name for name in changes)
    model.fuse_qkv_projections()
    _assert_close(_outputs(model, inputs), wanted)
