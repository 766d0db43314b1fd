"""The factors of all layers moved together, so that the outputs of the network come closer to the original's.

Layers that were fitted one by one each answer as the original did, whatever that matters to the outputs. A few steps of
gradient descent on the outputs themselves weigh their errors and set them off against each other. The steps are small
and few, as inputs are; what they come to is kept only if it serves inputs that neither they nor the layers were
fitted to.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn

from ..._run.intercept import Forward
from ..._run.process_group import ProcessGroup
from ..._run.progress import ProgressFunction
from ...errors import warn_user
from ..methods.linalg import exact_matmul
from ..methods.weight_group import Factors, WeightGroup
from .evaluation import Candidates, judge
from .gradient_steps import STEPS, GradientSteps
from .layer_fit import Fitted
from .runs import Runs
from .trial_chains import chains_for


def refine(
    runs: Runs,
    groups: Sequence[WeightGroup],
    fitted: Mapping[int, Fitted],
    report: ProgressFunction,
    processes: ProcessGroup,
) -> dict[int, Fitted]:
    """The factors and corrected biases after some gradient steps, if the outputs on batches held out are better.

    Parameters
    ----------
    runs
        Of the model, which stays as it is.
    groups
        All weight groups of the model.
    fitted
        By number of the group.
    report
        Called with (done, total, text) for steps.
    processes
        Those whose batches count, each with its own; the steps are the same in all.

    Returns
    -------
    dict
        By number of the group; those given where nothing is gained, with the reason.
    """
    moving = {index: _Moving.of(groups[index], one) for index, one in fitted.items() if one.fit.samples}
    if not moving:
        return dict(fitted)
    if not all(processes.gather(bool(runs.held_out))):
        return _unrefined(fitted, "no batch was held out to judge it by: give two at least")
    chains: dict[nn.Module, Forward] = {}
    for index, one in fitted.items():
        chains |= moving[index].chains if index in moving else chains_for(groups[index], one.factors, one.biases)
    steps = GradientSteps([parameter for one in moving.values() for parameter in one.parameters], chains, processes)

    def goes_on(_: int) -> bool:
        report(len(fitted), len(fitted), f"refining, step {steps.taken} of {STEPS}")
        return steps.taken < STEPS and not steps.problem

    while goes_on(0):
        runs.fitting_pass(goes_on, steps.step)
    if steps.problem or not steps.moved:
        return _unrefined(fitted, steps.problem or "the outputs give no gradients for the layers")
    refined = {**fitted, **processes.from_first(lambda: {index: one.fitted() for index, one in moving.items()})}
    # With what was there before in the place of the plain splits.
    compared = [
        Candidates(
            groups[index].spec,
            chains_for(groups[index], refined[index].factors, refined[index].biases),
            chains_for(groups[index], one.factors, one.biases),
        )
        for index, one in fitted.items()
    ]
    outcome, _ = judge(runs, compared, processes)
    before, after = outcome.plain_output_error, outcome.output_error
    if before is None or after is None:
        return _unrefined(fitted, "the outputs cannot be compared")
    figures = f"output error {before:.3g} before, {after:.3g} after refining"
    if not after < before:
        return {index: _noted(one, f"not kept: {figures}") for index, one in fitted.items()}
    return {index: _noted(one, figures, "refine") for index, one in refined.items()}


@dataclass(frozen=True)
class _Moving:
    """What the steps move in one group, as parameters of the chains, which share it as the layers do.

    Attributes
    ----------
    group, start
        The group, and what was fitted to it.
    chains
        By layer.
    weights, biases
        Of each stage, and of each layer; None for a bias that stays as it is.
    """

    group: WeightGroup
    start: Fitted
    chains: Mapping[nn.Module, Forward]
    weights: tuple[nn.Parameter, ...]
    biases: tuple[nn.Parameter | None, ...]

    @classmethod
    def of(cls, group: WeightGroup, start: Fitted) -> _Moving:
        chains = chains_for(group, start.factors, start.biases)
        weights = tuple(cast(nn.Parameter, stage.weight) for stage in next(iter(chains.values())))
        shared: dict[int, nn.Parameter] = {}
        for chain, bias in zip(chains.values(), start.biases, strict=True):
            for stage, weight in zip(chain, weights, strict=True):
                stage.weight = weight
            if bias is not None:
                chain[-1].bias = shared.setdefault(id(bias), cast(nn.Parameter, chain[-1].bias))
        for parameter in (*weights, *shared.values()):
            parameter.requires_grad_(True)
        biases = tuple(None if bias is None else shared[id(bias)] for bias in start.biases)
        return cls(group, start, chains, weights, biases)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(dict.fromkeys((*self.weights, *(bias for bias in self.biases if bias is not None))))

    def fitted(self) -> Fitted:
        """The values that they have now."""
        start = self.start
        weights = [weight.detach().cpu().double() for weight in self.weights]
        with exact_matmul():
            error = self.group.factors_of(start.factors.ranks, weights).error
        precision = start.factors.weights[0].dtype
        factors = Factors(start.factors.ranks, tuple(weight.to(precision) for weight in weights), error)
        now = {
            id(old): new.detach().to("cpu", old.dtype, copy=True)
            for old, new in zip(start.biases, self.biases, strict=True)
            if old is not None and new is not None
        }
        biases = tuple(None if bias is None else now[id(bias)] for bias in start.biases)
        return dataclasses.replace(start, factors=factors, biases=biases)


def _noted(fitted: Fitted, note: str, mode: str | None = None) -> Fitted:
    """The same with a note on refining, behind that on why the layer was not fitted as the mode asks, if there is."""
    fit = fitted.fit
    if not fit.samples:
        return fitted
    mode = mode if mode is not None and fit.mode == "reconstruct" else fit.mode
    return dataclasses.replace(
        fitted, fit=dataclasses.replace(fit, mode=mode, note="; ".join(filter(None, (fit.note, note))))
    )


def _unrefined(fitted: Mapping[int, Fitted], why: str) -> dict[int, Fitted]:
    """Those given, with a warning that says why."""
    warn_user(f"mode='refine' comes to no more than 'reconstruct': {why}")
    return {index: _noted(one, f"not refined: {why}") for index, one in fitted.items()}
