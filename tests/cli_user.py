"""What a user of the command line brings: a model, a score, and batches."""

from __future__ import annotations

import atexit
import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator

import torch
from torch import Tensor, nn

IMAGES = torch.randn(24, 3, 8, 8, generator=torch.Generator().manual_seed(3))


class Network(nn.Module):
    """Two layers that can be decomposed, and one that AMCT's rule keeps."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.body = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, 10)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.stem(images).relu()).relu().mean((2, 3)))


def network(width: int = 64) -> nn.Module:
    return Network(width)


def talkative() -> nn.Module:
    print("loading the model ...")
    return Network()


def talkative_in_every_way() -> nn.Module:
    """A model whose code prints as Python, as C code, and as another process."""
    print("by Python")
    print("by Python past sys.stdout", file=sys.__stdout__)
    os.write(1, b"by the system\n")
    ctypes.CDLL(None).printf(b"by C, which keeps it in a buffer\n")
    subprocess.run([sys.executable, "-c", "print('by a child')"], check=True)
    atexit.register(print, "when the process ends")
    return Network()


def agreement(model: nn.Module) -> float:
    """The share of images for which a model says what the original does."""
    with torch.no_grad():
        return float((model(IMAGES).argmax(1) == Network()(IMAGES).argmax(1)).float().mean())


def batches() -> list[Tensor]:
    return list(IMAGES.split(8))


def batches_that_end_early() -> Iterator[Tensor]:
    yield IMAGES[:8]
    raise OSError("the disk of the images is not mounted")


def a_class() -> type[nn.Module]:
    return Network


a_model = Network()


def broken() -> nn.Module:
    raise RuntimeError("the disk of the weights\nis not mounted")


def leaving() -> nn.Module:
    sys.exit(3)


def no_module() -> int:
    return 3


def interrupted() -> nn.Module:
    raise KeyboardInterrupt


not_callable = 3
