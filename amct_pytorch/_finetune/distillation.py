"""Distillation: a decomposed model learns from the original."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from .._measure.pairing import Pair, pairs_of
from .._run.arguments import setting_error
from ..errors import ConfigError, InputsError, LayerError, quoted

if TYPE_CHECKING:
    from typing_extensions import Self  # in typing from Python 3.11 on


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Kullback-Leibler divergence between softened class probabilities, times the temperature squared.

    The square keeps its gradients at the scale of those of a loss on hard labels (Hinton, Vinyals and Dean,
    "Distilling the Knowledge in a Neural Network", 2015).

    Parameters
    ----------
    student, teacher
        Logits of shape (N, C) or (N, C, …), of the same shape.
    temperature
        Logits are divided by it; above 0.

    Returns
    -------
    Tensor
        A float32 scalar: the sum over the C classes, averaged over all other axes.
    """
    soft = functional.log_softmax(teacher.float() / temperature, dim=1)
    divergence = functional.kl_div(
        functional.log_softmax(student.float() / temperature, dim=1), soft, reduction="none", log_target=True
    )
    return divergence.sum(dim=1).mean() * temperature**2


def response_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Relative squared error ‖student − teacher‖² / ‖teacher‖² of a layer's response, independent of the layer's scale.

    This is the hint loss of Romero et al., "FitNets: Hints for Thin Deep Nets", 2015, without their regressor, as both
    responses have the same shape.

    Parameters
    ----------
    student, teacher
        Responses of the same shape, the teacher's without gradients.

    Returns
    -------
    Tensor
        A float32 scalar. For a teacher's response of zeros the error is absolute.
    """
    teacher = teacher.float()
    energy = teacher.square().sum()
    # A response of zeros has no relative error.
    return (student.float() - teacher).square().sum() / torch.where(energy > 0, energy, 1)


class Distillation:
    """Let a decomposed model learn from the original.

    In a training loop:

        with Distillation(original, net) as distillation:
            for images, labels in loader:
                outputs = net(images)
                loss = criterion(outputs, labels) + distillation.loss(outputs)

    Within the block, each forward pass of the decomposed model that records gradients first runs the original on the
    same inputs: in eval mode, without gradients, under the same autocast. When the block ends, also by an exception,
    the hooks of both models are removed and the original's training flags restored. With DistributedDataParallel, pass
    its ``module`` here and call the wrapper. `torch.compile` and activation checkpointing are not supported.

    Parameters
    ----------
    original
        The model before decomposition, a separate copy on the same device.
    decomposed
        The model to train.
    temperature
        Temperature of `distillation_loss`, above 0.
    logits
        Weight of `distillation_loss` between the outputs, 0 or more.
    responses
        Weight of the mean `response_loss` over the calls of all decomposed layers, 0 or more.
    logits_of
        Maps the models' outputs to logits (N, C, …); by default the outputs are the logits.

    Raises
    ------
    ModelError, LayerError
        The two are not a model and its decomposed form. In a forward pass, `LayerError` if a decomposed layer runs more
        often than the original layer, or their responses differ in shape.
    ConfigError
        A weight or the temperature is out of range, or both weights are 0; on entering the block, the two models are
        on different devices. `ConfigTypeError` if a weight or the temperature is not a number.
    """

    def __init__(
        self,
        original: nn.Module,
        decomposed: nn.Module,
        *,
        temperature: float = 4.0,
        logits: float = 1.0,
        responses: float = 1.0,
        logits_of: Callable[[Any], Tensor] | None = None,
    ) -> None:
        for name, value in (("temperature", temperature), ("logits", logits), ("responses", responses)):
            is_number = isinstance(value, int | float)
            if not is_number or not 0 <= value < float("inf"):
                raise setting_error(
                    f"{name} must be a number from 0 on, found {quoted(value)}", of_right_type=is_number
                )
        if not temperature:
            raise ConfigError("temperature must be above 0, found 0")
        if not logits and not responses:
            raise ConfigError("logits=… and responses=… are both 0: give at least one of them a weight")
        self._pairs = pairs_of(original, decomposed)
        self._original, self._decomposed = original, decomposed
        self._temperature, self._logits, self._responses = temperature, logits, responses
        self._logits_of = logits_of or (lambda outputs: outputs)
        self._cleanup = contextlib.ExitStack()
        self._targets: dict[str, list[Tensor]] = {}
        self._losses: list[Tensor] = []
        self._outputs: Any = None
        self._ran = False
        self.parts: dict[str, Tensor] = {}
        """The unweighted terms of the last loss by name: "logits", "responses"."""

    @property
    def terms(self) -> list[str]:
        """Names of the terms of the loss: "logits", "responses", or one of them if the other has weight 0."""
        return [name for name, weight in (("logits", self._logits), ("responses", self._responses)) if weight]

    def __enter__(self) -> Self:
        devices = [{tensor.device for tensor in model.parameters()} for model in (self._original, self._decomposed)]
        if devices[0] != devices[1]:
            where = [", ".join(sorted(map(str, found))) for found in devices]
            raise ConfigError(f"the original is on {where[0]}, the decomposed model on {where[1]}: move one of them")
        with contextlib.ExitStack() as stack:
            stack.callback(self._forget)
            modes = [(module, module.training) for module in self._original.modules()]
            stack.callback(_set_modes, modes)
            _set_modes([(module, False) for module, _ in modes])
            hook = self._decomposed.register_forward_pre_hook(self._run_original, prepend=True, with_kwargs=True)
            stack.callback(hook.remove)
            if self._responses:
                for pair in self._pairs:
                    # Before the user's own hooks, which may change a response.
                    for layer, see in ((pair.original, self._see_original), (pair.decomposed, self._see_decomposed)):
                        handle = layer.register_forward_hook(see(pair), prepend=True)
                        stack.callback(handle.remove)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._cleanup.close()

    def loss(self, outputs: Any) -> Tensor:
        """The weighted loss of the last forward pass, a scalar with gradients.

        Parameters
        ----------
        outputs
            The outputs of the decomposed model in this forward pass.

        Raises
        ------
        InputsError
            No forward pass has recorded gradients since the last call, or the outputs are not logits (N, C, …).
        LayerError
            A decomposed layer ran less often than the original layer, or no decomposed layer ran.
        """
        if not self._ran:
            raise InputsError(
                "there was no forward pass of the decomposed model to learn from: within the block of this "
                "Distillation, call the model with gradients enabled, then loss(outputs) once"
            )
        self.parts = {}
        total = torch.zeros((), device=next(self._decomposed.parameters()).device)
        try:
            if self._logits:
                student, teacher = (self._checked_logits(item) for item in (outputs, self._outputs))
                self.parts["logits"] = distillation_loss(student, teacher, self._temperature)
                total = total + self._logits * self.parts["logits"]
            if self._responses:
                self._check_all_compared()
                self.parts["responses"] = torch.stack(self._losses).mean()
                total = total + self._responses * self.parts["responses"]
        finally:
            self._forget()
        return total

    def _run_original(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._forget()
        if not torch.is_grad_enabled():
            return
        self._targets = defaultdict(list)
        with torch.no_grad():
            self._outputs = self._original(*args, **kwargs)
        self._ran = True

    def _see_original(self, pair: Pair) -> Callable[..., None]:
        def see(layer: nn.Module, args: object, response: Tensor) -> None:
            # A copy, as the next activation may work in place.
            self._targets[pair.name].append(response.detach().clone())

        return see

    def _see_decomposed(self, pair: Pair) -> Callable[..., None]:
        def see(layer: nn.Module, args: object, response: Tensor) -> None:
            if not self._ran:
                return
            if not self._targets[pair.name]:
                raise LayerError(
                    f"layer {quoted(pair.name)}: runs more often in the decomposed model than in the original"
                )
            target = self._targets[pair.name].pop(0)
            if target.shape != response.shape:
                raise LayerError(
                    f"layer {quoted(pair.name)}: expected a response {tuple(target.shape)} as the original gives, "
                    "found "
                    f"{tuple(response.shape)}: the two models do not treat the inputs alike"
                )
            self._losses.append(response_loss(response, target))

        return see

    def _check_all_compared(self) -> None:
        left = [name for name, targets in self._targets.items() if targets]
        if left:
            raise LayerError(f"layer {quoted(left[0])}: runs less often in the decomposed model than in the original")
        if not self._losses:
            raise LayerError("no decomposed layer ran in the forward pass: give responses=0")

    def _checked_logits(self, outputs: Any) -> Tensor:
        logits = self._logits_of(outputs)
        if not isinstance(logits, Tensor) or logits.dim() < 2:
            found = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise InputsError(f"expected logits (N, C, …) of a model, found {found}: give logits_of=…, or logits=0")
        return logits

    def _forget(self) -> None:
        """Drop the responses, and with them the graph that they hold."""
        self._targets, self._losses, self._outputs, self._ran = {}, [], None, False


def _set_modes(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        cast(Any, module).training = mode
