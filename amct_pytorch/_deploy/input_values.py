"""Where a model goes by the values of its inputs in Python, which a trace of one run would record as constants."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from .._run.inputs import run_model, tensors_of
from ..errors import quoted

# Functions of a tensor whose results are values of Python or NumPy.
_READING = frozenset(
    [
        *("item", "tolist", "numpy", "__array__", "__dlpack__", "equal", "allclose", "is_nonzero", "__contains__"),
        *("__bool__", "__int__", "__float__", "__complex__", "__index__"),
    ]
)
# Operators that need no more of a tensor than its size and type.
_BY_SIZE = frozenset(
    [
        *("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like"),
        *("new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided", "sym_size", "sym_numel"),
    ]
)


def value_read(model: nn.Module, inputs: Any) -> str | None:
    """The first place where a model turns into a Python number what it has computed from the values of its inputs.

    Sizes of tensors do not count, and values computed from parameters, buffers and constants alone.

    Parameters
    ----------
    model
        In eval mode, on the host; run once.
    inputs
        A tensor, a tuple of positional arguments, or a mapping of keyword arguments.

    Returns
    -------
    str or None
        The layer and the function that it calls, in words for a message.

    Raises
    ------
    InputsError
        The model fails on the inputs.
    """
    dependent = _Dependent(tensors_of(inputs))
    reads = _Reads(dependent, {module: name for name, module in model.named_modules() if name})
    with reads, dependent:
        run_model(model, inputs, "inputs")
    return reads.first


class _Dependent(TorchDispatchMode):
    """Follows which memory holds values computed from those of given tensors, through views and writes in place."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._storages = {_storage(tensor) for tensor in tensors}

    def __contains__(self, tensor: Tensor) -> bool:
        return _storage(tensor) in self._storages

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call an operator; if one of its arguments depends on the tensors, so do its results."""
        kwargs = kwargs or {}
        given = tensors_of((args, kwargs))
        depends = any(tensor in self for tensor in given) and func.overloadpacket.__name__ not in _BY_SIZE
        result = func(*args, **kwargs)
        if depends:
            written = given if func._schema.is_mutable else []
            self._storages.update(map(_storage, [*tensors_of(result), *written]))
        return result


class _Reads(TorchFunctionMode):
    """Notes where the values of such tensors are read in Python."""

    def __init__(self, dependent: _Dependent, names: Mapping[nn.Module, str]) -> None:
        super().__init__()
        self.first: str | None = None
        self._dependent = dependent
        self._names = names

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch."""
        called = getattr(func, "__name__", "")
        if self.first is None and called in _READING and any(item in self._dependent for item in tensors_of(args)):
            self.first = f"{self._layer()} reads values that depend on the inputs (Tensor.{called})"
        return func(*args, **(kwargs or {}))

    def _layer(self) -> str:
        """The innermost layer that is running."""
        running = (frame.f_locals.get("self") for frame, _ in traceback.walk_stack(None))
        layers = (self._names[item] for item in running if isinstance(item, nn.Module) and item in self._names)
        name = next(layers, None)
        return f"layer {quoted(name)}" if name else "the model"


def _storage(tensor: Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())
