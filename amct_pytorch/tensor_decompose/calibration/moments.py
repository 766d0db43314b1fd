"""Moments of the patches that a layer sees, from samples of them, summed up batch by batch.

A block of patches is multiplied where the model is, in float32 (float64 where the model is), and summed on the
host in float64. Positions are sampled where there are far more of them than the fit has unknowns: evenly over
images and places, and the same ones every time.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..._run.process_group import ProcessGroup as ProcessGroup
from ..._run.tensors import safe_scale
from ..methods.linalg import exact_matmul
from ..model.spec import LayerSpec
from .least_squares import Moments
from .stage_kernels import seen_by_prefix

# Rows after which a float32 sum on the model's device is added to the float64 sum on the host.
_ROWS_OF_A_BLOCK = 8192
# Strips that a symmetric product is computed in, so that little of its upper triangle is, and their least width.
_STRIPS = 4
_LEAST_STRIP = 256
# Bytes for each entry of a second moment: two halves, each with a sum in float64 and a block in float32.
_BYTES_PER_ENTRY = 2 * (8 + 4)
# Of a float32 product of so many rows, relative to the mean square of what is multiplied.
_ROUNDING = 1e-6


def bytes_of_moments(layer: LayerSpec) -> int:
    """Bytes that the moments of whole patches of a layer take."""
    return _BYTES_PER_ENTRY * layer.patch_size**2


@dataclass
class _Sums:
    """Sums over the positions of one half; ``patches`` and ``targets`` by intercept."""

    weight: float = 0.0
    second: Tensor | None = None
    block: Tensor | None = None  # of the second moment, the lower triangle, where the model is, not yet in it
    unit_of_block: float = 1.0  # what its patches were divided by
    rows_of_block: int = 0
    cross: Tensor | None = None
    energy: float = 0.0
    noise: float = 0.0  # mean square of the white noise that was added when the second moment was centred
    by_intercept: dict[int, tuple[float, Tensor, Tensor | None]] = field(default_factory=dict)

    def flush(self) -> None:
        """Move the block over to the sum on the host."""
        if self.block is not None:
            lower = self.block.cpu().tril_()
            self.second = _plus(self.second, lower + lower.tril(-1).T, self.unit_of_block**2)
            self.block, self.rows_of_block = None, 0

    def centre(self, offsets: Tensor | None) -> None:
        """Turn the second moment into the mean, centred by intercept. Works in its own storage, which may be large."""
        self.flush()
        if self.second is None:
            return
        # What rounding may have left in place of nothing: as if the patches had a little white noise.
        self.noise = _ROUNDING * float(self.second.diagonal().mean()) / self.weight
        for weight, patches, _ in self.by_intercept.values():
            _add_outer(self.second, patches, offsets, -1 / weight)
        self.second /= self.weight
        self.second.diagonal().add_(self.noise)

    def moments(self, kernel: Tensor, whole: bool, like: Tensor) -> Moments:
        """All moments, once the second is centred. Works in the sums' own storage.

        Parameters
        ----------
        kernel
            See `MomentSums.finish`.
        whole
            Whether the second moment is that of whole patches.
        like
            A second moment of the same size, where there is none of these.
        """
        if self.second is None:
            return Moments(0.0, torch.zeros_like(like), torch.zeros_like(kernel), 0.0, 0.0)
        cross, energy = self.cross, self.energy
        energy_of_means = _energy_of_means(self.by_intercept, kernel)
        if cross is not None:
            for weight, patches, targets in self.by_intercept.values():
                if targets is not None:
                    cross.addr_(targets, patches, alpha=-1 / weight)
                    energy -= float(targets @ targets) / weight
            cross /= self.weight
            energy /= self.weight
            # The layer answers the white noise too. On noise the plain split is the best, so this cannot make a fit
            # worse than it on the data.
            if whole:
                cross = cross.add_(kernel, alpha=self.noise)
                energy += self.noise * float(kernel.square().sum())
        elif whole:
            cross = kernel @ self.second
            energy = float((cross * kernel).sum())
        else:
            cross = torch.zeros_like(kernel)  # of no use without whole patches
        return Moments(self.weight, self.second, cross, energy, _ROUNDING * (energy + energy_of_means / self.weight))

    def pool(self, processes: ProcessGroup) -> None:
        """Add up what every process has summed."""
        self.flush()
        shapes = {name: None if tensor is None else tensor.shape for name, tensor in self._tensors().items()}
        weights = {intercept: weight for intercept, (weight, _, _) in self.by_intercept.items()}
        gathered = processes.gather((self.weight, self.energy, shapes, weights))
        self.weight, self.energy = (sum(numbers) for numbers in list(zip(*gathered, strict=True))[:2])
        shape_of = {name: shape for _, _, found, _ in gathered for name, shape in found.items() if shape is not None}
        own = self._tensors()
        pooled: dict[str, Tensor] = {}
        for name in sorted(shape_of):
            tensor = own.get(name)
            if tensor is None:
                tensor = torch.zeros(shape_of[name], dtype=torch.float64, device="cpu")
            pooled[name] = processes.sum(tensor)
        self.second, self.cross = pooled.get("second"), pooled.get("cross")
        for intercept in sorted({intercept for *_, found in gathered for intercept in found}):
            weight = sum(found.get(intercept, 0.0) for *_, found in gathered)
            sums = pooled[f"patches {intercept}"], pooled.get(f"targets {intercept}")
            self.by_intercept[intercept] = (weight, *sums)

    def _tensors(self) -> dict[str, Tensor | None]:
        tensors = {"second": self.second, "cross": self.cross}
        for intercept, (_, patches, targets) in self.by_intercept.items():
            tensors |= {f"patches {intercept}": patches, f"targets {intercept}": targets}
        return tensors


@dataclass
class MomentSums:
    """Running sums of what the layers that share one weight see, and are to answer.

    Parameters
    ----------
    offsets
        Given (d, J), see `prefix_offsets`, the second moment is only that of what the first stage sees, the mean over
        the J places of the later stages' kernel: (d, d) numbers. With None it is that of whole patches, (D, D).
    """

    offsets: Tensor | None = None
    samples: int = 0
    _halves: tuple[_Sums, _Sums] = field(default_factory=lambda: (_Sums(), _Sums()))
    _centred: bool = False
    _finished: tuple[Moments, Moments] | None = None

    def add(self, half: int, patches: Tensor, targets: Tensor | None, scale: float, intercept: int | None) -> None:
        """Add a block of sampled positions, before anything is asked for.

        Parameters
        ----------
        half
            Of the data, 0 or 1.
        patches
            (n, D), finite, float32 or float64, on any device; n > 0.
        targets
            (n, out), the responses without bias that are wanted; None where they are the layer's own.
        scale
            How many positions each of these stands for.
        intercept
            The layer's bias among those to be corrected: patches and targets are centred by their means over
            all that have the same. None where there is no such bias.
        """
        self.samples += len(patches)
        sums = self._halves[half]
        # Large inputs would overflow when squared, and tiny ones vanish: both are multiplied in units of their own.
        unit = safe_scale(patches)
        patches = patches if unit == 1 else patches / unit
        if sums.block is not None and sums.unit_of_block != unit:
            sums.flush()
        sums.unit_of_block = unit
        seen = patches
        scale_of_second = scale
        if self.offsets is not None:
            size, places = self.offsets.shape
            seen = patches[:, self.offsets.T.flatten().to(patches.device)].reshape(-1, size)
            scale_of_second = scale / places
        with _exact(patches.device):
            if sums.block is None:
                sums.block = seen.new_zeros(seen.shape[1], seen.shape[1])
            _add_gram(sums.block, seen, scale_of_second)
            unit_of_targets = 1.0 if targets is None else safe_scale(targets)
            if targets is not None and unit_of_targets != 1:
                targets = targets / unit_of_targets
            cross = None if targets is None else targets.T @ patches
        sums.weight += scale * len(patches)
        sums.rows_of_block += len(seen)
        if sums.rows_of_block >= _ROWS_OF_A_BLOCK:
            sums.flush()
        if targets is not None and cross is not None:
            sums.cross = _plus(sums.cross, cross, scale * unit * unit_of_targets)
            sums.energy += scale * float(targets.square().sum()) * unit_of_targets**2
        if intercept is not None:
            weight, patch_sum, target_sum = sums.by_intercept.get(intercept, (0.0, None, None))
            patch_sum = _plus(patch_sum, patches.sum(0), scale * unit)
            target_sum = None if targets is None else _plus(target_sum, targets.sum(0), scale * unit_of_targets)
            sums.by_intercept[intercept] = (weight + scale * len(patches), patch_sum, target_sum)

    def pool(self, processes: ProcessGroup) -> None:
        """Add up what every process has summed."""
        if processes.size > 1:
            self.samples = sum(processes.gather(self.samples))
            for half in self._halves:
                half.pool(processes)

    def means(self) -> dict[int, tuple[Tensor, Tensor | None]]:
        """By intercept the means of the patches (D,) and of the targets (out,)."""
        return {
            intercept: (patches / weight, None if targets is None else targets / weight)
            for intercept, (weight, patches, targets) in _by_intercept(self._halves).items()
        }

    def seen_by_first(self, offsets: Tensor) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        """Centred second moments of what the first stage sees.

        Parameters
        ----------
        offsets
            (d, J) of the first stage; see `prefix_offsets`.

        Returns
        -------
        total : Tensor
            (d, d), of all the data.
        halves : list
            Weight and second moment (d, d) of each half.
        """
        self._centre()
        nothing = torch.zeros(len(offsets), len(offsets), dtype=torch.float64, device="cpu")
        halves = []
        for half in self._halves:
            second = nothing if half.second is None else half.second
            whole = second is not nothing and self.offsets is None
            halves.append((half.weight, seen_by_prefix(second, offsets) if whole else second))
        return self._second_of_all([seen for _, seen in halves], offsets), halves

    def finish(self, kernel: Tensor) -> tuple[Moments, tuple[Moments, Moments]]:
        """The centred moments of all the data and of its halves, which are computed once.

        Parameters
        ----------
        kernel
            (out, D), float64: its responses are the targets where none were given. The same one each time.
        """
        self._centre()
        if self._finished is None:
            like = next(half.second for half in self._halves if half.second is not None)
            first, second = (half.moments(kernel, self.offsets is None, like) for half in self._halves)
            self._finished = (first, second)
        halves = self._finished
        weight = sum(half.weight for half in halves)
        cross = halves[0].cross * (halves[0].weight / weight)
        cross.add_(halves[1].cross, alpha=halves[1].weight / weight)
        energy = sum(half.weight * half.energy for half in halves) / weight
        for count, patches, targets in self._apart():
            answers = kernel @ patches if targets is None else targets
            if self.offsets is None:
                cross.addr_(answers, patches, alpha=count / weight)
                energy += count * float(answers @ answers) / weight
        rounding = _ROUNDING * (energy + _energy_of_means(_by_intercept(self._halves), kernel) / weight)
        second_of_all = self._second_of_all([half.second for half in halves], self.offsets)
        return Moments(weight, second_of_all, cross, energy, rounding), halves

    def _centre(self) -> None:
        if not self._centred:
            for half in self._halves:
                half.centre(self.offsets)
            self._centred = True

    def _second_of_all(self, halves: Sequence[Tensor], offsets: Tensor | None) -> Tensor:
        """The centred second moment of all the data: the mean of its halves, and how far their means are apart."""
        weights = [half.weight for half in self._halves]
        total = halves[0] * (weights[0] / sum(weights))
        total.add_(halves[1], alpha=weights[1] / sum(weights))
        for count, patches, _ in self._apart():
            _add_outer(total, patches, offsets, count / sum(weights))
        return total

    def _apart(self) -> list[tuple[float, Tensor, Tensor | None]]:
        """By intercept how far the means of the halves are apart, for patches and targets, and the weight of that."""
        first, second = (half.by_intercept for half in self._halves)
        apart = []
        for intercept in filter(second.__contains__, first):
            (weight, patches, targets), (other, other_patches, other_targets) = first[intercept], second[intercept]
            between = patches / weight - other_patches / other
            wanted = None if targets is None or other_targets is None else targets / weight - other_targets / other
            apart.append((weight * other / (weight + other), between, wanted))
        return apart


def _add_gram(block: Tensor, rows: Tensor, scale: float) -> None:
    """Add scale·rowsᵀ·rows to the lower triangle of a block, strip by strip; entries above it are not defined."""
    size = len(block)
    step = max(_LEAST_STRIP, math.ceil(size / _STRIPS))
    for start in range(0, size, step):
        stop = min(start + step, size)
        block[start:stop, :stop].addmm_(rows[:, start:stop].T, rows[:, :stop], alpha=scale)


def _by_intercept(halves: Sequence[_Sums]) -> dict[int, tuple[float, Tensor, Tensor | None]]:
    both: dict[int, tuple[float, Tensor, Tensor | None]] = {}
    for half in halves:
        for intercept, (weight, patches, targets) in half.by_intercept.items():
            if intercept in both:
                before, known, answered = both[intercept]
                weight, patches = before + weight, known + patches
                targets = None if targets is None or answered is None else answered + targets
            both[intercept] = (weight, patches, targets)
    return both


def _energy_of_means(by_intercept: Mapping[int, tuple[float, Tensor, Tensor | None]], kernel: Tensor) -> float:
    """Sum over the intercepts of the energy of their mean response, times its weight."""
    found = 0.0
    for weight, patches, targets in by_intercept.values():
        answers = kernel @ patches if targets is None else targets
        found += float(answers @ answers) / weight
    return found


def _add_outer(second: Tensor, patches: Tensor, offsets: Tensor | None, scale: float) -> None:
    """Add scale·patches·patchesᵀ to a second moment; given offsets, to that of what a first stage sees."""
    if offsets is None:
        second.addr_(patches, patches, alpha=scale)
    else:
        seen = patches[offsets]  # (d, J)
        second.addmm_(seen, seen.T, alpha=scale / offsets.shape[1])


def _plus(total: Tensor | None, block: Tensor, scale: float) -> Tensor:
    total = torch.zeros(block.shape, dtype=torch.float64, device="cpu") if total is None else total
    return total.add_(block.cpu(), alpha=scale)


@contextlib.contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """True products in the precision of the factors, whatever autocast is around."""
    with exact_matmul():
        if device.type != "cpu" and torch.amp.is_autocast_available(device.type):
            with torch.autocast(device.type, enabled=False):
                yield
        else:
            yield
