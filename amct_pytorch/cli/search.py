"""`amct-decompose search`."""

from __future__ import annotations

from .options import (
    CalibrationOptions,
    FormatOptions,
    GeneralOptions,
    InputOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    SearchOptions,
    TimingOptions,
)
from .result import Result


def search(
    model: ModelOptions,
    inputs: InputOptions,
    search: SearchOptions,
    method: MethodOptions,
    calibration: CalibrationOptions,
    timing: TimingOptions,
    output: OutputOptions,
    weights: FormatOptions,
    general: GeneralOptions,
) -> Result:
    """Search for the cheapest decomposition whose score is good enough; run it again to go on after an interruption."""
    from ..tensor_decompose import search_decomposition
    from .calibration_source import calibration_of
    from .decomposition_files import apply_and_save, weights_name
    from .inputs import inputs_of, required_inputs
    from .model_source import built
    from .named_function import named_function
    from .output_folder import DECOMPOSITION, JOURNAL, SCORES, SEARCH, UNFINISHED_SEARCH, checked_output, cleared
    from .planning import rank_multiple_for
    from .progress import progress_bar
    from .scores import scores_of
    from .settings import config_of, timing_of

    name = weights_name(weights)
    folder = checked_output(output, {*DECOMPOSITION, JOURNAL}, unfinished=UNFINISHED_SEARCH)
    evaluate = named_function(search.eval, "--eval")
    example_inputs = (inputs_of if search.minimise == "parameters" else required_inputs)(inputs.input)
    original = built(model)
    how = timing_of(timing)
    of_device = (
        rank_multiple_for(original, how.get("backend"), how.get("dtype")) if search.minimise == "latency" else None
    )
    config = config_of(method, None, chosen_together=True, rank_multiple=of_device)
    batches = calibration_of(calibration, example_inputs)
    journal = search.journal
    if journal is None and folder is not None:
        journal = str(cleared(folder / JOURNAL) if output.force else folder / JOURNAL)
    with progress_bar("search", general) as progress:
        found = search_decomposition(
            original,
            evaluate,
            drop=search.drop,
            minimise=search.minimise,  # type: ignore[arg-type]  # it is checked there
            config=config,
            calibration=batches,
            example_inputs=example_inputs,
            samples=search.samples,
            minutes=search.minutes,
            evaluations=search.evaluations,
            journal=journal,
            progress=progress,
            **how,
        )
    if folder is not None:
        scores = scores_of(evaluate, found.original.score, found.chosen.score)
        reports = {SEARCH: found, SCORES: scores}
        apply_and_save(original, found.plan, folder, name, reports=reports, backend=timing.backend, index=timing.index)
    return Result(found.tables(), found.content())
