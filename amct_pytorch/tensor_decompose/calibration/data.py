"""Unlabelled inputs to fit factors to: what the user gives, and how it is run through a model."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from ..._run.inputs import described
from ..._run.isolation import leaving_no_trace
from ...errors import AmctError, ConfigError, InputsError

Mode = Literal["whiten", "refit", "reconstruct"]

# Every so many batches one is held back, beginning with the second, until there are so many.
_HELD_BACK_EVERY = 8
_MOST_HELD_BACK = 4
# So many items, or one batch, are enough for a scale of each channel.
_ITEMS_KEPT = 16


@dataclass(frozen=True)
class Calibration:
    """Unlabelled inputs that the factors are to be fitted to, so that the responses to them change least.

    The modes, each dearer and better than the one before it:

    ``"whiten"``
        The split is the best for the inputs that each layer sees, in place of the best for every conceivable
        input. One pass over the batches, then the network as decomposed runs on the first 16 inputs of the fit
        again: each output channel is scaled to what the original answers, which makes up for what earlier
        layers leave out.
    ``"refit"``
        As whiten; then, with the first convolution as it is, the last one and its bias are fitted to the
        layer's responses by least squares. One pass, and the first inputs again.
    ``"reconstruct"``
        As refit, layer after layer in the order in which they run: each sees the inputs that the network
        decomposed so far gives it, and is fitted to the responses of the original, so later layers make up
        for earlier ones. One pass with the original, then one for each layer, up to that layer.

    Biases are corrected along with the factors, and a layer without gets one: the mean of what a low rank leaves
    out is to be made up for, in front of a batch normalisation too. The second of every eight batches, four at
    most, is held back from the fit, and the plan's errors are measured on those.

    Parameters
    ----------
    batches
        Any iterable of inputs, for example a DataLoader; a few hundred images are enough. A tensor is given
        to the model as its only argument, a mapping as keywords; of a tuple or list as many of its leading
        items as the model's forward requires, so the labels of (input, label) are ignored. Tensors are moved
        to the model's device. For ``"reconstruct"`` it must give the same batches each time it is iterated:
        the random generators are in the same state at the beginning of each pass, so a DataLoader that
        shuffles does.
    forward
        Called as ``forward(model, batch)`` where that does not fit; returns the outputs to compare.
    max_batches
        No more batches than this are taken.
    mode
        ``"whiten"``, ``"refit"`` or ``"reconstruct"``.
    add_bias
        Whether a layer without a bias gets one. With False it stays without: accuracy is lower, but AMCT can
        rebuild the network from the information file, and one that is meant to have no biases has none.
    memory
        Bytes that the moments of whole patches may take, 24·(in·kh·kw)² for a layer: in ``"refit"`` of all
        layers together, in ``"reconstruct"`` of one. The largest layers that do not fit in are fitted as in
        ``"whiten"``, and the plan says so.

    Raises
    ------
    ConfigError
        An argument has the wrong type or value.
    """

    batches: Iterable[Any] = field(repr=False)
    forward: Callable[[nn.Module, Any], object] | None = field(default=None, kw_only=True)
    max_batches: int | None = field(default=None, kw_only=True)
    mode: Mode = field(default="whiten", kw_only=True)
    add_bias: bool = field(default=True, kw_only=True)
    memory: int = field(default=2 * 2**30, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.batches, Tensor):
            raise ConfigError(
                "Calibration: batches must be an iterable of batches, found one tensor "
                f"{tuple(self.batches.shape)}: give a list, such as images.split(32)"
            )
        if isinstance(self.batches, str | bytes | Mapping) or not isinstance(self.batches, Iterable):
            # A DataLoader is an Iterable; one whose __getitem__ alone makes it iterable is not worth a rule.
            raise ConfigError(
                f"Calibration: batches must be an iterable of inputs, found {type(self.batches).__name__}"
            )
        if self.forward is not None and not callable(self.forward):
            raise ConfigError(f"Calibration: forward must be a function of (model, batch), found {self.forward!r}")
        for name, value, least in (("max_batches", self.max_batches, 1), ("memory", self.memory, 0)):
            if value is None and name == "max_batches":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(f"Calibration: {name} must be a whole number from {least} on, found {value!r}")
        if not isinstance(self.add_bias, bool):
            raise ConfigError(f"Calibration: add_bias must be True or False, found {self.add_bias!r}")
        if self.mode not in get_args(Mode):
            raise ConfigError(
                f"Calibration: mode must be one of {', '.join(map(repr, get_args(Mode)))}, found {self.mode!r}"
            )
        if self.mode == "reconstruct" and isinstance(self.batches, Iterator):
            raise ConfigError(
                "Calibration: mode='reconstruct' goes over the batches once for every layer, but "
                f"{type(self.batches).__name__} can be gone through once only: give a list or a DataLoader, "
                "or take mode='refit', which needs one pass"
            )


class EndOfRun(BaseException):
    """Raised inside a forward pass when all that was wanted of it is known; no model's own handler may stop it."""


