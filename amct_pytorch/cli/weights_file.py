"""Files of weights: read into a model, or written from one; .pth without running code, or .safetensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._storage.atomic import new_file
from .._storage.paths import file_to_write
from .._storage.weights import SAFETENSORS, save_content
from ..errors import CheckpointAccessError, CheckpointError, MissingExtra, quoted, shown

_NAMED = 10  # names that a message lists; the others it counts


def load_weights(model: nn.Module, path: str | Path, *, key: str | None = None, strict: bool = True) -> None:
    """Load weights from a file into a model.

    Parameters
    ----------
    model
        The model.
    path
        The file; by its suffix in safetensors, else in torch's format, of which only weights are loaded.
    key
        Entry of the file that holds the weights; None if the file itself does.
    strict
        Whether they must be exactly the model's; otherwise those that it has too are loaded.

    Raises
    ------
    CheckpointAccessError
        The file cannot be read.
    CheckpointError
        Its content is no weights, or not of this model.
    """
    weights = _tensors_of(_content_of(Path(path)), path, key)
    expected = model.state_dict(keep_vars=True)
    given_under_another_name = {id(value) for name, value in expected.items() if name in weights}
    missing = [
        name for name, value in expected.items() if name not in weights and id(value) not in given_under_another_name
    ]
    unexpected = [name for name in weights if name not in expected]
    if strict and (missing or unexpected):
        listed = [
            f"{what} are {_listed(names)}"
            for what, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise CheckpointError(
            f"{shown(path)}: expected the {len(expected)} weights of the model; {'; '.join(listed)}: is it of another "
            "model? --no-strict loads those that fit"
        )
    shapes = [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in weights and isinstance(value, Tensor) and weights[name].shape != value.shape
    ]
    if shapes:
        raise CheckpointError(f"{shown(path)}: weights have other shapes than in the model: {_listed(shapes)}")
    model.load_state_dict(weights, strict=False)


def save_weights(model: nn.Module, path: Path) -> None:
    """Write the weights of a model.

    Parameters
    ----------
    model
        The model, on any device.
    path
        The file; its suffix decides the format.

    Raises
    ------
    CheckpointAccessError
        It cannot be written.
    MissingExtra
        safetensors is not installed.
    """
    place = file_to_write(path, "path", CheckpointAccessError)
    with new_file(place, CheckpointAccessError) as draft:
        if path.suffix == SAFETENSORS:
            _save_safetensors(model, draft)
        else:
            save_content(model.state_dict(), draft, "the state dict")


def _save_safetensors(model: nn.Module, path: Path) -> None:
    safetensors = _safetensors()
    from safetensors import SafetensorError

    try:
        safetensors.save_model(model, str(path))
    except SafetensorError as error:  # where the disk is full
        raise OSError(str(error)) from error


def _content_of(path: Path) -> Any:
    if not path.is_file():
        found = "a folder" if path.is_dir() else "none"
        raise CheckpointAccessError(f"{shown(path)}: expected a file of weights, found {found}")
    try:
        if path.suffix == SAFETENSORS:
            return _safetensors().load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except MissingExtra:
        raise
    except OSError as error:
        raise CheckpointAccessError(f"{shown(path)}: cannot be read: {error}") from error
    except Exception as error:  # of whatever type, where a file is of another kind
        # Not with torch's own message, which advises to run the code of the file.
        raise CheckpointError(
            f"{shown(path)}: cannot be loaded ({type(error).__name__}): it is damaged, another kind of file, or holds "
            "more than weights; a pickled module is given as MODEL, with --trust"
        ) from error


def _tensors_of(content: Any, path: str | Path, key: str | None) -> dict[str, Any]:
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            entries = _listed(list(map(str, content))) if isinstance(content, Mapping) else type(content).__name__
            raise CheckpointError(f"{shown(path)}: --weights-key: there is no entry {quoted(key)}, found {entries}")
        content = content[key]
    if isinstance(content, Mapping) and content and any(isinstance(value, Tensor) for value in content.values()):
        return dict(content)
    inside = (
        [str(name) for name, value in content.items() if isinstance(value, Mapping)]
        if isinstance(content, Mapping)
        else []
    )
    hint = f": give one of its entries as --weights-key: {_listed(inside)}" if inside else ""
    raise CheckpointError(f"{shown(path)}: expected weights by name, found {type(content).__name__}{hint}")


def _listed(names: Collection[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(map(shown, list(names)[:_NAMED])) + more


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise MissingExtra("weights in safetensors need a package: pip install safetensors") from error
    return safetensors.torch
