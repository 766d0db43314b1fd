"""Decompose the pretrained digits network, fine-tune it briefly, and rebuild it from the saved files.

python examples/digits/decompose.py
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from amct_pytorch.demo import DigitsNet, accuracy, load_digits_tensors, load_pretrained
from amct_pytorch.tensor_decompose import decompose_network, plan_decomposition

SEED = 0  # of the order of the training images


def finetune(net: nn.Module, images: Tensor, labels: Tensor, epochs: int) -> None:
    """Train the network in place with AdamW and a cosine schedule."""
    torch.manual_seed(SEED)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    net.train()
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(images)), 64):
            loss = nn.functional.cross_entropy(net(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    net.eval()


def main() -> None:
    """Run the example, and print its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5, help="epochs of fine-tuning (default 5)")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parent / "out", help="folder to write to"
    )
    arguments = parser.parse_args()
    info, weights = arguments.output / "decompose_info.json", arguments.output / "decomposed_weights.pth"

    train_images, train_labels, test_images, test_labels = load_digits_tensors()
    net: nn.Module = load_pretrained()
    before = accuracy(net, test_images, test_labels)

    plan = plan_decomposition(net, example_inputs=test_images[:1], progress=True)
    print(plan)
    net, _ = plan.apply(net, info)
    after = accuracy(net, test_images, test_labels)

    finetune(net, train_images, train_labels, arguments.epochs)
    torch.save(net.state_dict(), weights)
    tuned = accuracy(net, test_images, test_labels)
    print(f"\nAccuracy on {len(test_images)} test images")
    print(f"  original                {before:6.2f} %")
    print(f"  decomposed              {after:6.2f} %")
    print(f"  fine-tuned, {arguments.epochs:2} epochs   {tuned:6.2f} %")

    rebuilt, _ = decompose_network(DigitsNet(), info)
    rebuilt.load_state_dict(torch.load(weights))
    if not torch.equal(rebuilt.eval()(test_images), net(test_images)):
        raise SystemExit("The network rebuilt from the files DIFFERS from the saved one.")
    print(f"\nWrote {info}\nand   {weights}")
    print("A network rebuilt from the two gives the same outputs, bit for bit.")


if __name__ == "__main__":
    main()
