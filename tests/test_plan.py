"""The plan: its text, its counts, and the models to which it may be applied."""

from __future__ import annotations

import copy
import sys
from collections import UserDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils import prune

from amct_pytorch.errors import ConfigError, InputsError, LayerError, MissingExtra
from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    EnergyRank,
    FixedRank,
    RatioRank,
    auto_decomposition,
    load_plan,
    plan_decomposition,
)

from .models import TwoConvs, conv, image, snapshot


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(64, 64, 3, groups=2), "it has 2 groups"),
        (nn.Conv2d(64, 64, 3, dilation=(1, 2)), "its dilation 1×2 is above 1"),
        (nn.Conv2d(64, 64, 3, stride=(3, 1)), "its stride 3×1 is above 2"),
        (nn.Conv2d(64, 64, (2, 3)), "its kernel 2×3 is below 3 on an axis"),
        (nn.Conv2d(63, 64, 3), "its 63 channels at the narrower end are below 64"),
        (nn.Conv2d(2, 64, 7), "its full rank 14 is below 16"),
    ],
)
def test_a_kept_layer_has_its_reason_in_words(layer: nn.Conv2d, reason: str) -> None:
    (found,) = plan_decomposition(nn.Sequential(layer)).layers
    assert (found.decompose, found.reason) == (False, reason)


def test_every_kind_of_conv2d_is_in_the_plan_and_every_odd_one_kept() -> None:
    masked = conv()
    prune.random_unstructured(masked, "weight", 0.5)
    replaced = conv()
    replaced.forward = lambda x: x  # type: ignore[method-assign]
    extended = conv()
    extended.register_buffer("scale", torch.ones(1))
    model = nn.ModuleDict(
        {
            "lazy": nn.LazyConv2d(64, 3),
            "scripted": torch.jit.script(conv()),
            "quantised": torch.ao.nn.quantized.Conv2d(64, 64, 3),
            "aware": torch.ao.nn.qat.Conv2d(64, 64, 3, qconfig=torch.ao.quantization.get_default_qat_qconfig()),
            "pruned": masked,
            "replaced": replaced,
            "extended": extended,
            "complex": nn.Conv2d(64, 64, 3, dtype=torch.complex64),
            "transposed": nn.ConvTranspose2d(64, 64, 3),
        }
    )
    reasons = {layer.name: layer.reason for layer in plan_decomposition(model).layers}
    assert not any(layer.decompose for layer in plan_decomposition(model).layers)
    for name, part in {
        "lazy": "run the model once",
        "scripted": "then script",
        "quantised": "decompose first, then quantise",
        "aware": "only torch.nn.Conv2d itself",
        "pruned": "prune.remove",
        "replaced": "forward method was replaced",
        "extended": "scale",
        "complex": "complex64",
    }.items():
        assert part in reasons.pop(name)
    assert reasons == {}


