"""`amct-decompose finetune`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from .options import (
    DecomposedOptions,
    GeneralOptions,
    ModelOptions,
    OutputOptions,
    ScoreOptions,
    option,
    seldom,
)
from .result import Result

if TYPE_CHECKING:
    from torch import nn

    from .._finetune.training import Row

_TRAINING, _DEVICE = "Training", "Device"
_PICTURE = "curves.png"
_NO_LOSS = "none"

# Those options that are fields of `Settings`.
_SETTINGS: tuple[str, ...] = (
    *("data", "loss", "distill", "epochs", "lr", "freeze_others", "seed", "weight_decay", "clip", "temperature"),
    *("logits_weight", "responses_weight"),
)


@dataclass(frozen=True)
class TrainingOptions:
    """How the model is trained."""

    data: Annotated[
        str, option(_TRAINING, "module:function that returns a DataLoader of (inputs, targets).", "FUNCTION")
    ]
    loss: Annotated[
        str, option(_TRAINING, "module:function of outputs and targets, or none (default cross_entropy).", "FUNCTION")
    ] = "torch.nn.functional:cross_entropy"
    distill: Annotated[bool, option(_TRAINING, "Learn from the original model too.", None, "--distill")] = False
    epochs: Annotated[int, option(_TRAINING, "Passes over the data (default 5).", "N")] = 5
    lr: Annotated[float, option(_TRAINING, "Of AdamW at first, cosine to 0 (default 5e-4).", "RATE")] = 5e-4
    freeze_others: Annotated[bool, option(_TRAINING, "Train the decomposed layers alone.", None, "--freeze-others")] = (
        False
    )
    seed: Annotated[int, seldom(_TRAINING, "Of the order of the data, and of dropout (default 0).", "N")] = 0
    weight_decay: Annotated[float, seldom(_TRAINING, "Of AdamW (default 0.01).", "RATE")] = 1e-2
    clip: Annotated[float, seldom(_TRAINING, "Largest norm of the gradients (default 1).", "NORM")] = 1.0
    temperature: Annotated[float, seldom(_TRAINING, "Of --distill (default 4).", "NUMBER")] = 4.0
    logits_weight: Annotated[float, seldom(_TRAINING, "Of the logits in --distill (default 1).", "NUMBER")] = 1.0
    responses_weight: Annotated[
        float, seldom(_TRAINING, "Of the layers' responses in --distill (default 1).", "NUMBER")
    ] = 1.0


@dataclass(frozen=True)
class TrainingDeviceOptions:
    """Where the model is trained."""

    backend: Annotated[str, option(_DEVICE, "cpu (default), cuda, npu, or another; see devices.", "NAME")] = "cpu"
    autocast: Annotated[str | None, option(_DEVICE, "Mixed precision: float16 or bfloat16.", "TYPE")] = None
    index: Annotated[int, seldom(_DEVICE, "Of the device; under torchrun LOCAL_RANK (default 0).", "N")] = 0
    timeout: Annotated[float, seldom(_DEVICE, "How long a process waits for the others (default 45).", "SECONDS")] = (
        45.0
    )


def finetune(
    model: ModelOptions,
    decomposed: DecomposedOptions,
    training: TrainingOptions,
    score: ScoreOptions,
    device: TrainingDeviceOptions,
    output: OutputOptions,
    general: GeneralOptions,
) -> Result:
    """Train a decomposed model back to its accuracy.

    After an interruption, the same command goes on after the last complete epoch. Under torchrun, each process trains
    on a device of its own: torchrun --nproc-per-node 2 -m amct_pytorch finetune …
    """
    import typer

    from .._finetune.batches import checked_loader
    from .._finetune.processes import digest, processes
    from .._finetune.run import CHECKPOINT, CURVES, check_autocast, fine_tune, placed
    from .._finetune.training import Settings
    from ..backend import get_backend
    from .decomposed_model import decomposed_of
    from .model_source import built
    from .named_function import named_function
    from .output_folder import DECOMPOSITION, required_output
    from .progress import progress_bar
    from .scores import evaluate_of

    _check(training)
    unfinished = {CHECKPOINT, CURVES, _PICTURE}
    folder = required_output(output, {*DECOMPOSITION, *unfinished}, unfinished=unfinished)
    backend = get_backend(device.backend)
    loss = None if training.loss == _NO_LOSS else named_function(training.loss, "--loss")
    evaluate = evaluate_of(score.eval)
    with processes(backend, device.index, device.timeout) as group, backend.prepared(group.device):
        check_autocast(device.autocast, backend, group.device)
        loader = checked_loader(_returned(training.data))
        original = placed(built(model), backend, group)
        net, _ = decomposed_of(original, decomposed)
        settings = Settings(
            **{name: getattr(training, name) for name in _SETTINGS},
            autocast=device.autocast,
            batch_size=loader.batch_size,
            processes=group.count,
            start=digest(net.state_dict()),
        )

        def print_row(row: Row) -> None:
            if not general.quiet:
                print(_line(row), file=sys.stderr, flush=True)

        with progress_bar("fine-tune", general) as progress:
            net, rows = fine_tune(
                original,
                net,
                loader,
                folder,
                settings,
                group,
                loss=loss,
                score=evaluate,
                after_epoch=print_row,
                progress=progress,
                anew=output.force,
            )
        if not group.leads:
            raise typer.Exit  # the first process prints the result
    return _result(net, rows, folder, evaluate, device)


def _returned(data: str) -> object:
    """What the user's function for ``--data`` returns.

    Raises
    ------
    InputsError
        It fails.
    """
    from ..errors import InputsError, shown
    from .named_function import named_function

    function = named_function(data, "--data")
    try:
        return function()
    except (Exception, SystemExit) as error:  # of whatever type: it is the user's code that runs
        raise InputsError(f"--data: {shown(data)} fails: {type(error).__name__}: {error}") from error


def _check(training: TrainingOptions) -> None:
    """Check the ranges of numbers.

    Raises
    ------
    ConfigError
        One is out of its range.
    """
    from ..errors import ConfigError

    for name in ("epochs", "lr", "clip"):
        value = getattr(training, name)
        if not 0 < value < float("inf"):
            raise ConfigError(f"--{name}: expected a number above 0, found {value}")
    if training.loss == _NO_LOSS and not training.distill:
        raise ConfigError("--loss none: there is nothing to learn from: give --distill, to learn from the original")


def _line(row: Row) -> str:
    """The figures of an epoch as a line."""
    when = f"epoch {row['epoch']:.0f}" if row["epoch"] else "decomposed"
    names = [name for name in ("score", "loss", "task", "logits", "responses") if name in row]
    figures = "  ".join(f"{name} {row[name]:.6g}" for name in names)
    return f"{when:<12}{figures}".rstrip()


def _result(
    net: nn.Module,
    rows: list[Row],
    folder: Path,
    evaluate: Callable[..., Any] | None,
    device: TrainingDeviceOptions,
) -> Result:
    """Write what was trained, and report it."""
    from .._finetune.curves import draw
    from .._finetune.run import CHECKPOINT
    from .._report.scores import ScoreReport
    from .._report.table import Table
    from .._storage.atomic import write_file
    from ..errors import InfoFileAccessError, MissingExtra
    from .decomposition_files import new_decomposition
    from .output_folder import INFO, SCORES, WEIGHTS
    from .run_record import save_run
    from .weights_file import save_weights

    notes = []
    try:
        draw({folder.name: rows}, folder / _PICTURE)
    except MissingExtra as error:
        notes.append(f"{error}: for {_PICTURE}; the figures are in curves.csv.")
    scores = None
    if evaluate is not None:
        name = getattr(evaluate, "__name__", "score")
        scores = ScoreReport(name, "", rows[0]["original"], rows[0]["score"], rows[-1]["score"])
    with new_decomposition(folder) as draft:
        write_file(draft / INFO, (folder / CHECKPOINT / INFO).read_bytes(), InfoFileAccessError)
        save_weights(net, draft / WEIGHTS)
        if scores is not None:
            scores.save(draft / SCORES)
        save_run(draft, device.backend, device.index)
    notes.append(f"Structure and weights: {folder / INFO} and {WEIGHTS}.")
    content = {
        "format": "amct_pytorch.finetune",
        "version": 1,
        "output": str(folder),
        "epochs": rows,
        "scores": scores.content() if scores else None,
    }
    return Result([*(scores.tables() if scores else []), Table(notes=tuple(notes))], content)
