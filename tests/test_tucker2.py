"""Tucker-2: its error is that of tensorly or lower, and tensorly leaves no trace."""

from __future__ import annotations

import concurrent.futures
import math
import warnings
from typing import Any

import numpy as np
import pytest
import tensorly.decomposition
import torch
from tensorly.decomposition import partial_tucker
from torch import Tensor, nn

from amct_pytorch.errors import LayerError
from amct_pytorch.tensor_decompose import DecompositionConfig, FixedRank, plan_decomposition
from amct_pytorch.tensor_decompose.methods.tucker2 import Tucker2
from amct_pytorch.tensor_decompose.model.compose import composed_weight, relative_error
from amct_pytorch.tensor_decompose.model.spec import LayerSpec

METHOD = Tucker2()


def weight_of(layer: LayerSpec) -> Tensor:
    """Signal of few terms under noise, as trained weights have."""
    generator = torch.Generator().manual_seed(0)
    signal, noise = (torch.randn(layer.weight_shape, dtype=torch.float64, generator=generator) for _ in range(2))
    return signal[:, :1] * signal[:1] + signal[:, 1:2] * signal[1:2] + 0.5 * noise


def composed(layer: LayerSpec, ranks: tuple[int, int], metric: Tensor | None = None) -> Tensor:
    weights = METHOD.split(weight_of(layer), layer, ranks, metric)
    return composed_weight(weights, METHOD.stages(layer, ranks))


def by_tensorly(tensor: Tensor, ranks: tuple[int, int]) -> Tensor:
    (core, factors), _ = partial_tucker(tensor.numpy(), rank=ranks, modes=[0, 1])
    return torch.from_numpy(tensorly.tenalg.multi_mode_dot(core, factors, modes=[0, 1]))


@pytest.mark.parametrize("ranks", [(2, 2), (5, 3), (3, 8), (10, 10)])
@pytest.mark.parametrize("layer", [LayerSpec(12, 16, (3, 3)), LayerSpec(16, 12, (5,)), LayerSpec(12, 12, (1, 3, 2))])
def test_the_error_is_that_of_tensorly_or_lower(layer: LayerSpec, ranks: tuple[int, int]) -> None:
    weight = weight_of(layer)
    oracle = relative_error(by_tensorly(weight, ranks[::-1]), weight)
    assert relative_error(composed(layer, ranks), weight) <= oracle * (1 + 1e-9)


def test_alternating_in_a_metric_leaves_out_less_of_what_is_seen_than_the_higher_order_svd() -> None:
    layer, ranks = LayerSpec(12, 16, (3, 3)), (3, 4)
    metric = torch.linspace(0.1, 3, 12, dtype=torch.float64).diag()
    weight = weight_of(layer)
    seen = [torch.tensordot(metric, kernel.transpose(0, 1), 1) for kernel in (composed(layer, ranks, metric), weight)]
    error, bound = relative_error(*seen), METHOD.spectrum(weight, layer, metric).error(ranks)
    assert error < bound * 0.999
    oracle = by_tensorly(seen[1].transpose(0, 1), ranks[::-1]).transpose(0, 1)
    assert error <= relative_error(oracle, seen[1]) * (1 + 1e-9)


def test_the_spectrum_gives_the_error_of_the_truncated_higher_order_svd() -> None:
    layer = LayerSpec(6, 8, (3, 3))
    weight = weight_of(layer)
    spectrum = METHOD.spectrum(weight, layer)
    first, last = (torch.linalg.svd(weight.movedim(axis, 0).flatten(1)).U for axis in (1, 0))
    for a, b in ((1, 1), (2, 5), (6, 3), (6, 8)):
        core = torch.einsum("oikl,ir,os->srkl", weight, first[:, :a], last[:, :b])
        left_out = max(0.0, float(weight.square().sum() - core.square().sum()))
        assert spectrum.error((a, b)) == pytest.approx(math.sqrt(left_out) / float(weight.norm()), abs=1e-7)


def test_more_channels_than_the_core_can_use_cost_nothing_of_the_error_and_warn_of_nothing() -> None:
    layer = LayerSpec(8, 6, (1, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [relative_error(composed(layer, ranks), weight_of(layer)) for ranks in ((2, 1), (8, 1))]
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_pointwise_and_linear_layers_are_left_to_another_method() -> None:
    assert METHOD.impossible(LayerSpec(64, 64, (1, 1))) == (
        'its kernel is a single place to put between fewer channels: use method="channel"'
    )
    assert "a Linear has no kernel" in str(METHOD.impossible(LayerSpec(64, 64)))
    assert METHOD.impossible(LayerSpec(64, 64, (1, 3))) is None


def test_tensorly_keeps_its_backend_in_every_thread_and_no_generator_is_drawn_from(monkeypatch: Any) -> None:
    layer = LayerSpec(8, 8, (3, 3))
    states = torch.get_rng_state(), np.random.get_state()[1].tolist()

    def in_a_thread_with_a_backend_of_its_own() -> str:
        tensorly.set_backend("pytorch", local_threadsafe=True)
        composed(layer, (2, 3))
        return str(tensorly.get_backend())

    def in_a_plain_thread() -> str:
        composed(layer, (2, 3))
        return str(tensorly.get_backend())

    def backends() -> list[str]:
        with concurrent.futures.ThreadPoolExecutor(1) as one, concurrent.futures.ThreadPoolExecutor(1) as other:
            found = [
                one.submit(in_a_thread_with_a_backend_of_its_own).result(),
                other.submit(in_a_plain_thread).result(),
            ]
        return [*found, str(tensorly.get_backend())]

    assert backends() == ["pytorch", "numpy", "numpy"]

    def fail(*arguments: object, **settings: object) -> None:
        raise torch.linalg.LinAlgError("linalg.svd: the algorithm failed to converge")

    monkeypatch.setattr(tensorly.decomposition, "partial_tucker", fail)
    with pytest.raises(torch.linalg.LinAlgError):
        composed(layer, (2, 3))
    monkeypatch.undo()
    assert backends() == ["pytorch", "numpy", "numpy"]
    assert (torch.get_rng_state() == states[0]).all()
    assert np.random.get_state()[1].tolist() == states[1]


def test_what_is_set_for_this_thread_does_not_reach_tensorly() -> None:
    layer = LayerSpec(8, 8, (3, 3))
    expected = composed(layer, (2, 3))
    with torch.device("meta"):
        weights = METHOD.split(weight_of_on_host(layer), layer, (2, 3))
    assert torch.equal(composed_weight(weights, METHOD.stages(layer, (2, 3))), expected)


def weight_of_on_host(layer: LayerSpec) -> Tensor:
    with torch.device("cpu"):
        return weight_of(layer)


def test_a_factorisation_that_does_not_converge_names_the_layer(monkeypatch: Any) -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 3))

    def fail(*arguments: object, **settings: object) -> None:
        raise torch.linalg.LinAlgError("linalg.svd: the algorithm failed to converge")

    monkeypatch.setattr(tensorly.decomposition, "partial_tucker", fail)
    config = DecompositionConfig(method="tucker2", rank=FixedRank(4))
    with pytest.raises(
        LayerError, match=r"layer '0': .* by tucker2: .*converge; leave the layer out with .*'0': False"
    ):
        plan_decomposition(model, config)
