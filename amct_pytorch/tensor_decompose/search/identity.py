"""What the evaluations of a search depend on, to see whether a journal is of the same search."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..._run.inputs import described, tensors_of
from ..._run.tensors import checksum
from ..calibration.data import Calibration
from ..config import DecompositionConfig
from ..model.layers import Survey


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


def state_of(model: nn.Module) -> list[object]:
    """What is equal before two plans if the model is the same for both: its modules, their attributes and tensors."""
    named = itertools.chain(model.named_parameters(), model.named_buffers())
    tensors = [(name, str(tensor.dtype), str(tensor.device), _hash(tensor)) for name, tensor in named]
    return [*tensors, *((name, id(module), _attributes(module)) for name, module in model.named_modules())]


def _attributes(module: nn.Module) -> list[tuple[str, object]]:
    """Attributes that are plain values, and which functions a module has for hooks or in place of its methods."""
    found: list[tuple[str, object]] = []
    for name, value in vars(module).items():
        if isinstance(value, bool | int | float | str | tuple | torch.dtype | None):
            found.append((name, repr(value)))
        elif name.endswith("_hooks"):
            found.append((name, [id(hook) for hook in value.values()]))
        elif callable(value):
            found.append((name, id(value)))
    return found


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
        return "unknown"
    return f"{tuple(tensor.shape)} {checksum([tensor]):08x}"
