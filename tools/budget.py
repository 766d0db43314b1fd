"""What budgets are worth: whether damage is predicted well, and whether the choice beats uniform ratios of the rank.

The networks are that of amct_pytorch.demo and pretrained ones, on drawn images (extra: real). Errors are those
of the outputs on images that nothing was fitted to.

    python tools/budget.py predict --networks digits    # Spearman's correlation over random plans; five minutes
    python tools/budget.py predict                      # also those of the detectors; an hour
    python tools/budget.py compare --networks digits --shares 0.3 0.15 --seeds 5    # with uniform ratios at equal MACs
    python tools/budget.py compare --networks digits --trained 1.pth 2.pth --seeds 3    # and on other networks
    python tools/budget.py compare --networks ddddocr pp-ocr --workers 8
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import multiprocessing
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast, get_args
from unittest.mock import patch

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text
from amct_pytorch.demo import WEIGHTS_PATH, accuracy, load_digits_tensors, load_pretrained
from amct_pytorch.errors import ConfigError
from amct_pytorch.tensor_decompose import (
    Budget,
    Calibration,
    DecompositionConfig,
    DecompositionPlan,
    FixedRank,
    RatioRank,
    plan_decomposition,
)
from amct_pytorch.tensor_decompose.calibration.data import Mode
from amct_pytorch.tensor_decompose.methods import budget_choice
from amct_pytorch.tensor_decompose.methods.candidates import Candidate
from amct_pytorch.tensor_decompose.methods.within_budget import Weight, chosen_within
from amct_pytorch.tensor_decompose.ranks.error_curve import PROPORTIONAL

from judging import IMAGES, NETWORKS
from real_networks import REAL_NETWORKS

METHODS = ("auto", "separable", "tucker2", "channel")
"""The methods that are compared, each for all layers; auto with a budget only."""

IMAGES_TO_JUDGE = 8
"""Drawn images that a pretrained network is judged by."""

RANK_MULTIPLE = 8
"""Of the ranks that a budget chooses: 16 would leave narrow layers next to no choice, and 1 is for no hardware."""

Item = TypeVar("Item")
Found = TypeVar("Found")

_task: Callable[[Any], Any]
"""What forked processes do to each item."""

LEVELS = (0.05, 0.6)
"""Least and largest typical error of a layer's response in random plans: below, outputs hardly change."""


@dataclass(frozen=True)
class Case:
    """A network, and images for it.

    Attributes
    ----------
    network
        In eval mode.
    batches
        To fit to.
    images
        Batches to judge by.
    score
        Of a network, in percent; see judging.py.
    """

    network: nn.Module
    batches: Sequence[Tensor]
    images: Sequence[Tensor]
    score: Callable[[nn.Module], float]

    def outputs(self, network: nn.Module) -> Tensor:
        """What a network gives for the images to judge by."""
        with torch.no_grad():
            return torch.cat([cast(Tensor, network(batch)) for batch in self.images])

    def error(self, network: nn.Module) -> float:
        """Relative error of its outputs."""
        expected = self.outputs(self.network)
        return float((self.outputs(network) - expected).norm() / expected.norm())

    def planned(
        self, config: DecompositionConfig, mode: Mode | None, budget: Budget | None = None
    ) -> DecompositionPlan:
        """The plan by this config, fitted in this mode."""
        calibration = None if mode is None else Calibration(self.batches, mode=mode)
        return plan_decomposition(
            self.network, config, budget=budget, calibration=calibration, example_inputs=self.batches[0][:1]
        )

    def decomposed(self, plan: DecompositionPlan) -> nn.Module:
        """A copy of the network, decomposed."""
        return plan.apply(copy.deepcopy(self.network))[0]


def case_of(name: str, seed: int, trained: Sequence[Path] = ()) -> Case:
    """The network of a name, with images by a seed, which also picks a digits network where several are trained."""
    if name == "digits":
        train, _, images, labels = load_digits_tensors()
        chosen = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))[: IMAGES[name]]]
        score = lambda network: accuracy(network, images, labels)  # noqa: E731
        weights = [WEIGHTS_PATH, *trained]
        network = load_pretrained(weights[seed % len(weights)])
        return Case(network, torch.split(chosen, 32), [images], score)
    real, count = REAL_NETWORKS[name], IMAGES[name]
    drawn = real.draw(count + IMAGES_TO_JUDGE, seed)
    images = drawn.inputs.split(1)  # one by one, as some take no others
    case = Case(real.load(), images[:count], images[count:], lambda network: math.nan)
    expected = case.outputs(case.network)
    return replace(case, score=lambda network: real.score(case.outputs(network), expected, drawn.truth[count:]))


