"""Layers and weights that a model also keeps outside of its module tree: in a list, a bound method, a closure."""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from .spec import LayerModule

_DEPTH = 6
_MOST = 300_000  # objects looked into: a model may lead to a whole application and its data
# Functions of the user's are among them, which a hook is.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_OF_THE_TREE = frozenset(vars(nn.Module())) - {*_HOOKS}
_IN_ORDER = (list, tuple, set, frozenset, deque)
_CAN_BE_SET = (list, deque, dict, OrderedDict, defaultdict)
# What cannot hold a layer, or says nothing when looked at.
_LEAVES = (
    *(type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size),
    *(types.ModuleType, types.BuiltinFunctionType, weakref.ProxyType, weakref.CallableProxyType),
)


@dataclass(frozen=True)
class Reference:
    """A place outside of the module tree that holds a layer.

    Attributes
    ----------
    place
        The place in the words of Python, for example ``model.block.ordered[2]``.
    layer
        What it holds.
    holder, key
        Where it holds it: ``holder[key]``. Holder is None where that cannot be set: in a tuple, a set, a
        bound method, a container of the user's own.
    """

    place: str
    layer: nn.Module
    holder: Any
    key: Any

    def point_to(self, layer: nn.Module) -> None:
        """Let the place hold another layer, where it can be set."""
        if self.holder is not None:
            self.holder[self.key] = layer


def hidden_references(model: nn.Module, layers: Sequence[nn.Module]) -> list[Reference]:
    """Places outside of the module tree that hold one of the layers.

    Looks into the attributes and hooks of every module, a few levels deep: containers, functions with their closures
    and defaults, bound methods, partials, weak references, plain objects, and modules that are not in the tree.
    """
    wanted = {id(layer): layer for layer in layers}
    return [
        Reference(step.place, wanted[id(step.value)], step.holder, step.key)
        for step in _reached_from(model)
        if id(step.value) in wanted
    ]


def hidden_weights(model: nn.Module, layers: Sequence[LayerModule]) -> dict[nn.Module, str]:
    """By layer the place outside of the module tree that also holds its weight, or its values; see above."""
    wanted: dict[Any, list[nn.Module]] = defaultdict(list)
    for layer in layers:
        wanted[_memory(layer.weight)].append(layer)
    found: dict[nn.Module, str] = {}
    for step in _reached_from(model):
        if step.is_tensor:
            for holding in wanted.get(_memory(cast(torch.Tensor, step.value)), ()):
                found.setdefault(holding, step.place)
    return found


def _memory(tensor: torch.Tensor) -> Any:
    """What two tensors with the same values in memory have in common."""
    if tensor.is_meta or tensor.layout is not torch.strided or type(tensor) not in (torch.Tensor, nn.Parameter):
        return id(tensor)
    return tensor.device, tensor.untyped_storage().data_ptr()


def _reached_from(model: nn.Module) -> Iterator[_Step]:
    """Everything that the modules of a model hold besides the module tree, itself and what it holds."""
    seen = {id(module) for module in model.modules()}
    # Breadth first: what is met near the depth's end may be near the surface elsewhere.
    queue = deque(
        _Step(None, f"model.{name}.{key}" if name else f"model.{key}", value, holder, key)
        for name, module in model.named_modules()
        for holder, items in ((vars(module), vars(module)), (None, _of_its_class(module)))
        for key, value in items.items()
        if key not in _OF_THE_TREE and type(value) not in _LEAVES
    )
    while queue and len(seen) < _MOST:
        step = queue.popleft()
        yield step
        if step.depth < _DEPTH and id(step.value) not in seen and not step.is_tensor:
            seen.add(id(step.value))
            try:
                queue.extend(inner for inner in _inside(step) if type(inner.value) not in _LEAVES)
            except Exception:  # a container of the user's own may do anything when looked at
                continue


def _of_its_class(module: nn.Module) -> dict[str, object]:
    """What the user's classes of a module hold; methods hold something where the class is made within a function."""
    kinds = [kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.") and kind is not object]
    items = {name: item for kind in reversed(kinds) for name, item in vars(kind).items()}
    return {name: item for name, item in items.items() if not name.startswith("__") and name not in vars(module)}


@dataclass(frozen=True)
class _Step:
    """A value, the step before it, how Python writes the access from there, and what holds it."""

    before: _Step | None
    access: str | tuple[object]
    value: object
    holder: Any = None
    key: Any = None
    depth: int = 0

    @property
    def is_tensor(self) -> bool:
        return issubclass(type(self.value), torch.Tensor)  # isinstance would ask a proxy of something that is gone

    @property
    def place(self) -> str:
        access = self.access if isinstance(self.access, str) else f"[{self.access[0]!r}]"
        return access if self.before is None else self.before.place + access


def _inside(step: _Step) -> list[_Step]:
    """What a plain object, or a module outside of the tree, holds."""
    value = step.value
    to = functools.partial(_Step, step, depth=step.depth + 1)
    holder = value if type(value) in _CAN_BE_SET else None
    if isinstance(value, torch.jit.ScriptModule):
        return []
    if isinstance(value, nn.Module):
        return [
            *(to(f".{key}", child, value._modules, key) for key, child in value._modules.items()),
            *(to(f".{key}", item) for key, item in value._parameters.items()),
            *(to(f".{key}", item, vars(value), key) for key, item in vars(value).items() if key not in _OF_THE_TREE),
        ]
    if isinstance(value, _IN_ORDER):
        return [to((index,), item, holder, index) for index, item in enumerate(value)]
    if isinstance(value, dict | types.MappingProxyType):
        return [
            *(to((key,), item, holder, key) for key, item in value.items()),
            *(to(".keys()", key) for key in value),
        ]
    if isinstance(value, types.MethodType):
        return [to(".__self__", value.__self__), to(".__func__", value.__func__)]
    if isinstance(value, types.FunctionType):
        defaults, by_name = value.__defaults__ or (), value.__kwdefaults__ or {}
        return [
            *(to(f".__closure__[{name!r}]", item) for name, item in _closure(value)),
            *(to(f".__defaults__[{index}]", item) for index, item in enumerate(defaults)),
            *(to(f".__kwdefaults__[{key!r}]", item, by_name, key) for key, item in by_name.items()),
            *(to(f".{key}", item, vars(value), key) for key, item in vars(value).items()),
        ]
    if isinstance(value, functools.partial):
        return [to(".func", value.func), to(".args", value.args), to(".keywords", value.keywords)]
    if isinstance(value, weakref.ReferenceType):
        return [to("()", value())]
    slots = [slot for kind in type(value).__mro__ for slot in vars(kind).get("__slots__", ())]
    return [
        *(to(f".{key}", item, vars(value), key) for key, item in getattr(value, "__dict__", {}).items()),
        *(to(f".{slot}", getattr(value, slot, None)) for slot in slots if slot != "__dict__"),
    ]


def _closure(function: types.FunctionType) -> list[tuple[str, object]]:
    """The names of the variables that a function has from where it was made, and their values where they have one."""
    values = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            values.append((name, cell.cell_contents))
        except ValueError:  # not assigned yet
            continue
    return values
