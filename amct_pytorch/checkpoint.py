"""A decomposed model in a directory: structure and weights of one moment, checked before they are loaded.

``decompose_info.json``
    The decomposition information file, as `decompose_network` reads it.
``weights.safetensors``, or ``weights.pt``
    The state dict, every tensor once.
``plan.txt``, ``training.pt``
    The plan's table, and the state of a training run, where they were given.
``manifest.json``
    Size and SHA-256 of each of these, which names are tied, and versions.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ._run.tensors import map_tensors
from ._storage.sealed import (
    MANIFEST,
    check_replaceable,
    checked_place,
    listed,
    read_manifest,
    readable_place,
    swapped_in,
    write_text,
)
from .errors import CheckpointError, ConfigError, MissingExtra, ModelError
from .tensor_decompose.api import rebuilding
from .tensor_decompose.info_file.schema import dump, entries_of_rows
from .tensor_decompose.model.layers import check_model, rows_of
from .tensor_decompose.plan.plan import DecompositionPlan

_FORMAT, _VERSION = "amct_pytorch.checkpoint", 1
_INFO, _PLAN, _TRAINING = "decompose_info.json", "plan.txt", "training.pt"
_SAFETENSORS, _PICKLE = "weights.safetensors", "weights.pt"
_FILES = frozenset({_INFO, _PLAN, _TRAINING, _SAFETENSORS, _PICKLE})
# What every release of safetensors can hold.
_PLAIN = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
)


def save_decomposed(
    model: nn.Module,
    directory: str | os.PathLike[str],
    *,
    plan: DecompositionPlan | str | None = None,
    training_state: Mapping[str, Any] | None = None,
) -> None:
    """Write a decomposed model, all of it or nothing.

    Everything is on disk in a directory beside before renames put it into place, so an earlier checkpoint stays
    as it was after any error, and can still be loaded after a crash at any moment.

    Parameters
    ----------
    model
        The model, on any device; in DistributedDataParallel the one inside, on one rank.
    directory
        Where to write. An earlier checkpoint is replaced, missing folders are made.
    plan
        The plan that it was made by, or its text: its table is written to read later.
    training_state
        What goes with these weights: ``{"optimizer": optimizer.state_dict(), "epoch": 3}``. Tensors, numbers, strings
        and containers of them, so that `load_training_state` can read it without running code of the file.

    Raises
    ------
    ModelError, LayerError
        The model is wrapped, on the meta device, or has a decomposed layer that was changed.
    ConfigError
        The directory holds something else than a checkpoint, or the training state cannot be read back.
    CheckpointAccessError
        It cannot be written.
    """
    check_model(model)
    info = dump(entries_of_rows(rows_of(model)))
    state = model.state_dict()
    on_meta = [key for key, value in state.items() if isinstance(value, torch.Tensor) and value.is_meta]
    if on_meta:
        raise ModelError(f"{on_meta[0]!r} is on the meta device and has no values: load the weights before saving them")
    place = checked_place(directory)
    check_replaceable(place, _FILES)
    about: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, "versions": _versions()}
    with swapped_in(place, about) as draft:
        write_text(draft / _INFO, info)
        about["tied"] = _write_weights(draft, state)
        if plan is not None:
            write_text(draft / _PLAN, f"{plan}\n")
        if training_state is not None:
            _save_pickle(dict(training_state), draft / _TRAINING, "training_state")


def load_decomposed(net: nn.Module, directory: str | os.PathLike[str]) -> tuple[nn.Module, dict[str, list[str]]]:
    """Give a model the structure and the weights of a checkpoint, in place.

    Files are held against their hashes, and structure and weights against the model, before anything is loaded.

    Parameters
    ----------
    net
        The model before decomposition, or one that is decomposed as in the checkpoint; its weights do not matter.
    directory
        Written by `save_decomposed`.

    Returns
    -------
    model : torch.nn.Module
        The model given, changed. Only where that is itself a `torch.nn.Conv2d` it is left alone, and a new module
        returned. It computes what the model that was saved did, bit for bit on the same kind of device.
    changes : dict
        As of `decompose_network`.

    Raises
    ------
    CheckpointAccessError
        There is no checkpoint, or it cannot be read.
    CheckpointError
        It is damaged, or its weights are not of this model.
    InfoFileError, LayerError, ModelError
        Its structure is not of this model. The model is as it was after any error.
    MissingExtra
        The weights are in safetensors, which is not installed.
    """
    check_model(net)
    place, manifest = _verified(directory)
    weights = _read_weights(place, manifest)
    with rebuilding(net, place / _INFO) as (model, changes):
        _check_fits(model, weights, place)
        with _values_kept(model):
            model.load_state_dict(weights)
        return model, changes


def load_training_state(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """What `save_decomposed` was given as training state; its tensors are on the CPU.

    Raises
    ------
    CheckpointAccessError, CheckpointError
        As of `load_decomposed`, or the checkpoint has no training state.
    """
    place, manifest = _verified(directory)
    if _TRAINING not in manifest["files"]:
        raise CheckpointError(f"{place}: holds no training state: it was saved without training_state=…")
    return _load_pickle(place / _TRAINING)


def has_checkpoint(directory: str | os.PathLike[str]) -> bool:
    """Whether there is a checkpoint in the directory, sound or not."""
    return (readable_place(checked_place(directory)) / MANIFEST).is_file()


def _write_weights(draft: Path, state: Mapping[str, Any]) -> dict[str, str]:
    """Write every tensor once. For the other names of tied ones, the name that they were written under."""
    first: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    tied, weights = {}, {}
    for key, value in state.items():
        kept = first.setdefault(_identity(value), key)
        if kept != key:
            tied[key] = kept
        else:
            weights[key] = _with_own_storage(value, storages) if _plain(value) else value
    if importlib.util.find_spec("safetensors") is not None and all(map(_plain, weights.values())):
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        try:
            save_file(weights, draft / _SAFETENSORS, metadata={"format": "pt"})
        except SafetensorError as error:
            raise OSError(str(error)) from error
    else:
        _save_pickle(weights, draft / _PICKLE, "the state dict")
    return tied


def _with_own_storage(value: torch.Tensor, storages: set[int]) -> torch.Tensor:
    """The values on the host, in no storage of those: safetensors takes no views, and torch saves all behind one."""
    host = value.detach().cpu().contiguous()
    if host.untyped_storage().nbytes() != host.nbytes or host.untyped_storage().data_ptr() in storages:
        host = host.clone()
    storages.add(host.untyped_storage().data_ptr())
    return host


def _plain(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.dtype in _PLAIN
    )


def _identity(value: object) -> tuple[Any, ...]:
    """The same for tensors that are one place in memory, seen alike."""
    if not _plain(value) or not isinstance(value, torch.Tensor) or not value.numel():
        return (id(value),)
    return value.data_ptr(), value.device, value.dtype, value.shape, value.stride()


def _save_pickle(content: dict[str, Any], path: Path, called: str) -> None:
    """Save what can be loaded with weights_only, which runs no code of the file.

    Raises
    ------
    ConfigError
        It could not be loaded so.
    """
    expected = "expected tensors, numbers, strings, and lists and dicts of them"
    try:
        # On the host, so that it can be read where there is no such device.
        torch.save(map_tensors(lambda tensor: tensor.detach().cpu(), content), path)
    except RuntimeError as error:  # torch's writer says so of a full disk
        raise OSError(str(error)) from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"{called} cannot be saved ({error}): {expected}") from error
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if unsafe:
        raise ConfigError(
            f"{called} holds objects of {listed(unsafe)}, which cannot be loaded without running code of the file: "
            f"{expected}"
        )


def _load_pickle(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path}: cannot be loaded ({type(error).__name__}: {error})") from error
    return content


def _verified(directory: object) -> tuple[Path, dict[str, Any]]:
    """Where the checkpoint is, and its manifest."""
    place = readable_place(checked_place(directory))
    manifest = read_manifest(place)
    path, files, tied = place / MANIFEST, manifest["files"].keys(), manifest.get("tied")
    if manifest.get("format") != _FORMAT:
        raise CheckpointError(f"{path}: expected format {_FORMAT!r}, found {manifest.get('format')!r}")
    if manifest.get("version") != _VERSION:
        raise CheckpointError(
            f"{path}: expected version {_VERSION}, found {manifest.get('version')!r}: it was written by another release"
        )
    if not {_INFO} < files <= _FILES or len(files & {_SAFETENSORS, _PICKLE}) != 1:
        raise CheckpointError(f"{path}: expected {_INFO} and one file of weights, found {listed(sorted(files))}")
    if not isinstance(tied, dict) or not all(isinstance(name, str) for name in tied.values()):
        raise CheckpointError(f"{path}, tied: expected names by name, found {tied!r}")
    return place, manifest


def _read_weights(place: Path, manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict, tied names included."""
    if _PICKLE in manifest["files"]:
        weights = _load_pickle(place / _PICKLE)
    else:
        try:
            from safetensors import SafetensorError
            from safetensors.torch import load_file
        except ImportError as error:
            raise MissingExtra(
                f"{place / _SAFETENSORS} needs safetensors: pip install 'amct_pytorch[safetensors]'"
            ) from error
        try:
            weights = load_file(place / _SAFETENSORS)
        except SafetensorError as error:
            raise CheckpointError(f"{place / _SAFETENSORS}: cannot be loaded: {error}") from error
    for key, kept in manifest["tied"].items():
        if kept not in weights:
            raise CheckpointError(f"{place / MANIFEST}: {key!r} is tied to {kept!r}, which the weights do not hold")
        weights[key] = weights[kept]
    return weights


