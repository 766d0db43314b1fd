"""Rewrite an ONNX graph into one that computes the same by operators and names that ATC's parser takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .atc_rules import STANDARD_DOMAINS, counted_names, is_name_of_initialiser
from .onnx_graphs import attributes_of, constants_of, graphs_of, layer_of, nodes_of, ranks_of

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# The end of an axis, for Slice.
_END = int(np.iinfo(np.int64).max)


def rewritten(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """A model that computes the same by what ATC takes, as far as we know how.

    Parameters
    ----------
    model
        At opset 18; left as it is.

    Returns
    -------
    ModelProto
        A copy, in which norms are sums, circular padding is slices, values (N, C, L) are resized as images, constants
        are tensors, functions are inlined, indices that nobody reads are left out, names are all different, and opset
        domains that nobody uses are gone.
    tuple of str
        What was rewritten, by operator and layer, in words.
    """
    copied, notes = _inlined(model)
    context = _Context.of(copied)
    for graph in reversed(list(graphs_of(copied.graph))):  # what is inside a node before the node
        nodes: list[NodeProto] = []
        found: list[str] = []
        for node in graph.node:
            rewrite = _REWRITES.get(node.op_type) if node.domain in STANDARD_DOMAINS else None
            if rewrite and (made := rewrite(node, context)):
                nodes += made
                layer = layer_of(node)
                operators = ", ".join(dict.fromkeys(item.op_type for item in made if item.op_type != "Constant"))
                found.append(f"{node.op_type}{f' in {layer}' if layer else ''} as {operators or 'a tensor'}")
            else:
                nodes.append(node)
        if found:
            _replace_nodes(graph, nodes)
        notes += found
        notes += _with_different_names(graph)
    _leave_out_unread(copied, context.read)
    notes += _with_one_domain(copied)
    return copied, tuple(dict.fromkeys(notes))


@dataclass(frozen=True)
class _Context:
    """What the rewriting of a node needs to know of its model: constants, axes of values, values read, all names."""

    constants: Mapping[str, np.ndarray[Any, Any]]
    ranks: Mapping[str, int]
    read: frozenset[str]
    names: set[str]

    @classmethod
    def of(cls, model: ModelProto) -> _Context:
        names = {
            name
            for graph in graphs_of(model.graph)
            for name in (
                *(tensor.name for tensor in graph.initializer),
                *(item.name for item in graph.input),
                *(name for node in graph.node for name in (node.name, *node.output)),
            )
        }
        return cls(constants_of(model), ranks_of(model), _read(model), names)

    def free(self, name: str) -> str:
        """A name like this one that nothing has yet; taken from now on."""
        number, found = 0, name
        while found in self.names:
            number += 1
            found = f"{name}_{number}"
        self.names.add(found)
        return found


class _Chain:
    """The nodes that stand in for one node, in the same layer."""

    def __init__(self, replaced: NodeProto, context: _Context) -> None:
        self.nodes: list[NodeProto] = []
        self._replaced = replaced
        self._context = context

    def add(self, operator: str, inputs: Iterable[str], *, last: bool = False, **attributes: Any) -> str:
        """Add a node, and return the name of its output; the last node has that of the replaced one."""
        from onnx.helper import make_node

        old = self._replaced
        output = old.output[0] if last else self._context.free(f"{old.output[0]}_{operator}")
        name = self._context.free(f"{old.name or old.op_type}_{operator}")
        node = make_node(operator, list(inputs), [output], name, **attributes)
        node.metadata_props.extend(old.metadata_props)
        self.nodes.append(node)
        return output

    def constant(self, values: np.ndarray[Any, Any]) -> str:
        """Add a constant, and return its name."""
        from onnx.numpy_helper import from_array

        return self.add("Constant", [], value=from_array(values))

    def numbers(self, *values: int) -> str:
        """Add a list of whole numbers, and return its name."""
        return self.constant(np.array(values, np.int64))


def _norm_1(node: NodeProto, context: _Context) -> list[NodeProto]:
    """Σ|x|."""
    chain = _Chain(node, context)
    sizes = chain.add("Abs", node.input[:1])
    chain.add("ReduceSum", [sizes, *node.input[1:]], last=True, **attributes_of(node))
    return chain.nodes


def _norm_2(node: NodeProto, context: _Context) -> list[NodeProto]:
    """√Σx²."""
    chain = _Chain(node, context)
    squares = chain.add("Mul", [node.input[0], node.input[0]])
    total = chain.add("ReduceSum", [squares, *node.input[1:]], **attributes_of(node))
    chain.add("Sqrt", [total], last=True)
    return chain.nodes


def _circular_pad(node: NodeProto, context: _Context) -> list[NodeProto] | None:
    """The end of each axis, the axis, and its beginning, where the padding is a constant."""
    inputs = [*node.input, "", "", ""]
    pads, axes = context.constants.get(inputs[1]), context.constants.get(inputs[3])
    fixed = pads is not None and (not inputs[3] or axes is not None)
    if attributes_of(node).get("mode") != "wrap" or pads is None or not fixed or (pads < 0).any():
        return None
    chain = _Chain(node, context)
    value = inputs[0]
    padded = [
        (int(axis), int(before), int(after))
        for axis, before, after in zip(range(len(pads) // 2) if axes is None else axes, *np.split(pads, 2), strict=True)
        if before or after
    ]
    for axis, before, after in padded:
        parts = [value]
        if before:
            parts.insert(0, chain.add("Slice", [value, *map(chain.numbers, (-before, _END, axis))]))
        if after:
            parts.append(chain.add("Slice", [value, *map(chain.numbers, (0, after, axis))]))
        value = chain.add("Concat", parts, last=axis == padded[-1][0], axis=axis)
    if not padded:
        chain.add("Identity", [value], last=True)
    return chain.nodes


def _pool_without_indices(node: NodeProto, context: _Context) -> list[NodeProto] | None:
    """The maxima alone, where nobody reads their indices."""
    if len(node.output) == 1 or node.output[1] in context.read:
        return None
    chain = _Chain(node, context)
    chain.add("MaxPool", node.input, last=True, **attributes_of(node))
    return chain.nodes


def _resize_as_image(node: NodeProto, context: _Context) -> list[NodeProto] | None:
    """Values (N, C, L), resized to the nearest one as images (N, C, 1, L)."""
    inputs = [*node.input, "", "", ""]
    attributes = attributes_of(node)
    sizes = [context.constants.get(name) for name in inputs[2:4]]
    known = [(place, values) for place, values in enumerate(sizes, 2) if values is not None and values.size]
    if attributes.get("mode", "nearest") != "nearest" or context.ranks.get(inputs[0]) != 3 or len(known) != 1:
        return None
    ((place, values),) = known
    chain = _Chain(node, context)
    axis = chain.numbers(2)
    given = [chain.add("Unsqueeze", [inputs[0], axis]), "", "", ""][: place + 1]
    given[place] = chain.constant(np.insert(values, 2, 1))
    chain.add("Squeeze", [chain.add("Resize", given, **attributes), axis], last=True)
    return chain.nodes


def _constant_tensor(node: NodeProto, context: _Context) -> list[NodeProto] | None:
    """The numbers of a constant as a tensor."""
    from onnx.numpy_helper import from_array

    ((form, value),) = attributes_of(node).items()
    kinds = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
    if form not in kinds:
        return None
    chain = _Chain(node, context)
    chain.add("Constant", [], last=True, value=from_array(np.array(value, kinds[form])))
    return chain.nodes


_REWRITES = {
    "Constant": _constant_tensor,
    "MaxPool": _pool_without_indices,
    "Pad": _circular_pad,
    "ReduceL1": _norm_1,
    "ReduceL2": _norm_2,
    "Resize": _resize_as_image,
}


def _inlined(model: ModelProto) -> tuple[ModelProto, list[str]]:
    """A copy of the model with the local functions in place of their calls."""
    from onnx.inliner import inline_local_functions

    if model.functions:
        return inline_local_functions(model), [f"{len(model.functions)} local functions inlined"]
    copied = type(model)()
    copied.CopyFrom(model)
    return copied, []


def _replace_nodes(graph: GraphProto, nodes: Iterable[NodeProto]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _with_different_names(graph: GraphProto) -> list[str]:
    """Rename the nodes that have no name, or one that something else has or may get; nothing refers to these names."""
    names = counted_names(graph)
    taken, renamed = set(names), 0
    for node in graph.node:
        if node.name and names[node.name] == 1 and not is_name_of_initialiser(node.name, graph):
            continue
        renamed += 1
        number = 1
        while (name := f"{node.name or node.op_type}_node_{number}") in taken:
            number += 1
        node.name = name
        taken.add(name)
    return [f"{renamed} nodes renamed, as ATC wants all names different"] if renamed else []


def _leave_out_unread(model: ModelProto, read_before: frozenset[str]) -> None:
    """Leave out the initialisers that only replaced nodes have read."""
    read = _read(model)
    for graph in graphs_of(model.graph):
        for number in reversed(range(len(graph.initializer))):
            name = graph.initializer[number].name
            if name in read_before and name not in read:
                del graph.initializer[number]


def _with_one_domain(model: ModelProto) -> list[str]:
    """Leave out the opset domains that no node is of."""
    used = {node.domain for node in nodes_of(model)} | STANDARD_DOMAINS
    unused = [item.domain for item in model.opset_import if item.domain not in used]
    kept = [type(item).FromString(item.SerializeToString()) for item in model.opset_import if item.domain in used]
    if unused:
        del model.opset_import[:]
        model.opset_import.extend(kept)
    return [f"opset domain {domain} left out, as nothing is of it" for domain in unused]


def _read(model: ModelProto) -> frozenset[str]:
    """Names of the values that a node reads, or that are an output."""
    return frozenset(
        name
        for graph in graphs_of(model.graph)
        for name in (
            *(item.name for item in graph.output),
            *(name for node in graph.node for name in node.input),
        )
    )
