"""Cases in which AMCT fails, loses something or stays silent: each test shows the better behaviour of this library."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, weight_norm

import amct_pytorch._storage.atomic as durable
from amct_pytorch.errors import InfoFileError, InputsError, LayerError
from amct_pytorch.tensor_decompose import (
    DecomposedConv2d,
    DecompositionConfig,
    EnergyRank,
    FixedRank,
    RatioRank,
    auto_decomposition,
    decompose_network,
    plan_decomposition,
)

from .models import TwoConvs, chains, conv, image, snapshot


def test_one_decomposition_a_weight_and_of_its_small_side_only(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []
    eigh, svd = torch.linalg.eigh, torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "eigh", lambda a, **k: calls.append(tuple(a.shape)) or eigh(a, **k))
    monkeypatch.setattr(torch.linalg, "svd", lambda *a, **k: pytest.fail("a full SVD") or svd(*a, **k))
    monkeypatch.setattr(np.linalg, "svd", lambda *a, **k: pytest.fail("a full SVD"))
    auto_decomposition(nn.Sequential(conv(64, 128)))
    assert calls == [(192, 192)]  # the small side, once; nothing of the 384 columns' side


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_named_padding_is_decomposed_like_explicit_padding(padding: str) -> None:
    named = nn.Sequential(conv(64, 64, padding=padding))
    explicit = nn.Sequential(conv(64, 64, padding=1 if padding == "same" else 0))
    explicit.load_state_dict(named.state_dict())
    x = image(1, 64, 9, 10)
    named, changes = auto_decomposition(named)
    explicit, _ = auto_decomposition(explicit)
    assert changes == {"0": ["0.0", "0.1"]}
    torch.testing.assert_close(named(x), explicit(x))


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.second = self.first
        self.block = nn.Sequential(conv(), nn.ReLU())
        self.again = self.block

    def forward(self, x: Tensor) -> Tensor:
        return self.again(self.block(self.second(self.first(x))))


def test_a_conv_under_several_names_is_replaced_under_each_by_one_object(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    model, changes = auto_decomposition(_Twice(), path)
    assert model.first is model.second
    assert isinstance(model.first, DecomposedConv2d)
    assert model.block[0] is model.again[0]
    assert list(changes) == ["first", "second", "block.0", "again.0"]
    assert [entry["ori_layer_info"]["name"] for entry in json.loads(path.read_text())] == list(changes)

    rebuilt, rebuilt_changes = decompose_network(_Twice(), path)
    assert rebuilt_changes == changes
    assert rebuilt.first is rebuilt.second
    assert rebuilt.state_dict().keys() == model.state_dict().keys()
    rebuilt.load_state_dict(model.state_dict())
    x = image(1, 64, 8, 8)
    assert torch.equal(rebuilt(x), model(x))


def test_bfloat16_is_decomposed_in_float32() -> None:
    model = nn.Sequential(conv()).bfloat16()
    single = nn.Sequential(conv())
    single.load_state_dict(model.state_dict())
    auto_decomposition(model)
    auto_decomposition(single)
    for half, full in zip(model[0], single[0], strict=True):
        assert half.weight.dtype == torch.bfloat16
        assert torch.equal(half.weight, full.weight.bfloat16())


def test_flags_dtype_and_memory_format_are_kept() -> None:
    model = nn.Sequential(conv(), conv(), conv().double(), conv()).to(memory_format=torch.channels_last)
    model[0].weight.requires_grad_(False)
    model[1].bias.requires_grad_(False)
    model.eval()
    model[3].train()
    auto_decomposition(model)
    assert [p.requires_grad for p in model[0].parameters()] == [False, False, True]
    assert [p.requires_grad for p in model[1].parameters()] == [True, True, False]
    assert [chain.training for chain in model] == [False, False, False, True]
    assert not any(stage.training for chain in model[:3] for stage in chain)
    assert all(stage.training for stage in model[3])
    assert {p.dtype for p in model[2].parameters()} == {torch.float64}
    for chain in model:
        for stage in chain:
            assert stage.weight.is_contiguous(memory_format=torch.channels_last)


def test_hooks_move_to_the_new_layer_and_their_handles_go_on_working() -> None:
    model = TwoConvs().eval()
    seen: list[tuple[str, nn.Module]] = []
    handles = [
        model.conv1.register_forward_hook(lambda m, a, out: seen.append(("forward", m))),
        model.conv1.register_forward_pre_hook(lambda m, a, kw: seen.append(("pre", m)), with_kwargs=True),
        model.conv1.register_full_backward_hook(lambda m, gi, go: seen.append(("backward", m))),
        model.conv1.register_state_dict_post_hook(lambda m, sd, prefix, meta: seen.append(("state", m))),
        model.conv1.register_load_state_dict_pre_hook(lambda m, *a: seen.append(("load", m))),
        model.conv1.register_load_state_dict_post_hook(lambda m, keys: seen.append(("loaded", m))),
    ]
    auto_decomposition(model)
    model(image()).sum().backward()
    model.load_state_dict(model.state_dict())
    assert [name for name, _ in seen] == ["pre", "forward", "backward", "state", "load", "loaded"]
    assert all(module is model.conv1 for _, module in seen)
    for handle in handles:
        handle.remove()
    seen.clear()
    model(image()).sum().backward()
    model.load_state_dict(model.state_dict())
    assert seen == []


class _Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight - self.weight.mean(), self.bias, padding=1)


def test_subclasses_are_kept_with_the_reason() -> None:
    model = nn.Sequential(_Standardised(64, 64, 3), conv())
    plan = plan_decomposition(model)
    assert [layer.decompose for layer in plan.layers] == [False, True]
    assert "_Standardised" in plan.layers[0].reason
    assert "only torch.nn.Conv2d itself" in plan.layers[0].reason


def test_parametrised_weights_are_kept_with_the_reason() -> None:
    class _Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    with pytest.warns(FutureWarning, match="weight_norm"):
        old_style = weight_norm(conv())
    model = nn.Sequential(
        parametrizations.weight_norm(conv()), parametrizations.spectral_norm(conv()), old_style, conv(), conv()
    )
    parametrize.register_parametrization(model[3], "weight", _Halved())
    plan = plan_decomposition(model)
    assert [layer.decompose for layer in plan.layers] == [False, False, False, False, True]
    assert all("weight_norm" in layer.reason for layer in plan.layers[:4])
    _, changes = plan.apply(model)
    assert list(changes) == ["4"]


def test_meta_device_is_rebuilt_and_refused_clearly_by_auto_decomposition(tmp_path: Path) -> None:
    model, _ = auto_decomposition(TwoConvs().eval(), tmp_path / "info.json")
    with torch.device("meta"):
        empty = TwoConvs().eval()
    decompose_network(empty, tmp_path / "info.json")
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert empty.conv1.weight.is_meta
    assert empty.conv1.weight.shape == (64, 64, 3, 3)
    empty.load_state_dict(model.state_dict(), assign=True)
    assert torch.equal(empty(image()), model(image()))

    with torch.device("meta"):
        empty = TwoConvs()
    with pytest.raises(LayerError, match="no weights .*'conv1', 'conv2' on the meta device"):
        auto_decomposition(empty)


def test_children_are_replaced_by_name_whatever_their_names() -> None:
    swapped = nn.Sequential()
    swapped.add_module("1", nn.Conv2d(64, 64, 1))
    swapped.add_module("0", conv())
    model = nn.ModuleDict({"0": conv(), "x": swapped, "list": nn.ModuleList([nn.Identity(), conv()])})
    _, changes = auto_decomposition(model)
    assert list(changes) == ["0", "x.0", "list.1"]
    assert list(chains(model)) == ["0", "x.0", "list.1"]
    assert list(swapped._modules) == ["1", "0"]
    assert isinstance(swapped._modules["1"], nn.Conv2d)


def test_a_shared_weight_is_factored_once_where_all_agree(tmp_path: Path) -> None:
    def build() -> nn.Sequential:
        model = nn.Sequential(conv(), conv(stride=2, bias=False), conv())
        model[1].weight = model[0].weight
        return model

    original = build()
    model, changes = auto_decomposition(build(), tmp_path / "info.json")
    assert list(changes) == ["0", "1", "2"]
    assert model[0][0].weight is model[1][0].weight
    assert model[0][1].weight is model[1][1].weight
    assert model[1].stride == original[1].stride
    assert model[2][0].weight is not model[0][0].weight
    rebuilt, _ = decompose_network(build(), tmp_path / "info.json")
    assert rebuilt[0][0].weight is rebuilt[1][0].weight
    rebuilt.load_state_dict(model.state_dict())
    x = image(1, 64, 8, 8)
    assert torch.equal(rebuilt(x), model(x))


def test_a_shared_weight_is_kept_where_one_conv_cannot_be_split() -> None:
    model = nn.Sequential(conv(), conv(dilation=2))
    model[1].weight = model[0].weight
    plan = plan_decomposition(model)
    assert [layer.decompose for layer in plan.layers] == [False, False]
    assert "'1', which is kept (its dilation 2×2 is above 1)" in plan.layers[0].reason
    assert "dilation" in plan.layers[1].reason


def test_a_shared_weight_is_kept_where_settings_differ_or_another_kind_of_layer_has_it() -> None:
    model = nn.Sequential(conv(), conv())
    model[1].weight = model[0].weight
    for rule in ({"rank": RatioRank(0.1)}, {"rank": FixedRank({"1": 16})}):
        plan = plan_decomposition(model, DecompositionConfig(layers={"1": rule}))
        assert [layer.decompose for layer in plan.layers] == [False, False]
        assert "its weight is also that of '1', which has other settings" in plan.layers[0].reason

    upward = nn.ConvTranspose2d(64, 64, 3)
    tied = nn.Sequential(conv(), upward)
    upward.weight = tied[0].weight
    (layer,) = plan_decomposition(tied).layers
    assert not layer.decompose
    assert "'1.weight'" in layer.reason


def test_not_finite_weights_are_named_and_the_model_left_untouched(tmp_path: Path) -> None:
    model = nn.Sequential(conv(), conv(), nn.Conv2d(64, 64, 1), conv())
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] = torch.nan
        model[1].weight[1, 2, 0, 0] = -torch.inf
        model[2].weight.fill_(torch.nan)
    check = snapshot(model)
    with pytest.raises(LayerError, match="'0', '1'") as error:
        auto_decomposition(model, tmp_path / "info.json")
    assert "'2'" not in str(error.value)
    check()
    assert list(tmp_path.iterdir()) == []

    kept = nn.Sequential(nn.Conv2d(64, 64, 1), conv())
    with torch.no_grad():
        kept[0].weight.fill_(torch.nan)
    _, changes = auto_decomposition(kept)
    assert list(changes) == ["1"]


def test_the_two_factors_are_balanced_and_half_precision_stays_finite() -> None:
    model = nn.Sequential(conv(64, 64), conv(64, 64).half())
    with torch.no_grad():
        model[1].weight.fill_(6000)  # of one term, whose singular value of about 1e6 is beyond half precision
    auto_decomposition(model)
    first, last = (stage.weight.detach() for stage in model[0])
    torch.testing.assert_close(first.flatten(1).norm(dim=1), last.transpose(0, 1).flatten(1).norm(dim=1))
    assert all(torch.isfinite(stage.weight).all() for stage in model[1])
    torch.testing.assert_close(model[1].weight, torch.full((64, 64, 3, 3), 6000).half(), rtol=1e-2, atol=0)


def test_file_and_model_change_together_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "info.json"
    path.write_text("old")
    model = TwoConvs()
    check = snapshot(model)

    def disk_full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    for step in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(durable.os, step, disk_full)
            with pytest.raises(OSError, match="No space left on device"):
                auto_decomposition(model, path)
        check()
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
    _, changes = auto_decomposition(model, path)
    assert [entry["ori_layer_info"]["name"] for entry in json.loads(path.read_text())] == list(changes)


def test_nothing_to_decompose_writes_an_empty_list_over_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    path.write_text("old")
    model = nn.Sequential(nn.Conv2d(3, 8, 3))
    result, changes = auto_decomposition(model, path)
    assert (result, changes) == (model, {})
    assert json.loads(path.read_text()) == []
    assert decompose_network(nn.Sequential(nn.Conv2d(3, 8, 3)), path)[1] == {}


def test_the_file_is_checked_as_a_whole_before_the_first_change(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    auto_decomposition(TwoConvs(), path)
    entries = json.loads(path.read_text())
    entries[1]["decom_nodes"]["last"]["weight_shape"][1] += 16
    path.write_text(json.dumps(entries))
    model = TwoConvs()
    check = snapshot(model)
    with pytest.raises(InfoFileError) as error:
        decompose_network(model, path)
    check()
    message = str(error.value)
    for part in (str(path), "entry 1 ('conv2')", "last, weight_shape", "expected [128, 32, 1, 3], found [128, 48, "):
        assert part in message


def test_a_layer_that_a_split_would_not_shrink_is_kept() -> None:
    model = nn.Sequential(nn.Conv2d(1, 64, 16))
    assert plan_decomposition(model).parameters == 16448
    (layer,) = plan_decomposition(model).layers
    assert not layer.decompose
    assert (layer.mode, layer.rank) == ("SCFK", 16)
    assert "16,704 parameters, no fewer than 16,448" in layer.reason
    assert auto_decomposition(model)[1] == {}
    _, changes = auto_decomposition(model, config=DecompositionConfig(require_gain=False))
    assert changes == {"0": ["0.0", "0.1"]}


def test_random_generators_are_left_as_they_were(tmp_path: Path) -> None:
    class _Noisy(TwoConvs):
        def forward(self, x: Tensor) -> Tensor:
            random.random()
            np.random.rand()
            return super().forward(x + torch.rand_like(x))

    states = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()
    model = _Noisy()
    torch.set_rng_state(states[2])
    auto_decomposition(model, tmp_path / "info.json", example_inputs=image())
    assert random.getstate() == states[0]
    assert np.array_equal(np.random.get_state()[1], states[1])
    assert torch.equal(torch.get_rng_state(), states[2])
    with pytest.raises(InputsError):
        auto_decomposition(_Noisy(), example_inputs=image(1, 5, 8, 8))
    assert random.getstate() == states[0]
    model = _Noisy()
    state = torch.get_rng_state()
    decompose_network(model, tmp_path / "info.json")
    assert torch.equal(torch.get_rng_state(), state)


def test_ranks_can_be_chosen_layers_left_out_and_the_plan_read_before_it_is_applied() -> None:
    model = TwoConvs()
    check = snapshot(model)
    config = DecompositionConfig(rank=EnergyRank(0.5), rank_multiple=8, layers={"conv1": False})
    plan = plan_decomposition(model, config, example_inputs=image())
    check()
    text = plan.text(width=400)
    assert "left out by the rule 'conv1'" in text
    assert "its 3 channels at the narrower end are below 64" in text
    assert "EnergyRank(share=0.5), multiples of 8" in text
    assert "hold 0.5 of the energy" in plan.explain().text(width=400)
    assert "1 of 3 Conv2d are decomposed" in text
    _, changes = plan.apply(model)
    assert list(changes) == ["conv2"]
    assert model.conv2[0].out_channels % 8 == 0
