"""The loop of a fine-tuning run; one killed at any time resumes after the last epoch with the same result."""

from __future__ import annotations

import contextlib
import math
import random
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler, RandomSampler, Sampler, Subset

from amct_pytorch.finetune import Distillation, parameter_groups

from process_group import Processes, digest

# Steps between two checks of the loss: reading it waits for the device.
_CHECK_EVERY = 10

Row = dict[str, float]
"""The figures of an epoch, by column of curves.csv."""


@dataclass(frozen=True)
class Settings:
    """The settings that determine the result of a run on a given device.

    Attributes
    ----------
    epochs
        Number of passes over the training data.
    batch_size
        Samples in a batch of each process.
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
    decomposition
        Origin of layers and ranks, as text.
    """

    epochs: int
    batch_size: int
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
    decomposition: str


class Diverged(Exception):
    """A loss or a weight is not finite."""


class Trainer:
    """The work of one process of a run.

    Parameters
    ----------
    original, net
        The model before decomposition and the decomposed one, both on the device.
    train, test
        Data sets of (input, label).
    settings
        The settings of the run.
    processes
        This process, among those of the run.
    workers
        Number of processes that load data.
    show
        Whether to draw a progress bar.
    """

    def __init__(
        self,
        original: nn.Module,
        net: nn.Module,
        train: Dataset[Any],
        test: Dataset[Any],
        settings: Settings,
        processes: Processes,
        *,
        workers: int,
        show: bool,
    ) -> None:
        self.original, self.net, self.settings, self.processes = original, net, settings, processes
        self._train, self._test, self._workers, self._show = train, test, workers, show
        self.device = processes.device
        self._dtype: torch.dtype | None = getattr(torch, settings.autocast) if settings.autocast else None
        groups = parameter_groups(net)
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        # torch_npu's fused AdamW updates all parameters by one kernel, but takes no scaled gradients.
        fused = self.device.type == "npu" and self._dtype != torch.float16
        self._optimizer = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=settings.weight_decay, fused=fused)
        self._steps = len(self._loader(1))
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
        """Record row 0: accuracy of the original and of the decomposed model before training."""
        original, accuracy = self.accuracy(self.original), self.accuracy(self.net)
        self.rows = [{"epoch": 0, "accuracy": accuracy, "original": original}]

    def run(self, after_epoch: Callable[[], None]) -> None:
        """Train until the last epoch is done.

        Raises
        ------
        Diverged
            A loss or a weight is not finite; the last call of ``after_epoch`` was for the epoch before.
        """
        settings = self.settings
        with contextlib.ExitStack() as stack:
            teacher = None
            if settings.distill:
                teacher = Distillation(
                    self.original,
                    self.net,
                    temperature=settings.temperature,
                    logits=settings.logits_weight,
                    responses=settings.responses_weight,
                )
                stack.enter_context(teacher)
            while self.epoch < settings.epochs:
                begin = time.perf_counter()
                losses = self._train_epoch(self.epoch + 1, teacher)
                # Running statistics differ between the processes.
                self.processes.share_values(self.net, buffers_only=True)
                self._check_finite()
                self.processes.agree("the model's state", digest(self.net.state_dict()))
                accuracy = self.accuracy(self.net)
                self.rows.append(
                    {
                        "epoch": self.epoch + 1,
                        **losses,
                        "accuracy": accuracy,
                        "original": self.rows[0]["original"],
                        "learning_rate": float(self._schedule.get_last_lr()[0]),
                        "seconds": time.perf_counter() - begin,
                    }
                )
                after_epoch()

    def accuracy(self, model: nn.Module) -> float:
        """Percentage of the test set's labels that the model gets right, in eval mode."""
        processes, size = self.processes, len(self._test)  # type: ignore[arg-type]  # sized, as was checked
        own = Subset(self._test, range(processes.index, size, processes.count))
        modes = [(module, module.training) for module in model.modules()]
        model.eval()
        right = total = 0
        try:
            with torch.no_grad(), self._autocast():
                for inputs, labels in self._placed(DataLoader(own, self.settings.batch_size, **self._loading)):
                    hits = model(inputs).argmax(dim=1) == labels
                    right, total = right + int(hits.sum()), total + hits.numel()
        finally:
            for module, mode in modes:
                module.training = mode
        counts: list[int] = processes.sum(torch.tensor([right, total], device=self.device)).tolist()
        return 100 * counts[0] / counts[1]

    def _loader(self, epoch: int) -> DataLoader[Any]:
        """The share of the training data of this process, in the order of this epoch."""
        seed, processes = self.settings.seed, self.processes
        sampler: Sampler[int]
        if processes.count > 1:
            shards: DistributedSampler[Any] = DistributedSampler(
                self._train, processes.count, processes.index, seed=seed
            )
            shards.set_epoch(epoch)
            sampler = shards
        else:
            sampler = RandomSampler(self._train, generator=torch.Generator().manual_seed(seed + epoch))  # type: ignore[arg-type]
        return DataLoader(
            self._train,
            self.settings.batch_size,
            sampler=sampler,
            generator=torch.Generator().manual_seed(seed + epoch),
            **self._loading,
        )

    @property
    def _loading(self) -> dict[str, Any]:
        """How batches are loaded. From pinned memory a device copies while the host goes on."""
        return {"num_workers": self._workers, "pin_memory": self.device.type != "cpu"}

    def _placed(self, batches: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches on the device."""
        for inputs, labels in batches:
            yield inputs.to(self.device, non_blocking=True), labels.to(self.device, non_blocking=True)

    def _train_epoch(self, epoch: int, teacher: Distillation | None) -> Row:
        """Mean losses of one pass over the training data."""
        _seed(self.settings.seed, epoch, self.processes.index)
        self.net.train()
        names = ["loss", "task"] + ([] if teacher is None else teacher.terms)
        sums = torch.zeros(len(names) + 1, device=self.device)  # and the samples
        with _bar(self._loader(epoch), f"epoch {epoch}/{self.settings.epochs}", self._show) as batches:
            for step, (inputs, labels) in enumerate(self._placed(batches), 1):
                losses = self._step(inputs, labels, teacher)
                sums += len(inputs) * torch.cat([losses, losses.new_ones(1)])
                if step % _CHECK_EVERY == 0 or step == self._steps:
                    self._check_loss(float(sums[0] / sums[-1]), epoch, step)
        *totals, samples = self.processes.sum(sums).tolist()
        return {name: total / samples for name, total in zip(names, totals, strict=True)}

    def _step(self, inputs: Tensor, labels: Tensor, teacher: Distillation | None) -> Tensor:
        """Train on one batch; returns the loss and its terms."""
        with self._autocast():
            outputs = self._wrapped(inputs)
            task = nn.functional.cross_entropy(outputs, labels)
            loss = task if teacher is None else task + teacher.loss(outputs)
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
        parts = [] if teacher is None else [teacher.parts[name] for name in teacher.terms]
        return torch.stack([item.detach().float() for item in (loss, task, *parts)])

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast(self.device.type, dtype=self._dtype) if self._dtype else contextlib.nullcontext()

    def _check_loss(self, loss: float, epoch: int, step: int) -> None:
        if not math.isfinite(loss):
            raise Diverged(f"epoch {epoch}, step {step} of {self._steps}: the loss is {loss}: {_ADVICE}")

    def _check_finite(self) -> None:
        for name, value in self.net.state_dict().items():
            if not bool(value.isfinite().all()):
                raise Diverged(f"epoch {self.epoch + 1}: {name!r} is not finite after it: {_ADVICE}")


# What may help against a loss or weight that is not finite.
_ADVICE = "use a smaller --lr or --clip, bfloat16 in place of float16, and look for NaN in the data"


def _seed(*numbers: int) -> None:
    """Seed all random generators, so that an epoch does not depend on earlier ones."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # data sets draw from it
    torch.manual_seed(seed)


@contextlib.contextmanager
def _bar(batches: DataLoader[Any], called: str, show: bool) -> Iterator[Iterable[Any]]:
    if not show:
        yield batches
        return
    from tqdm import tqdm

    with tqdm(batches, desc=called, unit="batch", leave=False) as bar:
        yield bar
