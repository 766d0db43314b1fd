"""The decomposition information file: JSON that says which layers were split, how, and into what shapes.

One entry for each decomposed layer, in the order of named_modules, in the reference's format; ``version``, ``method``
and ``added_bias`` are ours, and the reference ignores them:

    [{"ori_layer_info": {"name": "cnn.5", "in_channels": 64, "out_channels": 128, "kernel_size": [3, 3],
                         "stride": [1, 1], "dilation": [1, 1], "groups": 1},
      "mode": "SCFK",
      "decom_nodes": {"first": {"weight_shape": [32, 64, 3, 1]}, "last": {"weight_shape": [128, 32, 1, 3]}},
      "version": 1, "method": "separable"}]

The nodes are the stages of the split, under the names that its method gives them. Where calibration has given the
layer a bias that it had not, the entry has ``"added_bias": true`` and version 2: a reader that overlooks it rebuilds
another network. What the reference does not split, by another method or of another kind than Conv2d, has version 3.
An entry of another kind names it as ``"layer"``; the lists of a Conv1d or Conv3d have one number or three, and a Linear
layer has its features alone:

    {"ori_layer_info": {"name": "head", "in_features": 512, "out_features": 1000}, "layer": "Linear", …}
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from ..._storage.json_text import parsed
from ...errors import ConfigError, InfoFileError, LayerError, listed, quoted, similar
from ..methods import get_method
from ..methods.weight_group import split_of
from ..model.chain import DecomposedLayer
from ..model.spec import KINDS, LayerSpec
from ..model.split import Split

VERSION = 3
"""The newest version of an entry that this release reads."""

_REFERENCE_METHOD, _REFERENCE_KIND = "separable", "Conv2d"


@dataclass(frozen=True)
class Entry:
    """One decomposed layer.

    Attributes
    ----------
    name
        The layer's name in the model before decomposition.
    split
        How it was split. Read from a file, its padding and bias are those of the model's layer.
    """

    name: str
    split: Split

    @property
    def version(self) -> int:
        """The oldest version of the format that can say so."""
        if (self.split.method, self.split.layer.kind) != (_REFERENCE_METHOD, _REFERENCE_KIND):
            return 3
        return 2 if self.split.added_bias else 1


def dump(entries: Sequence[Entry]) -> str:
    """The text of the file."""
    return json.dumps([_to_json(entry) for entry in entries], indent="\t") + "\n"


def parse(text: str, layers: Mapping[str, LayerSpec | str]) -> list[Entry]:
    """The entries of a file for a model.

    Parameters
    ----------
    text
        Content of the file.
    layers
        By name, the geometry of every layer of the model, from which the entries get padding and bias; or the
        reason in words why the layer cannot be taken apart.

    Raises
    ------
    InfoFileError
        The text is no JSON, not in the format, or not of this model; the message names entry and field,
        what was expected and what was found.
    LayerError
        It names a layer that cannot be taken apart.
    """
    document = parsed(text, "the file", InfoFileError)
    if not isinstance(document, list):
        _fail("the file", "a list with an entry for each decomposed layer", document)
    entries = [_parse_entry(item, f"entry {index}", layers) for index, item in enumerate(document)]
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if entry.name in seen:
            raise InfoFileError(f"entry {index}: the layer {quoted(entry.name)} has an entry already: keep one of them")
        seen.add(entry.name)
    return entries


def entries_of_chains(chains: Mapping[str, DecomposedLayer]) -> list[Entry]:
    """An entry for every name of layers that are decomposed already.

    Raises
    ------
    LayerError
        One was changed into something that no decomposition method makes.
    """
    entries = []
    for name, chain in chains.items():
        split = chain.split_as_it_is()
        if split is None:
            raise LayerError(
                f"layer {quoted(name)}: expected a chain of layers as a decomposition method makes it, found {chain}: "
                "the information file cannot describe it"
            )
        entries.append(Entry(name, split))
    return entries


def _to_json(entry: Entry) -> dict[str, Any]:
    split, method = entry.split, get_method(entry.split.method)
    layer = split.layer
    kind = {} if layer.kind == _REFERENCE_KIND else {"layer": layer.kind}
    bias = {"added_bias": True} if split.added_bias else {}
    return {
        "ori_layer_info": {"name": entry.name, **_geometry(layer)},
        "mode": method.mode(layer),
        "decom_nodes": {
            node: {"weight_shape": list(stage.weight_shape)}
            for node, stage in zip(method.stage_names, split.stages, strict=True)
        },
        "version": entry.version,
        "method": split.method,
        **kind,
        **bias,
    }


def _geometry(layer: LayerSpec) -> dict[str, int | list[int]]:
    """What an entry says of the geometry of a layer."""
    if layer.axes == 0:
        return {"in_features": layer.in_channels, "out_features": layer.out_channels}
    return {
        "in_channels": layer.in_channels,
        "out_channels": layer.out_channels,
        "kernel_size": list(layer.kernel_size),
        "stride": list(layer.stride),
        "dilation": list(layer.dilation),
        "groups": layer.groups,
    }


def _parse_entry(item: object, where: str, layers: Mapping[str, LayerSpec | str]) -> Entry:
    if not isinstance(item, dict):
        _fail(where, "an object", item)
    version = item.get("version", 1)
    if not _is_int(version) or not 1 <= version <= VERSION:
        _fail(f"{where}, version", f"1 to {VERSION} (or none), the newest that this release reads", version)
    info = _field(item, "ori_layer_info", where, dict, "an object")
    name = _field(info, "name", f"{where}, ori_layer_info", str, "a string")
    where = f"{where} ({quoted(name)})"
    kind = _field({"layer": _REFERENCE_KIND, **item}, "layer", where, str, "a string")
    if kind not in _KINDS:
        _fail(f"{where}, layer", f"one of {', '.join(_KINDS)}", kind)
    if name not in layers:
        close = similar(name, layers)
        hint = f" (did you mean {listed(close)}?)" if close else ""
        raise InfoFileError(f"{where}: the model has no {kind} of that name{hint}: is this the file of another model?")
    layer = layers[name]
    if isinstance(layer, str):
        raise LayerError(f"layer {quoted(name)} cannot be decomposed as the file says: {layer}")
    if kind != layer.kind:
        raise InfoFileError(
            f"{where}: the model has no {kind} of that name, but a {layer.kind}: is this the file of another model?"
        )
    for key, own in _geometry(layer).items():
        found = _field(info, key, f"{where}, ori_layer_info", object, "")
        if not _is_same(found, own):
            _fail(f"{where}, ori_layer_info, {key}", f"{quoted(own)} as in the model", found)
    try:
        method = get_method(_field({"method": _REFERENCE_METHOD, **item}, "method", where, str, "a name"))
    except ConfigError as error:
        raise InfoFileError(f"{where}, {error}") from None
    impossible = method.why_not(layer)
    if impossible is not None:
        raise InfoFileError(f"{where}: the model's layer cannot be decomposed: {impossible}")
    mode = _field(item, "mode", where, str, "a string")
    if mode != method.mode(layer):
        _fail(f"{where}, mode", f"{quoted(method.mode(layer))} for this geometry", mode)
    added_bias = _field({"added_bias": False, **item}, "added_bias", where, bool, "true or false")
    if added_bias and layer.bias:
        _fail(f"{where}, added_bias", "false, as the model's layer has a bias of its own", added_bias)
    shapes = _shapes(item, where, method.stage_names, 2 + layer.axes)
    ranks, full = method.ranks_of(layer, shapes), method.full_ranks(layer)
    if any(not 1 <= rank <= most for rank, most in zip(ranks, full, strict=True)):
        expected = f"a rank of {full[0]}" if len(full) == 1 else f"ranks of {list(full)}"
        _fail(f"{where}, decom_nodes", f"{expected} at most", ranks[0] if len(ranks) == 1 else list(ranks))
    entry = Entry(name, split_of(method, layer, ranks, added_bias=added_bias))
    if version < entry.version:
        _fail(f"{where}, version", f"{entry.version} of an entry with this method and added_bias", version)
    for node, stage, shape in zip(method.stage_names, entry.split.stages, shapes, strict=True):
        if shape != stage.weight_shape:
            _fail(f"{where}, decom_nodes, {node}, weight_shape", repr(list(stage.weight_shape)), list(shape))
    return entry


def _shapes(item: dict[str, Any], where: str, names: Sequence[str], dimensions: int) -> list[tuple[int, ...]]:
    """The shapes of the weights of the stages, in their order."""
    nodes = _field(item, "decom_nodes", where, dict, "an object")
    if set(nodes) != set(names):
        _fail(f"{where}, decom_nodes", f"the keys {', '.join(names)}", sorted(nodes))
    shapes = []
    for node in names:
        inside = f"{where}, decom_nodes, {node}"
        content = _field(nodes, node, f"{where}, decom_nodes", dict, "an object")
        shape = _field(content, "weight_shape", inside, list, "a list")
        if len(shape) != dimensions or not all(_is_int(size) and size > 0 for size in shape):
            _fail(f"{inside}, weight_shape", f"{_COUNTS[dimensions]} whole numbers from 1 on", shape)
        shapes.append(tuple(shape))
    return shapes


_KINDS = tuple(kind.__name__ for kind in KINDS)
# Numbers of dimensions of a weight, in words.
_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}


def _field(mapping: Mapping[str, Any], key: str, where: str, kind: type, expected: str) -> Any:
    if key not in mapping:
        raise InfoFileError(f"{where}: the key {quoted(key)} is missing")
    value = mapping[key]
    if not isinstance(value, kind):
        _fail(f"{where}, {key}", expected, value)
    return value


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_same(found: object, expected: object) -> bool:
    """Equality of JSON numbers and lists that does not take true for 1, nor 3.0 for 3."""
    return found == expected and repr(found) == repr(expected)


def _fail(where: str, expected: str, found: object) -> NoReturn:
    raise InfoFileError(f"{where}: expected {expected}, found {quoted(found)}")
