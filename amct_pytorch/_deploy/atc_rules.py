"""What ATC's ONNX parser takes: its rules, read in the sources that CANN publishes, as a check of a model.

Each rule stands for a graph that ATC refuses, or compiles in silence into one that computes something else.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ..errors import quoted
from .onnx_graphs import attributes_of, graphs_of, layer_of, nodes_of, ranks_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

OPSETS = range(11, 19)
"""Versions of the ONNX operators that ATC takes."""

LARGEST_FILE = 2**31
"""What one file of protobuf, the format of ONNX, can hold in bytes."""

STANDARD_DOMAINS = frozenset(("", "ai.onnx"))
"""Both names of the domain of ONNX's own operators."""

_PAD_MODES = ("constant", "reflect", "edge")

# The parser reads none of these attributes of Resize: the compiled operator has the values given here.
_RESIZE_FIXED = {"antialias": 0, "exclude_outside": 0, "keep_aspect_ratio_policy": "stretch", "cubic_coeff_a": -0.75}
_RESIZE_REMEDY = "resize without antialias=True, or before the model"

# What to do instead of an operator that ATC has not.
_REMEDIES = {
    **dict.fromkeys(("Loop", "Scan"), "unroll the loop in Python, over a fixed number of steps"),
    **dict.fromkeys(
        ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"),
        "export the model in floating point, and quantise it with Ascend's own tools",
    ),
    **dict.fromkeys(
        ("DFT", "STFT"), "compute the transform before the model, or as a product with the matrix of the transform"
    ),
    **dict.fromkeys(("ReduceL1", "ReduceL2"), "write it as sums of absolute values or of squares"),
    "NegativeLogLikelihoodLoss": "export the model without its loss",
    "SequenceMap": "use torch.cat in place of torch.hstack, torch.vstack or torch.atleast_2d",
    "Upsample": "resize by torch.nn.functional.interpolate, which becomes Resize",
}
_OTHERWISE = "replace that layer, or export the model without it"


@dataclass(frozen=True)
class Fault:
    """A part of a model that ATC refuses, or compiles into something else.

    Attributes
    ----------
    subject
        The operator with its layer, or another part of the file, in words.
    problem
        What ATC does with it.
    remedy
        What to do instead.
    """

    subject: str
    problem: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.problem}; {self.remedy}"


def operator_names() -> frozenset[str]:
    """Names of the operators that ATC's parser takes at opset 18, as CANN's published sources register them."""
    return frozenset((files(__package__) / "atc_operators.txt").read_text(encoding="utf-8").split())


def faults_of(model: ModelProto) -> list[Fault]:
    """What ATC's parser would refuse in a model, or compile into something else.

    Parameters
    ----------
    model
        The content of an ONNX file.

    Returns
    -------
    list of Fault
        Those of the whole file first; empty if the parser takes it.
    """
    known, ranks = operator_names() | {"Constant"}, ranks_of(model)
    return [
        *_faults_of_file(model),
        *(fault for graph in graphs_of(model.graph) for fault in _faults_of_names(graph)),
        *(fault for node in nodes_of(model) for fault in _faults_of_node(node, known, ranks)),
    ]


def counted_names(graph: GraphProto) -> Counter[str]:
    """How often ATC uses each name for the parts of one graph: its inputs, its initialisers and its nodes.

    Parameters
    ----------
    graph
        The graph; the parser numbers the nodes that have no name.
    """
    initialisers = {tensor.name for tensor in graph.initializer}
    numbers = itertools.count()
    return Counter(
        [
            *(item.name for item in graph.input if item.name not in initialisers),
            *(node.name or f"{node.op_type}_{next(numbers)}" for node in graph.node),
        ]
    )


def is_name_of_initialiser(name: str, graph: GraphProto) -> bool:
    """Whether ATC may give this name, ``INITIALISER_initializer_NUMBER``, to an initialiser of the graph.

    Parameters
    ----------
    name
        Of a node or an input.
    graph
        Has the initialisers.
    """
    made = re.fullmatch(r"(.*)_initializer_\d+", name, re.IGNORECASE | re.DOTALL)
    return made is not None and any(tensor.name == made[1] for tensor in graph.initializer)