def every_layer(method: str = "auto", **settings: object) -> DecompositionConfig:
    """Every layer that a method can split, by it."""
    return DecompositionConfig(method, rule="any", rank_multiple=RANK_MULTIPLE, **settings)  # type: ignore[arg-type]


def weights_of(case: Case, mode: Mode | None) -> Sequence[Weight]:
    """What a budget chooses from."""
    with patch(f"{budget_choice.__name__}.chosen_within", wraps=chosen_within) as choosing:
        case.planned(every_layer(), mode, Budget(macs=0.9))
    return cast(Sequence[Weight], choosing.call_args.args[2])


def random_plan(weights: Sequence[Weight], draw: random.Random) -> list[Candidate | None]:
    """For each weight a split by a random method, of an error near a level that is the plan's own, or none."""
    level = math.exp(draw.uniform(*map(math.log, LEVELS)))
    chosen: list[Candidate | None] = []
    for weight in weights:
        candidates = weight.candidates()
        if not candidates or draw.random() < 0.2:
            chosen.append(None)
            continue
        method = draw.choice(sorted({one.method for one in candidates}))
        wanted = level * math.exp(draw.gauss(0, 0.5))
        near = min(
            (one for one in candidates if one.method == method),
            key=lambda one: abs(math.log(max(one.error, 1e-6) / wanted)),
        )
        # Where even the largest rank loses far more, a budget would keep the layer.
        chosen.append(near if near.error < 3 * wanted else None)
    return chosen


def each(task: Callable[[Item], Found], items: Sequence[Item], workers: int) -> Iterator[Found]:
    """What a task gives for each item, in this order, from forked processes that share the work."""
    global _task
    _task = task
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        yield from pool.imap(_work, items)


def _work(item: Any) -> Any:
    """The task for an item: in a forked process, as a closure can be sent to none."""
    return _task(item)


def predict(name: str, mode: Mode, plans: int, workers: int) -> tuple[str, ...]:
    """Spearman's correlation of each prediction with the measured error, over random plans."""
    case = case_of(name, seed=0)
    weights = weights_of(case, mode)
    by_weight = weights_of(case, None)
    draw = random.Random(0)

    def measured(chosen: list[Candidate | None]) -> tuple[float, ...]:
        rules: dict[str, object] = {
            weight.group.name: False if one is None else {"method": one.method, "rank": FixedRank(one.ranks)}
            for weight, one in zip(weights, chosen, strict=True)
        }
        plan = case.planned(every_layer(layers=rules), mode)
        alone = [
            0.0 if one is None else weight.spectra[one.method].error(one.ranks)
            for weight, one in zip(by_weight, chosen, strict=True)
        ]
        responses = [
            replace(weight, influence=PROPORTIONAL).damage(one) for weight, one in zip(weights, chosen, strict=True)
        ]
        influence = [weight.damage(one) for weight, one in zip(weights, chosen, strict=True)]
        assert plan.outcome is not None
        assert plan.outcome.plain_output_error is not None
        error = case.error(case.decomposed(plan))
        predicted = (math.hypot(*damages) for damages in (alone, responses, influence))
        return (*predicted, error, plan.outcome.plain_output_error)

    found = []
    for one in each(measured, [random_plan(weights, draw) for _ in range(plans)], workers):
        found.append(one)
        print(f"{name}: {len(found)} of {plans}", *(f"{value:.3g}" for value in one), file=sys.stderr, flush=True)
    weights_alone, responses_, influence, error, plain = zip(*found, strict=True)
    ratio = statistics.median(one / other for one, other in zip(influence, error, strict=True))

    def rho(one: Sequence[float], other: Sequence[float]) -> str:
        return f"{spearmanr(one, other).statistic:.3f}"

    return (
        name,
        rho(weights_alone, plain),
        rho(weights_alone, error),
        rho(responses_, error),
        rho(influence, error),
        f"{ratio:.2f}",
        f"{min(error):.2g} to {max(error):.2g}",
    )


PREDICTIONS = (
    Column("network"),
    Column("weights, plain splits", "number"),
    Column("weights", "number"),
    Column("responses", "number"),
    Column("influence", "number"),
    Column("predicted / measured", "number"),
    Column("errors", "number"),
)
"""Spearman's correlation with the measured error of weights alone, of responses, and as budgets predict it."""


