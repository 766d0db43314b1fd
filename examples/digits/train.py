"""Train DigitsNet on the handwritten digits and save its weights in float16.

The schedule is fixed and the final weights are saved: the test set only measures the result.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from amct_pytorch.demo import WEIGHTS_PATH, DigitsNet, accuracy, load_digits_tensors

BATCH_SIZE = 64  # images per step

# Of AdamW; the learning rate is the peak of a one-cycle schedule.
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 5e-2

# Share of the probability of a label that is spread over all classes.
LABEL_SMOOTHING = 0.1

# Augmentation: largest shift, rotation and relative change of scale, and standard deviation of added Gaussian noise.
MAX_SHIFT_PIXELS = 1.0
MAX_ROTATION_DEGREES = 12.0
MAX_SCALE_CHANGE = 0.1
NOISE_STD = 0.03


def uniform(count: int, limit: float) -> Tensor:
    """Return `count` samples from the uniform distribution on [-limit, limit]."""
    return torch.empty(count).uniform_(-limit, limit)


def augment(images: Tensor) -> Tensor:
    """Return randomly shifted, rotated and scaled images with a little Gaussian noise."""
    count, width = images.shape[0], images.shape[-1]
    angle = uniform(count, math.radians(MAX_ROTATION_DEGREES))
    scale = 1.0 + uniform(count, MAX_SCALE_CHANGE)
    # affine_grid measures in half image widths.
    max_shift = 2.0 * MAX_SHIFT_PIXELS / width
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack(
        [
            torch.stack([cos, -sin, uniform(count, max_shift)], dim=1),
            torch.stack([sin, cos, uniform(count, max_shift)], dim=1),
        ],
        dim=1,
    )
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    warped = functional.grid_sample(images, grid, align_corners=False)
    return warped + NOISE_STD * torch.randn_like(warped)


def train(net: DigitsNet, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train the network in place with AdamW under a one-cycle learning rate.

    Parameters
    ----------
    net : DigitsNet
        Network to train; left in train mode.
    images, labels : Tensor
        Training set.
    epochs : int
        Number of passes over the training set.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps_per_epoch = math.ceil(len(images) / BATCH_SIZE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=LEARNING_RATE, epochs=epochs, steps_per_epoch=steps_per_epoch
    )
    net.train()
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        total_loss = 0.0
        for indices in torch.split(torch.randperm(len(images)), BATCH_SIZE):
            logits = net(augment(images[indices]))
            loss = functional.cross_entropy(logits, labels[indices], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
            total_loss += loss.item() * len(indices)
        seconds = time.perf_counter() - start
        print(f"epoch {epoch:3d}/{epochs}  loss {total_loss / len(images):.4f}  {seconds:.1f} s", flush=True)


def half_state_dict(net: DigitsNet) -> dict[str, Tensor]:
    """Return the state dict with floating-point tensors in float16 and integer buffers as they are."""
    state = net.state_dict()
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}


def main() -> None:
    """Train, save the weights and report the accuracy of what was saved."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=120, help="passes over the training set")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation; the shipped one: 0")
    parser.add_argument("--output", type=Path, default=WEIGHTS_PATH, help="file for the float16 weights")
    args = parser.parse_args()

    # One thread fixes the order of summation, so the result does not depend on the number of cores.
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    train_images, train_labels, test_images, test_labels = load_digits_tensors()
    net = DigitsNet()
    train(net, train_images, train_labels, args.epochs)

    torch.save(half_state_dict(net), args.output)
    net.load_state_dict(torch.load(args.output, map_location="cpu", weights_only=True))
    print(f"train accuracy {accuracy(net, train_images, train_labels):.2f} %")
    print(f"test accuracy  {accuracy(net, test_images, test_labels):.2f} %")


if __name__ == "__main__":
    main()
