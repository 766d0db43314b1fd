"""Steps of gradient descent on the outputs of a model, for the parameters of what stands in for its layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from ..._run.inputs import tensors_of
from ..._run.intercept import Forward, acting
from ..._run.process_group import ProcessGroup
from ..._run.tensors import is_finite
from ...errors import InputsError

STEPS = 48
"""Number of steps, each on one batch of every process."""

# The largest step of a number, relative to the root mean square of its tensor. Adam moves all numbers alike, and larger
# steps at first undid what the fit of the layers had found (a YOLOX detector, 0.003).
_RATE = 1e-3
# The share of the steps over which they grow to that; then they shrink to nothing, so that their noise averages out.
_WARM_UP = 0.2
# Of Adam: decay rates of the mean gradient and the mean squared one, over as many steps as so few can average.
_BETAS = (0.9, 0.99)


class GradientSteps:
    """Adam on the squared error of the outputs, with steps in proportion to each tensor's own numbers.

    Attributes
    ----------
    taken, moved
        Number of steps so far, and of those that had a gradient to follow.
    problem
        Why there can be no more, in words.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], chains: Mapping[nn.Module, Forward], processes: ProcessGroup
    ) -> None:
        self.taken, self.moved, self.problem = 0, 0, ""
        self._parameters, self._chains, self._processes = parameters, chains, processes
        # In half precision a parameter would not notice a step, so it is a rounded copy of what is moved.
        self._values = [_wide(parameter.detach()).clone() for parameter in parameters]
        sizes = [float(value.square().mean().sqrt()) for value in self._values]
        self._adam = torch.optim.Adam(
            [{"params": [value], "lr": _RATE * size} for value, size in zip(self._values, sizes, strict=True)],
            betas=_BETAS,
        )
        self._schedule = torch.optim.lr_scheduler.LambdaLR(
            self._adam, lambda step: min(1.0, (step + 1) / (_WARM_UP * STEPS)) * (1 - step / STEPS)
        )

    def step(self, run: Callable[[], object]) -> None:
        """Move the parameters by one step, the same in every process.

        Parameters
        ----------
        run
            Gives the model's outputs for a batch.
        """
        self.taken += 1
        energy, gradient, problem = 0.0, None, ""
        try:
            energy, gradient = self._gradient(run)
        except (InputsError, RuntimeError) as error:  # it runs, but not with gradients, or not in this memory
            problem = f"the model gives no gradients: {error}"
        found = self._processes.gather((energy, problem))
        self.problem = next((text for _, text in found if text), "")
        total = sum(energy for energy, _ in found)
        if self.problem or not total:
            return
        if gradient is None:
            gradient = torch.zeros(sum(value.numel() for value in self._values), dtype=torch.float64, device="cpu")
        gradient = self._processes.sum(gradient) / total
        for value, part in zip(self._values, gradient.split([value.numel() for value in self._values]), strict=True):
            value.grad = part.reshape(value.shape).to(value)
        self._adam.step()
        self._schedule.step()
        self.moved += 1
        for parameter, value in zip(self._parameters, self._values, strict=True):
            parameter.copy_(value)

    def _gradient(self, run: Callable[[], object]) -> tuple[float, Tensor | None]:
        """The energy of the original's outputs, and the gradient of the squared difference from them, on the host.

        Nothing where they cannot be compared: there are others, they do not depend on the layers, or are not finite.
        """
        expected = [output.detach().clone() for output in _floating(run())]
        with torch.enable_grad(), acting(self._chains):
            found = _floating(run())
            if [one.shape for one in expected] != [one.shape for one in found]:
                return 0.0, None
            pairs = [(_wide(exact), _wide(output)) for exact, output in zip(expected, found, strict=True)]
            losses = [(output - exact).square().sum().cpu().double() for exact, output in pairs if output.requires_grad]
            if not losses:
                return 0.0, None
            loss = torch.stack(losses).sum()
            gradients = torch.autograd.grad(loss, self._parameters, allow_unused=True, materialize_grads=True)
        gradient = torch.cat([part.flatten().cpu().double() for part in gradients])
        energy = sum(float(exact.square().sum()) for exact, _ in pairs)
        return (energy, gradient) if is_finite(gradient) and math.isfinite(energy) else (0.0, None)


def _floating(outputs: object) -> list[Tensor]:
    """The floating-point tensors that a model returned, in order."""
    return [tensor for tensor in tensors_of(outputs) if tensor.is_floating_point() and not tensor.is_meta]


def _wide(values: Tensor) -> Tensor:
    """In float32, with its gradient; float64 is kept."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
