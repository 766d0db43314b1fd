"""Tensors in files that are safe to load: safetensors, or torch's weights-only format, which runs no code."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, TypeGuard

import torch
from torch.utils._pytree import tree_map_only

from ..errors import ConfigError, MissingExtra, listed, quoted, shown

SAFETENSORS, TORCH = ".safetensors", ".pt"
"""Suffixes of the two formats."""

# Types that every release of safetensors supports.
_PORTABLE = frozenset(
    {torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool}
    | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8}
)


def save_tensors(tensors: Mapping[str, Any], path: Path) -> dict[str, str]:
    """Write named tensors; tied tensors once.

    Parameters
    ----------
    tensors
        A state dict: tensors on any device, and possibly other objects, by name.
    path
        Path of the file without suffix. The format is ``.safetensors`` if that is installed and supports all of the
        tensors, else ``.pt``.

    Returns
    -------
    dict
        For tensors with several names: the first name, under which it is stored, by each of the others.

    Raises
    ------
    ConfigError
        An object cannot be read back without running code from the file.
    OSError
        The file cannot be written.
    """
    first_name: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    tied, once = {}, {}
    for name, value in tensors.items():
        first = first_name.setdefault(_identity(value), name)
        if first != name:
            tied[name] = first
        else:
            once[name] = _with_own_storage(value, storages) if _is_portable(value) else value
    if importlib.util.find_spec("safetensors") is None or not all(map(_is_portable, once.values())):
        save_content(once, path.with_name(path.name + TORCH), "the state dict")
        return tied
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(once, path.with_name(path.name + SAFETENSORS), metadata={"format": "pt"})
    except SafetensorError as error:
        raise OSError(str(error)) from error
    return tied


def load_tensors(content: bytes, path: Path, tied: Mapping[str, str], error: type[ValueError]) -> dict[str, Any]:
    """The tensors of a file, on the CPU.

    Parameters
    ----------
    content
        All of the file.
    path
        The file, whose suffix states its format.
    tied
        From `save_tensors`; these names get the same tensor again.
    error
        The class of error to raise if the file has other content.

    Raises
    ------
    MissingExtra
        The file is in safetensors, which is not installed.
    """
    if path.suffix == SAFETENSORS:
        stored = _load_safetensors(content, path, error)
    else:
        stored = load_content(BytesIO(content), path, error)
    for name in stored:
        if not isinstance(name, str):
            raise error(
                f"{shown(path)}: expected tensors by name, found the name {quoted(name)}: it is another kind of file"
            )
    for name, first in tied.items():
        if name in stored:
            raise error(
                f"{shown(path)}: {quoted(name)} is tied to {quoted(first)}, but the file holds it too: save the "
                "checkpoint again"
            )
        if first not in stored:
            raise error(
                f"{shown(path)}: {quoted(name)} is tied to {quoted(first)}, which the file does not hold: save the "
                "checkpoint again"
            )
    return {**stored, **{name: stored[first] for name, first in tied.items()}}


def save_content(content: Mapping[str, Any], path: Path, called: str) -> None:
    """Write tensors, numbers, strings, and containers of them, in torch's weights-only format.

    Parameters
    ----------
    content
        Tensors may be on any device; they are stored as CPU tensors, so that any machine can read the file.
    path
        The file to write.
    called
        Name of the content, for the message.

    Raises
    ------
    ConfigError
        The content has another object, which cannot be read back without running code from the file.
    OSError
        The file cannot be written.
    """
    expected = "expected tensors, numbers, strings, and lists and dicts of them"
    try:
        # Given a path, torch writes the path's name into the file, so that the bytes would depend on it.
        with path.open("wb") as file:
            torch.save(tree_map_only(torch.Tensor, lambda tensor: tensor.detach().cpu(), dict(content)), file)
    except RuntimeError as error:  # torch's error when the disk is full; the system's own says so in words
        system = error.__context__
        raise OSError(str(system if isinstance(system, OSError) else error)) from error
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(f"{called} cannot be saved ({error}): {expected}") from error
    unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    if unsafe:
        raise ConfigError(
            f"{called} holds objects of {listed(unsafe)}, which cannot be loaded without running code of the file: "
            f"{expected}"
        )


def load_content(file: BinaryIO, path: Path, error: type[ValueError]) -> dict[str, Any]:
    """What `save_content` wrote; its tensors are on the CPU.

    Parameters
    ----------
    file
        The file, open.
    path
        Of the file, for the message.
    error
        The class of error to raise if the file has other content.
    """
    try:
        _check_archive(file)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as failure:  # of whatever type, where a file is of another kind
        # Not with torch's own message, which advises to run the code of the file.
        raise error(
            f"{shown(path)}: cannot be loaded ({type(failure).__name__}): it is damaged, another kind of file, or "
            "holds more "
            "than tensors, numbers, strings, and lists and dicts of them"
        ) from failure
    if not isinstance(content, dict):
        raise error(f"{shown(path)}: expected a dict, found {type(content).__name__}")
    return content


def is_whole_tensor(value: object) -> TypeGuard[torch.Tensor]:
    """Whether a value from a file is a plain tensor that has each of its values in the file.

    A view that repeats its values, one without any, or a sparse one can declare 10¹² of them in a few bytes.
    """
    return (
        type(value) is torch.Tensor
        and value.layout == torch.strided
        and not value.is_quantized
        and not value.is_meta
        and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
    )


def tensor_hash(tensor: torch.Tensor) -> str:
    """The SHA-256 of a tensor's type, shape and values.

    Parameters
    ----------
    tensor
        See `is_whole_tensor`; on any device.
    """
    digest = hashlib.sha256(repr((tensor.dtype, tuple(tensor.shape))).encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_archive(file: BinaryIO) -> None:
    """Check that a file is an archive as torch writes it, which takes no more memory than it has bytes.

    Raises
    ------
    ValueError, zipfile.BadZipFile
        It is none, its records are compressed or overlap, or its pickle makes an object of any size.
    """
    size = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        records = archive.infolist()
        if any(record.compress_type != zipfile.ZIP_STORED for record in records):
            raise ValueError("expected records that are not compressed")
        if sum(record.file_size for record in records) > size:
            raise ValueError("expected records that do not overlap")
        for record in records:
            # Of the functions that the format allows the only one that fills memory by a number.
            if record.filename.endswith("data.pkl") and b"\nbytearray\n" in archive.read(record):
                raise ValueError("expected no bytearray")
    file.seek(0)


def _load_safetensors(content: bytes, path: Path, error: type[ValueError]) -> dict[str, Any]:
    try:
        from safetensors.torch import load
    except ImportError as failure:
        raise MissingExtra(f"{shown(path)} needs safetensors: pip install safetensors") from failure
    try:
        return dict(load(content))
    except Exception as failure:  # of whatever type, where a file is of another kind
        raise error(f"{shown(path)}: cannot be loaded ({type(failure).__name__}): {failure}") from failure


def _with_own_storage(value: torch.Tensor, storages: set[int]) -> torch.Tensor:
    """The values on the CPU in a separate storage: safetensors takes no views, and torch saves a view's whole storage.

    Parameters
    ----------
    value
        Any dense tensor.
    storages
        Addresses of the storages in use by other tensors; that of the result is added.
    """
    host = value.detach().cpu().contiguous()
    if host.untyped_storage().nbytes() != host.nbytes or host.untyped_storage().data_ptr() in storages:
        host = host.clone()
    storages.add(host.untyped_storage().data_ptr())
    return host


def _is_portable(value: object) -> bool:
    """Whether every release of safetensors supports a value: a dense tensor of a common type."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_quantized
        and value.dtype in _PORTABLE
    )


def _identity(value: object) -> tuple[Any, ...]:
    """A key that is equal for tensors that are the same view of the same memory."""
    if not _is_portable(value) or not isinstance(value, torch.Tensor) or not value.numel():
        return (id(value),)
    return value.data_ptr(), value.device, value.dtype, value.shape, value.stride()
