"""`amct-decompose export`."""

from __future__ import annotations

from ..errors import ConfigError, ReportAccessError
from .options import DecomposedOptions, ExportOptions, GeneralOptions, InputOptions, ModelOptions, OutputOptions
from .result import Result


def export(
    model: ModelOptions,
    inputs: InputOptions,
    decomposed: DecomposedOptions,
    exported: ExportOptions,
    output: OutputOptions,
    general: GeneralOptions,
) -> Result:
    """Write a decomposed model as an ONNX file, or as a folder to deploy to Ascend NPUs.

    Exit code 1 where onnxruntime computes something else, or a tool of Ascend's fails.
    """
    from .._storage.file_sets import set_aside
    from ..ascend import AscendReport, export_ascend
    from ..export import ExportReport, export_onnx
    from .decomposed_model import decomposed_of
    from .inputs import required_inputs
    from .model_source import built
    from .output_folder import ASCEND, EXPORT, ONNX, check_decomposition_of, required_output
    from .run_record import save_run
    from .settings import numbers_of, sizes_of

    if decomposed.decomposed is None:
        raise ConfigError("--decomposed is missing: give the folder of run or search, or the information file")
    if not exported.ascend and (exported.original or exported.precision is not None):
        raise ConfigError("--original and --precision are of the folder for Ascend: give --ascend too")
    folder = required_output(output, [EXPORT, ASCEND if exported.ascend else ONNX])
    check_decomposition_of(folder, decomposed.decomposed)
    batches = numbers_of(exported.dynamic_batch, "--dynamic-batch")
    sizes = sizes_of(exported.dynamic_image_size, "--dynamic-image-size")
    example_inputs = required_inputs(inputs.input)
    original = built(model)
    other, _ = decomposed_of(original, decomposed)
    report: AscendReport | ExportReport
    # An earlier report must not lie beside a new file, nor be lost where none is written.
    with set_aside(folder, [EXPORT], ReportAccessError):
        if exported.ascend:
            report = export_ascend(
                other,
                example_inputs,
                folder / ASCEND,
                soc_versions=exported.ascend,
                original=original if exported.original else None,
                precision=exported.precision or "fp16",
                dynamic_batch=batches,
                dynamic_image_size=sizes,
                replace=output.force,
            )
        else:
            report = export_onnx(
                other,
                example_inputs,
                folder / ONNX,
                dynamic_batch=batches or False,
                dynamic_image_size=sizes or False,
                opset=exported.opset,
            )
    report.save(folder / EXPORT)
    save_run(folder, first=False)
    return Result(report.tables(), report.content(), ok=report.ok)
