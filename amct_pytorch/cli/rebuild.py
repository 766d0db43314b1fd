"""`amct-decompose rebuild`."""

from __future__ import annotations

from ..errors import ConfigError
from .options import DecomposedOptions, FormatOptions, GeneralOptions, InputOptions, ModelOptions, OutputOptions
from .result import Result


def rebuild(
    model: ModelOptions,
    inputs: InputOptions,
    decomposed: DecomposedOptions,
    output: OutputOptions,
    weights: FormatOptions,
    general: GeneralOptions,
) -> Result:
    """Rebuild a decomposed model elsewhere from its files, check it, and with --output write it again."""
    from .._storage.atomic import write_file
    from ..errors import InfoFileAccessError
    from .decomposed_model import decomposed_of, info_file
    from .decomposition_files import new_decomposition, weights_name
    from .inputs import inputs_of
    from .model_source import built
    from .output_folder import DECOMPOSITION, INFO, checked_output
    from .rebuilt_report import RebuiltReport, outputs_are_finite
    from .run_record import save_run
    from .weights_file import save_weights

    if decomposed.decomposed is None:
        raise ConfigError("--decomposed is missing: give the folder of run or search, or the information file")
    name = weights_name(weights)
    folder = checked_output(output, DECOMPOSITION)
    info = info_file(decomposed.decomposed).read_bytes()
    example_inputs = inputs_of(inputs.input)
    original = built(model)
    rebuilt, _ = decomposed_of(original, decomposed)
    finite = None if example_inputs is None else outputs_are_finite(rebuilt, example_inputs)
    if folder is not None:
        with new_decomposition(folder) as draft:
            write_file(draft / INFO, info, InfoFileAccessError)
            save_weights(rebuilt, draft / name)
            save_run(draft)
    report = RebuiltReport.of(original, rebuilt, finite)
    return Result(report.tables(), report.content(), ok=report.ok)
