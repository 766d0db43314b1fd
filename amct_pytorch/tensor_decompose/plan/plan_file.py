"""Plans as files: decided on one machine, applied on another.

A file in torch's weights-only format, which is read without running code of it: a dict with the format and its
version, the plan as plain data, the tensors of the layers, and a hash of all that, as torch does not notice damage to
tensors. Layers that share a weight share their factors in the file too. A file of version 1 has no hash, one before
version 3 no measured latency, and one before version 4 no settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..._run.tensors import is_finite
from ..._storage.atomic import new_file
from ..._storage.json_text import HASH, content_hash, is_version
from ..._storage.paths import access_errors, file_to_read, file_to_write
from ..._storage.reading import open_regular
from ..._storage.records import from_plain, to_plain
from ..._storage.weights import is_whole_tensor, load_content, save_content, tensor_hash
from ...errors import ConfigError, PlanFileAccessError, PlanFileError, quoted, shown
from ..methods import get_method
from ..model.spec import KINDS, LayerSpec
from .layer_plan import LayerPlan

_FORMAT, _VERSION = "amct_pytorch.plan", 4
_UNHASHED = frozenset({"format", "version", "plan", "layers", "tensors"})
_KEYS = {1: _UNHASHED} | dict.fromkeys(range(2, _VERSION + 1), _UNHASHED | {HASH})

# Fields of a plan by the version of the file that they came with.
_LATER = {3: "latency", 4: "settings"}

Plan = TypeVar("Plan")

# Fields of a layer that are tensors, which the file holds apart.
_APART = ("factors", "bias")


def write_plan_file(totals: Mapping[str, Any], layers: Sequence[LayerPlan], path: str | os.PathLike[str]) -> None:
    """Write a plan with its factors; see `DecompositionPlan.save`.

    Parameters
    ----------
    totals
        What the plan says besides its layers, as plain data.
    layers
        The layers.
    path
        Of the file.
    """
    place = file_to_write(path, "path", PlanFileAccessError)
    tensors: dict[str, Tensor] = {}
    names: dict[int, str] = {}

    def named(tensor: Tensor) -> str:
        """The name of a tensor in the file, the same for the same one."""
        name = names.setdefault(id(tensor), str(len(names)))
        tensors[name] = tensor
        return name

    plain = [
        {
            **to_plain(layer, _APART),
            "factors": [named(factor) for factor in layer.factors],
            "bias": None if layer.bias is None else named(layer.bias),
        }
        for layer in layers
    ]
    content = {"format": _FORMAT, "version": _VERSION, "plan": totals, "layers": plain, "tensors": tensors}
    with new_file(place, PlanFileAccessError) as draft:
        save_content({**content, HASH: _hash_of(content)}, draft, "the plan")


def read_plan_file(kind: type[Plan], path: str | os.PathLike[str]) -> Plan:
    """What `write_plan_file` wrote, as a plan of this class, with everything in it checked; see `load_plan`."""
    place = file_to_read(path, "path", "plan", PlanFileAccessError, PlanFileAccessError)
    with access_errors(place, "read", PlanFileAccessError), open_regular(place, PlanFileAccessError) as file:
        content = load_content(file, place, PlanFileError)
    if content.get("format") != _FORMAT:
        raise PlanFileError(f"{shown(place)}: expected a plan as DecompositionPlan.save writes it, found another file")
    version = content.get("version")
    if not is_version(version, _KEYS):
        raise PlanFileError(
            f"{shown(place)}: expected version 1 to {_VERSION}, found {quoted(version)}: it was written by another "
            "release"
        )
    layers, tensors = content.get("layers"), content.get("tensors")
    if not isinstance(layers, list) or not isinstance(tensors, dict) or content.keys() != _KEYS[version]:
        raise PlanFileError(f"{shown(place)}: expected a plan with layers and tensors: the file is damaged")
    shared: dict[tuple[str, ...], tuple[Tensor, ...]] = {}
    read = tuple(
        _layer(layer, f"{shown(place)}: layer {number}", tensors, shared) for number, layer in enumerate(layers)
    )
    absent = {name: None for came, name in _LATER.items() if version < came}
    given = {"layers": read, "why_empty": "", **absent}
    plan = from_plain(kind, content["plan"], shown(os.fspath(path)), PlanFileError, given)
    # Last, as the checks before it say where and what the damage is.
    if HASH in content and content[HASH] != _hash_of(content):
        raise PlanFileError(
            f"{shown(place)}: its hash is not that of its content: it is damaged, or was changed after it was saved: "
            "copy "
            "or save the plan again"
        )
    return plan


def _layer(
    plain: object, where: str, tensors: Mapping[str, Any], shared: dict[tuple[str, ...], tuple[Tensor, ...]]
) -> LayerPlan:
    if not isinstance(plain, dict):
        raise PlanFileError(f"{shown(where)}: expected an object, found {type(plain).__name__}")
    names = tuple(map(str, plain.get("factors") or ()))
    factors = shared.setdefault(names, tuple(_tensor(tensors, name, where) for name in names))
    bias = plain.get("bias")
    given = {
        "factors": factors,
        "bias": None if bias is None else shared.setdefault((str(bias),), (_tensor(tensors, str(bias), where),))[0],
    }
    rest = {key: value for key, value in plain.items() if key not in _APART}
    layer = from_plain(LayerPlan, rest, where, PlanFileError, given)
    if not layer.names:
        raise PlanFileError(f"{shown(where)}: expected a name at least, found none")
    if layer.decompose:
        _check_split(layer, f"{shown(where)} ({quoted(layer.name)})")
    return layer


def _check_split(layer: LayerPlan, where: str) -> None:
    """Check that a layer to be decomposed has a split that fits its geometry, and the factors of that."""
    if layer.spec is None or layer.method is None or layer.ranks is None:
        raise PlanFileError(f"{shown(where)}: expected spec, method and ranks of a layer that is to be decomposed")
    _check_spec(layer.spec, where)
    try:
        method = get_method(layer.method)
    except ConfigError as error:
        raise PlanFileError(f"{shown(where)}, {error}: register the method before the plan is loaded") from None
    full = () if method.why_not(layer.spec) else method.full_ranks(layer.spec)
    if len(layer.ranks) != len(full) or not all(
        1 <= rank <= most for rank, most in zip(layer.ranks, full, strict=True)
    ):
        raise PlanFileError(f"{shown(where)}, ranks: expected ranks of {list(full)} at most, found {list(layer.ranks)}")
    expected = [stage.weight_shape for stage in layer.split.stages]
    found = [tuple(factor.shape) for factor in layer.factors]
    if found != expected:
        raise PlanFileError(f"{shown(where)}, factors: expected the shapes {expected}, found {found}")
    if layer.bias is not None and tuple(layer.bias.shape) != (layer.spec.out_channels,):
        raise PlanFileError(
            f"{shown(where)}, bias: expected {layer.spec.out_channels} values, found {tuple(layer.bias.shape)}"
        )


def _check_spec(spec: LayerSpec, where: str) -> None:
    sizes = [spec.in_channels, spec.out_channels, spec.groups, *spec.kernel_size, *spec.stride, *spec.dilation]
    axes = {
        spec.axes,
        len(spec.stride),
        len(spec.dilation),
        spec.axes if isinstance(spec.padding, str) else len(spec.padding),
    }
    known = len(axes) == 1 and spec.axes < len(KINDS)
    if min(sizes) < 1 or not known or spec.in_channels % spec.groups or spec.out_channels % spec.groups:
        raise PlanFileError(f"{shown(where)}, spec: expected the geometry of a layer, found {quoted(spec)}")


def _hash_of(content: Mapping[str, Any]) -> str | None:
    """The hash of a plan; None where it has what no plan has, so that nothing can be its hash."""
    tensors = content["tensors"]
    if not all(is_whole_tensor(tensor) for tensor in tensors.values()):
        return None
    try:
        return content_hash({**content, "tensors": {name: tensor_hash(tensor) for name, tensor in tensors.items()}})
    except (TypeError, ValueError, RecursionError):
        return None


def _tensor(tensors: Mapping[str, Any], name: str, where: str) -> Tensor:
    tensor = tensors.get(name)
    if not is_whole_tensor(tensor) or tensor.dtype not in (torch.float32, torch.float64) or not is_finite(tensor):
        raise PlanFileError(
            f"{shown(where)}: expected the tensor {quoted(name)}, finite, in float32 or float64: the file is damaged"
        )
    return tensor
