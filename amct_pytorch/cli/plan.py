"""`amct-decompose plan`."""

from __future__ import annotations

from .options import (
    BudgetOptions,
    CalibrationOptions,
    ExplainOptions,
    GeneralOptions,
    InputOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    RankOptions,
    RefreshOptions,
    TimingOptions,
)
from .result import Result


def plan(
    model: ModelOptions,
    inputs: InputOptions,
    method: MethodOptions,
    rank: RankOptions,
    budget: BudgetOptions,
    timing: TimingOptions,
    refresh: RefreshOptions,
    calibration: CalibrationOptions,
    detail: ExplainOptions,
    output: OutputOptions,
    general: GeneralOptions,
) -> Result:
    """Show what a decomposition would do to each layer of a model, without doing it."""
    from .decomposition_files import new_decomposition
    from .inputs import inputs_of
    from .model_source import built
    from .output_folder import DECOMPOSITION, PLAN, check_no_decomposition, checked_output
    from .planning import planned, summary
    from .run_record import save_run

    folder = checked_output(output, DECOMPOSITION)
    check_no_decomposition(folder)
    example_inputs = inputs_of(inputs.input)
    made = planned(built(model), example_inputs, method, rank, budget, timing, refresh, calibration, general)
    if folder is not None:
        with new_decomposition(folder, key=PLAN) as draft:
            made.save(draft / PLAN)
            save_run(draft, timing.backend, timing.index)
    return Result((made.explain() if detail.explain else made).tables(), summary(made))
