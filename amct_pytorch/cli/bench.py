"""`amct-decompose bench`."""

from __future__ import annotations

from .options import (
    BenchmarkOptions,
    DecomposedOptions,
    DeviceOptions,
    GeneralOptions,
    InputOptions,
    ModelOptions,
    OutputOptions,
)
from .result import Result


def bench(
    model: ModelOptions,
    inputs: InputOptions,
    decomposed: DecomposedOptions,
    device: DeviceOptions,
    timed: BenchmarkOptions,
    output: OutputOptions,
    general: GeneralOptions,
) -> Result:
    """Time a model and its decomposed form on a device, as wholes and layer by layer.

    Without --decomposed, the model is decomposed with default settings. Times do not depend on weights.
    """
    from ..benchmark import benchmark
    from .decomposed_model import decomposed_of
    from .inputs import required_inputs
    from .model_source import built
    from .output_folder import BENCHMARK, check_decomposition_of, checked_output
    from .progress import progress_bar
    from .run_record import save_run
    from .settings import dtypes_of, numbers_of

    folder = checked_output(output, [BENCHMARK])
    check_decomposition_of(folder, decomposed.decomposed)
    dtypes, sizes = dtypes_of(device.dtypes), numbers_of(timed.batch_sizes, "--batch-sizes")
    example_inputs = required_inputs(inputs.input)
    original = built(model)
    other, _ = decomposed_of(original, decomposed, with_weights=False)
    with progress_bar("benchmark", general) as progress:
        report = benchmark(
            original,
            other,
            example_inputs,
            device.backend,
            index=device.index,
            batch_sizes=sizes,
            dtypes=dtypes,
            compiled=timed.compiled,
            profile=timed.profile,
            progress=progress,
        )
    if folder is not None:
        report.save(folder / BENCHMARK)
        save_run(folder, device.backend, device.index, first=False)
    return Result(report.tables(), report.content())
