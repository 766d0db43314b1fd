"""Every method passes the conformance checks, and works in the whole flow without a change elsewhere."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from amct_pytorch.benchmark import benchmark
from amct_pytorch.checkpoint import load_decomposed, save_decomposed
from amct_pytorch.errors import ConfigError, ConfigTypeError, InfoFileError
from amct_pytorch.finetune import Distillation, parameter_groups
from amct_pytorch.method_testing import MethodConformance
from amct_pytorch.tensor_decompose import (
    Calibration,
    DecomposedLayer,
    DecompositionConfig,
    FixedRank,
    RatioRank,
    auto_decomposition,
    decompose_network,
    plan_decomposition,
)
from amct_pytorch.tensor_decompose.methods import Method, method_names, register_method
from amct_pytorch.tensor_decompose.methods.channel import Channel
from amct_pytorch.tensor_decompose.methods.separable import Separable
from amct_pytorch.tensor_decompose.methods.tucker2 import Tucker2
from amct_pytorch.tensor_decompose.model.spec import LayerSpec
from amct_pytorch.tensor_decompose.ranks.spectrum import Spectrum
from amct_pytorch.validate import validate

from .models import TwoConvs, image, snapshot
from .split_methods import ChannelSplit, GroupedSplit, TwoRankSplit


class TestSeparable(MethodConformance):
    method = Separable


class TestChannel(MethodConformance):
    method = Channel


@pytest.mark.slow
class TestTucker2(MethodConformance):
    method = Tucker2


@pytest.mark.slow  # in form it is Tucker-2
class TestTwoRankSplit(MethodConformance):
    method = TwoRankSplit


@pytest.mark.slow
class TestGroupedSplit(MethodConformance):
    method = GroupedSplit


def config_of(method: Method, **settings: Any) -> DecompositionConfig:
    register_method(method)
    return DecompositionConfig(
        method=method.name,
        rule="any",
        **{"rank": RatioRank(0.2), "rank_multiple": 1, "require_gain": False, **settings},
    )


@pytest.fixture(params=[Channel, Tucker2, GroupedSplit], ids=lambda kind: kind.name)
def method(request: pytest.FixtureRequest) -> Method:
    return cast(Method, request.param())


@pytest.mark.parametrize(
    "mode",
    [
        None,
        pytest.param("whiten", marks=pytest.mark.slow),
        pytest.param("refit", marks=pytest.mark.slow),
        "reconstruct",
    ],
)
def test_a_method_goes_from_plan_to_checkpoint(method: Method, mode: Any, tmp_path: Path) -> None:
    original = TwoConvs().eval()
    calibration = None if mode is None else Calibration(image(48, 3, 16, 16).split(12), mode=mode)
    config = config_of(method, layers={"head": False})  # which sees too few samples to be calibrated
    plan = plan_decomposition(original, config, calibration=calibration, example_inputs=image())
    decomposed = [layer for layer in plan.layers if layer.decompose]
    assert decomposed
    assert {layer.method for layer in decomposed} == {method.name}
    assert all(layer.macs_after != layer.macs for layer in decomposed)
    assert method.name in plan.text(width=400)
    small, changes = plan.apply(copy.deepcopy(original), tmp_path / "info.json")
    assert all(len(names) == len(method.stage_names) for names in changes.values())

    rebuilt, again = decompose_network(copy.deepcopy(original), tmp_path / "info.json")
    rebuilt.load_state_dict(small.state_dict())
    assert again == changes
    assert torch.equal(rebuilt(image()), small(image()))

    save_decomposed(small, tmp_path / "checkpoint", plan=plan)
    loaded, _ = load_decomposed(copy.deepcopy(original), tmp_path / "checkpoint")
    assert torch.equal(loaded(image()), small(image()))
    assert validate(original, small, image()).ok


@pytest.mark.slow
def test_a_method_is_measured_and_trained(method: Method) -> None:
    original = TwoConvs().eval()
    small, _ = auto_decomposition(copy.deepcopy(original), config=config_of(method))
    report = benchmark(original, small, image())
    ranks = [layer.ranks for layer in report.runs[0].layers]
    assert ranks == [chain.ranks for chain in small.modules() if isinstance(chain, DecomposedLayer)]
    optimizer = torch.optim.SGD(parameter_groups(small.train(), lr=1e-3), lr=1e-4)
    with Distillation(original, small) as distillation:
        distillation.loss(small(image())).backward()
    optimizer.step()


def test_the_composed_weight_of_a_chain_with_groups_is_its_response(method: Method) -> None:
    layer = nn.Conv2d(6, 8, 3, padding=2, dilation=2, bias=False)
    small, _ = auto_decomposition(nn.Sequential(copy.deepcopy(layer)).double(), config=config_of(method))
    x = torch.randn(2, 6, 9, 9, dtype=torch.float64)
    composed = nn.functional.conv2d(x, small[0].weight, padding=2, dilation=2)
    torch.testing.assert_close(small(x), composed)


def test_ranks_of_several_are_asked_for_one_by_one() -> None:
    plan = plan_decomposition(TwoConvs(), config_of(TwoRankSplit(), rank=FixedRank(24), layers={"stem": False}))
    layer = plan.layers[1]
    assert layer.ranks == (24, 24)
    assert layer.rank is None
    assert [factor.shape[0] for factor in layer.factors] == [24, 24, 64]


def test_a_split_that_gains_nothing_names_all_its_ranks() -> None:
    plan = plan_decomposition(
        TwoConvs(), config_of(TwoRankSplit(), rank=FixedRank(64), require_gain=True, layers={"stem": False})
    )
    assert not plan.layers[1].decompose
    assert "a split at ranks 64, 64 would have" in plan.layers[1].reason


def test_a_file_by_another_method_says_so_and_another_split_of_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    model, _ = auto_decomposition(
        TwoConvs(), path, config=config_of(TwoRankSplit(), rank=FixedRank(24), layers={"stem": False})
    )
    text = path.read_text()
    assert '"method": "test-two-ranks"' in text
    assert '"version": 3' in text
    check = snapshot(model)
    path.write_text(text.replace("24", "20"))
    with pytest.raises(InfoFileError, match="expected ranks 20, 20 by test-two-ranks, found ranks 24, 24 by"):
        decompose_network(model, path)
    path.write_text(text.replace("core", "middle"))
    with pytest.raises(InfoFileError, match="decom_nodes: expected the keys reduce, core, expand, found"):
        decompose_network(TwoConvs(), path)
    path.write_text(text.replace("24", "2400"))
    with pytest.raises(InfoFileError, match=r"expected ranks of \[64, 64\] at most, found \[2400, 2400\]"):
        decompose_network(TwoConvs(), path)
    check()


def test_registering_needs_a_method_and_a_name_of_its_own() -> None:
    class Impostor(ChannelSplit):
        pass

    assert "separable" in method_names()
    register_method(ChannelSplit())
    with pytest.raises(ConfigError, match="'test-channel' exists already, as ChannelSplit: choose another name"):
        register_method(Impostor())
    with pytest.raises(ConfigTypeError, match="expected an object of a subclass of Method"):
        register_method(ChannelSplit)  # type: ignore[arg-type]


class _Silent(ChannelSplit):
    name = "broken-silent"

    def impossible(self, layer: LayerSpec) -> str | None:
        return "" if layer.groups > 1 else None


class _WithBiases(ChannelSplit):
    name = "broken-biases"

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        return tuple(replace(stage, bias=True) for stage in super().stages(layer, ranks))


class _FewerRanks(TwoRankSplit):
    name = "broken-ranks"

    def full_ranks(self, layer: LayerSpec) -> tuple[int, ...]:
        return super().full_ranks(layer)[: 1 if layer.bias else 2]


class _LosesTerms(ChannelSplit):
    name = "broken-full"

    def split(self, *arguments: Any, **keywords: Any) -> tuple[Tensor, ...]:
        first, last = super().split(*arguments, **keywords)
        return first, torch.cat([torch.zeros_like(last[:, :1]), last[:, 1:]], dim=1)


class _WorstTerms(ChannelSplit):
    name = "broken-worst"

    def split(
        self,
        weight: Tensor,
        layer: LayerSpec,
        ranks: Sequence[int],
        metric: Tensor | None = None,
        spectrum: Spectrum | None = None,
    ) -> tuple[Tensor, ...]:
        first, last = super().split(weight, layer, self.full_ranks(layer), metric)
        return first[-ranks[0] :], last[:, -ranks[0] :]


class _BlindToInputs(ChannelSplit):
    name = "broken-metric"

    def split(
        self,
        weight: Tensor,
        layer: LayerSpec,
        ranks: Sequence[int],
        metric: Tensor | None = None,
        spectrum: Spectrum | None = None,
    ) -> tuple[Tensor, ...]:
        return super().split(weight, layer, ranks)


class _PaddedTwice(ChannelSplit):
    name = "broken-padding"

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        first, last = super().stages(layer, ranks)
        modes = {"zeros": "circular", "circular": "zeros"}
        return replace(first, padding_mode=modes.get(layer.padding_mode, layer.padding_mode)), last


class _Uneven(ChannelSplit):
    name = "broken-uneven"

    def split(self, *arguments: Any, **keywords: Any) -> tuple[Tensor, ...]:
        first, last = super().split(*arguments, **keywords)
        return first * 1e4, last / 1e4


class _NotFinite(ChannelSplit):
    name = "broken-zeros"

    def split(self, *arguments: Any, **keywords: Any) -> tuple[Tensor, ...]:
        first, last = super().split(*arguments, **keywords)
        size = last.norm()
        return first * size, last / size


class _Draws(ChannelSplit):
    name = "broken-draws"

    def split(self, *arguments: Any, **keywords: Any) -> tuple[Tensor, ...]:
        torch.rand(1)
        return super().split(*arguments, **keywords)


class _Detached(ChannelSplit):
    name = "broken-gradient"

    def split(self, *arguments: Any, **keywords: Any) -> tuple[Tensor, ...]:
        return tuple(torch.zeros_like(part) for part in super().split(*arguments, **keywords))


class _Forgetful(TwoRankSplit):
    name = "broken-shapes"

    def ranks_of(self, layer: LayerSpec, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
        return shapes[0][0], shapes[0][0]


class _CountsTwice(GroupedSplit):
    name = "broken-groups"

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        first, last = super().stages(layer, ranks)
        return replace(first, kernel_size=tuple(size + 1 for size in first.kernel_size)), last


class _HalfTheMacs(LayerSpec):
    def macs(self, size: Sequence[int]) -> int:
        return super().macs(size) // 2


class _Boasts(ChannelSplit):
    name = "broken-macs"

    def stages(self, layer: LayerSpec, ranks: Sequence[int]) -> tuple[LayerSpec, ...]:
        return tuple(_HalfTheMacs(**vars(stage)) for stage in super().stages(layer, ranks))


class _Unstable(ChannelSplit):
    """Wrong in a metric only, as a calibrated network alone would show."""

    name = "broken-calibration"

    def split(
        self,
        weight: Tensor,
        layer: LayerSpec,
        ranks: Sequence[int],
        metric: Tensor | None = None,
        spectrum: Spectrum | None = None,
    ) -> tuple[Tensor, ...]:
        first, last = super().split(weight, layer, ranks, metric, spectrum)
        return (first, last) if metric is None else (first * math.nan, last)


@pytest.mark.parametrize(
    ("broken", "check", "message"),
    [
        (_Silent, "it_says_in_words_what_it_does_not_split", "must be words or None, found ''"),
        (_WithBiases, "stages_take_the_place_of_the_layer", "biases"),
        (_FewerRanks, "ranks_are_as_many_as_it_says", "must give as many ranks for every layer"),
        (_LosesTerms, "full_ranks_reproduce_the_layer", "the response is off by"),
        (_WorstTerms, "splits_are_the_best_of_their_ranks_or_near", "the spectrum says"),
        (_BlindToInputs, "a_metric_is_what_the_error_is_measured_in", "in a metric: the error is"),
        (_PaddedTwice, "the_composed_kernel_is_the_chains_response", "chain and composed kernel differ by"),
        (_CountsTwice, "stages_take_the_place_of_the_layer", "expected one stage with the kernel of axis 0"),
        (_Boasts, "macs_are_those_that_run", "MACs, .* ran"),
        (_Uneven, "weights_of_the_stages_are_of_similar_size", "root mean squares of the stages' weights"),
        (_NotFinite, "zero_and_low_rank_weights_are_split", "factors that are not finite"),
        (_Draws, "it_leaves_weights_and_generators_alone", "the global generator was drawn from"),
        (_Detached, "gradients_flow_into_every_stage", "a stage gets no gradient"),
        (_Forgetful, "ranks_are_read_back_from_the_shapes", "where the ranks are"),
        (_Forgetful, "a_model_is_rebuilt_bit_for_bit", "weight_shape"),
        (_Unstable, "calibration_keeps_more_than_the_plain_split", "not finite"),
    ],
    ids=lambda value: value.name if isinstance(value, type) else None,
)
def test_a_broken_method_fails_the_check(broken: type[Method], check: str, message: str) -> None:
    kit = type("Kit", (MethodConformance,), {"method": broken})()
    with pytest.raises((AssertionError, InfoFileError), match=message):
        getattr(kit, f"test_{check}")()
