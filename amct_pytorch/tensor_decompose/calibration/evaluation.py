"""What a decomposition does to the responses of the layers and to the outputs of the model, before it is applied."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..._report.units import ratio_of
from ..._run.inputs import batch_size_of
from ..._run.intercept import Forward, acting
from ..._run.outputs import ErrorSum, comparable
from ..._run.process_group import ProcessGroup
from ..._run.tensors import widened
from ..model.spec import LayerSpec, responses_at
from .positions import sample_positions
from .recorder import checked_response
from .runs import Runs

# Positions of each response that are compared: enough for an error to three digits, and little memory.
_POSITIONS_KEPT = 4096
# Bytes of responses that are kept so that they need not be computed again for each layer: less than the fit of a large
# layer works in afterwards.
_REPLAYED = 2**27


@dataclass(frozen=True)
class Candidates:
    """What could replace the layers of one weight group.

    Attributes
    ----------
    spec
        Geometry of the layers.
    fitted, plain
        By layer, what was fitted to the data, and the plain split at the same ranks.
    """

    spec: LayerSpec
    fitted: Mapping[nn.Module, Forward]
    plain: Mapping[nn.Module, Forward]


@dataclass(frozen=True)
class Outcome:
    """What the decomposed model's outputs are like, compared with the original's on the calibration data.

    Attributes
    ----------
    output_error
        ‖difference‖ / ‖original‖ over all outputs; None where they have no floating-point tensors of the same shapes.
    agreement
        Share of items with the same largest output, where the outputs look like logits: one tensor (items,
        classes); else None.
    plain_output_error, plain_agreement
        The same for plain splits of the same ranks.
    batches
        Number of batches that this was measured on.
    held_out
        Whether these were held out of the fit. Not so where there was only one.
    """

    output_error: float | None
    agreement: float | None
    plain_output_error: float | None
    plain_agreement: float | None
    batches: int
    held_out: bool

    def __str__(self) -> str:
        where = f"{self.batches} batch{'es' * (self.batches != 1)} " + (
            "held out of the fit" if self.held_out else "that they were fitted to, as there was no other"
        )
        if self.output_error is None or self.plain_output_error is None:
            return f"Response errors are on {where}; the model's outputs cannot be compared."
        text = f"Output error on {where}: {self.output_error:.3g} (plain splits: {self.plain_output_error:.3g})"
        if self.agreement is not None and self.plain_agreement is not None:
            text += f", top-1 agreement with the original {self.agreement:.1%} ({self.plain_agreement:.1%})"
        return f"{text}."


def judge(
    runs: Runs, groups: Sequence[Candidates], processes: ProcessGroup
) -> tuple[Outcome, list[tuple[float, float] | None]]:
    """Compare the model with its layers replaced with the model as it is.

    Parameters
    ----------
    runs
        Of the model, on the batches to measure errors on.
    groups
        What is to be compared.
    processes
        Those whose batches count, each with its own.

    Returns
    -------
    outcome
        Of the model's outputs.
    errors
        For each group the relative error of the response, in the network as decomposed and in the network of plain
        splits. None where no batch reaches the layer.
    """
    fitted = _Side([group.fitted for group in groups])
    plain = _Side([group.plain for group in groups])
    judged = runs.judged
    for index in judged:
        with runs.repeatedly(index) as outputs:
            original = _Original(runs.model, index, outputs, groups)
            for side in (fitted, plain):
                original.compare(side)
    for side in (fitted, plain):
        side.pool(processes)
    counts, held_out = zip(*processes.gather((len(judged), bool(runs.held_out))), strict=True)
    outcome = Outcome(
        fitted.outputs.ratio,
        fitted.outputs.agreement,
        plain.outputs.ratio,
        plain.outputs.agreement,
        sum(counts),
        all(held_out),
    )
    return outcome, [
        None if one.error is None or other.error is None else (one.error, other.error)
        for one, other in zip(fitted.layers, plain.layers, strict=True)
    ]


def judge_each_alone(
    runs: Runs, groups: Sequence[Candidates], processes: ProcessGroup, items: int, report: Callable[[int], object]
) -> list[list[tuple[float, float]]]:
    """Compare the model with the layers of one group replaced, and all others as they are, with the model as it is.

    Parameters
    ----------
    runs
        Of the model, on the batches to measure errors on.
    groups
        What is to be compared.
    processes
        Those whose batches count, each with its own.
    items
        How many items of the batches to go over in each process: as many batches as have them, at least one.
    report
        Called with the number of a group before the model runs with its layers replaced.

    Returns
    -------
    list
        For each group, of what was fitted and of the plain splits, the relative errors of the response and of the
        outputs. Those are left out where no batch reaches the layer, or outputs cannot be compared.
    """
    sides = [(_Side([group.fitted]), _Side([group.plain])) for group in groups]
    seen = 0
    for index, batch in runs.judged.items():
        if seen >= items:
            break
        seen += batch_size_of(batch) or 1
        with runs.repeatedly(index) as outputs:
            original = _Original(runs.model, index, outputs, groups, replayed=_REPLAYED)
            for number, pair in enumerate(sides):
                report(number)
                for side in pair:
                    original.compare(side)
            del original  # so that what it keeps is not beside what that of the next batch keeps
    found = []
    for pair in sides:
        for side in pair:
            side.pool(processes)
        errors = [(side.layers[0].error, side.outputs.ratio) for side in pair]
        found.append([(error, output) for error, output in errors if error is not None and output is not None])
    return found


class _Original:
    """What the model as it is gives for a batch: its outputs, and samples of the responses of layers.

    Parameters
    ----------
    model
        The model.
    index
        Number of the batch.
    outputs
        Runs the model on it.
    groups
        What its layers are to be compared with.
    replayed
        Bytes of responses that are kept as a whole. Before the first of the layers that are replaced, those kept are
        given again instead of being computed.
    """

    def __init__(
        self,
        model: nn.Module,
        index: int,
        outputs: Callable[[], object],
        groups: Sequence[Candidates],
        replayed: int = 0,
    ) -> None:
        self._index, self._run, self._left = index, outputs, replayed
        self._calls: list[tuple[nn.Module, Tensor | None]] = []
        """All calls of these layers in their order, with the response where it is kept."""
        self._specs = {module: group.spec for group in groups for module in group.fitted}
        self._responses: dict[nn.Module, list[tuple[torch.Size, Tensor]]] = {module: [] for module in self._specs}
        names = {module: name for name, module in model.named_modules()}
        with acting({module: self._recorded(module, names[module]) for module in self._specs}):
            self._outputs = comparable(outputs())

    def compare(self, side: _Side) -> None:
        """Run the model with its layers replaced as on a side, and add up what differs there."""
        compared = {module: self._compared(module, chain, side) for module, chain in side.chains.items()}
        with acting({**self._replayed(side), **compared}):
            side.outputs.add(self._outputs, self._run())

    def _sampled(self, module: nn.Module, response: Tensor) -> Tensor:
        batched = self._specs[module].batched(response)
        return responses_at(batched, sample_positions(batched.shape, _POSITIONS_KEPT, seed=0))

    def _recorded(self, module: nn.Module, name: str) -> Forward:
        def forward(input: Tensor) -> Tensor:  # noqa: A002  # Conv2d's own name for it
            response = checked_response(module, input, name, self._index)
            self._responses[module].append((response.shape, self._sampled(module, response)))
            self._calls.append((module, self._kept(response)))
            return response

        return forward

    def _kept(self, response: Tensor) -> Tensor | None:
        """A copy, as the model may work in place, while there is memory for it."""
        if response.nbytes > self._left:
            return None
        self._left -= response.nbytes
        return response.clone()

    def _replayed(self, side: _Side) -> dict[nn.Module, Forward]:
        """What gives the responses kept once more, by layer that runs before those replaced on a side.

        Up to there the model sees what the original saw, whatever it does with it.
        """
        before = list(itertools.takewhile(lambda call: call[0] not in side.chains, self._calls))
        responses: dict[nn.Module, list[Tensor | None]] = {}
        for module, response in before:
            responses.setdefault(module, []).append(response)

        def replaying(module: nn.Module, kept: Iterator[Tensor | None]) -> Forward:
            def forward(input: Tensor) -> Tensor:  # noqa: A002
                response = next(kept, None)
                return type(module).forward(module, input) if response is None else response.clone()

            return forward

        return {module: replaying(module, iter(kept)) for module, kept in responses.items()}

    def _compared(self, module: nn.Module, chain: Forward, side: _Side) -> Forward:
        wanted = iter(self._responses[module])

        def forward(input: Tensor) -> Tensor:  # noqa: A002
            response = chain(input)
            shape, target = next(wanted, (None, None))
            if target is not None and shape == response.shape:
                side.layers[side.number_of[module]].add(target, self._sampled(module, response))
            return response

        return forward


@dataclass
class _Tally:
    """Sums of squares of a layer's responses and of what a chain misses of them."""

    total: float = 0.0
    missed: float = 0.0
    calls: int = 0

    def add(self, response: Tensor, found: Tensor) -> None:
        exact, other = (widened(values).cpu().double() for values in (response, found))  # squares may overflow float32
        self.total += float(exact.square().sum())
        self.missed += float((other - exact).square().sum())
        self.calls += 1

    @property
    def error(self) -> float | None:
        return ratio_of(math.sqrt(self.missed), math.sqrt(self.total)) if self.calls else None


class _Side:
    """One of the two ways to replace the layers, and what comes of it."""

    def __init__(self, groups: Sequence[Mapping[nn.Module, Forward]]) -> None:
        self.chains = {module: chain for group in groups for module, chain in group.items()}
        self.number_of = {module: number for number, group in enumerate(groups) for module in group}
        self.layers = [_Tally() for _ in groups]
        self.outputs = ErrorSum()

    def pool(self, processes: ProcessGroup) -> None:
        """Add up what every process has found."""
        every = processes.gather((self.layers, self.outputs))
        self.layers = [_total(same) for same in zip(*(layers for layers, _ in every), strict=True)]
        self.outputs = _total([outputs for _, outputs in every])


Sums = TypeVar("Sums", _Tally, ErrorSum)


def _total(sums: Sequence[Sums]) -> Sums:
    """The sum of sums, field by field."""
    kind = type(sums[0])
    return kind(*(sum(numbers) for numbers in zip(*map(dataclasses.astuple, sums), strict=True)))
