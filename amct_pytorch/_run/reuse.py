"""What several plans of one model have in common, computed once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import numpy as np
from torch import Tensor, nn

Result = TypeVar("Result")


class Reuse:
    """Results that are the same for every plan of a model, whatever its budget, so that each is computed once.

    Parameters
    ----------
    memory
        Bytes that tensors in them may take together. A result for which no memory is left is computed each time; with
        0, all of them are.
    """

    def __init__(self, memory: int) -> None:
        self._left, self._memory = memory, memory
        self._kept: dict[str, object] = {}
        self._model: object = None

    def only_for(self, model: object) -> None:
        """Drop everything unless it is of this model; what is given is equal for the same model alone."""
        if model != self._model:
            self._kept.clear()
            self._model, self._left = model, self._memory

    def once(self, what: str, compute: Callable[[], Result]) -> Result:
        """A result by its name; computed if it is not kept. What is kept must not be changed; see `keeps`."""
        if what in self._kept:
            return cast(Result, self._kept[what])
        result = compute()
        size = bytes_of(result)
        if self._memory and size <= self._left:
            self._kept[what] = result
            self._left -= size
        return result

    def keeps(self, what: str) -> bool:
        """Whether later plans get the same object."""
        return what in self._kept


def bytes_of(values: object) -> int:
    """Bytes of all tensors and arrays in data, but for those of modules, which are the model's own."""
    found: dict[int, int] = {}
    waiting = [values]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if id(value) in seen or isinstance(value, nn.Module):
            continue
        seen.add(id(value))
        if isinstance(value, Tensor | np.ndarray):
            found[id(value)] = value.nbytes
        elif isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            waiting += [getattr(value, field.name) for field in dataclasses.fields(value)]
    return sum(found.values())
