"""The loop of fine-tuning; a run killed at any time resumes after the last epoch with the same result."""

from __future__ import annotations

import contextlib
import math
import random
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .._run.inputs import call_with, read_batches
from .._run.progress import ProgressFunction
from .._run.tensors import map_tensors
from ..errors import TrainingDiverged
from .batches import FAILING, batches_of_epoch, split_batch
from .distillation import Distillation
from .processes import Processes, digest
from .trained_parameters import parameter_groups

# Steps between two checks of the loss: reading it waits for the device.
_CHECK_EVERY = 10

Row = dict[str, float]
"""The figures of an epoch, by name."""

Loss = Callable[[Any, Any], Tensor]
"""A loss by outputs and targets, a scalar."""

Score = Callable[[nn.Module], float]
"""How good a model is at its task, the higher the better."""


@dataclass(frozen=True)
class Settings:
    """The settings that determine the result of a run on a given device.

    Attributes
    ----------
    epochs
        Number of passes over the training data.
    batch_size
        Samples in a batch of each process; None if the loader does not make the batches.
    lr, weight_decay
        Of AdamW; the learning rate at the start of a cosine schedule to 0.
    clip
        Largest norm of the gradients; larger ones are scaled down.
    seed
        Of the order of the data, and of dropout.
    autocast
        Type of mixed precision, "float16" or "bfloat16"; None for full precision.
    distill
        Whether to learn from the original too.
    temperature, logits_weight, responses_weight
        Of the distillation; see `amct_pytorch.finetune.Distillation`.
    freeze_others
        Whether to train the decomposed layers only.
    processes
        Number of processes.
    data, loss
        Names of the functions that give them.
    start
        SHA-256 of the decomposed model before training.
    """

    epochs: int
    lr: float
    weight_decay: float
    clip: float
    seed: int
    autocast: str | None
    distill: bool
    temperature: float
    logits_weight: float
    responses_weight: float
    freeze_others: bool
    processes: int
    batch_size: int | None
    data: str
    loss: str
    start: str


