"""`amct-decompose run`."""

from __future__ import annotations

from ..errors import ConfigError
from .options import (
    BudgetOptions,
    CalibrationOptions,
    FormatOptions,
    GeneralOptions,
    InputOptions,
    MethodOptions,
    ModelOptions,
    OutputOptions,
    RankOptions,
    RefreshOptions,
    SavedPlanOptions,
    ScoreOptions,
    TimingOptions,
)
from .result import Result


def run(
    model: ModelOptions,
    inputs: InputOptions,
    score: ScoreOptions,
    saved: SavedPlanOptions,
    method: MethodOptions,
    rank: RankOptions,
    budget: BudgetOptions,
    timing: TimingOptions,
    refresh: RefreshOptions,
    calibration: CalibrationOptions,
    output: OutputOptions,
    weights: FormatOptions,
    general: GeneralOptions,
) -> Result:
    """Decompose a model, and write its new structure, its weights and the plan to a folder."""
    from ..tensor_decompose import load_plan
    from .decomposition_files import apply_and_save, weights_name
    from .inputs import inputs_of
    from .model_source import built
    from .output_folder import DECOMPOSITION, SCORES, required_output
    from .planning import planned, summary
    from .scores import evaluate_of, score_of, scores_of
    from .settings import given_in

    if saved.plan is not None:
        given = [name for group in (method, rank, budget, timing, refresh, calibration) for name in given_in(group)]
        if given:
            raise ConfigError(f"--plan: the plan says how to decompose: leave out --{given[0].replace('_', '-')}")
    name = weights_name(weights)
    folder = required_output(output, DECOMPOSITION)
    evaluate = evaluate_of(score.eval)
    example_inputs = inputs_of(inputs.input)
    made = None if saved.plan is None else load_plan(saved.plan)
    original = built(model)
    before = None if evaluate is None else score_of(original, evaluate, "the original")
    if made is None:
        made = planned(original, example_inputs, method, rank, budget, timing, refresh, calibration, general)
    decomposed = apply_and_save(original, made, folder, name, backend=timing.backend, index=timing.index)
    scores = None
    if evaluate is not None and before is not None:
        scores = scores_of(evaluate, before, score_of(decomposed, evaluate, "the decomposed model"))
        scores.save(folder / SCORES)
    return Result(
        [*made.tables(), *(scores.tables() if scores else [])],
        {
            "format": "amct_pytorch.decomposition",
            "version": 1,
            "output": str(folder),
            "plan": summary(made),
            "scores": scores.content() if scores else None,
        },
    )
