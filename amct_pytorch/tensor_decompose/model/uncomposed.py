"""A weight that is composed when its values are wanted: code that asks for its dtype alone need not wait for them.

Composing a kernel takes as many operations as the layer does for a batch of some hundred positions, and models ask
often: ``x.to(self.proj.weight.dtype)``, in T5 at every call of a layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .write_through import Origin, WriteThroughTensor

# What can be said of a weight without its values.
_OF_ITS_KIND = frozenset(
    [
        *(
            getattr(Tensor, name).__get__
            for name in ("dtype", "device", "shape", "ndim", "layout", "is_cuda", "is_meta")
        ),
        *(Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.element_size, Tensor.get_device),
        cast(Any, Tensor.requires_grad).__get__,
    ]
)


class UncomposedTensor(WriteThroughTensor):
    """A tensor without values yet. Whatever needs them makes it the `WriteThroughTensor` that it stands for."""

    _compose: Callable[[], Tensor]
    _composed: Tensor | None = None

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, with values unless it is about what the tensor is."""
        kwargs = kwargs or {}
        if func in _OF_ITS_KIND:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        args, kwargs = tree_map(_with_values, (tuple(args), dict(kwargs)))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # a class method, as torch asks for, although it is typed as none
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Where torch works on the tensor itself, without asking its class: with values as well."""
        args, kwargs = tree_map(_plain, (tuple(args), dict(kwargs or {})))
        return func(*args, **kwargs)

    @property
    def _origin(self) -> Origin | None:  # type: ignore[override]  # which only what has values has
        return cast(WriteThroughTensor, _with_values(self))._origin


def uncomposed(like: Tensor, shape: Sequence[int], compose: Callable[[], Tensor]) -> Tensor:
    """A tensor that is composed at its first use.

    Parameters
    ----------
    like
        Has its dtype and device.
    shape
        Its shape.
    compose
        Gives the `WriteThroughTensor` that it stands for.
    """
    with torch.inference_mode(False):
        own = cast(Any, Tensor)._make_wrapper_subclass(UncomposedTensor, shape, dtype=like.dtype, device=like.device)
    own._compose = compose
    return cast(Tensor, own)


def _with_values(value: Any) -> Any:
    """The value itself, or what has the values of a tensor without, which that becomes if it can."""
    if type(value) is not UncomposedTensor:
        return value
    if value._composed is not None:
        return value._composed
    with torch.no_grad():  # as when it was read
        composed = value._compose()
    try:
        with torch._C.DisableTorchFunctionSubclass():
            torch.utils.swap_tensors(value, composed)
    except RuntimeError:  # it is held elsewhere too, by a weak reference say, and must stay the object that it is
        value._composed = composed
        return composed
    return value


def _plain(value: Any) -> Any:
    if type(value) is not UncomposedTensor:
        return value
    with torch._C.DisableTorchFunctionSubclass():
        return _with_values(value).detach().as_subclass(Tensor)
