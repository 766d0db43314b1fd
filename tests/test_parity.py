"""The reference product's layers, modes and ranks."""

from __future__ import annotations

import pytest

from amct_pytorch.tensor_decompose import plan_decomposition

from .golden import GoldenCase, cases


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case.seed))
def test_mode_rank_and_shapes_equal_the_references(case: GoldenCase) -> None:
    conv = case.conv()
    plan = plan_decomposition(conv)
    (layer,) = plan.layers
    assert (layer.mode, layer.rank) == (case.mode, case.rank)
    assert layer.decompose is (case.mode is not None)
    if layer.decompose:
        row, _ = plan.apply(conv)
        assert [list(stage.weight.shape) for stage in row] == [case.first, case.last]