def _check_fits(model: nn.Module, weights: Mapping[str, Any], place: Path) -> None:
    """Whether each tensor of the model has its like among the weights, and no more."""
    expected = model.state_dict()
    only = {"model": expected.keys() - weights.keys(), "checkpoint": weights.keys() - expected.keys()}
    for whose, keys in only.items():
        if keys:
            raise CheckpointError(
                f"{place}: only the {whose} has {listed(sorted(keys))}: is this the checkpoint of another model?"
            )
    for key, value in expected.items():
        found = weights[key]
        if isinstance(value, torch.Tensor) and value.is_meta:
            raise ModelError(
                f"{key!r} of the model is on the meta device: build it on the CPU, or use decompose_network with "
                f"{place / _INFO} and load_state_dict(…, assign=True)"
            )
        if _kind(value) != _kind(found):
            raise CheckpointError(
                f"{place}: {key!r}: expected {_kind(value)} as in the model, found {_kind(found)}: load it into a "
                "model of the same configuration and dtype"
            )


def _kind(value: object) -> str:
    if not isinstance(value, torch.Tensor):
        return f"an object {type(value).__name__}"
    return f"a tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"


@contextlib.contextmanager
def _values_kept(model: nn.Module) -> Iterator[None]:
    """Put every value back if the block fails."""
    tensors = [value for value in model.state_dict(keep_vars=True).values() if isinstance(value, torch.Tensor)]
    values = [tensor.detach().clone() for tensor in tensors]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for tensor, value in zip(tensors, values, strict=True):
                tensor.copy_(value)
        raise


def _versions() -> dict[str, str]:
    versions = {"torch": str(torch.__version__)}
    for package in ("amct_pytorch", "safetensors"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
