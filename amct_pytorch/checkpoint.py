"""Checkpoints: structure and weights of a decomposed model in one directory, verified before they are loaded.

``decompose_info.json``
    The decomposition information file, as `decompose_network` reads it.
``weights.safetensors``, or ``weights.pt``
    The state dict; tied tensors are stored once.
``plan.txt``, ``training.pt``
    The plan's table, and the state of a training run, if they were given.
``manifest.json``
    Size and SHA-256 of each of these, which names are tied, versions, and a SHA-256 of all that.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from collections.abc import Collection, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ._run.interrupts import interrupt_if_pressed, interrupts_deferred
from ._storage.folders import current_folder, new_folder
from ._storage.manifest import MANIFEST, check_replaceable, read_manifest, read_verified, write_manifest
from ._storage.paths import folder_to_write, resolved
from ._storage.reading import decoded
from ._storage.state_dict import load_whole
from ._storage.weights import SAFETENSORS, TORCH, load_content, load_tensors, save_content, save_tensors
from .errors import (
    CheckpointAccessError,
    CheckpointError,
    CheckpointInfoError,
    ConfigTypeError,
    InfoFileError,
    ModelError,
    listed,
    quoted,
    shown,
)
from .tensor_decompose.api import rebuilding
from .tensor_decompose.info_file.schema import dump, entries_of_chains
from .tensor_decompose.model.layers import chains_of, check_model
from .tensor_decompose.plan.plan import DecompositionPlan

_INFO, _PLAN, _TRAINING = "decompose_info.json", "plan.txt", "training.pt"
_WEIGHTS = "weights"  # without suffix
_WEIGHT_FILES = frozenset({_WEIGHTS + SAFETENSORS, _WEIGHTS + TORCH})
_FILES = frozenset({_INFO, _PLAN, _TRAINING, *_WEIGHT_FILES})


def save_decomposed(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    plan: DecompositionPlan | str | None = None,
    training_state: Mapping[str, Any] | None = None,
) -> None:
    """Write a decomposed model to a directory, as a whole or not at all.

    Everything is first written to a hidden directory beside the target and flushed to disk, then renamed. So an
    earlier checkpoint is unchanged after any error, and after a crash at any moment a complete one can be loaded.

    Parameters
    ----------
    model
        The model, on any device. For a DistributedDataParallel, pass its ``module``, in one process of the group.
    directory
        The directory to write. An earlier checkpoint is replaced; missing folders are created.
    plan
        The plan that the model was decomposed by, or its text. Its table is stored for people to read.
    training_state
        The training state that belongs to these weights, such as
        ``{"optimizer": optimizer.state_dict(), "epoch": 3}``: tensors, numbers, strings, and lists and dicts of them,
        so that `load_training_state` can read it without running code from the file.

    Raises
    ------
    ModelError, LayerError
        The model is wrapped, on the meta device, or has a decomposed layer that was changed.
    ConfigError
        The directory contains something other than a checkpoint, or the training state contains an object that could
        not be read back; `ConfigTypeError` for an argument of a wrong type.
    CheckpointAccessError
        The checkpoint cannot be written.
    """
    check_model(model)
    info = dump(entries_of_chains(chains_of(model)))
    state = model.state_dict()
    if (on_meta := _first_on_meta(state)) is not None:
        raise ModelError(
            f"{quoted(on_meta)} is on the meta device and has no values: load the weights before saving them"
        )
    if not isinstance(plan, DecompositionPlan | str | None):
        raise ConfigTypeError(f"plan must be a DecompositionPlan or its text, found {type(plan).__name__}")
    if not isinstance(training_state, Mapping | None):
        raise ConfigTypeError(f"training_state must be a dict, found {type(training_state).__name__}")
    place = folder_to_write(directory, "directory", CheckpointAccessError)
    check_replaceable(place, _FILES)
    with interrupts_deferred(), new_folder(place, CheckpointAccessError, replaces=True) as draft:
        _write_text(draft / _INFO, info)
        tied = save_tensors(state, draft / _WEIGHTS)
        interrupt_if_pressed()
        if plan is not None:
            _write_text(draft / _PLAN, f"{plan}\n")
        if training_state is not None:
            save_content(training_state, draft / _TRAINING, "training_state")
            interrupt_if_pressed()
        write_manifest(draft, tied, _versions())


def load_decomposed(net: nn.Module, directory: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, list[str]]]:
    """Give a model the structure and the weights of a checkpoint, in place.

    Before anything is loaded, the files are verified by their hashes, and structure and weights are compared with
    those of the model. After any error the model is as it was.

    Parameters
    ----------
    net
        The model before decomposition, or one that is decomposed as in the checkpoint; its weights do not matter.
    directory
        A directory written by `save_decomposed`.

    Returns
    -------
    model : torch.nn.Module
        The model passed in, changed in place; for a model that is itself a layer, a new module. Its
        outputs are those of the saved model, bit for bit on the same kind of device.
    changes : dict
        See `decompose_network`.

    Raises
    ------
    CheckpointAccessError
        The directory has no checkpoint, or it cannot be read.
    CheckpointError
        The checkpoint is damaged, or its weights do not fit this model; a `CheckpointInfoError`, which is also an
        `InfoFileError`, if that is so of its information file.
    LayerError, ModelError
        Its structure does not fit this model, or the model is wrapped or on the meta device. After any error the
        model is as it was.
    ConfigError
        The path of the directory is empty or invalid; `ConfigTypeError` if it is not a path.
    MissingExtra
        The weights are in safetensors, which is not installed.
    """
    check_model(net)
    place, tied, files = _verified(directory, {_INFO, *_WEIGHT_FILES})
    if (on_meta := _first_on_meta(net.state_dict())) is not None:
        raise ModelError(
            f"{quoted(on_meta)} of the model is on the meta device: build it on the CPU, or use decompose_network with "
            f"{shown(place / _INFO)} and load_state_dict(…, assign=True)"
        )
    (name,) = _WEIGHT_FILES & files.keys()
    weights = load_tensors(files[name], place / name, tied, CheckpointError)
    info = decoded(files[_INFO], place / _INFO, CheckpointInfoError)
    try:
        with interrupts_deferred(), rebuilding(net, info, place / _INFO) as (model, changes):
            load_whole(model, weights, place)
            return model, changes
    except InfoFileError as error:
        raise CheckpointInfoError(str(error)) from error


def load_training_state(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The training state that `save_decomposed` stored, with its tensors on the CPU.

    Parameters
    ----------
    directory
        A directory written by `save_decomposed`.

    Raises
    ------
    CheckpointAccessError
        The directory has no checkpoint, or it cannot be read.
    CheckpointError
        The checkpoint is damaged, or was saved without a training state.
    ConfigError
        The path of the directory is empty or invalid; `ConfigTypeError` if it is not a path.
    """
    place, _, files = _verified(directory, {_TRAINING})
    if _TRAINING not in files:
        raise CheckpointError(f"{shown(place)}: holds no training state: it was saved without training_state=…")
    return load_content(BytesIO(files[_TRAINING]), place / _TRAINING, CheckpointError)


