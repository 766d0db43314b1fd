"""Look on at the calls of one layer: what it sees goes to the moments, and what it answers is kept."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from ..._run.tensors import is_finite, widened
from ...errors import InputsError
from ..model.spec import ConvSpec
from .moments import MomentSums, Positions, halves_of, patches_at, responses_at, sample_positions

# Of a response that is kept to be compared with later, so many positions of each item of the batch are.
_KEPT_OF_AN_ITEM = 64


@dataclass
class Watch:
    """Looks on at the calls of one layer.

    Attributes
    ----------
    intercept
        The number of its bias, as of `correctable_biases`.
    budget
        How many positions to sample at a call.
    sums
        Where to add what it sees, where that is also what it answers to.
    """

    name: str
    conv: ConvSpec
    module: nn.Conv2d
    intercept: int | None
    budget: float
    sums: MomentSums | None = None
    _batch: int = 0
    _calls: int = 0
    _keeping: bool = False
    _targets: dict[int, list[tuple[torch.Size, Tensor]]] = field(default_factory=lambda: defaultdict(list))

    def begin(self, batch: int, *, keeping: bool = False) -> None:
        """A run on this batch begins; with ``keeping`` it will be run again, to compare responses with these."""
        self._batch, self._calls, self._keeping = batch, 0, keeping

    def recorded(self, batch: int) -> int:
        """How many calls of the original were recorded on this batch."""
        return len(self._targets.get(batch, ()))

    def forget(self) -> None:
        """Let go of what was recorded."""
        self._targets.clear()

    def looking_on(self, input: Tensor) -> Tensor:  # noqa: A002
        """The layer's response; what it sees goes to the sums."""
        response, images, answers = self._call(input)
        self._add(cast(MomentSums, self.sums), images, None, self._sampled(answers))
        if self._keeping:
            self._record(answers, self._kept(answers))
        self._calls += 1
        return response

    def recording(self, input: Tensor) -> Tensor:  # noqa: A002
        """The layer's response, which is kept at the sampled positions."""
        response, _, answers = self._call(input)
        self._record(answers, self._sampled(answers))
        self._calls += 1
        return response

    def comparing(self, input: Tensor, sums: MomentSums) -> Tensor:  # noqa: A002
        """The layer's response; what it sees goes to the sums with what was recorded at this call.

        Where the original's call had another shape there is nothing to compare with, and the target is the
        layer's own response.
        """
        response, images, answers = self._call(input)
        where, target = self._sampled(answers), self._recorded(answers.shape)
        if target is None:
            target = self._linear(answers, where, self.module.bias)
        self._add(sums, images, target.to(images.device), where)
        self._calls += 1
        return response

    def pair(self, response: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """What stands in for the layer answers at this call, and what the original did: (n, out) each, without bias.

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
        answers = _batched(response)
        target = self._recorded(answers.shape)
        found = None if target is None else self._linear(answers, self._kept(answers), bias).cpu()
        self._calls += 1
        return None if found is None or target is None else (found, target)

    def _call(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: A002
        """The response as the layer gives it, then with a batch axis input and response."""
        if not is_finite(input):
            raise InputsError(
                f"layer {self.name!r}: its input on calibration batch {self._batch} holds NaN or infinity: "
                "nothing can be fitted to that; look at the batch, or at the layers before"
            )
        response = nn.Conv2d.forward(self.module, input)
        return response, _batched(input), _batched(response)

    def _sampled(self, answers: Tensor) -> Positions:
        """The positions that the fit takes of this call."""
        return sample_positions(answers.shape, self.budget, self._seed())

    def _kept(self, answers: Tensor) -> Positions:
        """The positions to compare later."""
        return sample_positions(answers.shape, _KEPT_OF_AN_ITEM * len(answers), self._seed())

    def _seed(self) -> int:
        return self._batch * 1_000_003 + self._calls

    def _record(self, answers: Tensor, where: Positions) -> None:
        self._targets[self._batch].append((answers.shape, self._linear(answers, where, self.module.bias).cpu()))

    def _recorded(self, shape: torch.Size) -> Tensor | None:
        """What the original answered at this call, if of the same shape."""
        recorded = self._targets.get(self._batch, [])
        if self._calls < len(recorded) and recorded[self._calls][0] == shape:
            return recorded[self._calls][1]
        return None

    def _linear(self, answers: Tensor, where: Positions, bias: Tensor | None) -> Tensor:
        values = widened(responses_at(answers, where))
        return values if bias is None else values - bias.detach().to(values.dtype)

    def _add(self, sums: MomentSums, images: Tensor, targets: Tensor | None, where: Positions) -> None:
        height = self.conv.output_size(images.shape[2], images.shape[3])[0]
        second = halves_of(where, height, self._batch)
        order = second.long().argsort(stable=True)
        sizes = [int((~second).sum()), int(second.sum())]
        patches = patches_at(widened(images), self.conv, where[order]).split(sizes)
        wanted = (None, None) if targets is None else targets[order.to(targets.device)].split(sizes)
        for half in (0, 1):
            sums.add(half, patches[half], wanted[half], where.scale, self.intercept)


def _batched(images: Tensor) -> Tensor:
    return images if images.dim() == 4 else images[None]
