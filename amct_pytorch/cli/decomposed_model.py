"""The decomposed form of a model: from an output folder, an information file with weights, or a checkpoint."""

from __future__ import annotations

import copy
from pathlib import Path

from torch import nn

from ..checkpoint import has_checkpoint, load_decomposed
from ..errors import ConfigError, ModelError, shown
from ..tensor_decompose import auto_decomposition, decompose_network
from .options import DecomposedOptions
from .output_folder import INFO, WEIGHTS, WEIGHTS_SAFETENSORS
from .weights_file import load_weights


def decomposed_of(
    original: nn.Module, options: DecomposedOptions, *, with_weights: bool = True
) -> tuple[nn.Module, dict[str, list[str]]]:
    """A decomposed copy of a model in eval mode, and the names of its new layers by those that they replace.

    Parameters
    ----------
    original
        The model; not changed.
    options
        Where its decomposed form is; where they say nothing, it is decomposed with default settings.
    with_weights
        Whether its weights matter.

    Raises
    ------
    ConfigError
        There is no such folder or file, or no weights.
    ModelError
        The model cannot be copied.
    InfoFileError, CheckpointError
        Structure or weights are of another model.
    """
    model = _copied(original)
    if options.decomposed is None:
        if options.decomposed_weights is not None:
            raise ConfigError("--decomposed-weights: the structure that they are of is missing: give --decomposed too")
        model, changes = auto_decomposition(model)
        return model.eval(), changes
    place, info = Path(options.decomposed), info_file(options.decomposed)
    if has_checkpoint(place) and options.decomposed_weights is None:
        model, changes = load_decomposed(model, place)
        return model.eval(), changes
    model, changes = decompose_network(model, info)
    weights = options.decomposed_weights or _weights_in(place)
    if weights is not None:
        load_weights(model, weights)
    elif with_weights:
        raise ConfigError(
            f"--decomposed: expected {WEIGHTS} or {WEIGHTS_SAFETENSORS} in {shown(place)}: give --decomposed-weights"
        )
    return model.eval(), changes


def info_file(decomposed: str) -> Path:
    """The information file that ``--decomposed`` means.

    Parameters
    ----------
    decomposed
        Its path, or that of its folder.

    Raises
    ------
    ConfigError
        There is none.
    """
    place = Path(decomposed)
    info = place / INFO if place.is_dir() else place
    if not info.is_file():
        raise ConfigError(f"--decomposed: there is no {shown(info)}: give a folder of run or search, or {INFO}")
    return info


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except Exception as error:  # of whatever type: it is the user's code that runs
        raise ModelError(
            f"the model cannot be copied ({type(error).__name__}: {shown(error)}): copy.deepcopy(model) must work"
        ) from error


def _weights_in(folder: Path) -> Path | None:
    """The weights beside an information file; None for none.

    Raises
    ------
    ConfigError
        There are two, and one cannot be of the same decomposition.
    """
    found = [folder / name for name in (WEIGHTS, WEIGHTS_SAFETENSORS) if (folder / name).is_file()]
    if len(found) > 1:
        raise ConfigError(
            f"--decomposed {shown(folder)}: expected one file of weights, found {WEIGHTS} and {WEIGHTS_SAFETENSORS}: "
            "give --decomposed-weights"
        )
    return found[0] if found else None
