"""Functions shared by measuring and decomposing: the error of outputs, and checksums of tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from amct_pytorch._run.outputs import ErrorSum
from amct_pytorch._run.tensors import checksum


def _scores(*largest: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.tensor(largest), 3).double()


def test_the_error_is_the_ratio_over_everything_that_was_compared() -> None:
    found = ErrorSum()
    found.add((torch.tensor([3.0]), {"x": torch.tensor([4.0, 0.0])}), (torch.tensor([3.0]), {"x": torch.zeros(2)}))
    found.add(torch.zeros(2, dtype=torch.float16), torch.tensor([3.0, 0.0], dtype=torch.float16))
    assert found.ratio == pytest.approx(1.0)  # of two batches: √((16 + 9) / 25), not the mean of 0.8 and infinity
    assert found.agreement is None


def test_nothing_compared_has_no_error() -> None:
    found = ErrorSum()
    found.add(torch.tensor([1, 2]), torch.tensor([1, 3]))  # whole numbers
    found.add(torch.ones(2, 5), torch.ones(3, 5))  # as many as a detector finds
    found.add([torch.ones(2)], [torch.ones(2), torch.ones(2)])
    assert (found.ratio, found.agreement) == (None, None)


def test_agreement_is_pooled_over_batches_of_different_sizes() -> None:
    found = ErrorSum()
    found.add(_scores(0, 1, 2), _scores(0, 1, 1))
    found.add(_scores(2), _scores(1))
    assert found.agreement == 0.5
    assert ErrorSum(2, 8, 1, 1, 2).ratio == 0.5


def test_several_scores_have_no_agreement() -> None:
    found = ErrorSum()
    found.add((_scores(0), _scores(1)), (_scores(0), _scores(2)))
    assert found.agreement is None
    assert found.ratio == pytest.approx(1.0)


def test_an_error_of_nothing_is_infinite_and_of_nan_nan() -> None:
    infinite, not_a_number = ErrorSum(), ErrorSum()
    infinite.add(torch.zeros(2), torch.ones(2))
    not_a_number.add(torch.ones(1), torch.tensor([torch.nan]))
    assert infinite.ratio == float("inf")
    assert not_a_number.ratio != not_a_number.ratio


def test_a_checksum_changes_with_values_shapes_types_and_order() -> None:
    one, two = torch.tensor([1.0, 2.0]), torch.tensor([3.0])
    sums = [
        checksum(tensors)
        for tensors in (
            [one, two],
            [two, one],
            [one],
            [torch.tensor([1.0, 2.5]), two],
            [one[None], two],
            [one.view(torch.int32), two],
            [torch.empty(0)],
            [],
        )
    ]
    assert len(set(sums)) == len(sums)
    assert checksum([one.clone().requires_grad_(), two]) == sums[0]
    assert checksum([torch.ones(4, 3).T.contiguous()]) == checksum([torch.ones(4, 3).T])
    imaginary = torch.tensor([1 + 2j])
    assert checksum([imaginary.conj()]) == checksum([imaginary.conj().resolve_conj()]) != checksum([imaginary])
    assert checksum([torch.tensor(True), torch.tensor(1.0, dtype=torch.bfloat16)]) != 0


def test_entries_that_the_original_masks_do_not_count() -> None:
    total = ErrorSum()
    exact = torch.tensor([[3.0, 4.0, -torch.inf, torch.nan]])
    total.add(exact, exact + torch.tensor([[0.0, 0.5, 0.0, 1.0]]))
    assert total.ratio == 0.1
    total.add(torch.full((2,), torch.nan), torch.zeros(2))
    assert (total.compared, total.ratio) == (1, 0.1)


def test_tensors_of_every_layout_have_a_checksum() -> None:
    dense = torch.eye(3)
    assert checksum([dense.to_sparse()]) == checksum([dense]) != checksum([2 * dense.to_sparse()])
    assert checksum([dense.to("meta")]) != checksum([torch.empty(4, device="meta")])
