"""Search for the cheapest digits network within half a point of accuracy, and time it beside the original.

python examples/digits/search.py
python examples/digits/search.py --minimise latency
"""

import argparse
import copy
import time
from pathlib import Path

import torch
from torch import nn

from amct_pytorch.benchmark import benchmark
from amct_pytorch.demo import accuracy, load_digits_tensors, load_pretrained
from amct_pytorch.tensor_decompose import Calibration, search_decomposition

DROP = 0.5  # percentage points of accuracy
IMAGES = 256  # training images that the factors are fitted to
BATCH = 64  # images in a run that is timed


def main() -> None:
    """Run the example, and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minimise", choices=("macs", "parameters", "latency"), default="macs")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).resolve().parent / "out", help="folder to write to"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train_images, _, test_images, test_labels = load_digits_tensors()
    net: nn.Module = load_pretrained()
    # The memory format in which CPUs pool fastest, so that more of the time is the convolutions'.
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch types it for tensors only
    original = copy.deepcopy(net)

    began = time.monotonic()
    found = search_decomposition(
        net,
        lambda model: accuracy(model, test_images, test_labels),
        drop=DROP,
        minimise=arguments.minimise,
        calibration=Calibration(train_images[:IMAGES].split(32), mode="reconstruct"),
        example_inputs=test_images[:BATCH],
        samples=len(test_images),
        journal=arguments.output / f"{arguments.minimise}.jsonl",  # run it again after an interruption to go on
        progress=lambda done, total, budget: print(f"{done} of {total}: {budget}", flush=True),
    )
    print(f"\n{found}\n\nSearched for {time.monotonic() - began:.0f} s\n")
    found.plot(arguments.output / f"{arguments.minimise}.png")
    net, _ = found.plan.apply(net, arguments.output / "decompose_info.json")
    print(benchmark(original, net, test_images[:BATCH]))


if __name__ == "__main__":
    main()
