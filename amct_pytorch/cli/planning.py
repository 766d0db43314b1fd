"""Planning, as several verbs need it."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn

from .._run.placement import backend_of
from .._storage.records import to_plain
from ..errors import ConfigError
from ..tensor_decompose import DecompositionPlan, plan_decomposition
from .calibration_source import calibration_of
from .options import (
    BudgetOptions,
    CalibrationOptions,
    GeneralOptions,
    MethodOptions,
    RankOptions,
    RefreshOptions,
    TimingOptions,
)
from .progress import progress_bar
from .settings import budget_of, config_of

# Fields of a layer's plan that are tensors, or of use for them alone.
_FACTORS = ("factors", "bias", "fingerprint")


def planned(
    model: nn.Module,
    inputs: Any,
    method: MethodOptions,
    rank: RankOptions,
    share: BudgetOptions,
    timing: TimingOptions,
    refresh: RefreshOptions,
    calibration: CalibrationOptions,
    general: GeneralOptions,
) -> DecompositionPlan:
    """The plan that options ask for; see `plan_decomposition`.

    Parameters
    ----------
    model, inputs
        The model, and inputs for it; None for none.
    method, rank, share, timing, refresh, calibration, general
        The options.
    """
    if inputs is None and (share.macs is not None or share.latency is not None):
        what = "MACs are counted" if share.macs is not None else "the model is timed"
        raise ConfigError(f"--input is missing: give inputs on which {what}, such as 1x3x224x224")
    budget = budget_of(share, timing, refresh)
    of_device = (
        None if budget is None or budget.latency is None else rank_multiple_for(model, budget.backend, budget.dtype)
    )
    config = config_of(method, rank, chosen_together=budget is not None, rank_multiple=of_device)
    batches = calibration_of(calibration, inputs)
    with progress_bar("decompose", general) as progress:
        return plan_decomposition(
            model, config, budget=budget, calibration=batches, example_inputs=inputs, progress=progress
        )


def summary(plan: DecompositionPlan) -> dict[str, Any]:
    """A plan without its factors, as plain data for ``--json``.

    Parameters
    ----------
    plan
        The plan.
    """
    layers = [to_plain(layer, leave_out=_FACTORS) for layer in plan.layers]
    whole = to_plain(plan, leave_out=("layers",))
    return {"format": "amct_pytorch.plan_summary", "version": 1, **whole, "layers": layers}


def rank_multiple_for(model: nn.Module, backend: Any, dtype: torch.dtype | None) -> int:
    """Of what the ranks are to be multiples where the model is to be fast on a device.

    Parameters
    ----------
    model
        The model.
    backend, dtype
        See `Budget`: None for the device that the model lies on, and for the type of its weights.
    """
    tensors = [tensor for tensor in itertools.chain(model.parameters(), model.buffers()) if tensor.is_floating_point()]
    lies = tensors[0].device.type if tensors else "cpu"
    of_model = tensors[0].dtype if tensors else torch.float32
    return backend_of(lies if backend is None else backend).rank_multiple(of_model if dtype is None else dtype)
