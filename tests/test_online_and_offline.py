"""AMCT's two flows, end to end: decompose and train in one process, or rebuild and train in another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

_PRELUDE = """
import sys
import torch
from torch import nn
from amct_pytorch.tensor_decompose import auto_decomposition, decompose_network

torch.set_num_threads(1)
folder = sys.argv[1]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(),
            nn.Conv2d(64, 64, 3, padding="same"), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 128, (3, 5), stride=2, padding=(1, 2)), nn.ReLU(),
            nn.Conv2d(128, 64, (5, 3), padding=1, padding_mode="reflect"), nn.ReLU(),
        )
        self.again = self.body[2]
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))

def train(net):
    # The user's own training: from here on the two flows must be the same to the bit.
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    losses = []
    for _ in range(3):
        x, y = torch.randn(8, 3, 12, 12), torch.randint(10, (8,))
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
"""

_DECOMPOSE_AND_TRAIN = """
torch.manual_seed(0)
net = Net()
pretrained = {name: value.clone() for name, value in net.state_dict().items()}
net, changes = auto_decomposition(model=net, decompose_info_path=f"{folder}/made/decompose_info.json")
assert list(changes) == ["body.2", "body.5", "body.7", "again"], changes
torch.save(net.state_dict(), f"{folder}/made/decomposed_weights.pth")
x = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(3))
torch.save((x, net.eval()(x), changes), f"{folder}/made/response.pth")

net = Net()
net.load_state_dict(pretrained)
net, changes = auto_decomposition(model=net)
print(train(net))
"""

_REBUILD_AND_TRAIN = """
torch.manual_seed(5)  # other initial weights than the decomposed ones
net = Net()
net, changes = decompose_network(model=net, decompose_info_path=f"{folder}/made/decompose_info.json")
net.load_state_dict(torch.load(f"{folder}/made/decomposed_weights.pth"))
x, expected, expected_changes = torch.load(f"{folder}/made/response.pth", weights_only=True)
net.eval()
assert torch.equal(net(x), expected)
assert changes == expected_changes
print(train(net.train()))
"""


def _run(program: str, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", _PRELUDE + program, str(folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_offline_flow_equals_the_online_one_bit_for_bit_and_trains_alike(tmp_path: Path) -> None:
    online = _run(_DECOMPOSE_AND_TRAIN, tmp_path)
    offline = _run(_REBUILD_AND_TRAIN, tmp_path)
    assert offline == online
    assert offline.count(",") == 2
