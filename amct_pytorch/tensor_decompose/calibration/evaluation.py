"""What a decomposition does to the responses of the layers and to the outputs of the model, before it is applied."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from ..._run.intercept import Forward, acting
from ..._run.process_group import ProcessGroup as Team
from ..._run.tensors import widened
from .data import Runs
from .moments import responses_at, sample_positions

# Of each response of the original that is compared with one of the decomposed network, so many positions are kept.
_POSITIONS_KEPT = 4096


@dataclass(frozen=True)
class Replaced:
    """What would replace the layers of one job: fitted to the data, and by the plain split of the same rank."""

    fitted: Mapping[nn.Module, Forward]
    plain: Mapping[nn.Module, Forward]


@dataclass(frozen=True)
class Outcome:
    """What the decomposed model's outputs are like, against the original's on the calibration data.

    Attributes
    ----------
    output_error
        ‖difference‖ / ‖original‖, the mean over the items of the batches; None where the outputs have no
        floating-point tensors of the same shapes.
    agreement
        Share of items with the same largest output, where the outputs look like logits: one tensor (items,
        classes); else None.
    plain_output_error, plain_agreement
        The same for plain splits of the same ranks.
    batches
        Number of batches that this was measured on.
    held_back
        Whether these were held back from the fit. Not so where there was only one.
    """

    output_error: float | None
    agreement: float | None
    plain_output_error: float | None
    plain_agreement: float | None
    batches: int
    held_back: bool

    def __str__(self) -> str:
        where = f"{self.batches} batch{'es' * (self.batches != 1)} " + (
            "held back from the fit" if self.held_back else "that they were fitted to, as there was no other"
        )
        if self.output_error is None or self.plain_output_error is None:
            return f"Response errors are on {where}; the model's outputs cannot be compared."
        text = f"Output error on {where}: {self.output_error:.3g} (plain splits: {self.plain_output_error:.3g})"
        if self.agreement is not None and self.plain_agreement is not None:
            text += f", top-1 agreement with the original {self.agreement:.1%} ({self.plain_agreement:.1%})"
        return f"{text}."


def judge(runs: Runs, jobs: Sequence[Replaced], team: Team) -> tuple[Outcome, list[tuple[float, float] | None]]:
    """Compare the model with its layers replaced to the model as it is.

    Parameters
    ----------
    team
        The ranks whose batches count, each with its own.

    Returns
    -------
    outcome
        Of the model's outputs.
    errors
        For each job the relative error of the response, in the network as decomposed and in the network of plain
        splits. None where no batch reaches the layer.
    """
    number = {module: index for index, job in enumerate(jobs) for module in job.fitted}
    fitted = _Side({module: row for job in jobs for module, row in job.fitted.items()}, [_Tally() for _ in jobs])
    plain = _Side({module: row for job in jobs for module, row in job.plain.items()}, [_Tally() for _ in jobs])
    kept: dict[nn.Module, list[tuple[torch.Size, Tensor]]] = {}

    def looked_at(module: nn.Module) -> Forward:
        def forward(input: Tensor) -> Tensor:  # noqa: A002  # Conv2d's own name for it
            response = nn.Conv2d.forward(module, input)  # type: ignore[arg-type]  # jobs are of Conv2d only
            kept[module].append((response.shape, _sampled(response)))
            return response

        return forward

    def compared(module: nn.Module, row: Forward, tally: _Tally) -> Forward:
        wanted = iter(kept[module])

        def forward(input: Tensor) -> Tensor:  # noqa: A002
            response = row(input)
            shape, target = next(wanted, (None, None))
            if target is not None and shape == response.shape:
                tally.add(target, _sampled(response))
            return response

        return forward

    for index in runs.judged:
        kept = {module: [] for module in number}
        with acting({module: looked_at(module) for module in number}):
            original = _detached(runs.outputs(index))
        for side in (fitted, plain):
            rows = side.rows.items()
            with acting({module: compared(module, row, side.layers[number[module]]) for module, row in rows}):
                side.outputs.add(original, _detached(runs.outputs(index)))
    for side in (fitted, plain):
        side.pool(team)
    counts, held_back = zip(*team.gather((len(runs.judged), bool(runs.held_back))), strict=True)
    outcome = Outcome(
        fitted.outputs.error,
        fitted.outputs.agreement,
        plain.outputs.error,
        plain.outputs.agreement,
        sum(counts),
        all(held_back),
    )
    return outcome, [
        None if one.error is None or other.error is None else (one.error, other.error)
        for one, other in zip(fitted.layers, plain.layers, strict=True)
    ]


Sums = TypeVar("Sums", "_Tally", "_OutputTally")


def _total(tallies: Sequence[Sums]) -> Sums:
    """The sum of tallies, number by number."""
    kind = type(tallies[0])
    return kind(*(sum(numbers) for numbers in zip(*map(dataclasses.astuple, tallies), strict=True)))


@dataclass
class _Tally:
    """Sums of squares of a layer's responses and of what a row misses of them."""

    total: float = 0.0
    missed: float = 0.0
    calls: int = 0

    def add(self, response: Tensor, found: Tensor) -> None:
        exact = widened(response)
        self.total += _energy(exact)
        self.missed += _energy(widened(found) - exact)
        self.calls += 1

    @property
    def error(self) -> float | None:
        return _ratio(self.missed, self.total) if self.calls else None


