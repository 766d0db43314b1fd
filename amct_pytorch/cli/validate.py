"""`amct-decompose validate`."""

from __future__ import annotations

from .options import DecomposedOptions, DeviceOptions, GeneralOptions, InputOptions, ModelOptions, OutputOptions
from .result import Result


def validate(
    model: ModelOptions,
    inputs: InputOptions,
    decomposed: DecomposedOptions,
    device: DeviceOptions,
    output: OutputOptions,
    general: GeneralOptions,
) -> Result:
    """Check that a device computes a decomposed model correctly, layer by layer.

    Without --decomposed, the model is decomposed with default settings. Exit code 1 where a layer is wrong.
    """
    from .. import validate as validation
    from .decomposed_model import decomposed_of
    from .inputs import required_inputs
    from .model_source import built
    from .output_folder import VALIDATION, check_decomposition_of, checked_output
    from .progress import progress_bar
    from .run_record import save_run
    from .settings import dtypes_of

    folder = checked_output(output, [VALIDATION])
    check_decomposition_of(folder, decomposed.decomposed)
    dtypes = dtypes_of(device.dtypes)
    example_inputs = required_inputs(inputs.input)
    original = built(model)
    other, _ = decomposed_of(original, decomposed)
    with progress_bar("validate", general) as progress:
        report = validation.validate(
            original,
            other,
            example_inputs,
            device.backend,
            index=device.index,
            dtypes=dtypes,
            progress=progress,
        )
    if folder is not None:
        report.save(folder / VALIDATION)
        save_run(folder, device.backend, device.index, first=False)
    return Result(report.tables(), report.content(), ok=report.ok)