def test_macs_are_those_of_the_two_convs_with_strides_by_axis() -> None:
    model = nn.Sequential(conv(64, 128, kernel_size=(3, 5), stride=(2, 1), padding=(1, 2)))
    plan = plan_decomposition(model, example_inputs=image(3, 64, 17, 20))
    (layer,) = plan.layers
    assert layer.macs == 3 * (64 * 128 * 15) * (9 * 20)
    decomposed, _ = plan.apply(model)
    counted = 0

    def count(stage: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal counted
        counted += output.numel() // output.shape[1] * stage.weight.numel()

    for stage in decomposed[0]:
        stage.register_forward_hook(count)
    decomposed(image(3, 64, 17, 20))
    assert layer.macs_after == counted


@pytest.mark.parametrize("wrapped", [False, True])
def test_macs_are_counted_on_what_reaches_the_layer_behind_the_users_hooks(wrapped: bool) -> None:
    model = nn.Sequential(nn.Identity(), conv(128, 64, padding=0))
    if wrapped:
        model[0].register_forward_hook(lambda _, args, output: (output, "more"))
        model[1].register_forward_pre_hook(lambda _, args: args[0][0])
    model[1].register_forward_pre_hook(lambda _, args: nn.functional.pad(args[0].repeat(1, 2, 1, 1), (1, 1, 2, 2)))
    (layer,) = plan_decomposition(model, example_inputs=image(1, 64, 8, 8)).layers
    assert layer.macs == 64 * 128 * 9 * (10 * 8)


def test_macs_of_a_layer_add_up_over_its_calls_and_images_without_batch_count_once() -> None:
    class _Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared, self.idle = conv(), conv()

        def forward(self, small: Tensor, large: Tensor) -> Tensor:
            return self.shared(small).sum() + self.shared(large).sum()

    plan = plan_decomposition(_Head(), example_inputs={"small": image(64, 4, 4), "large": image(2, 64, 8, 8)})
    assert [layer.macs for layer in plan.layers] == [36864 * (16 + 128), 0]


def test_parameters_are_the_models_own_numbers() -> None:
    model = TwoConvs()
    plan = plan_decomposition(model)
    assert plan.parameters == sum(parameter.numel() for parameter in model.parameters())
    plan.apply(model)
    assert plan.parameters_after == sum(parameter.numel() for parameter in model.parameters())
    shared = nn.Sequential(conv(), conv())
    shared[1].weight = shared[0].weight
    plan = plan_decomposition(shared)
    plan.apply(shared)
    assert plan.parameters_after == sum(parameter.numel() for parameter in shared.parameters())


def test_example_inputs_leave_no_trace_in_the_model() -> None:
    class _Counting(TwoConvs):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            assert not self.training
            x += 1
            return super().forward(x)

    model = _Counting()
    model.norm.eval()
    check = snapshot(model)
    x = image()
    plan_decomposition(model, example_inputs=x)
    check()
    assert torch.equal(x, image())


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (lambda: image(2, 5, 8, 8), r"fails on example_inputs \(\(2, 5, 8, 8\) torch.float32 on cpu\): RuntimeError"),
        (lambda: "image", "must be a tensor, a tuple of arguments or a mapping of keywords, found str"),
        (lambda: {"y": image()}, "unexpected keyword"),
        (
            lambda: [image(), image()],
            "the list is taken as 2 arguments; if the model takes a list, give a tuple of that",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused_and_leave_no_trace(inputs: Callable[[], object], message: str) -> None:
    model = TwoConvs()
    check = snapshot(model)
    with pytest.raises(InputsError, match=message):
        plan_decomposition(model, example_inputs=inputs())
    check()


def test_a_plan_is_applied_to_its_own_model_once_and_unchanged() -> None:
    model = TwoConvs()
    other = TwoConvs()
    plan = plan_decomposition(model)
    twin = copy.deepcopy(model)
    check = snapshot(other)
    with pytest.raises(LayerError, match="'conv1': its weight has changed since the plan was made"):
        plan.apply(other)
    check()
    with pytest.raises(LayerError, match="'conv1': the plan expects a Conv2d 64→64, 3×3, found none of that name"):
        plan.apply(nn.Sequential(conv()))
    plan.apply(model)
    with pytest.raises(LayerError, match="'conv1': the plan expects"):
        plan.apply(model)
    plan.apply(twin)
    assert torch.equal(twin(image()), model(image()))
    twin.conv1[0].weight.data.zero_()
    assert model.conv1[0].weight.count_nonzero() > 0


def test_decomposing_twice_changes_nothing_the_second_time(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    model, changes = auto_decomposition(TwoConvs(), path)
    assert list(changes) == ["conv1", "conv2"]
    check = snapshot(model)
    content = path.read_bytes()
    assert auto_decomposition(model, path)[1] == {}
    check()
    assert path.read_bytes() == content
    reasons = {layer.name: layer.reason for layer in plan_decomposition(model).layers}
    assert reasons["conv1.0"] == "it is part of 'conv1', which is decomposed already"


def test_rank_policies_give_the_ranks_they_promise() -> None:
    model = nn.Sequential(conv(64, 128))

    def rank(config: DecompositionConfig) -> int:
        (layer,) = plan_decomposition(model, config).layers
        return layer.rank

    weight = model[0].weight.detach().double().permute(1, 2, 0, 3).reshape(192, 384)
    energy = torch.linalg.svdvals(weight) ** 2
    for share in (0.3, 0.8, 1.0):
        least = int((energy.cumsum(0) < share * energy.sum() * (1 - 1e-12)).sum()) + 1
        assert rank(DecompositionConfig(rank=EnergyRank(share), rank_multiple=1, require_gain=False)) == pytest.approx(
            least, abs=1
        )
        assert rank(DecompositionConfig(rank=EnergyRank(share), rank_multiple=32, require_gain=False)) % 32 == 0
    assert rank(DecompositionConfig(rank=RatioRank(0.1))) == 32  # 16 would lose over a tenth of 19
    assert rank(DecompositionConfig(rank=RatioRank(0.3), rank_multiple=4)) == 60
    assert rank(DecompositionConfig(rank=FixedRank(17))) == 17
    assert rank(DecompositionConfig(rank=FixedRank({"re:^0$": 19}))) == 19


def test_rules_go_by_exact_name_then_patterns_in_order_then_default() -> None:
    model = nn.ModuleDict({name: conv() for name in ("stem", "body", "head", "tail")})
    plan = plan_decomposition(
        model,
        DecompositionConfig(
            rank=RatioRank(0.25),
            layers={
                "re:^(head|tail)$": {"rank": FixedRank(33)},
                "re:a": False,
                "stem": {"rank_multiple": 5},
                "tail": False,
            },
        ),
    )
    assert {layer.name: layer.rank for layer in plan.layers} == {"stem": 50, "body": 48, "head": 33, "tail": None}
    kept = plan_decomposition(model, DecompositionConfig(rank=FixedRank({"body": 32})))
    assert [layer.reason for layer in kept.layers if not layer.decompose] == ["FixedRank names no rank for it"] * 3


def test_progress_is_reported_layer_by_layer_or_drawn() -> None:
    calls: list[tuple[int, int, str]] = []
    plan_decomposition(TwoConvs(), progress=lambda *call: calls.append(call))
    assert [call[:2] for call in calls] == [(1, 2), (2, 2)]
    assert {call[2] for call in calls} == {"conv1", "conv2"}


def test_a_bar_is_drawn_on_stderr_and_a_missing_tqdm_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan_decomposition(TwoConvs(), progress=True)
    shown = capsys.readouterr()
    assert "2/2" in shown.err
    assert shown.out == ""
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    model = TwoConvs()
    check = snapshot(model)
    with pytest.raises(MissingExtra, match="pip install tqdm"):
        auto_decomposition(model, progress=True)
    check()


def test_an_interrupted_run_leaves_the_model_as_it_was() -> None:
    model = TwoConvs()
    check = snapshot(model)

    def interrupt(done: int, total: int, name: str) -> None:
        raise KeyboardInterrupt

    for threads in (1, 2):
        torch.set_num_threads(threads)
        with pytest.raises(KeyboardInterrupt):
            auto_decomposition(model, progress=interrupt)
        assert torch.get_num_threads() == threads
        check()


def test_a_rank_above_the_full_one_names_the_layer() -> None:
    with pytest.raises(ConfigError, match="layer 'conv1': FixedRank asks for rank 500, .* 192 or less"):
        plan_decomposition(TwoConvs(), DecompositionConfig(rank=FixedRank(500)))


def test_the_plan_of_a_model_without_convs_says_so() -> None:
    assert str(plan_decomposition(nn.Linear(2, 2))) == "The model has no Conv2d."


@pytest.mark.parametrize(
    "record",
    [
        lambda model: torch.export.export(model, (image(1, 64, 8, 8),)).module(),
        lambda model: torch.export.export(model, (image(1, 64, 8, 8),)).run_decompositions().module(),
        lambda model: torch.export.unflatten(torch.export.export(model, (image(1, 64, 8, 8),))),
        lambda model: make_fx(model)(image(1, 64, 8, 8)),
        lambda model: nn.Sequential(fx.symbolic_trace(_Functional())),
    ],
    ids=["export", "core export", "unflattened export", "make_fx", "symbolic trace"],
)
def test_of_convolutions_that_a_recorded_graph_calls_as_functions_a_plan_says_what_to_do(
    record: Callable[[nn.Module], nn.Module],
) -> None:
    plan = plan_decomposition(record(nn.Sequential(conv()).eval()))
    assert " ".join(str(plan).split()) == (
        "The model has no Conv2d; its convolutions are called as functions: decompose before exporting or tracing."
    )


class _Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.ones(64, 64, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.kernel)


def test_of_convolutions_that_a_module_calls_as_functions_a_plan_says_what_to_do(tmp_path: Path) -> None:
    plan = plan_decomposition(nn.Sequential(_Functional()))
    assert " ".join(str(plan).split()) == (
        "The model has no Conv2d; convolutions are called as functions in _Functional: "
        "make them layers (torch.nn.Conv2d) to have them decomposed."
    )
    plan.save(tmp_path / "plan")
    assert load_plan(tmp_path / "plan") == plan


def test_rules_by_name_may_name_a_layer_that_an_earlier_call_has_decomposed() -> None:
    model = TwoConvs()
    config = DecompositionConfig(layers={"conv1": {"rank": FixedRank(48)}})
    assert list(auto_decomposition(model, config=config)[1]) == ["conv1", "conv2"]
    assert auto_decomposition(model, config=config)[1] == {}
    named = DecompositionConfig(rank=FixedRank({"conv2": 16}))
    assert auto_decomposition(model, config=named)[1] == {}


def test_buffers_that_a_forward_makes_or_fills_leave_no_trace() -> None:
    class _Caching(TwoConvs):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("filled", None)

        def forward(self, x: Tensor) -> Tensor:
            self.filled = torch.ones(3)
            self.register_buffer("made", torch.ones(2), persistent=False)
            return super().forward(x)

    model = _Caching()
    check = snapshot(model)
    plan_decomposition(model, example_inputs=image())
    check()
    assert model.filled is None
    assert not hasattr(model, "made")
    assert model._non_persistent_buffers_set == set()


def test_numbers_for_both_axes_are_read_as_the_pairs_they_mean() -> None:
    model = nn.Sequential(conv(stride=2), conv())
    model[0].stride, model[0].padding, model[0].dilation = 2, 1, 1
    model[1].padding = 1
    plan = plan_decomposition(model, example_inputs=image(1, 64, 8, 8))
    assert plan.layers[0].spec.stride == (2, 2)
    expected = model(image(1, 64, 8, 8)).shape
    plan.apply(model)
    assert model(image(1, 64, 8, 8)).shape == expected


def test_a_weight_with_gradient_hooks_is_kept() -> None:
    model = nn.Sequential(conv(), conv())
    model[0].weight.register_hook(lambda gradient: gradient)
    model[1].weight.register_post_accumulate_grad_hook(lambda parameter: None)
    for layer in plan_decomposition(model).layers:
        assert not layer.decompose
        assert layer.reason == "its weight has hooks on its gradient, which a split would lose: decompose first"


@pytest.mark.parametrize("wrong", [0, -3, 500])
def test_a_policy_of_ones_own_must_keep_its_contract(wrong: int) -> None:
    class _Own:
        def for_layer(self, names: tuple[str, ...]) -> _Own:
            return self

        def choose(self, kernel: object, singulars: object) -> tuple[int, str]:
            return wrong, "because"

    with pytest.raises(ConfigError, match=rf"layer 'conv1': .* must choose a rank from 1 to 192, found {wrong}"):
        plan_decomposition(TwoConvs(), DecompositionConfig(rank=_Own()))


def test_a_plan_of_a_tied_model_does_not_tie_another() -> None:
    tied, apart = nn.Sequential(conv(), conv()), nn.Sequential(conv(), conv())
    tied[1].weight = tied[0].weight
    for layer in apart:
        layer.weight.data.copy_(tied[0].weight)
    plan = plan_decomposition(tied)
    plan.apply(apart)
    assert apart[0][0].weight is not apart[1][0].weight


def test_planning_leaves_statistics_graphs_and_odd_buffers_alone() -> None:
    model = nn.Sequential(conv(), nn.BatchNorm2d(64), torch.jit.script(nn.BatchNorm2d(64)))
    model.register_buffer("expanded", torch.ones(1).expand(4))
    model.register_buffer("undefined", torch.full((2,), torch.nan))
    check = snapshot(model)
    output = model(image(1, 64, 8, 8)).sum()
    after_forward = snapshot(model)
    plan_decomposition(model, example_inputs=image(1, 64, 8, 8))
    after_forward()
    output.backward()  # a buffer written to meanwhile would forbid it
    with pytest.raises(AssertionError):
        check()  # the forward in training mode did count


def test_inputs_in_a_mapping_of_ones_own_are_not_written_to() -> None:
    class _InPlace(TwoConvs):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.mul_(0))

    inputs = UserDict(x=image())
    plan_decomposition(_InPlace(), example_inputs=inputs)
    assert torch.equal(inputs["x"], image())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda layer: setattr(layer, "padding", (0, 0)), "its padding was changed after it was made"),
        (lambda layer: setattr(layer, "weight", nn.Parameter(layer.weight.data.to_mkldnn())), "layout torch._mkldnn"),
        (lambda layer: (delattr(layer, "bias"), setattr(layer, "bias", torch.zeros(64))), "its bias is not a plain"),
    ],
)
def test_a_layer_changed_by_hand_beyond_what_a_split_can_keep_is_kept(
    change: Callable[[nn.Module], object], reason: str
) -> None:
    model = nn.Sequential(conv(padding_mode="circular"))
    change(model[0])
    (layer,) = plan_decomposition(model).layers
    assert not layer.decompose
    assert reason in layer.reason


