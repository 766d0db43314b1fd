"""What the evaluations of a search depend on, to see whether a journal is of the same search."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..._run.inputs import described, tensors_of
from ..._run.tensors import checksum
from ..calibration.data import Calibration
from ..config import DecompositionConfig
from ..model.layers import Survey

_UNKNOWN = "unknown"
"""In place of the hash of a tensor that has no values to be read."""


def identity_of(
    found: Survey,
    minimise: str,
    config: DecompositionConfig | None,
    calibration: Calibration | None,
    example_inputs: object,
    timing: Mapping[str, Any],
) -> dict[str, dict[str, str]]:
    """Values by name, of the model and of the settings, that are the same for two searches if their evaluations are.

    Parameters
    ----------
    found
        What the model is.
    minimise, config, calibration, example_inputs
        See `search_decomposition`.
    timing
        Settings by which latency is measured.
    """
    settings = {"minimise": minimise, "example_inputs": described(example_inputs)}
    for name, part in (("config", config), ("calibration", calibration)):
        settings |= {name: "given" if part is not None else "none"} | _fields(name, part)
    if calibration is not None:
        settings["calibration.batches"] = _first_of(calibration)
    settings |= {name: str(getattr(value, "name", value)) for name, value in timing.items()}
    return {"model": _model(found), "settings": settings}


@dataclasses.dataclass(frozen=True, eq=False)
class _Same:
    """Equal for the same object alone. It holds the object, whose address another one could have after its end."""

    what: object

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.what is other.what

    __hash__ = None  # type: ignore[assignment]


def state_of(model: nn.Module) -> list[object]:
    """What is equal before two plans if the model is the same for both: its modules, their attributes and tensors."""
    return [(name, _Same(module), _attributes(module)) for name, module in model.named_modules()]


def _attributes(module: nn.Module) -> dict[str, object]:
    """The values of a module's attributes, as far as they can be compared, and which objects the others are."""
    # Its parts are listed by themselves.
    return {name: _value(value) for name, value in vars(module).items() if name != "_modules"}


def _value(value: object) -> object:
    if isinstance(value, Tensor):
        known = _hash(value)
        # Nothing is equal to what cannot be looked into.
        return object() if known == _UNKNOWN else (str(value.dtype), str(value.device), known)
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.shape, zlib.crc32(value.tobytes()))
    if isinstance(value, Mapping):
        return [(repr(key), _value(one)) for key, one in value.items()]
    if isinstance(value, list | tuple):
        return [_value(one) for one in value]
    if isinstance(value, bool | int | float | complex | str | torch.dtype | None):
        return repr(value)
    return _Same(value)


def _fields(name: str, part: Any) -> dict[str, str]:
    """The fields of a config or a calibration, in words."""
    if part is None:
        return {}
    fields = {field.name: getattr(part, field.name) for field in dataclasses.fields(part) if field.repr}
    return {f"{name}.{key}": getattr(value, "__qualname__", repr(value)) for key, value in fields.items()}


def _first_of(calibration: Calibration) -> str:
    """A hash of the first batch: those of another order or another data set mostly begin with another one."""
    return next((f"beginning with {checksum(tensors_of(batch)):08x}" for batch in calibration.batches), "none")


def _model(found: Survey) -> dict[str, str]:
    """The geometry of each layer, and a hash of each tensor."""
    layers = {f"layer {layer.names[0]}": f"{type(layer.module).__name__} {layer.spec}" for layer in found.layers}
    named = itertools.chain(found.model.named_parameters(), found.model.named_buffers())
    return layers | {f"values of {name}": _hash(tensor) for name, tensor in named}


def _hash(tensor: Tensor) -> str:
    if nn.parameter.is_lazy(tensor) or tensor.is_meta or tensor.layout is not torch.strided:
        return _UNKNOWN
    return f"{tuple(tensor.shape)} {checksum([tensor]):08x}"
