"""The score of a plan: it is applied to a copy of the model, which the user's function evaluates."""

from __future__ import annotations

import copy
import itertools
import math
import numbers
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ..._run.isolation import untouched_generators
from ..._run.tensors import checksum
from ...errors import ConfigError, ConfigTypeError, InputsError, ModelError, quoted, shown
from ..plan.layer_plan import LayerPlan
from ..plan.plan import DecompositionPlan

Evaluate = Callable[[nn.Module], object]
"""The user's function: it returns a number, the higher the better."""


def score_of(model: nn.Module, evaluate: Evaluate, plan: DecompositionPlan | None, called: str) -> float:
    """What the user's function returns for a copy of a model, decomposed and in eval mode.

    The random generators are in the same state before each call, so that random crops are the same for all.

    Parameters
    ----------
    model
        The original; not changed.
    evaluate
        The function.
    plan
        What to apply to the copy; None for nothing.
    called
        What the copy is called in messages: "the model at macs=0.5".

    Raises
    ------
    ModelError
        The model cannot be copied.
    InputsError
        The function raises an exception.
    ConfigTypeError, ConfigError
        It returns no number, or one that is not finite.
    """
    try:
        duplicate = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"the model cannot be copied ({type(error).__name__}: {shown(error)}), and plans are tried on copies: "
            "copy.deepcopy(model) must work"
        ) from error
    candidate = (duplicate if plan is None else plan.apply(duplicate)[0]).eval()
    devices = [tensor.device for tensor in itertools.chain(model.parameters(), model.buffers())]
    with untouched_generators(devices), torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            found = evaluate(candidate)
        except Exception as error:
            raise InputsError(
                f"evaluate fails on {called}: {type(error).__name__}: {shown(error)}: fix it and search again"
            ) from error
    return _checked(found, called)


def mark_of(layers: Sequence[LayerPlan]) -> str:
    """What is the same for the layers of two plans if they turn a model into the same one, to the last bit."""
    decomposed = [layer for layer in layers if layer.decompose]
    biases = [layer.bias for layer in decomposed if layer.bias is not None]
    values = checksum([*(factor for layer in decomposed for factor in layer.factors), *biases])
    splits = [(layer.names, layer.method, layer.ranks, layer.bias is not None) for layer in decomposed]
    return f"{zlib.crc32(repr(splits).encode(), values):08x}"


def _checked(found: object, called: str) -> float:
    """A score as a number."""
    if isinstance(found, Tensor | np.ndarray) and len(found.reshape(-1)) == 1:
        found = found.item()
    if not isinstance(found, numbers.Real) or isinstance(found, bool):
        raise ConfigTypeError(
            f"evaluate must return a number, found {quoted(found)} ({type(found).__name__}) for {called}: "
            "return the score, the higher the better"
        )
    try:
        score = float(found)
    except OverflowError:
        score = math.inf
    if not math.isfinite(score):
        raise ConfigError(
            f"evaluate must return a finite number, found {quoted(found)} for {called}: return the worst score that is "
            "possible where a model gives no usable outputs"
        )
    return score
