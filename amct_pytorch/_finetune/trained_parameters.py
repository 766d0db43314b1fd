"""Choose the trained parameters: those of the decomposed layers in their own optimizer group, or alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from ..errors import LayerError
from ..tensor_decompose.model.layers import chains_of, check_model


def parameter_groups(model: nn.Module, **decomposed: Any) -> list[dict[str, Any]]:
    """The trainable parameters as groups for an optimizer: those of the decomposed layers, and the others.

    Parameters
    ----------
    model
        A decomposed model.
    **decomposed
        Options of the optimizer for the decomposed layers, such as ``lr=1e-3``.

    Returns
    -------
    list of dict
        ``{"name": "decomposed", "params": […], **decomposed}`` and ``{"name": "others", "params": […]}``, without empty
        groups. A tied parameter occurs once.

    Raises
    ------
    ModelError
        The model is wrapped.
    LayerError
        The model has no decomposed layer, or no trainable parameter.
    """
    new = _new_parameters(model)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"name": "decomposed", "params": [item for item in trainable if id(item) in new], **decomposed},
        {"name": "others", "params": [item for item in trainable if id(item) not in new]},
    ]
    if not trainable:
        raise LayerError("no parameter of the model requires a gradient: nothing can be trained")
    return [group for group in groups if group["params"]]


@contextlib.contextmanager
def others_frozen(model: nn.Module) -> Iterator[None]:
    """Train only the decomposed layers during a block.

    All other parameters require no gradient, and normalisation layers use their running statistics without updating
    them, whether the model is in training or eval mode. When the block ends, also by an exception, everything is
    restored. Enter the block before wrapping the model in DistributedDataParallel.

    Parameters
    ----------
    model
        A decomposed model.

    Raises
    ------
    ModelError
        The model is wrapped.
    LayerError
        The model has no decomposed layer.
    """
    new = _new_parameters(model)
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters() if id(parameter) not in new]
    with contextlib.ExitStack() as stack:
        for parameter, flag in flags:
            stack.callback(parameter.requires_grad_, flag)
            parameter.requires_grad_(False)
        for module in model.modules():
            if getattr(module, "running_mean", None) is not None:
                stack.callback(_kept_in_eval(module))
        yield


def _new_parameters(model: nn.Module) -> set[int]:
    check_model(model)
    chains = chains_of(model)
    if not chains:
        raise LayerError("no layer of the model is decomposed: decompose it first")
    return {id(parameter) for chain in chains.values() for parameter in chain.parameters()}


def _kept_in_eval(module: nn.Module) -> Callable[[], None]:
    """Run a module in eval mode, whatever its training flag says, until the returned function is called."""
    modes: list[bool] = []

    def before(module: nn.Module, args: object) -> None:
        modes.append(module.training)
        module.training = False

    def after(module: nn.Module, args: object, output: object) -> None:
        module.training = modes.pop()

    handles = [
        module.register_forward_pre_hook(before, prepend=True),
        module.register_forward_hook(after, always_call=True),
    ]

    def end() -> None:
        for handle in handles:
            handle.remove()

    return end
