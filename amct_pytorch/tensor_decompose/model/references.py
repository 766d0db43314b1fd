"""Layers that a model also keeps outside of its module tree: in a plain attribute, a list, a bound method."""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

_DEPTH = 6
_MOST = 300_000  # objects looked into: a model may lead to a whole application and its data
_OF_THE_TREE = frozenset(vars(nn.Module()))
_IN_ORDER = (list, tuple, set, frozenset, deque)
_CAN_BE_SET = (list, deque, dict, OrderedDict, defaultdict)
# What cannot hold a layer, or says nothing when looked at.
_LEAVES = (
    *(type(None), bool, int, float, complex, str, bytes, type, torch.dtype, torch.device, torch.Size),
    *(types.ModuleType, types.FunctionType, types.BuiltinFunctionType, weakref.ProxyType, weakref.CallableProxyType),
    *(torch.Tensor, nn.Parameter),
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

    Looks into the attributes of every module, a few levels deep: containers, bound methods, partials, weak
    references, plain objects, and modules that are not in the tree.
    """
    wanted = {id(layer): layer for layer in layers}
    seen = {id(module) for module in model.modules()}
    found = []
    # Breadth first: what is met near the depth's end may be near the surface elsewhere.
    queue = deque(
        _Step(None, f"model.{name}.{key}" if name else f"model.{key}", value, vars(module), key)
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if key not in _OF_THE_TREE
    )
    while queue and len(seen) < _MOST:
        step = queue.popleft()
        if id(step.value) in wanted:
            found.append(Reference(step.place, wanted[id(step.value)], step.holder, step.key))
        elif step.depth < _DEPTH and id(step.value) not in seen:
            seen.add(id(step.value))
            try:
                queue.extend(inner for inner in _inside(step) if type(inner.value) not in _LEAVES)
            except Exception:  # a container of the user's own may do anything when looked at
                continue
    return found


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
        return [to(".__self__", value.__self__)]
    if isinstance(value, functools.partial):
        return [to(".func", value.func), to(".args", value.args), to(".keywords", value.keywords)]
    if isinstance(value, weakref.ReferenceType):
        return [to("()", value())]
    slots = [slot for kind in type(value).__mro__ for slot in vars(kind).get("__slots__", ())]
    return [
        *(to(f".{key}", item, vars(value), key) for key, item in getattr(value, "__dict__", {}).items()),
        *(to(f".{slot}", getattr(value, slot, None)) for slot in slots if slot != "__dict__"),
    ]
