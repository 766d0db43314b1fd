"""Modules whose forward pass reads the weight of a layer inside them, with or without running the layer.

A chain that stands in for such a layer would have its kernel composed anew at every call, which costs more than the
split saves: ``self.out_proj.weight`` in `torch.nn.MultiheadAttention`, ``self.linear1.weight`` in the fast path of
`torch.nn.TransformerEncoderLayer`, ``functional.linear(x, self.proj.weight)`` in code of users.
"""

from __future__ import annotations

import dis
import inspect
from collections import deque
from collections.abc import Iterator
from types import CodeType, FunctionType

from torch import nn

from .spec import KINDS

Path = tuple[str, ...]
"""Attributes one after the other, from the object of a method on: ``("self_attn", "out_proj", "weight")``."""

# Attributes of a weight that say nothing of its values, and methods that only make a tensor of its kind.
_NO_VALUES = frozenset(
    [
        *("dtype", "device", "shape", "size", "dim", "ndim", "numel", "layout", "requires_grad", "type"),
        *("is_cuda", "is_meta", "is_floating_point", "get_device", "element_size", "stride", "is_contiguous"),
        *("new", "new_empty", "new_zeros", "new_ones", "new_full", "new_tensor"),
    ]
)
# Functions that look at what a weight is, not at its values.
_LOOKING = frozenset(["isinstance", "hasattr", "getattr", "type", "id"])


class WeightReaders:
    """Finds the layers whose weight a module reads in its forward pass, from the code of its methods.

    Remembers the attributes that each method accesses, as many modules of a model have the same class.
    """

    def __init__(self) -> None:
        self._paths: dict[CodeType, tuple[Path, ...]] = {}

    def read_by(self, module: nn.Module) -> dict[nn.Module, str]:
        """By layer the method that reads its weight: ``MultiheadAttention.forward``."""
        found: dict[nn.Module, str] = {}
        queue = deque([(module, "forward")])
        seen = set(queue)
        while queue:
            owner, method = queue.popleft()
            for path in (path for function in _functions(type(owner), method) for path in self._paths_in(function)):
                holder, rest = _followed(owner, path)
                if isinstance(holder, KINDS):
                    if holder is not module and rest[:1] == ("weight",) and not _NO_VALUES.intersection(rest[1:2]):
                        found.setdefault(holder, f"{type(owner).__name__}.{method}")
                elif rest and (holder, rest[0]) not in seen:
                    seen.add((holder, rest[0]))
                    queue.append((holder, rest[0]))
        return found

    def _paths_in(self, function: FunctionType) -> tuple[Path, ...]:
        code = function.__code__
        if code not in self._paths:
            self._paths[code] = tuple(_paths(code, code.co_varnames[0])) if code.co_argcount else ()
        return self._paths[code]


def _followed(module: nn.Module, path: Path) -> tuple[nn.Module, Path]:
    """The module that the first attributes lead to, and the attributes that remain."""
    for index, name in enumerate(path):
        child = module._modules.get(name)
        if child is None:
            return module, path[index:]
        module = child
    return module, ()


def _functions(kind: type[nn.Module], name: str) -> Iterator[FunctionType]:
    """The functions behind a method or a property of a class: its own, and that of its base where it calls that."""
    for base in kind.__mro__[: kind.__mro__.index(nn.Module)]:
        found = vars(base).get(name)
        function = found.fget if isinstance(found, property) else found
        function = inspect.unwrap(function) if callable(function) else function
        if isinstance(function, FunctionType):
            yield function
            if "super" not in function.__code__.co_names:
                return


def _paths(code: CodeType, own: str) -> Iterator[Path]:
    """The attributes that a function accesses of its object, which its variable of this name holds."""
    path: list[str] | None = None
    before: object = None
    for instruction in dis.get_instructions(code):
        if path is not None and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            path.append(str(instruction.argval))
            continue
        if path:
            yield tuple(path)
        path = [] if _loads(instruction, own) and before not in _LOOKING else None
        before = instruction.argval
    for inner in code.co_consts:  # of comprehensions and functions within
        if isinstance(inner, CodeType):
            yield from _paths(inner, own)


def _loads(instruction: dis.Instruction, variable: str) -> bool:
    """Whether an instruction leaves the value of a variable on top of the stack; some load two at once."""
    if not instruction.opname.startswith(("LOAD_FAST", "LOAD_DEREF")):
        return False
    loaded = instruction.argval
    return bool((loaded[-1] if isinstance(loaded, tuple) else loaded) == variable)