class Trainer:
    """The work of one process of a run.

    Parameters
    ----------
    original, net
        The model before decomposition and the decomposed one, both on the device.
    loader
        Batches of the training data: (inputs, targets), or without a loss the inputs alone.
    loss
        The loss of the task; None if the model learns from the original alone.
    score
        How good a model is; None if that is not measured.
    settings
        The settings of the run.
    processes
        This process, among those of the run.
    progress
        Called after each step, with the steps done and all steps of the run.
    """

    def __init__(
        self,
        original: nn.Module,
        net: nn.Module,
        loader: DataLoader[Any],
        loss: Loss | None,
        score: Score | None,
        settings: Settings,
        processes: Processes,
        *,
        progress: ProgressFunction,
    ) -> None:
        self.original, self.net, self.settings, self.processes = original, net, settings, processes
        self._loader, self._loss, self._score, self._progress = loader, loss, score, progress
        self.device = processes.device
        self._teacher = _teacher(original, net, settings) if settings.distill else None
        self._dtype: torch.dtype | None = getattr(torch, settings.autocast) if settings.autocast else None
        groups = parameter_groups(net)
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        # torch_npu's fused AdamW updates all parameters by one kernel, but takes no scaled gradients.
        fused = self.device.type == "npu" and self._dtype != torch.float16
        self._optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
        self._steps = len(batches_of_epoch(loader, settings.seed, 1, processes))
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, settings.epochs * self._steps)
        # Gradients in half precision vanish below 6e-8: the loss is scaled up. bfloat16 has float32's range.
        self._scaler = torch.amp.GradScaler(self.device.type, enabled=self._dtype == torch.float16)
        self._wrapped = processes.wrapped(net)
        self.rows: list[Row] = []

    @property
    def epoch(self) -> int:
        """Number of completed epochs."""
        return len(self.rows) - 1

    def state(self) -> dict[str, Any]:
        """Everything besides the model that the next epochs depend on; generators are reseeded at every epoch."""
        return {
            "settings": vars(self.settings),
            "rows": self.rows,
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "scaler": self._scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        self.rows = list(state["rows"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._scaler.load_state_dict(state["scaler"])

    def begin(self) -> None:
        """Record row 0: the scores of the original and of the decomposed model before training."""
        self.rows = [{"epoch": 0, **self._scores("original", self.original), **self._scores("score", self.net)}]

    def run(self, after_epoch: Callable[[], None]) -> None:
        """Train until the last epoch is done.

        Raises
        ------
        TrainingDiverged
            A loss or a weight is not finite; the last call of ``after_epoch`` was for the epoch before.
        """
        settings = self.settings
        with contextlib.ExitStack() as stack:
            if self._teacher is not None:
                stack.enter_context(self._teacher)
            while self.epoch < settings.epochs:
                begin = time.perf_counter()
                losses = self._train_epoch(self.epoch + 1)
                # Running statistics differ between the processes.
                self.processes.share_values(self.net, buffers_only=True)
                self._check_finite()
                self.processes.agree("the model's state", digest(self.net.state_dict()))
                self.rows.append(
                    {
                        "epoch": self.epoch + 1,
                        **losses,
                        **self._scores("score", self.net),
                        "learning_rate": float(self._schedule.get_last_lr()[0]),
                        "seconds": time.perf_counter() - begin,
                    }
                )
                after_epoch()

    def _scores(self, name: str, model: nn.Module) -> Row:
        """The score of a model in eval mode, that of process 0, under a name; nothing where it is not measured."""
        if self._score is None:
            return {}
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        try:
            with torch.no_grad(), self._autocast():
                score = float(self._score(model))
        finally:
            for module, mode in modes:
                module.training = mode
        return {name: self.processes.first_of(score)}

    def _train_epoch(self, epoch: int) -> Row:
        """Mean losses of one pass over the training data."""
        _seed(self.settings.seed, epoch, self.processes.index)
        self.net.train()
        names = ["loss", *self._terms()]
        sums = torch.zeros(len(names) + 1, device=self.device)  # and the samples
        batches = batches_of_epoch(self._loader, self.settings.seed, epoch, self.processes)
        for step, batch in enumerate(read_batches(batches, FAILING), 1):
            inputs, targets, size = split_batch(batch, with_targets=self._loss is not None)
            inputs, targets = (map_tensors(self._placed, item) for item in (inputs, targets))
            losses = self._step(inputs, targets)
            sums += size * torch.cat([losses, losses.new_ones(1)])
            if step % _CHECK_EVERY == 0 or step == self._steps:
                self._check_loss(float(sums[0] / sums[-1]), epoch, step)
            done = (epoch - 1) * self._steps + step
            self._progress(done, self.settings.epochs * self._steps, f"epoch {epoch}")
        *totals, samples = self.processes.sum(sums).tolist()
        return {name: total / samples for name, total in zip(names, totals, strict=True)}

    def _terms(self) -> list[str]:
        """Names of the terms of the loss."""
        return ["task"] * (self._loss is not None) + ([] if self._teacher is None else self._teacher.terms)

    def _placed(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)

    def _step(self, inputs: Any, targets: Any) -> Tensor:
        """Train on one batch; returns the loss and its terms."""
        with self._autocast():
            outputs = call_with(self._wrapped, inputs)
            parts = [] if self._loss is None else [self._loss(outputs, targets)]
            weighted = parts if self._teacher is None else [*parts, self._teacher.loss(outputs)]
            loss = torch.stack(weighted).sum()
        self._optimizer.zero_grad()
        self._scaler.scale(loss).backward()
        self._scaler.unscale_(self._optimizer)
        nn.utils.clip_grad_norm_(self._parameters, self.settings.clip)
        self._scaler.step(self._optimizer)
        self._scaler.update()
        with warnings.catch_warnings():
            # The scaler skips steps whose gradients overflow, about which the schedule warns.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            self._schedule.step()
        parts += [] if self._teacher is None else [self._teacher.parts[name] for name in self._teacher.terms]
        return torch.stack([item.detach().float() for item in (loss, *parts)])

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=self._dtype) if self._dtype else contextlib.nullcontext()

    def _check_loss(self, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            raise TrainingDiverged(f"epoch {epoch}, step {step} of {self._steps}: the loss is {loss}: {_ADVICE}")

    def _check_finite(self) -> None:
        for name, value in self.net.state_dict().items():
            if not bool(value.isfinite().all()):
                raise TrainingDiverged(f"epoch {self.epoch + 1}: {name!r} is not finite after it: {_ADVICE}")


# What may help against a loss or weight that is not finite.
_ADVICE = "use a smaller learning rate or bound of gradients, bfloat16 instead of float16, and look for NaN in the data"


def _logits_of(outputs: Any) -> Any:
    """The logits: the outputs, or those among the outputs of a model of transformers."""
    return getattr(outputs, "logits", outputs)


def _seed(*numbers: int) -> None:
    """Seed all random generators, so that an epoch does not depend on earlier ones."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # data sets draw from it
    torch.manual_seed(seed)


def _teacher(original: nn.Module, net: nn.Module, settings: Settings) -> Distillation:
    return Distillation(
        original,
        net,
        temperature=settings.temperature,
        logits=settings.logits_weight,
        responses=settings.responses_weight,
        logits_of=_logits_of,
    )
