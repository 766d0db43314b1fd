"""Networks of other libraries: planned, decomposed, run, saved, rebuilt, and compared bit for bit."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from amct_pytorch.tensor_decompose import auto_decomposition, decompose_network, plan_decomposition

from .foreign_architectures import ARCHITECTURES, Architecture
from .models import chains, snapshot


def _outputs(model: nn.Module, architecture: Architecture) -> list[Tensor]:
    with torch.no_grad():
        outputs = model(**architecture.inputs())
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
    model = _build(architecture, 0)
    original = _outputs(model, architecture)
    inputs = architecture.inputs()

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
    expected = _outputs(model, architecture)
    assert [tensor.shape for tensor in expected] == [tensor.shape for tensor in original]
    assert all(torch.isfinite(tensor).all() for tensor in expected if tensor.is_floating_point())
    torch.save(model.state_dict(), tmp_path / "weights.pth")

    rebuilt, rebuilt_changes = decompose_network(_build(architecture, 1), tmp_path / "info.json")
    assert rebuilt_changes == changes
    rebuilt.load_state_dict(torch.load(tmp_path / "weights.pth"))
    for found, wanted in zip(_outputs(rebuilt, architecture), expected, strict=True):
        assert torch.equal(found.nan_to_num(), wanted.nan_to_num())

    # With the inputs, without which layers that never run on them would be decomposed now.
    assert auto_decomposition(model, example_inputs=inputs)[1] == {}