def has_checkpoint(directory: str | os.PathLike[str]) -> bool:
    """Whether a directory contains a checkpoint, intact or not.

    Parameters
    ----------
    directory
        The directory that was, or may have been, passed to `save_decomposed`.

    Raises
    ------
    ConfigError
        The path of the directory is empty or invalid; `ConfigTypeError` if it is not a path.
    """
    return (_found(directory) / MANIFEST).is_file()


def _found(directory: str | os.PathLike[str]) -> Path:
    """The folder with the files of a checkpoint, if it exists."""
    return current_folder(resolved(directory, "directory", "directory"))


def _verified(
    directory: str | os.PathLike[str], wanted: Collection[str]
) -> tuple[Path, Mapping[str, str], dict[str, bytes]]:
    """Where the checkpoint is, which names are tied, and the content of the wanted files; all its files are whole."""
    place = _found(directory)
    manifest = read_manifest(place)
    names = manifest.files.keys()
    if not {_INFO} < names <= _FILES or len(names & _WEIGHT_FILES) != 1:
        raise CheckpointError(
            f"{shown(place / MANIFEST)}: expected {_INFO} and one file of weights, found {listed(sorted(names))}: "
            "save the "
            "checkpoint again"
        )
    return place, manifest.tied, read_verified(place, manifest, wanted)


def _first_on_meta(state: Mapping[str, Any]) -> str | None:
    return next((name for name, value in state.items() if isinstance(value, torch.Tensor) and value.is_meta), None)


def _write_text(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")


def _versions() -> dict[str, str]:
    versions = {"torch": str(torch.__version__)}
    for package in ("amct_pytorch", "safetensors"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
