"""Both flows with the installed library alone: without extras, and without files of the repository."""

import copy
import sys

import torch
from torch import nn

import amct_pytorch
from amct_pytorch.backend import available_backends
from amct_pytorch.report import save_report
from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    auto_decomposition,
    decompose_network,
    plan_decomposition,
)
from amct_pytorch.validate import validate


def build() -> nn.Module:
    """A network with one convolution to decompose."""
    return nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 128, 3)).eval()


net = build()
original = copy.deepcopy(net)
plan = plan_decomposition(net, example_inputs=torch.ones(1, 3, 16, 16))
print(plan)
save_report("report.html", plan)  # torch brings jinja2
net, changes = auto_decomposition(net, "decompose_info.json")
torch.save(net.state_dict(), "weights.pth")
rebuilt, rebuilt_changes = decompose_network(build(), "decompose_info.json")
rebuilt.load_state_dict(torch.load("weights.pth"))
image = torch.ones(1, 3, 16, 16)
assert changes == rebuilt_changes == {"2": ["2.0", "2.1"]}
assert torch.equal(net(image), rebuilt(image))
# The method that needs tensorly.
_, by_tucker = auto_decomposition(copy.deepcopy(original), config=DecompositionConfig(method="tucker2"))
assert by_tucker == {"2": ["2.0", "2.1", "2.2"]}
assert "cpu" in available_backends()
assert validate(original, net, image).ok
assert amct_pytorch.__file__.startswith(sys.prefix), amct_pytorch.__file__
print(f"The wheel works from an empty folder: {amct_pytorch.__file__}")
