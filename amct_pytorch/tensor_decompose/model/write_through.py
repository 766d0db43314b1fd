"""Tensors that are read from a chain, and hand on what is written into them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...errors import LayerError


@dataclass(frozen=True)
class Origin:
    """Where a tensor was read.

    Attributes
    ----------
    write
        Called with what the tensor has become after a write into it.
    parameters
        From which the tensor was computed: their flags are its flags.
    """

    write: Callable[[Tensor], None]
    parameters: Sequence[nn.Parameter]


class WriteThroughTensor(Tensor):
    """A tensor that a property has computed; what is written into it, or into a view of it, goes to its origin.

    What is computed from it is a plain tensor, and so are its copies. NumPy sees it read-only, as writes of NumPy's
    could not be noticed.
    """

    _origin: Origin | None = None
    # The tensor as it was read, in the memory that all its views share.
    _whole: Tensor
    _is_view_of_it = False

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch; where it wrote into one of its arguments, so does the origin of that."""
        if not all(issubclass(kind, Tensor) for kind in types):
            return NotImplemented  # a proxy, say, which knows what to do
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # it was read before, and given to what is compiled
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            own = [value for value in _flat([*args, *kwargs.values()]) if isinstance(value, WriteThroughTensor)]
            versions = [tensor._version for tensor in own]
            result = func(*args, **kwargs)
            for tensor, version in zip(own, versions, strict=True):
                if tensor._version != version and tensor._origin is not None:
                    tensor._hand_on(tensor._origin)
            # The compiler looks for the tensor that others are views of, and must come to one.
            return result if getattr(func, "__self__", None) is Tensor._base else _with_origin(result, own)

    def _hand_on(self, origin: Origin) -> None:
        if torch.is_grad_enabled() and self.requires_grad:
            raise LayerError(
                "expected writes into the weight of a decomposed layer inside torch.no_grad(), "
                "found one with gradients being recorded, which no Parameter allows"
            )
        # Of a view, what it is a view of was written; the tensor itself may have another size now.
        origin.write(self._whole if self._is_view_of_it else self.detach())

    @property
    def data(self) -> Tensor:
        """See `torch.Tensor.data`."""
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if self._origin is None or self._is_view_of_it:
            cast(Any, Tensor.data).__set__(self, value)
        else:
            self._origin.write(value)

    @property
    def requires_grad(self) -> bool:
        """See `torch.Tensor.requires_grad`; to set it sets it for the parameters behind the tensor."""
        return bool(cast(Any, Tensor.requires_grad).__get__(self))

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """See `torch.Tensor.requires_grad_`."""
        if self._origin is None or self._is_view_of_it:
            return super().requires_grad_(requires_grad)
        for parameter in self._origin.parameters:
            parameter.requires_grad_(requires_grad)
        return self

    @property
    def _is_param(self) -> bool:
        return False

    @_is_param.setter
    def _is_param(self, value: bool) -> None:
        # torch.nn.Parameter(tensor) sets it on what becomes the Parameter, which is one of its own from then on.
        if value:
            vars(self).clear()
            self.__class__ = nn.Parameter  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self.unbind(0))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        return cast(Tensor, cast(Any, self.as_subclass(Tensor)).__deepcopy__(memo))

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.as_subclass(Tensor).__reduce_ex__(protocol)


def written_through(tensor: Tensor, origin: Origin) -> Tensor:
    """A tensor that a property has computed, made to hand on what is written into it.

    Parameters
    ----------
    tensor
        With memory of its own, or that of its origin.
    origin
        Where it was read.
    """
    own = tensor.as_subclass(WriteThroughTensor)
    own._origin, own._whole = origin, tensor.detach()
    return own


def was_read_from(value: object, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether a value is a tensor as it was read from these: ``layer.weight *= 2`` assigns what it has written into."""
    if not isinstance(value, WriteThroughTensor) or value._origin is None or value._is_view_of_it:
        return False
    return [id(parameter) for parameter in value._origin.parameters] == [id(parameter) for parameter in parameters]


def can_be_written(tensor: Tensor) -> bool:
    """Whether a tensor can be made to hand on writes: it has values, and nobody records what is done with it.

    While a compiler, a tracer or an exporter records, a property is only read. What was read before, and is then given
    to a compiled function, is a subclass to the compiler; some versions take only a clone of it, a plain tensor.
    """
    if torch.compiler.is_compiling() or torch._C._get_tracing_state() or torch.fx._symbolic_trace._is_fx_tracing_flag:
        return False
    if type(tensor) is not Tensor or tensor.is_meta:
        return False
    return not _is_wrapped(tensor)


def _is_wrapped(tensor: Tensor) -> bool:
    """Whether a transform of torch.func (vmap, grad) stands between the tensor and its values."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _with_origin(result: Any, own: Sequence[WriteThroughTensor]) -> Any:
    """What a function returned, its tensors in the memory of one of its arguments with the origin of that."""
    if type(result) in (list, tuple):
        return type(result)(_with_origin(item, own) for item in result)
    if type(result) is Tensor and result.layout is torch.strided and not _is_wrapped(result):
        for tensor in own:
            if tensor._origin is not None and _memory(result) == _memory(tensor):
                view = result.as_subclass(WriteThroughTensor)
                view._origin, view._whole, view._is_view_of_it = tensor._origin, tensor._whole, True
                return view
    if hasattr(result, "setflags"):  # an array of NumPy
        result.setflags(write=False)
    return result


def _memory(tensor: Tensor) -> tuple[torch.device, int]:
    return tensor.device, tensor.untyped_storage().data_ptr()
