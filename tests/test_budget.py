"""Choosing for a budget."""

from __future__ import annotations

import itertools
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from amct_pytorch.tensor_decompose.ranks.knapsack import Option, least_damage

_NUMBERS = st.one_of(st.integers(0, 40).map(float), st.floats(0, 1e6, allow_subnormal=False))
_OPTIONS = st.lists(st.builds(Option, _NUMBERS, _NUMBERS), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(st.lists(_OPTIONS, min_size=1, max_size=5), st.floats(0.05, 1.1))
def test_within_a_percent_of_every_combination_tried(layers: list[list[Option]], share: float) -> None:
    limit = share * sum(max(option.cost for option in options) for options in layers)
    totals = [
        (math.fsum(option.cost for option in options), math.fsum(option.damage for option in options))
        for options in itertools.product(*layers)
    ]
    allowed = [damage for cost, damage in totals if cost <= limit]
    chosen = least_damage(layers, limit)
    if chosen is None:
        assert not allowed
        return
    picked = [options[index] for options, index in zip(layers, chosen, strict=True)]
    assert math.fsum(option.cost for option in picked) <= limit
    assert math.fsum(option.damage for option in picked) <= min(allowed) * 1.01
