"""Runs of a model on calibration batches, pass after pass, in eval mode and leaving no trace in the model."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor, nn

from ..._run.inputs import batch_size_of, call_with, described, read_batches, tensors_of
from ..._run.interrupts import interrupt_if_pressed
from ..._run.isolation import leaving_no_trace, putting_back
from ..._run.tensors import checksum, map_tensors
from ...errors import AmctError, InputsError
from .data import Calibration, mode_of_layers

# One batch in this many is held out, beginning with the second, up to the number below.
_HELD_OUT_EVERY = 8
_MOST_HELD_OUT = 4
# Items that are run again to scale the channels, or one batch where that is larger: more gain little.
_ITEMS_KEPT = 16


class EndOfRun(BaseException):
    """Raised inside a forward pass when all that was wanted of it is known; no model's own handler may stop it."""


class Runs:
    """Runs of a model on calibration batches, pass after pass, in eval mode and leaving no trace in the model.

    Attributes
    ----------
    held_out
        Of the first pass: the batches held out, at their index.
    kept
        Of the first pass: the first batches that are not, to be run again; none in the modes that go over all of
        them again.
    repeated
        Of the first pass: for each batch which of its items (N,) are the same as an earlier one. Empty where a function
        of the user's runs the model, as that may make different inputs of the same batch.
    """

    def __init__(self, model: nn.Module, calibration: Calibration) -> None:
        self.model = model
        self.calibration = calibration
        self._comes_again = mode_of_layers(calibration.mode) == "reconstruct"
        self.held_out: dict[int, Any] = {}
        self.kept: dict[int, Any] = {}
        self.repeated: dict[int, Tensor] = {}
        self._seen: set[int] = set()
        self._items_kept = 0
        self._first: tuple[int, Any] | None = None
        self._marks: list[int] = []
        self._passes = 0

    @property
    def judged(self) -> dict[int, Any]:
        """The batches to measure errors on: those held out, or the only one there is."""
        if self.held_out or self._first is None:
            return self.held_out
        return dict([self._first])

    def count(self) -> int | None:
        """The number of batches, or None where an iterable that can be gone through once does not say."""
        batches, most = self.calibration.batches, self.calibration.max_batches
        known: int | None = None
        if isinstance(batches, Sized):
            with contextlib.suppress(Exception):  # a DataLoader over a stream has a length that fails
                known = len(batches)
        if known is None and self._comes_again:
            with leaving_no_trace(self.model):
                known = sum(1 for _ in self._batches())
        if known is None:
            return most
        return known if most is None else min(known, most)

    def fitting_pass(
        self, begin: Callable[[int], bool], use: Callable[[Callable[[], object]], object] = lambda run: run()
    ) -> None:
        """Run the model on every batch that is not held out.

        Parameters
        ----------
        begin
            Called with the index of a batch before the model runs on it; says whether it need run.
        use
            Called with a function that runs the model on the batch and gives its outputs; runs it once if left out.

        Raises
        ------
        InputsError
            There are no batches, they differ from those of the first pass, or the model fails on one.
        """
        self._passes += 1
        index = -1
        with leaving_no_trace(self.model):
            for index, batch in enumerate(self._batches()):
                self._check_same(index, batch)
                if self._passes == 1:
                    self._note_repeated(index, batch)
                    if index == 0:
                        self._first = (0, batch)
                    if index % _HELD_OUT_EVERY == 1 and len(self.held_out) < _MOST_HELD_OUT:
                        self.held_out[index] = batch
                    elif self._items_kept < _ITEMS_KEPT and not self._comes_again:
                        self.kept[index] = batch
                        self._items_kept += batch_size_of(batch) or 1
                if index not in self.held_out and begin(index):
                    with contextlib.suppress(EndOfRun):
                        use(functools.partial(self._forward, index, batch))
        if index < 0:
            raise InputsError(
                "Calibration: batches gave none"
                + (": it is an iterator that was gone through before" * isinstance(self.calibration.batches, Iterator))
            )
        if self._passes > 1 and index + 1 < len(self._marks):
            raise InputsError(
                f"Calibration: pass {self._passes} over the batches gave {index + 1} where the first gave "
                f"{len(self._marks)}: mode={self.calibration.mode!r} needs the same ones each time; give a list"
            )

    def again(self, begin: Callable[[int], bool]) -> None:
        """Run the model on the batches kept; see `fitting_pass`."""
        with leaving_no_trace(self.model):
            for index, batch in self.kept.items():
                if begin(index):
                    with contextlib.suppress(EndOfRun):
                        self._forward(index, batch)

    @contextlib.contextmanager
    def repeatedly(self, index: int) -> Iterator[Callable[[], object]]:
        """A function that gives the model's outputs for one of the batches that errors are measured on.

        However often it is called, the model and the random generators are each time as they were at first.
        """
        with leaving_no_trace(self.model):
            put_back = putting_back(self.model)

            def outputs() -> object:
                found = self._forward(index, self.judged[index])
                put_back()
                return found

            yield outputs

    def _batches(self) -> Iterator[Any]:
        """The batches of one pass."""
        batches = itertools.islice(self.calibration.batches, self.calibration.max_batches)
        return read_batches(batches, "Calibration: batches fail")

    def _note_repeated(self, index: int, batch: Any) -> None:
        if self.calibration.forward is not None:
            return
        seen_by_model = batch[: _required_arguments(self.model)] if isinstance(batch, tuple | list) else batch
        size = batch_size_of(seen_by_model) or 0
        # Of one axis are the tokens of a single text, say, which are no inputs of their own.
        parts = [tensor for tensor in tensors_of(seen_by_model) if tensor.dim() > 1 and tensor.size(0) == size]
        if not parts:
            return
        repeated = []
        for item in range(size):
            mark = checksum(part[item] for part in parts)
            repeated.append(mark in self._seen)
            self._seen.add(mark)
        self.repeated[index] = torch.tensor(repeated, dtype=torch.bool, device="cpu")

    def _check_same(self, index: int, batch: object) -> None:
        if not self._comes_again:
            return
        mark = checksum(tensors_of(batch))
        if self._passes == 1:
            self._marks.append(mark)
        elif index >= len(self._marks) or mark != self._marks[index]:
            raise InputsError(
                f"Calibration: batch {index} of pass {self._passes} is not that of the first pass: "
                f"mode={self.calibration.mode!r} needs the same batches each time; turn shuffling and augmentation "
                "off, or give list(batches)"
            )

    def _forward(self, index: int, batch: Any) -> object:
        interrupt_if_pressed()
        # The model may work in place, and the batch be used again.
        batch = map_tensors(Tensor.clone, batch)
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
    batch = map_tensors(lambda tensor: tensor.to(device), batch)
    if isinstance(batch, tuple | list):
        return call_with(model, batch[: _required_arguments(model)])
    if isinstance(batch, Mapping | Tensor):
        return call_with(model, batch)
    raise TypeError(
        f"a batch must be a tensor, a tuple or list, or a mapping, found {type(batch).__name__}: "
        "give such batches; in Python, Calibration(…, forward=…) takes others"
    )


def _required_arguments(model: nn.Module) -> int:
    """How many positional arguments the model's forward cannot do without, at least one."""
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return max(1, sum(item.kind in positional and item.default is item.empty for item in parameters))
