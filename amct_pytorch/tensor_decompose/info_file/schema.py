"""The decomposition information file: JSON that says which layers were split, how, and into what shapes.

One entry a decomposed layer, in the order of named_modules, in the reference's format; ``version``, ``method`` and
``added_bias`` are ours, and the reference ignores them::

    [{"ori_layer_info": {"name": "cnn.5", "in_channels": 64, "out_channels": 128, "kernel_size": [3, 3],
                         "stride": [1, 1], "dilation": [1, 1], "groups": 1},
      "mode": "SCFK",
      "decom_nodes": {"first": {"weight_shape": [32, 64, 3, 1]}, "last": {"weight_shape": [128, 32, 1, 3]}},
      "version": 1, "method": "separable"}]

Where calibration has given the layer a bias that it had not, the entry has ``"added_bias": true`` and version 2:
to be read over would be to rebuild another network. Otherwise it has neither.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from ...errors import ConfigError, InfoFileError, LayerError
from ..methods import METHODS, get_method
from ..model.chain import DecomposedConv2d
from ..model.spec import ConvSpec

VERSION = 2
_NODES = ("first", "last")


@dataclass(frozen=True)
class Entry:
    """One decomposed layer.

    Attributes
    ----------
    name
        The layer's name in the model before decomposition.
    method
        Name of the decomposition method.
    conv
        Geometry of the original convolution. Of a file, its padding and bias say nothing.
    rank
        Channels between the convolutions that replace it.
    added_bias
        Whether the last of them has a bias although the layer has none.
    """

    name: str
    method: str
    conv: ConvSpec
    rank: int
    added_bias: bool = False

    @property
    def stages(self) -> tuple[ConvSpec, ...]:
        """The convolutions that replace the layer."""
        *before, last = get_method(self.method).stages(self.conv, self.rank)
        return (*before, replace(last, bias=last.bias or self.added_bias))


def dump(entries: Sequence[Entry]) -> str:
    """The text of the file."""
    return json.dumps([_to_json(entry) for entry in entries], indent="\t") + "\n"


def parse(text: str, layers: Mapping[str, ConvSpec | str]) -> list[Entry]:
    """The entries of a file for a model.

    Parameters
    ----------
    text
        Content of the file.
    layers
        By name, the geometry of every Conv2d of the model, from which the entries get padding and bias; or the
        reason in words why the layer cannot be taken apart.

    Raises
    ------
    InfoFileError
        The text is no JSON, not in the format, or not of this model; the message names entry and field,
        what was expected and what was found.
    LayerError
        It names a layer that cannot be taken apart.
    """
    document = _load_json(text)
    if not isinstance(document, list):
        _fail("the file", "a list with an entry for each decomposed layer", document)
    entries = [_parse_entry(item, f"entry {index}", layers) for index, item in enumerate(document)]
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        if entry.name in seen:
            raise InfoFileError(f"entry {index}: the layer {entry.name!r} has an entry already: keep one of them")
        seen.add(entry.name)
    return entries


def entries_of_rows(rows: Mapping[str, DecomposedConv2d]) -> list[Entry]:
    """An entry for every name of layers that are decomposed already.

    Raises
    ------
    LayerError
        One was changed into something that no decomposition method makes.
    """
    entries = []
    for name, row in rows.items():
        try:
            rank = row.stages[0].out_channels
            possible = [Entry(name, method, row.spec, rank, row.added_bias) for method in METHODS]
            described = [entry for entry in possible if entry.stages == row.stages]
        except LayerError:
            described = []
        if not described:
            raise LayerError(
                f"layer {name!r}: expected a row of convolutions as a decomposition method makes it, found {row}: "
                "the information file cannot describe it"
            )
        entries.append(described[0])
    return entries


def _to_json(entry: Entry) -> dict[str, Any]:
    conv = entry.conv
    bias = {"added_bias": True} if entry.added_bias else {}
    return {
        "ori_layer_info": {
            "name": entry.name,
            "in_channels": conv.in_channels,
            "out_channels": conv.out_channels,
            "kernel_size": list(conv.kernel_size),
            "stride": list(conv.stride),
            "dilation": list(conv.dilation),
            "groups": conv.groups,
        },
        "mode": get_method(entry.method).mode(conv),
        "decom_nodes": {
            node: {"weight_shape": list(stage.weight_shape)} for node, stage in zip(_NODES, entry.stages, strict=True)
        },
        "version": 2 if entry.added_bias else 1,
        "method": entry.method,
        **bias,
    }


def _load_json(text: str) -> object:
    def reject_constant(name: str) -> NoReturn:
        raise InfoFileError(f"the file holds {name}, which is no JSON number")

    def without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InfoFileError(f"the file gives the key {twice!r} twice in one object")
        return mapping

    try:
        return json.loads(text, parse_constant=reject_constant, object_pairs_hook=without_duplicates)
    except InfoFileError:
        raise
    except (ValueError, RecursionError) as error:
        # Also numbers of thousands of digits, and brackets nested thousands deep.
        raise InfoFileError(f"the file is no valid JSON, perhaps half written: {error}") from error


def _parse_entry(item: object, where: str, layers: Mapping[str, ConvSpec | str]) -> Entry:
    if not isinstance(item, dict):
        _fail(where, "an object", item)
    version = item.get("version", 1)
    if not _is_int(version) or not 1 <= version <= VERSION:
        _fail(f"{where}, version", f"1 to {VERSION} (or none), the newest that this release reads", version)
    info = _field(item, "ori_layer_info", where, dict, "an object")
    name = _field(info, "name", f"{where}, ori_layer_info", str, "a string")
    where = f"{where} ({name!r})"
    if name not in layers:
        close = difflib.get_close_matches(name, layers, n=3)
        hint = f" (did you mean {', '.join(map(repr, close))}?)" if close else ""
        raise InfoFileError(f"{where}: the model has no Conv2d of that name{hint}: is this the file of another model?")
    conv = layers[name]
    if isinstance(conv, str):
        raise LayerError(f"layer {name!r} cannot be decomposed as the file says: {conv}")
    for key in ("in_channels", "out_channels", "kernel_size", "stride", "dilation", "groups"):
        expected = getattr(conv, key)
        expected = list(expected) if isinstance(expected, tuple) else expected
        found = _field(info, key, f"{where}, ori_layer_info", object, "")
        if not _is_same(found, expected):
            _fail(f"{where}, ori_layer_info, {key}", f"{expected!r} as in the model", found)
    try:
        method = get_method(_field({"method": "separable", **item}, "method", where, str, "a name"))
    except ConfigError as error:
        raise InfoFileError(f"{where}, {error}") from None
    why_not = method.why_not(conv)
    if why_not is not None:
        raise InfoFileError(f"{where}: the model's layer cannot be decomposed: {why_not}")
    mode = _field(item, "mode", where, str, "a string")
    if mode != method.mode(conv):
        _fail(f"{where}, mode", f"{method.mode(conv)!r} for this geometry", mode)
    nodes = _field(item, "decom_nodes", where, dict, "an object")
    if set(nodes) != set(_NODES):
        _fail(f"{where}, decom_nodes", f"the keys {', '.join(_NODES)}", sorted(nodes))
    shapes = []
    for node in _NODES:
        inside = f"{where}, decom_nodes, {node}"
        content = _field(nodes, node, f"{where}, decom_nodes", dict, "an object")
        shape = _field(content, "weight_shape", inside, list, "a list")
        if len(shape) != 4 or not all(_is_int(size) and size > 0 for size in shape):
            _fail(f"{inside}, weight_shape", "four whole numbers from 1 on", shape)
        shapes.append(shape)
    rank = shapes[0][0]
    if rank > method.full_rank(conv):
        _fail(f"{where}, decom_nodes", f"a rank of {method.full_rank(conv)} at most", rank)
    added_bias = _field({"added_bias": False, **item}, "added_bias", where, bool, "true or false")
    if added_bias and conv.bias:
        _fail(f"{where}, added_bias", "false, as the model's layer has a bias of its own", added_bias)
    entry = Entry(name, method.name, conv, rank, added_bias)
    for node, stage, shape in zip(_NODES, entry.stages, shapes, strict=True):
        if shape != list(stage.weight_shape):
            _fail(f"{where}, decom_nodes, {node}, weight_shape", repr(list(stage.weight_shape)), shape)
    return entry


def _field(mapping: Mapping[str, Any], key: str, where: str, kind: type, expected: str) -> Any:
    if key not in mapping:
        raise InfoFileError(f"{where}: the key {key!r} is missing")
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
    shown = repr(found)
    shown = shown if len(shown) <= 80 else f"{shown[:77]}..."
    raise InfoFileError(f"{where}: expected {expected}, found {shown}")
