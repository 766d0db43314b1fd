"""Reading and naming in ONNX graphs: layers, constants, names that are free."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

# Where torch.export notes the modules around an operator, outermost first, and then the operator itself.
_SCOPES = "pkg.torch.onnx.name_scopes"


def graphs_of(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph, and all graphs inside its nodes, such as the branches of an If.

    Parameters
    ----------
    graph
        The graph of a model.
    """
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node or inner.output:
                    yield from graphs_of(inner)


def nodes_of(model: ModelProto) -> Iterator[NodeProto]:
    """All nodes of a model, those inside other nodes too.

    Parameters
    ----------
    model
        The model.
    """
    for graph in graphs_of(model.graph):
        yield from graph.node


def layer_of(node: NodeProto) -> str | None:
    """Name of the layer of the PyTorch model that a node came from; None if that is not known, or the model itself.

    Parameters
    ----------
    node
        Made by one of torch's exporters. torch.export notes the layer in the node's metadata. TorchScript has it in the
        node's name, ``/model/LAYER/…/OPERATOR``, where the children of a Sequential have its name in theirs.
    """
    for entry in node.metadata_props:
        if entry.key == _SCOPES:
            scopes: list[str] = ast.literal_eval(entry.value)
            return (scopes[-2] if len(scopes) > 1 else "") or None
    if not node.name.startswith("/model/"):
        return None
    layers = ["model"]
    for name in node.name.split("/")[2:-1]:
        if name.startswith(f"{layers[-1]}."):
            layers[-1] = name
        else:
            layers.append(name)
    return ".".join(layers).removeprefix("model").removeprefix(".") or None


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """The attributes of a node by name; strings as str.

    Parameters
    ----------
    node
        Any.
    """
    from onnx.helper import get_attribute_value

    values = {item.name: get_attribute_value(item) for item in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def constants_of(model: ModelProto) -> dict[str, np.ndarray[Any, Any]]:
    """The small constants of a model by name: sizes, axes and the like, from initialisers and Constant nodes.

    Parameters
    ----------
    model
        The model; its values have different names in all of its graphs, as ONNX demands.
    """
    from onnx.numpy_helper import to_array

    tensors = [tensor for graph in graphs_of(model.graph) for tensor in graph.initializer]
    found = {tensor.name: tensor for tensor in tensors}
    for node in nodes_of(model):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = node.attribute[0].t
    return {name: to_array(tensor) for name, tensor in found.items() if len(tensor.dims) < 2}


def ranks_of(model: ModelProto) -> dict[str, int]:
    """The number of axes of each value, by its name, where the file says it.

    Parameters
    ----------
    model
        The model.
    """
    infos = (info for graph in graphs_of(model.graph) for info in (*graph.input, *graph.value_info, *graph.output))
    types = {info.name: info.type.tensor_type for info in infos}
    return {name: len(kind.shape.dim) for name, kind in types.items() if kind.HasField("shape")}
