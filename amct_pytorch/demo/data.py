"""The handwritten digits of scikit-learn as tensors, and the accuracy of a model on them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import MissingExtra


def load_digits_tensors() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return a fixed stratified 75/25 split of the 1797 digits, which scikit-learn brings along.

    Returns
    -------
    train_images, train_labels, test_images, test_labels : Tensor
        Images are float32 in [0, 1] of shape (N, 1, 8, 8), labels are int64 of shape (N,).

    Raises
    ------
    MissingExtra
        scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise MissingExtra("the digits are in scikit-learn: pip install scikit-learn") from error

    digits = load_digits()
    # The grey levels are the integers 0 to 16.
    images = (digits.images[:, None] / 16.0).astype(np.float32)
    labels = digits.target.astype(np.int64)
    train_images, test_images, train_labels, test_labels = train_test_split(
        images, labels, test_size=0.25, stratify=labels, random_state=0
    )
    return (
        torch.from_numpy(train_images),
        torch.from_numpy(train_labels),
        torch.from_numpy(test_images),
        torch.from_numpy(test_labels),
    )


def accuracy(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 256) -> float:
    """Return the percentage of images that the model classifies correctly in eval mode.

    Parameters
    ----------
    model : nn.Module
        Classifier on the device of the images; the training flag of every submodule is restored afterwards.
    images, labels : Tensor
        Inputs of shape (N, 1, 8, 8) and class indices of shape (N,).
    batch_size : int
        Number of images per forward pass.

    Returns
    -------
    float
        Top-1 accuracy in percent.
    """
    # Flags are saved per module, so that layers frozen in eval mode stay so in a training model.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    batches = zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True)
    correct = 0
    try:
        with torch.no_grad():
            for batch, targets in batches:
                correct += int((model(batch).argmax(dim=1) == targets).sum())
    finally:
        for module, training in modes:
            module.training = training
    return 100.0 * correct / len(labels)
