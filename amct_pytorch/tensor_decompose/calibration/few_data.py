"""Warnings that calibration data never reach a layer, are too few to rely on, or repeat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from ...errors import listed, quoted, warn_user
from ..methods.weight_group import WeightGroup
from .layer_fit import Fitted
from .recorder import LayerRecorder

# With fewer samples for an unknown than this the fit is mostly guesswork.
_FEW_SAMPLES = 2


def warn_of_few_data(groups: Sequence[WeightGroup], fitted: Mapping[int, Fitted]) -> None:
    """Warn of the layers that no data reach, and of those with few samples for each unknown of the fit."""
    idle = [groups[index].name for index, one in sorted(fitted.items()) if one.fit.mode == "plain"]
    if idle:
        which = "which is kept" if len(idle) == 1 else "which are kept"
        warn_user(f"the calibration batches never reach {listed(idle)}, {which}")
    few = {
        groups[index].name: one.fit.samples / one.fit.unknowns
        for index, one in sorted(fitted.items())
        if one.fit.samples and one.fit.samples < _FEW_SAMPLES * one.fit.unknowns
    }
    if few:
        name = min(few, key=few.__getitem__)
        needed = max(2, round(0.5 + _FEW_SAMPLES / few[name]))
        warn_user(
            f"too few calibration data for {listed(few)}: {few[name]:.2g} samples an unknown in "
            f"{quoted(name)}, where {_FEW_SAMPLES} are the least to rely on: give {needed} times as many inputs, "
            "or choose lower ranks"
        )


def warn_of_repeats(repeated: Iterable[Tensor], recorders: Iterable[LayerRecorder]) -> None:
    """Warn of inputs that came before, if layers have left them out.

    Parameters
    ----------
    repeated
        For each batch which of its items (N,) came before.
    recorders
        Of the layers.
    """
    marks = list(repeated)
    count = sum(int(items.sum()) for items in marks)
    if count and any(recorder.left_out for recorder in recorders):
        warn_user(
            f"{count} of {sum(map(len, marks))} calibration inputs are the same as others before them, and do not "
            "count again in the fit; errors measured on them say little of other inputs: give inputs that differ"
        )
