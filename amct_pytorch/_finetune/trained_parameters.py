"""Which parameters are trained, and how: those of the decomposed layers apart from the others, or alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from ..errors import LayerError
from ..tensor_decompose.model.layers import chains_of, check_model


def parameter_groups(model: nn.Module, **decomposed: Any) -> list[dict[str, Any]]:
    """Trainable parameters for an optimizer, those of the decomposed layers in a group of their own.

    Parameters
    ----------
    model
        A decomposed model.
    **decomposed
        Options of the optimizer for the decomposed layers: ``lr=1e-3``.

    Returns
    -------
    list of dict
        ``{"name": "decomposed", "params": […], **decomposed}`` and ``{"name": "others", "params": […]}``, each only
        where it is not empty. A tied parameter is in one of them once.

    Raises
    ------
    ModelError, LayerError
        The model is wrapped, or nothing in it is decomposed or trainable.
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

    Every other parameter requires no gradient, and normalisation layers use and keep their running statistics,
    whatever mode the model is put into. All is as before when the block ends, by an exception too. Enter it before
    the model is wrapped in DistributedDataParallel.

    Raises
    ------
    ModelError, LayerError
        The model is wrapped, or nothing in it is decomposed.
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
    """Run a module in eval mode from now on, its flag otherwise as the user sets it. Returns what ends that."""
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
