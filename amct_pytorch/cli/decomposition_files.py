"""The files of a decomposition, written together: a Ctrl-C waits until all are complete."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from .._run.interrupts import interrupts_deferred
from ..errors import MissingExtra
from ..tensor_decompose import DecompositionPlan, layer_spectra
from .options import FormatOptions
from .output_folder import INFO, PLAN, SPECTRA, WEIGHTS, WEIGHTS_SAFETENSORS
from .weights_file import save_weights


def weights_name(options: FormatOptions) -> str:
    """The name of the file of weights, if it can be written.

    Parameters
    ----------
    options
        Which format it has.

    Raises
    ------
    MissingExtra
        safetensors is not installed.
    """
    if not options.safetensors:
        return WEIGHTS
    try:
        import safetensors.torch  # noqa: F401  # asked for before any work
    except ImportError as error:
        raise MissingExtra("--safetensors needs a package: pip install safetensors") from error
    return WEIGHTS_SAFETENSORS


def apply_and_save(model: nn.Module, plan: DecompositionPlan, folder: Path, weights: str) -> nn.Module:
    """Decompose a model in place, and write structure, weights, plan, and the spectra that its ranks cut.

    Parameters
    ----------
    model, plan
        See `DecompositionPlan.apply`.
    folder
        The output folder.
    weights
        Name of the file of weights.

    Returns
    -------
    torch.nn.Module
        The decomposed model.
    """
    spectra = layer_spectra(model, plan)
    with interrupts_deferred():
        decomposed, _ = plan.apply(model, folder / INFO)
        save_weights(decomposed, folder / weights)
        plan.save(folder / PLAN)
        spectra.save(folder / SPECTRA)
    return decomposed.eval()