@dataclass
class _OutputTally:
    errors: float = 0.0
    items: int = 0
    agreeing: int = 0
    voting: int = 0

    def add(self, original: list[Tensor], found: list[Tensor]) -> None:
        if [leaf.shape for leaf in original] != [leaf.shape for leaf in found]:
            return  # how many things a detector finds may change
        for exact, other in zip(original, found, strict=True):
            if not exact.numel():
                continue
            lengths = (leaf.reshape(len(leaf) if leaf.dim() > 1 else 1, -1) for leaf in (exact, other - exact))
            exact_length, difference = (torch.linalg.vector_norm(length, dim=1) for length in lengths)
            ratio = torch.where(exact_length > 0, difference / exact_length, (difference > 0) * torch.inf)
            self.errors += float(ratio.sum())
            self.items += len(ratio)
        logits = [(exact, other) for exact, other in zip(original, found, strict=True) if _is_logits(exact)]
        if len(logits) == 1:
            exact, other = logits[0]
            self.agreeing += int((exact.argmax(1) == other.argmax(1)).sum())
            self.voting += len(exact)

    @property
    def error(self) -> float | None:
        return self.errors / self.items if self.items else None

    @property
    def agreement(self) -> float | None:
        return self.agreeing / self.voting if self.voting else None


@dataclass
class _Side:
    """One of the two ways to replace the layers, and what comes of it."""

    rows: Mapping[nn.Module, Forward]
    layers: list[_Tally]
    outputs: _OutputTally = field(default_factory=_OutputTally)

    def pool(self, team: Team) -> None:
        """Add up what every rank has found."""
        every = team.gather((self.layers, self.outputs))
        self.layers = [_total(same) for same in zip(*(layers for layers, _ in every), strict=True)]
        self.outputs = _total([outputs for _, outputs in every])


def _is_logits(output: Tensor) -> bool:
    return output.dim() == 2 and output.shape[1] > 1


def _detached(outputs: object) -> list[Tensor]:
    leaves, _ = tree_flatten(outputs)
    return [
        leaf.detach().cpu().double().clone()
        for leaf in leaves
        if isinstance(leaf, Tensor) and leaf.is_floating_point() and not leaf.is_meta
    ]


def _sampled(response: Tensor) -> Tensor:
    batched = response if response.dim() == 4 else response[None]
    return responses_at(batched, sample_positions(batched.shape, _POSITIONS_KEPT, seed=0))


def _energy(values: Tensor) -> float:
    return float(values.square().sum())


def _ratio(part: float, whole: float) -> float:
    if whole:
        return math.sqrt(part / whole)
    return math.inf if part else 0.0
