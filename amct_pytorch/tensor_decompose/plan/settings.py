"""What a plan was made for, and by which settings, in words."""

from __future__ import annotations

from dataclasses import dataclass

from ..._run.inputs import tensors_of
from ...errors import quoted
from ..calibration.data import Calibration
from ..config import DecompositionConfig
from ..model.spec import times
from ..ranks.budget import Budget
from ..ranks.policies import RankPolicy

# Of a rank policy with a longer description, such as one with a rank for each of many layers, only the class is named.
_LONGEST_POLICY = 40


@dataclass(frozen=True)
class PlanSettings:
    """What a plan was made for, and by which settings, in words.

    Attributes
    ----------
    model
        Name of the class of the model.
    method, rule
        As in `DecompositionConfig`.
    ranks
        Where the ranks come from: "ranks by RatioRank(ratio=0.25), multiples of 16", or "budget macs=0.5, multiples of
        16".
    exceptions
        Number of rules for single layers.
    calibration
        Its mode; empty without calibration.
    inputs
        Shapes of the example inputs: "1×3×224×224"; empty without any.
    """

    model: str
    method: str
    rule: str
    ranks: str
    exceptions: int
    calibration: str
    inputs: str

    def __str__(self) -> str:
        parts = [f"method {self.method}", f"rule {self.rule}", self.ranks]
        if self.exceptions:
            parts.append(f"{self.exceptions} rule{'s' * (self.exceptions > 1)} for single layers")
        parts.append(f"calibration {self.calibration}" if self.calibration else "no calibration")
        parts.append(f"example input {self.inputs}" if self.inputs else "no example input")
        return ", ".join(parts)


def settings_of(
    model: object,
    config: DecompositionConfig,
    budget: Budget | None,
    calibration: Calibration | None,
    example_inputs: object,
) -> PlanSettings:
    """The settings of a plan in words.

    Parameters
    ----------
    model
        The model.
    config, budget, calibration, example_inputs
        As `plan_decomposition` takes them.
    """
    source = f"ranks by {_policy(config.rank)}" if budget is None else f"budget {budget}"
    return PlanSettings(
        model=type(model).__name__,
        method=config.method,
        rule=config.rule,
        ranks=f"{source}, multiples of {config.rank_multiple}",
        exceptions=len(config.layers),
        calibration="" if calibration is None else calibration.mode,
        inputs=", ".join(times(tuple(tensor.shape)) or "scalar" for tensor in tensors_of(example_inputs)),
    )


def _policy(policy: RankPolicy) -> str:
    name = type(policy).__name__
    text = quoted(policy)
    return text if text.startswith(f"{name}(") and len(text) <= _LONGEST_POLICY else name