class Runs:
    """Runs of a model on calibration batches, pass after pass, in eval mode and leaving no trace in the model.

    Attributes
    ----------
    held_back
        Of the first pass: the batches held back, at their index.
    kept
        Of the first pass: the first batches that are not, to be run again; none in mode reconstruct, which goes
        over all of them.
    """

    def __init__(self, model: nn.Module, calibration: Calibration) -> None:
        self.model = model
        self.calibration = calibration
        self.held_back: dict[int, Any] = {}
        self.kept: dict[int, Any] = {}
        self._items_kept = 0
        self._first: tuple[int, Any] | None = None
        self._marks: list[int] = []
        self._passes = 0

    @property
    def judged(self) -> dict[int, Any]:
        """The batches to measure errors on: those held back, or the only one there is."""
        if self.held_back or self._first is None:
            return self.held_back
        return dict([self._first])

    def count(self) -> int | None:
        """The number of batches, or None where an iterable that can be gone through once does not tell."""
        batches, most = self.calibration.batches, self.calibration.max_batches
        known: int | None = None
        if isinstance(batches, Sized):
            with contextlib.suppress(TypeError):  # a DataLoader over a stream has a length that fails
                known = len(batches)
        if known is None and self.calibration.mode == "reconstruct":
            with leaving_no_trace(self.model):
                known = sum(1 for _ in itertools.islice(batches, most))
        if known is None:
            return most
        return known if most is None else min(known, most)

    def fitting_pass(self, begin: Callable[[int], bool]) -> None:
        """Run the model on every batch that is not held back.

        Parameters
        ----------
        begin
            Called with the index of a batch before the model runs on it; says whether it need run.

        Raises
        ------
        InputsError
            There are no batches, they differ from those of the first pass, or the model fails on one.
        """
        self._passes += 1
        index = -1
        with leaving_no_trace(self.model):
            for index, batch in enumerate(itertools.islice(self.calibration.batches, self.calibration.max_batches)):
                self._check_same(index, batch)
                if self._passes == 1:
                    if index == 0:
                        self._first = (0, batch)
                    if index % _HELD_BACK_EVERY == 1 and len(self.held_back) < _MOST_HELD_BACK:
                        self.held_back[index] = batch
                    elif self._items_kept < _ITEMS_KEPT and self.calibration.mode != "reconstruct":
                        self.kept[index] = batch
                        self._items_kept += _items(batch)
                if index not in self.held_back and begin(index):
                    with contextlib.suppress(EndOfRun):
                        self._forward(index, batch)
        if index < 0:
            raise InputsError(
                "Calibration: batches gave none"
                + (": it is an iterator that was gone through before" * isinstance(self.calibration.batches, Iterator))
            )
        if self._passes > 1 and index + 1 < len(self._marks):
            raise InputsError(
                f"Calibration: pass {self._passes} over the batches gave {index + 1} where the first gave "
                f"{len(self._marks)}: mode='reconstruct' needs the same ones each time; give a list"
            )

    def again(self, begin: Callable[[int], bool]) -> None:
        """Run the model on the batches kept; see `fitting_pass`."""
        with leaving_no_trace(self.model):
            for index, batch in self.kept.items():
                if begin(index):
                    with contextlib.suppress(EndOfRun):
                        self._forward(index, batch)

    def outputs(self, index: int) -> object:
        """What the model gives for one of the batches that errors are measured on."""
        with leaving_no_trace(self.model):
            return self._forward(index, self.judged[index])

    def _check_same(self, index: int, batch: object) -> None:
        if self.calibration.mode != "reconstruct":
            return
        mark = _mark(batch)
        if self._passes == 1:
            self._marks.append(mark)
        elif index >= len(self._marks) or mark != self._marks[index]:
            raise InputsError(
                f"Calibration: batch {index} of pass {self._passes} is not that of the first pass: "
                "mode='reconstruct' needs the same batches each time; turn shuffling and augmentation off, "
                "or give list(batches)"
            )

    def _forward(self, index: int, batch: Any) -> object:
        # The model may work in place, and the batch be used again.
        batch = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, batch)
        try:
            if self.calibration.forward is not None:
                return self.calibration.forward(self.model, batch)
            return _default_forward(self.model, batch)
        except AmctError:
            raise
        except Exception as error:
            raise InputsError(
                f"calibration batch {index} ({described(batch)}): the model fails on it: "
                f"{type(error).__name__}: {error}"
            ) from error


def _default_forward(model: nn.Module, batch: Any) -> object:
    device = next((tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())), None)
    batch = tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, batch)
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, tuple | list):
        return model(*batch[: _required_arguments(model)])
    if isinstance(batch, Tensor):
        return model(batch)
    raise TypeError(
        f"a batch must be a tensor, a tuple or list, or a mapping, found {type(batch).__name__}: "
        "give Calibration(…, forward=function of (model, batch))"
    )


def _required_arguments(model: nn.Module) -> int:
    """How many positional arguments the model's forward cannot do without, at least one."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(item.kind in positional and item.default is item.empty for item in parameters))


def _items(batch: object) -> int:
    """The length of the first tensor of a batch."""
    return next((len(leaf) for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor) and leaf.dim()), 1)


def _mark(batch: object) -> int:
    """A number that changes when the tensors of a batch do."""
    mark = 0
    for leaf in tree_flatten(batch)[0]:
        if isinstance(leaf, Tensor):
            mark = zlib.crc32(repr((leaf.shape, leaf.dtype)).encode(), mark)
            values = leaf.detach().cpu().contiguous()
            if values.numel():
                mark = zlib.crc32(values.reshape(-1).view(torch.uint8).numpy().data, mark)
    return mark