def test_a_bias_set_to_none_is_no_bias() -> None:
    model = nn.Sequential(conv())
    del model[0].bias
    model[0].bias = None
    expected = model(image(1, 64, 8, 8)).shape
    auto_decomposition(model)
    assert model(image(1, 64, 8, 8)).shape == expected


def test_a_plan_is_not_applied_to_a_model_without_weights() -> None:
    model = TwoConvs()
    plan = plan_decomposition(model)
    with pytest.raises(LayerError, match="'conv1': its weight has changed"):
        plan.apply(model.to("meta"))


def test_a_progress_function_may_ask_for_a_plan_itself() -> None:
    inner: list[int] = []
    plan_decomposition(TwoConvs(), progress=lambda *call: inner.append(len(plan_decomposition(TwoConvs()).layers)))
    assert inner == [3, 3]


@pytest.mark.parametrize(
    ("layer", "size"),
    [(nn.Conv2d(3, 16, 7, stride=2, padding=3), 224), (nn.Conv2d(128, 128, 8), 8)],
    ids=["a strided stem", "a kernel as large as its input"],
)
def test_a_layer_whose_macs_would_not_fall_is_kept_where_they_are_known(layer: nn.Conv2d, size: int) -> None:
    model = nn.Sequential(layer)
    inputs = torch.randn(1, layer.in_channels, size, size)
    plan = plan_decomposition(model, example_inputs=inputs).layers[0]
    assert not plan.decompose
    assert f"MACs, no fewer than {plan.macs:,}" in plan.reason
    assert plan.macs_after == plan.macs
    assert plan_decomposition(model).layers[0].decompose  # the parameters alone would fall
    assert plan_decomposition(model, DecompositionConfig(require_gain=False), example_inputs=inputs).layers[0].decompose


def test_layers_that_share_a_weight_gain_by_their_macs_together() -> None:
    large, small = conv(), nn.Conv2d(64, 64, 3, stride=2)
    small.weight = large.weight
    plan = plan_decomposition(nn.Sequential(large, small), example_inputs=torch.ones(1, 64, 12, 12))
    assert [layer.decompose for layer in plan.layers] == [True, True]
    assert sum(layer.macs_after or 0 for layer in plan.layers) < sum(layer.macs or 0 for layer in plan.layers)
