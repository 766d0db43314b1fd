"""`--eval`: how good the model is at its task, before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from .._report.scores import ScoreReport
from ..tensor_decompose.search.scoring import score_of as score_of_plan
from .named_function import named_function


def evaluate_of(text: str | None) -> Callable[..., Any] | None:
    """The function of the model that ``--eval`` names; None for none.

    Parameters
    ----------
    text
        ``module:function`` or ``file.py:function``.
    """
    return None if text is None else named_function(text, "--eval")


def score_of(model: nn.Module, evaluate: Callable[..., Any], called: str) -> float:
    """The score of a model; it is not changed.

    Parameters
    ----------
    model
        The model.
    evaluate
        The function.
    called
        What the model is called in messages.

    Raises
    ------
    ModelError, InputsError, ConfigError
        See `search_decomposition`.
    """
    return score_of_plan(model, evaluate, None, called)


def scores_of(evaluate: Callable[..., Any], before: float, after: float) -> ScoreReport:
    """The report of two scores, under the name of the function.

    Parameters
    ----------
    evaluate
        The function.
    before, after
        Scores of the original and of the decomposed model.
    """
    return ScoreReport(getattr(evaluate, "__name__", "score"), "", before, after)
