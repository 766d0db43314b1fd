"""Layers, modes and ranks are AMCT's."""

from __future__ import annotations

import pytest

from amct_pytorch.tensor_decompose import plan_decomposition

from .reference_cases import ReferenceCase, cases


@pytest.mark.parametrize("case", cases(), ids=lambda case: str(case.seed))
def test_mode_rank_and_shapes_are_those_of_amct(case: ReferenceCase) -> None:
    conv = case.conv()
    plan = plan_decomposition(conv)
    (layer,) = plan.layers
    assert (layer.mode, layer.rank) == (case.mode, case.rank)
    assert layer.decompose is (case.mode is not None)
    if layer.decompose:
        chain, _ = plan.apply(conv)
        assert [list(stage.weight.shape) for stage in chain] == [case.first, case.last]
