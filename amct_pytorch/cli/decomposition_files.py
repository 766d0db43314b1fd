"""The files of a decomposition: a folder has all of those of one, or none, whatever fails or interrupts on the way."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import nn

from .._report.json_file import JsonReport
from .._run.interrupts import interrupts_deferred
from .._storage.atomic import write_file
from .._storage.file_sets import new_files
from ..errors import InfoFileAccessError, MissingExtra, ReportAccessError
from ..tensor_decompose import DecompositionPlan, layer_spectra
from ..tensor_decompose.info_file.schema import dump, entries_of_chains
from ..tensor_decompose.model.layers import chains_of
from .options import FormatOptions
from .output_folder import DECOMPOSITION, INFO, PLAN, SPECTRA, WEIGHTS, WEIGHTS_SAFETENSORS
from .run_record import save_run
from .weights_file import save_weights

_LOGGER = logging.getLogger("amct_pytorch")


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


@contextlib.contextmanager
def new_decomposition(folder: Path, key: str = INFO) -> Iterator[Path]:
    """Where to write the files of a decomposition; then they replace those of an earlier one, all of them or none.

    A Ctrl-C waits until they are complete.

    Parameters
    ----------
    folder
        The output folder.
    key
        Name of the file that is there if and only if the others are.
    """
    with interrupts_deferred(), new_files(folder, ReportAccessError, key=key, replaced=DECOMPOSITION) as draft:
        yield draft


def apply_and_save(
    model: nn.Module,
    plan: DecompositionPlan,
    folder: Path,
    weights: str,
    *,
    reports: Mapping[str, JsonReport] | None = None,
    backend: str | None = None,
    index: int | None = None,
) -> nn.Module:
    """Decompose a model in place, and write structure, weights, plan, the spectra that its ranks cut, and what was run.

    Parameters
    ----------
    model, plan
        See `DecompositionPlan.apply`.
    folder
        The output folder.
    weights
        Name of the file of weights.
    reports
        What else belongs to the decomposition, by the name of its file.
    backend, index
        See `save_run`.

    Returns
    -------
    torch.nn.Module
        The decomposed model.
    """
    spectra = layer_spectra(model, plan)
    with new_decomposition(folder) as draft:
        decomposed, _ = plan.apply(model)
        info = dump(entries_of_chains(chains_of(decomposed)))
        write_file(draft / INFO, info, InfoFileAccessError)
        save_weights(decomposed, draft / weights)
        plan.save(draft / PLAN)
        for name, report in {SPECTRA: spectra, **(reports or {})}.items():
            report.save(draft / name)
        save_run(draft, backend, index)
    _LOGGER.info("wrote %s", folder)
    return decomposed.eval()
