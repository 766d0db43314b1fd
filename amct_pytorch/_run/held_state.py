"""The state of a model's modules: saved before the model runs, restored afterwards, whatever its forward changed.

The state of a module is its attributes, including its tables of parameters, buffers, submodules and hooks. After
restoring, each attribute is the same object as before. Plain containers, also nested ones, refer to the same objects as
before; tensors and arrays have the same values, generators the same state. The inside of any other object is not saved,
nor are the values of parameters, which a forward must not change.
"""

from __future__ import annotations

import contextlib
import functools
import random
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from operator import is_
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

PutBack = Callable[[], object]
"""A function that restores one saved value."""

# Depth to which nested containers are saved; the first level is the attributes of a module. Five reach the items of
# lists in dicts of dicts.
_LEVELS = 5


class HeldState:
    """A snapshot of the state of a model's modules.

    Of containers only the references are copied, so that the memory taken is that of buffers and arrays.

    Parameters
    ----------
    model
        The model to save; its modules are those that it has now.
    """

    def __init__(self, model: nn.Module) -> None:
        self._containers: list[tuple[_Container, Any, list[Any]]] = []
        self._empty: defaultdict[type, list[Any]] = defaultdict(list)  # by type, as most tables of modules are empty
        self._others: list[PutBack] = []
        self._handling: dict[type, _Container | Callable[[Any], PutBack] | None] = {}
        self._seen = {id(parameter) for parameter in model.parameters()}
        for module in model.modules():
            self._take([vars(module)], _LEVELS)
            self._take_slots(module)
            if isinstance(module, torch.jit.ScriptModule):
                self._others += _script_attributes(module)
        self._take(list(model.buffers()), 0)  # those of script modules are in no Python table

    def put_back(self) -> None:
        """Restore the state. What did not change is not written."""
        for of_type, containers in self._empty.items():
            kind = cast(_Container, self._handling[of_type])
            for container in filter(kind.length, containers):
                kind.refill(container, [])
        for kind, container, content in self._containers:
            now = kind.content(container)
            if len(now) != len(content) or not all(map(is_, now, content)):
                kind.refill(container, content)
        with contextlib.ExitStack() as stack:  # all of them, even if one fails
            for put_back in self._others:
                stack.callback(put_back)

    def _take(self, values: list[Any], levels: int) -> None:
        for value in values:
            try:
                handling = self._handling[type(value)]
            except KeyError:
                handling = self._handling[type(value)] = _handling_of(type(value))
            if handling is None or id(value) in self._seen:
                continue
            if isinstance(handling, _Container) and not levels:
                continue
            self._seen.add(id(value))
            if not isinstance(handling, _Container):
                with contextlib.suppress(NotImplementedError, TypeError, ValueError):  # it cannot be copied
                    self._others.append(handling(value))
            elif not handling.length(value):
                self._empty[type(value)].append(value)
            else:
                content = handling.content(value)
                self._containers.append((handling, value, content))
                self._take(content, levels - 1)

    def _take_slots(self, module: nn.Module) -> None:
        """Save the attributes that classes of a module keep in slots instead of its dictionary."""
        for base in type(module).__mro__:
            if "__slots__" in vars(base):
                for slot in vars(base).values():
                    if isinstance(slot, types.MemberDescriptorType):
                        self._others.append(_slot(slot, module))
                        self._take([getattr(module, slot.__name__, None)], _LEVELS - 1)


class _Container(NamedTuple):
    """Access to a kind of container by the methods of the builtin class, whatever a subclass overrides."""

    length: Callable[[Any], int]
    content: Callable[[Any], list[Any]]
    refill: Callable[[Any, list[Any]], object]


def _mapping(kind: Any) -> _Container:
    def content(container: Any) -> list[Any]:
        return [*kind.keys(container), *kind.values(container)]

    def refill(container: Any, content: list[Any]) -> None:
        kind.clear(container)
        half = len(content) // 2
        for key, value in zip(content[:half], content[half:], strict=True):
            kind.__setitem__(container, key, value)

    return _Container(kind.__len__, content, refill)


