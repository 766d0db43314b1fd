"""A small VGG-style network for 8x8 handwritten digits, with trained weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

WEIGHTS_PATH = Path(__file__).resolve().parent / "digits.pth"
"""The shipped weights, in float16."""


def conv_block(in_channels: int, out_channels: int) -> list[nn.Module]:
    """Return the layers of one 3x3 convolution, batch normalisation and ReLU."""
    return [
        # The shift of the batch normalisation makes a bias redundant.
        nn.Conv2d(in_channels, out_channels, kernel_size=3, padding=1, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    ]


class DigitsNet(nn.Module):
    """Six 3x3 convolutions in three stages, global average pooling and a linear classifier.

    Parameters
    ----------
    num_classes : int
        Number of output logits.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *conv_block(1, 64),
            *conv_block(64, 64),
            nn.MaxPool2d(2),
            *conv_block(64, 128),
            *conv_block(128, 128),
            nn.MaxPool2d(2),
            *conv_block(128, 256),
            *conv_block(256, 256),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(256, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Map images of shape (N, 1, 8, 8) to logits of shape (N, num_classes)."""
        features = self.pool(self.features(images)).flatten(1)
        logits: Tensor = self.classifier(features)
        return logits


def load_pretrained(weights: Path = WEIGHTS_PATH) -> DigitsNet:
    """Return the network in float32 and eval mode.

    Parameters
    ----------
    weights
        A state dict saved by torch; the shipped one, or another that examples/digits/train.py has saved.
    """
    state = torch.load(weights, map_location="cpu", weights_only=True)
    net = DigitsNet()
    # The file holds float16 to stay small; copying into float32 parameters casts the values back.
    net.load_state_dict(state)
    return net.eval()