def _faults_of_file(model: ModelProto) -> Iterator[Fault]:
    versions = list(dict.fromkeys(item.version for item in model.opset_import if item.domain in STANDARD_DOMAINS))
    if len(versions) != 1 or versions[0] not in OPSETS:
        found = " and ".join(map(str, versions)) or "none"
        yield Fault(
            "the opset", f"ATC takes one version from {OPSETS[0]} to {OPSETS[-1]}, found {found}", "export at opset 18"
        )
    used = {node.domain for node in nodes_of(model)}
    for item in model.opset_import:
        if item.domain not in STANDARD_DOMAINS and item.domain not in used:
            yield Fault(f"the opset domain {quoted(item.domain)}", "ATC takes one domain, ONNX's own", "leave it out")
    if model.functions:
        names = ", ".join(quoted(function.name) for function in model.functions[:3])
        yield Fault(f"the local functions {names}", "ATC does not read functions", "export with them inlined")
    if (size := model.ByteSize()) >= LARGEST_FILE:
        yield Fault(f"the file of {size / 2**30:.1f} GiB", "one file holds 2 GiB at most", "export the model in parts")
    for given in model.graph.input:
        if set(given.name) & set(":;"):
            yield Fault(
                f"input {quoted(given.name)}",
                "ATC's option --input_shape separates inputs by ';' and sizes by ':'",
                "give the input a name without them",
            )


def _faults_of_names(graph: GraphProto) -> Iterator[Fault]:
    for name, count in counted_names(graph).items():
        if count > 1 or is_name_of_initialiser(name, graph):
            yield Fault(
                f"the name {quoted(name)}",
                "nodes, inputs and initialisers (NAME_initializer_NUMBER) share it, and ATC wants all different",
                "rename the input",
            )


def _faults_of_node(node: NodeProto, known: frozenset[str], ranks: Mapping[str, int]) -> Iterator[Fault]:
    layer = layer_of(node)
    name = node.op_type if node.domain in STANDARD_DOMAINS else f"{node.domain}::{node.op_type}"
    subject = f"{name} in layer {quoted(layer)}" if layer else f"operator {name}"
    if node.domain not in STANDARD_DOMAINS:
        yield Fault(subject, "ATC takes one opset domain, ONNX's own", _OTHERWISE)
    elif node.op_type not in known:
        yield Fault(subject, "ATC has no such operator", _REMEDIES.get(node.op_type, _OTHERWISE))
    elif rule := _RULES.get(node.op_type):
        yield from (Fault(subject, problem, remedy) for problem, remedy in rule(node, attributes_of(node), ranks))


def _constant(node: NodeProto, attributes: Mapping[str, Any], ranks: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    if "value" not in attributes:
        given = ", ".join(attributes)
        yield f"ATC reads its attribute value only, and {given} as no value at all", "register it as a buffer instead"


def _pad(node: NodeProto, attributes: Mapping[str, Any], ranks: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    mode = attributes.get("mode", "constant")
    if mode == "wrap":
        yield "ATC has no circular padding", "pad by fixed sizes, which are exported as Slice and Concat"
    elif mode not in _PAD_MODES:
        yield f"ATC has the modes {', '.join(_PAD_MODES)} only, found {quoted(mode)}", "pad in one of these"
    if len(node.input) > 3 and node.input[3]:
        yield "ATC does not read its input axes", "give the padding of every axis"


def _resize(node: NodeProto, attributes: Mapping[str, Any], ranks: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for name, only in _RESIZE_FIXED.items():
        interpolates = attributes.get("mode") == "cubic" or name != "cubic_coeff_a"
        if interpolates and (value := attributes.get(name, only)) != only:
            yield f"ATC ignores {name}={value} in silence", _RESIZE_REMEDY
    if "axes" in attributes:
        yield "ATC ignores its attribute axes in silence", "give the sizes of every axis"
    if attributes.get("mode", "nearest") == "nearest" and (rank := ranks.get(node.input[0], 4)) != 4:
        yield (
            f"ATC resizes to the nearest pixel images (N, C, H, W) only, and the input has {rank} axes",
            "resize (N, C, L) by a fixed factor, or repeat the values by repeat_interleave",
        )


def _max_pool(node: NodeProto, attributes: Mapping[str, Any], ranks: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    if len(node.output) > 1:
        yield "ATC has no indices of a maximum", "pool without return_indices=True, and upsample without max_unpool"
    if attributes.get("storage_order", 0):
        yield "ATC has storage_order=0 only", "export with that order"
    dilations = attributes.get("dilations", [])
    if len(dilations) < 3 and any(step != 1 for step in dilations):
        yield f"ATC ignores the dilation {tuple(dilations)} in silence", "pool without dilation"


_RULES = {"Constant": _constant, "Pad": _pad, "Resize": _resize, "MaxPool": _max_pool}