def _refill_list(container: Any, content: list[Any]) -> None:
    list.__setitem__(container, slice(None), content)


def _refill_set(container: Any, content: list[Any]) -> None:
    set.clear(container)
    set.update(container, content)


def _refill_deque(container: Any, content: list[Any]) -> None:
    deque.clear(container)
    deque.extend(container, content)


def _refill_tuple(container: Any, content: list[Any]) -> None:
    raise AssertionError("a tuple does not change")


def _tensor(tensor: Tensor) -> PutBack:
    value = tensor.detach().clone()
    writes = None if tensor.is_inference() else tensor._version

    def put_back() -> None:
        try:
            same = _is_same(tensor, value)
        except RuntimeError:  # a layout without comparison: sparse, nested
            same = tensor._version == writes
        if same:
            return
        with torch.inference_mode(tensor.is_inference()), torch.no_grad():
            try:
                tensor.copy_(value)
            except RuntimeError:  # it was resized, or is expanded: several entries share one memory location
                tensor.data = value

    return put_back


def _is_same(tensor: Tensor, value: Tensor) -> bool:
    if tensor.shape != value.shape or tensor.dtype != value.dtype:
        return False
    if tensor.is_meta:
        return True
    return bool(((tensor == value) | ((tensor != tensor) & (value != value))).all())  # NaN differs from itself


def _array(array: np.ndarray[Any, Any]) -> PutBack:
    value = array.copy()

    def put_back() -> None:
        if array.shape != value.shape:
            array.resize(value.shape, refcheck=False)
        if not np.array_equal(array, value):
            array[...] = value

    return put_back


def _torch_generator(generator: torch.Generator) -> PutBack:
    state = generator.get_state()
    return lambda: generator.set_state(state)


def _python_generator(generator: random.Random) -> PutBack:
    state = generator.getstate()
    return lambda: generator.setstate(state)


def _numpy_generator(generator: np.random.Generator) -> PutBack:
    state = generator.bit_generator.state
    return lambda: setattr(generator.bit_generator, "state", state)


def _slot(slot: types.MemberDescriptorType, module: nn.Module) -> PutBack:
    try:
        value = slot.__get__(module)
    except AttributeError:  # it is empty

        def empty() -> None:
            with contextlib.suppress(AttributeError):
                slot.__delete__(module)

        return empty
    return lambda: slot.__set__(module, value)


def _script_attributes(module: torch.jit.ScriptModule) -> Iterator[PutBack]:
    """Restore the attributes of a compiled module, which its code may change; reading one returns a copy."""
    compiled: Any = module._c
    for name in module._concrete_type.get_attributes() if hasattr(module, "_concrete_type") else ():
        with contextlib.suppress(RuntimeError):  # a type without a Python equivalent
            yield functools.partial(compiled.setattr, name, compiled.getattr(name))


# How to save each kind of object; the first base class that fits decides.
_KINDS: list[tuple[type, _Container | Callable[[Any], PutBack]]] = [
    (OrderedDict, _mapping(OrderedDict)),
    (dict, _mapping(dict)),
    (list, _Container(list.__len__, lambda container: list.__getitem__(container, slice(None)), _refill_list)),
    (set, _Container(set.__len__, lambda container: list(set.__iter__(container)), _refill_set)),
    (deque, _Container(deque.__len__, lambda container: list(deque.__iter__(container)), _refill_deque)),
    (tuple, _Container(tuple.__len__, lambda container: list(tuple.__iter__(container)), _refill_tuple)),
    (Tensor, _tensor),
    (torch.Generator, _torch_generator),
    (random.Random, _python_generator),
    (np.random.Generator, _numpy_generator),
]


def _handling_of(kind: type) -> _Container | Callable[[Any], PutBack] | None:
    if kind is np.ndarray:  # not its subclasses, one of which is a memory-mapped file
        return _array
    return next((handling for base, handling in _KINDS if issubclass(kind, base)), None)
