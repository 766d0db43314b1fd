"""What a layer sees and answers as the model runs: inputs go to the moments, responses are kept to compare with."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..._report.units import name_of
from ..._run.tensors import is_finite, widened
from ...errors import InputsError, quoted
from ..model.spec import LayerModule, LayerSpec, Positions, responses_at
from .moments import MomentSums
from .positions import halves_of, sample_positions

# Positions of each item of a batch that are kept of a response, to be compared with later.
_KEPT_OF_AN_ITEM = 64
# Positions whose patches are laid out and multiplied at a time, as their copies take memory.
_ROWS_AT_ONCE = 4096
# Batches and calls of a layer get seeds of their own while no layer is called more often than this in a batch.
_SEEDS_OF_A_BATCH = 1_000_003


def checked_response(module: nn.Module, inputs: Tensor, name: str, batch: int) -> Tensor:
    """What a layer itself answers, whatever stands in the place of its forward method.

    Parameters
    ----------
    module
        The layer.
    inputs
        What it sees.
    name
        Of the layer, for messages.
    batch
        Number of the calibration batch, for messages.

    Raises
    ------
    InputsError
        Input or response holds NaN or infinity.
    """
    if not is_finite(inputs):
        raise InputsError(
            f"layer {quoted(name)}: its input on calibration batch {batch} holds NaN or infinity: "
            "nothing can be fitted to that; look at the batch, or at the layers before"
        )
    response: Tensor = cast(Any, type(module)).forward(module, inputs)
    if not is_finite(response):
        raise InputsError(
            f"layer {quoted(name)}: its response on calibration batch {batch} holds NaN or infinity, from a "
            f"weight or bias that is not finite, or from values that {name_of(response.dtype)} cannot hold: "
            "nothing can be fitted to that; look at the batch, or run the model in a wider type"
        )
    return response


@dataclass
class LayerRecorder:
    """Records the calls of one layer, in the place of its forward method.

    Attributes
    ----------
    name
        The layer, for messages.
    spec
        Its geometry.
    module
        The layer.
    intercept
        The number of its bias among those that may be corrected; see `correctable_biases`.
    budget
        How many positions to sample at a call.
    sums
        Where to add what the original layer sees, whose own responses are the targets; None where another network's
        inputs are to be summed.
    left_out
        How many positions were left out of the sums, as those of items that came before.
    """

    name: str
    spec: LayerSpec
    module: LayerModule
    intercept: int | None
    budget: float
    sums: MomentSums | None = None
    left_out: int = 0
    _batch: int = 0
    _calls: int = 0
    _keeping: bool = False
    _repeated: Tensor | None = None
    _targets: dict[int, list[tuple[torch.Size, Tensor]]] = field(default_factory=lambda: defaultdict(list))

    def begin(self, batch: int, *, keeping: bool = False, repeated: Tensor | None = None) -> None:
        """A run on this batch begins.

        Parameters
        ----------
        batch
            Its number.
        keeping
            Whether it will be run again, to compare responses with these.
        repeated
            Which of the batch's items (N,) came before, and are to be left out of sums: were the same item in both
            halves of the data, neither could judge what the other finds.
        """
        self._batch, self._calls, self._keeping, self._repeated = batch, 0, keeping, repeated

    def recorded(self, batch: int) -> int:
        """How many calls of the original were recorded on this batch."""
        return len(self._targets.get(batch, ()))

    def forget(self) -> None:
        """Let go of what was recorded."""
        self._targets.clear()

    def sum_up(self, inputs: Tensor) -> Tensor:
        """The layer's response; what it sees goes to its own sums."""
        response, batched, answers = self._call(inputs)
        if self.sums is not None:
            self._add(self.sums, batched, answers, None, self._sampled(answers))
        if self._keeping:
            self._record(answers, self._kept(answers))
        self._calls += 1
        return response

    def record(self, inputs: Tensor) -> Tensor:
        """The layer's response, which is kept at the sampled positions; what it sees goes to its sums, if any."""
        response, batched, answers = self._call(inputs)
        where = self._sampled(answers)
        if self.sums is not None:
            self._add(self.sums, batched, answers, None, where)
        self._record(answers, where)
        self._calls += 1
        return response

    def compare(self, inputs: Tensor, sums: MomentSums) -> Tensor:
        """The layer's response; what it sees goes to the sums together with what was recorded at this call.

        Where the original's call had another shape there is nothing to compare with, and the target is the
        layer's own response.
        """
        response, batched, answers = self._call(inputs)
        where, target = self._sampled(answers), self._recorded(answers.shape)
        if target is None:
            target = self._linear(answers, where, self.module.bias)
        self._add(sums, batched, answers, target.to(batched.device), where)
        self._calls += 1
        return response

    def pair(self, response: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """The response of what stands in for the layer at this call, and the original's: (n, out) each, without bias.

        Parameters
        ----------
        response
            Of what stands in for the layer.
        bias
            The one that is in it.

        Returns
        -------
        tuple of Tensor or None
            None where the original's call was not kept, or had another shape.
        """
        answers = self.spec.batched(response)
        target = self._recorded(answers.shape)
        found = None if target is None else self._linear(answers, self._kept(answers), bias).cpu()
        self._calls += 1
        return None if found is None or target is None else (found, target)

    def _call(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The response as the layer gives it, then input and response with one batch axis."""
        response = checked_response(self.module, inputs, self.name, self._batch)
        return response, self.spec.batched(inputs), self.spec.batched(response)

    def _sampled(self, answers: Tensor) -> Positions:
        """The positions that the fit takes of this call."""
        where = sample_positions(answers.shape, self.budget, self._seed())
        self.left_out += int((~self._counted(where, len(answers))).sum())
        return where

    def _kept(self, answers: Tensor) -> Positions:
        """The positions to compare later."""
        return sample_positions(answers.shape, _KEPT_OF_AN_ITEM * len(answers), self._seed())

    def _seed(self) -> int:
        return self._batch * _SEEDS_OF_A_BATCH + self._calls

    def _record(self, answers: Tensor, where: Positions) -> None:
        self._targets[self._batch].append((answers.shape, self._linear(answers, where, self.module.bias).cpu()))

    def _recorded(self, shape: torch.Size) -> Tensor | None:
        """What the original answered at this call, if its response had the same shape."""
        recorded = self._targets.get(self._batch, [])
        if self._calls < len(recorded) and recorded[self._calls][0] == shape:
            return recorded[self._calls][1]
        return None

    def _linear(self, answers: Tensor, where: Positions, bias: Tensor | None) -> Tensor:
        values = widened(responses_at(answers, where))
        return values if bias is None else values - bias.detach().to(values.dtype)

    def _add(
        self, sums: MomentSums, batched: Tensor, answers: Tensor, targets: Tensor | None, where: Positions
    ) -> None:
        counted = self._counted(where, len(batched))
        second = halves_of(where, answers.shape[2:], self._batch)
        # The model may run itself in inference mode, where tensors are made that could not be written later.
        with torch.inference_mode(False), torch.no_grad():
            values = widened(batched)
            for half, own in enumerate((~second, second)):
                for rows in (own & counted).nonzero()[:, 0].split(_ROWS_AT_ONCE):
                    if len(rows):
                        wanted = None if targets is None else targets[rows.to(targets.device)]
                        sums.add(half, self.spec.patches(values, where[rows]), wanted, where.scale, self.intercept)

    def _counted(self, where: Positions, items: int) -> Tensor:
        """Which positions are those of items that are to be counted, where the layer sees the items of the batch."""
        if self._repeated is None or not len(self._repeated) or items % len(self._repeated):
            return torch.ones(len(where.item), dtype=torch.bool, device="cpu")
        return ~self._repeated.repeat_interleave(items // len(self._repeated))[where.item]
