"""What the splits of a weight are expected to leave out of its responses to data, before they are fitted and after.

A spectrum in the metric of the data says what a split of the first stage leaves out. Where that stage sees less than
the whole patch, the later stages make up for some of it once they are fitted, and how much depends on the method: a
separable split or Tucker-2 regains part of that error, a split of channels next to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..methods.candidates import ranks_to_measure
from ..methods.weight_group import WeightGroup
from ..methods.within_budget import OnData
from ..model.compose import composed_weight, ungrouped
from ..ranks.error_curve import PROPORTIONAL, ErrorCurve
from ..ranks.spectrum import Spectrum
from .data import LayerMode
from .least_squares import Moments, ridge_expected
from .moments import MomentSums
from .stage_kernels import first_stage_offsets, prefix_offsets
from .whitening import shrunk_root

# Expected relative errors of a response at which it is tried what a fit leaves of them: those that budgets lead to.
_TRIED_ERRORS = (0.1, 0.4)

# Moments of all the data, and of its halves.
_Parts = tuple[Moments, tuple[Moments, Moments]]


def seen_through_data(
    by_method: Mapping[str, WeightGroup], sums: MomentSums, mode: LayerMode | None
) -> dict[str, OnData]:
    """What is to be expected of the splits of a weight by each method.

    Parameters
    ----------
    by_method
        The weight by each method that may split it.
    sums
        Of what its layers see.
    mode
        How its factors are to be fitted. None where the choice does not depend on what a fit comes to: then errors
        after it are taken to be those before.
    """
    parts = None
    if mode is not None and sums.offsets is None:
        group = next(iter(by_method.values()))
        parts = sums.finish(ungrouped(group.weight().double(), group.spec.groups).flatten(1))
    return {name: _on_data(group, sums, parts, mode) for name, group in by_method.items()}


def _on_data(group: WeightGroup, sums: MomentSums, parts: _Parts | None, mode: LayerMode | None) -> OnData:
    offsets = first_stage_offsets(group)
    total, halves = sums.seen_by_first(offsets)
    root = shrunk_root(total, halves).root
    spectrum = group.spectrum(root)
    after_fit = PROPORTIONAL
    # A first stage that sees whole patches leaves the later ones nothing to make up for.
    if parts is not None and offsets.shape[1] > 1:
        pairs = [
            (spectrum.error(ranks), _error_after_fit(group, ranks, spectrum, root, parts, mode))
            for ranks in _ranks_to_fit(group, spectrum)
        ]
        above_zero = tuple((expected, found) for expected, found in pairs if expected and found)
        after_fit = ErrorCurve(above_zero) if above_zero else PROPORTIONAL
    return OnData(spectrum.keeping([0] * len(spectrum.unfoldings)), after_fit)


def _ranks_to_fit(group: WeightGroup, spectrum: Spectrum) -> list[tuple[int, ...]]:
    """For each of the errors to try the least ranks of no more than it, or the largest ones that gain anything."""
    tried = ranks_to_measure(group)
    if not tried:
        return []
    found = [next((ranks for ranks in tried if spectrum.error(ranks) <= error), tried[-1]) for error in _TRIED_ERRORS]
    return list(dict.fromkeys(found))


def _error_after_fit(
    group: WeightGroup, ranks: tuple[int, ...], spectrum: Spectrum, root: Tensor, parts: _Parts, mode: LayerMode | None
) -> float:
    """Relative error of the response of a split: in whiten as it is, else with the last stage fitted, on other data."""
    total, halves = parts
    weights = [weight.double() for weight in group.factors(ranks, spectrum, root).weights]
    stages = group.stages(ranks)
    if mode == "whiten":
        error = total.error(composed_weight(weights, stages).flatten(1))
    else:
        prefix, offsets = composed_weight(weights[:-1], stages[:-1]), prefix_offsets(group.spec, stages[:-1])
        _, error = ridge_expected(prefix, weights[-1], offsets, total, halves, stages[-1].groups)
    return (error / total.energy) ** 0.5 if total.energy > 0 else 0.0