def uniform(case: Case, method: str, share: float) -> list[DecompositionConfig]:
    """The largest share of the full rank for every layer within a share of the MACs, for some choices of the layers.

    Those are AMCT's and all that the method can split, with ranks rounded, and not: which is best depends on whether
    narrow layers should rather be kept, and on the MACs that rounding leaves unused.
    """
    found = []
    for rule, multiple in itertools.product(("amct", "any"), (1, RANK_MULTIPLE)):
        low, high, config = 0.0, 1.0, None
        for _ in range(7):
            ratio = (low + high) / 2
            tried = DecompositionConfig(method, rank=RatioRank(ratio), rule=rule, rank_multiple=multiple)  # type: ignore[arg-type]
            if macs_left(case.planned(tried, None)) <= share:
                low, config = ratio, tried
            else:
                high = ratio
        if config is not None:
            found.append(config)
    return found


def macs_left(plan: DecompositionPlan) -> float:
    """MACs after, as a share of those before."""
    return sum(layer.macs_after or 0 for layer in plan.layers) / sum(layer.macs or 0 for layer in plan.layers)


class Result(NamedTuple):
    """Share of the MACs, relative error of the outputs, and score in percent."""

    macs: float
    error: float
    score: float


def compare(
    name: str, mode: Mode, share: float, seeds: int, trained: Sequence[Path], workers: int
) -> list[tuple[str, ...]]:
    """What budgets and the best uniform ratios come to at the same MACs, for each method."""
    first = case_of(name, 0, trained)
    ratios = each(lambda method: uniform(first, method, share), METHODS[1:], workers)
    ways: list[tuple[str, str, DecompositionConfig]] = [
        *(("budget", method, every_layer(method)) for method in METHODS),
        *(("ratio", method, config) for method, configs in zip(METHODS[1:], ratios, strict=True) for config in configs),
    ]
    best: dict[tuple[str, str], list[Result]] = {}
    for seed in range(seeds):
        case = case_of(name, seed, trained)

        def result(way: int, case: Case = case) -> Result | None:
            choice, _, config = ways[way]
            try:
                plan = case.planned(config, mode, Budget(macs=share) if choice == "budget" else None)
            except ConfigError:  # this method alone does not get there
                return None
            network = case.decomposed(plan)
            return Result(macs_left(plan), case.error(network), case.score(network))

        found: dict[tuple[str, str], list[Result]] = {}
        for (choice, method, _), one in zip(ways, each(result, range(len(ways)), workers), strict=True):
            if one is not None:
                print(name, mode, share, seed, choice, method, *(f"{x:.4g}" for x in one), file=sys.stderr, flush=True)
                found.setdefault((choice, method), []).append(one)
        for way, results in found.items():
            best.setdefault(way, []).append(min(results, key=lambda one: one.error))
    return [
        (name, f"{share:g}", choice, method, *(f"{statistics.mean(one):.4g}" for one in zip(*lines, strict=True)))
        for (choice, method), lines in best.items()
    ]


COMPARISONS = (
    Column("network"),
    Column("budget", "number"),
    Column("ranks by"),
    Column("method"),
    Column("MACs", "number"),
    Column("output error", "number"),
    Column("score / %", "number"),
)


def main() -> None:
    """Predict or compare, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("predict", "compare"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["digits", "ddddocr", "pp-ocr"])
    parser.add_argument("--mode", choices=get_args(Mode), default="refit", help="of Calibration (default refit)")
    parser.add_argument("--plans", type=int, default=30, help="random plans of each network (default 30)")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.5, 0.3], help="of the MACs (default 0.5 0.3)")
    parser.add_argument("--seeds", type=int, default=1, help="draws of images to average over (default 1)")
    parser.add_argument("--workers", type=int, default=1, help="processes that share the plans (default 1)")
    parser.add_argument("--trained", type=Path, nargs="+", default=[], help="more weights by examples/digits/train.py")
    arguments = parser.parse_args()
    # One thread fixes the order of summation, so the figures do not depend on the number of cores.
    torch.set_num_threads(1)
    if arguments.what == "predict":
        rows = [predict(name, arguments.mode, arguments.plans, arguments.workers) for name in arguments.networks]
        print(as_text([Table("", PREDICTIONS, tuple(rows))], width=200))
        return
    lines = [
        line
        for name in arguments.networks
        for share in arguments.shares
        for line in compare(name, arguments.mode, share, arguments.seeds, arguments.trained, arguments.workers)
    ]
    print(as_text([Table("", COMPARISONS, tuple(lines))], width=200))


if __name__ == "__main__":
    main()
