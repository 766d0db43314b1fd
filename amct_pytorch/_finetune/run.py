"""A fine-tuning run: from a decomposed model, or from where an interrupted run came to, to the last epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from .._report.units import name_of
from .._run.inputs import read_batches
from .._run.progress import ProgressFunction, reporting
from ..backend import Backend
from ..checkpoint import has_checkpoint, load_decomposed, load_training_state, save_decomposed
from ..errors import CheckpointError, ConfigError, TrainingDiverged, shown
from .batches import FAILING, split_batch
from .curves import write_csv
from .processes import Processes, digest
from .trained_parameters import others_frozen
from .training import Loss, Row, Score, Settings, Trainer

CHECKPOINT, CURVES = "checkpoint", "curves.csv"
"""What a run writes to its folder after every epoch."""


def fine_tune(
    original: nn.Module,
    net: nn.Module,
    loader: DataLoader[Any],
    folder: Path,
    settings: Settings,
    processes: Processes,
    *,
    loss: Loss | None,
    score: Score | None,
    after_epoch: Callable[[Row], object],
    progress: bool | ProgressFunction = False,
    anew: bool = False,
) -> tuple[nn.Module, list[Row]]:
    """Train a decomposed model, and write a checkpoint and the figures so far after every epoch.

    A run that was interrupted goes on after its last complete epoch. On a CPU it ends with the same weights as one that
    was not, bit for bit, if the order of the loader is torch's own.

    Parameters
    ----------
    original, net
        The model before decomposition, and the decomposed one, which is trained; both on the device of this process.
    loader
        Batches (inputs, targets) of the training data, or without a loss the inputs alone.
    folder
        Where to write; what an interrupted run left there is continued.
    settings
        The settings that determine the result.
    processes
        This process, among those of the run.
    loss
        By outputs and targets; None if the model learns from the original alone.
    score
        How good a model is at its task; None if that is not measured.
    after_epoch
        Called with the figures of each epoch in the first process; also with those before training.
    progress
        True draws a bar; a function is called with (steps done, all steps, "epoch 3").
    anew
        Whether to begin anew where an interrupted run could be continued.

    Returns
    -------
    model : torch.nn.Module
        The trained model.
    rows : list of dict
        The figures before training, and of every epoch.

    Raises
    ------
    CheckpointError
        What the folder holds is damaged, or of a run with other settings.
    TrainingDiverged
        A loss or a weight is not finite; the folder has the last good epoch.
    DeviceError
        The processes have different models, or one was lost.
    """
    if loss is None and not settings.distill:
        raise ConfigError("there is nothing to learn from: give a loss, or have the model learn from the original")
    # What is wrong with all batches shows before any work.
    split_batch(next(read_batches(loader, FAILING)), with_targets=loss is not None)
    place = folder / CHECKPOINT
    state: dict[str, Any] = {}
    if has_checkpoint(place) and not anew:
        state = load_training_state(place)
        _check_settings(state["settings"], settings, place)
        net, _ = load_decomposed(net, place)
    # Before any process writes, and before any waits for gradients that the others do not have.
    processes.agree("the decomposed model", (len(state.get("rows", ())), digest(net.state_dict())))
    with contextlib.ExitStack() as stack:
        if settings.freeze_others:
            stack.enter_context(others_frozen(net))
        report = stack.enter_context(reporting(progress if processes.leads else False, "fine-tune"))
        trainer = Trainer(original, net, loader, loss, score, settings, processes, progress=report)

        def keep() -> None:
            if processes.leads:
                save_decomposed(net, place, training_state=trainer.state())
                write_csv(trainer.rows, folder / CURVES)
                after_epoch(trainer.rows[-1])

        if state:
            trainer.load_state(state)
        else:
            trainer.begin()
            keep()
        try:
            trainer.run(keep)
        except TrainingDiverged as error:
            raise TrainingDiverged(f"{error}; {shown(place)} holds epoch {trainer.epoch}") from error
        if processes.leads:
            write_csv(trainer.rows, folder / CURVES)
    return net, trainer.rows


def placed(model: nn.Module, backend: Backend, processes: Processes) -> nn.Module:
    """A model on the device of this process, in a memory format that suits it, with the values of process 0.

    Parameters
    ----------
    model
        The model; it is moved.
    backend
        Of the device.
    processes
        This process.
    """
    if not backend.channels_last:
        model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # documented, not typed
    model.to(processes.device)
    processes.share_values(model)
    return model


def check_autocast(autocast: str | None, backend: Backend, device: torch.device) -> None:
    """Check that a device computes in the type of mixed precision, and that overflow can be seen there.

    Parameters
    ----------
    autocast
        "float16" or "bfloat16"; None for full precision.
    backend, device
        The device.

    Raises
    ------
    ConfigError
        It does not, or it cannot.
    """
    if autocast is None:
        return
    info = backend.devices()[device.index or 0]
    if autocast not in ("float16", "bfloat16"):
        raise ConfigError(f"autocast: expected float16 or bfloat16, found {autocast!r}")
    if getattr(torch, autocast) not in info.dtypes:
        known = ", ".join(map(name_of, info.dtypes))
        raise ConfigError(f"autocast={autocast}: {info.name} computes in {known}: choose among these")
    if autocast == "float16" and backend.saturates(device):
        raise ConfigError(
            f"mixed precision in float16: {info.name} is in saturation mode, in which overflow is not infinite, so "
            "scaled gradients would be wrong unseen: unset INF_NAN_MODE_FORCE_DISABLE, or give bfloat16"
        )


def _check_settings(found: dict[str, Any], expected: Settings, place: Path) -> None:
    asked = vars(expected)
    other = [f"{key}: {found.get(key)!r}, not {value!r}" for key, value in asked.items() if found.get(key) != value]
    if other:
        raise CheckpointError(
            f"{shown(place)} is of a run with other settings ({'; '.join(other)}): go on with those that it was begun "
            "with, begin anew, or write to another folder"
        )
