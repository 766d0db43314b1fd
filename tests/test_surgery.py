"""Models of all kinds that users bring, and user code that inspects a replaced layer."""

from __future__ import annotations

import copy
import functools
import io
import types
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import amct_pytorch._storage.atomic as durable
from amct_pytorch.errors import AmctWarning, InfoFileError, LayerError
from amct_pytorch.tensor_decompose import DecomposedConv2d, auto_decomposition, decompose_network, plan_decomposition

from .models import TwoConvs, chains, conv, image, snapshot


def test_traced_graph_modules_are_decomposed() -> None:
    traced = fx.symbolic_trace(TwoConvs().eval())
    eager = TwoConvs().eval()
    eager.load_state_dict(traced.state_dict())
    _, changes = auto_decomposition(traced)
    auto_decomposition(eager)
    assert list(changes) == ["conv1", "conv2"]
    assert torch.equal(traced(image()), eager(image()))
    traced.recompile()
    traced.graph.lint()
    assert torch.equal(fx.symbolic_trace(traced)(image()), eager(image()))


def test_code_that_uses_the_weight_itself_goes_on_working() -> None:
    class _Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()

        def forward(self, x: Tensor) -> Tensor:
            conv = self.conv
            return nn.functional.conv2d(x.to(conv.weight.dtype), conv.weight, conv.bias, conv.stride, conv.padding)

    model = _Functional()
    auto_decomposition(model)
    x = image(1, 64, 8, 8)
    torch.testing.assert_close(model(x), model.conv(x))
    model(x).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_replaced_layer_answers_as_the_convolution_that_it_replaced() -> None:
    original = nn.Conv2d(64, 80, (3, 5), stride=(2, 1), padding=(1, 2), padding_mode="circular")
    model = nn.Sequential(copy.deepcopy(original))
    auto_decomposition(model)
    (chain,) = model
    assert isinstance(chain, nn.Sequential)
    for name in (*nn.Conv2d.__constants__, "transposed", "_reversed_padding_repeated_twice"):
        assert getattr(chain, name) == getattr(original, name), name
    assert chain.weight.shape == original.weight.shape
    assert torch.equal(chain.bias, original.bias)
    x = image(2, 64, 9, 11)
    padded = nn.functional.pad(x, (2, 2, 1, 1), mode="circular")
    whole = nn.functional.conv2d(padded, chain.weight, chain.bias, chain.stride)
    torch.testing.assert_close(whole, chain(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(AttributeError):
        chain.stride = 1


def test_the_users_own_attributes_stay_on_layer_and_weight() -> None:
    model = nn.Sequential(conv())
    model[0].learning_rate = 0.1
    model[0].weight.no_decay = True
    auto_decomposition(model)
    assert model[0].learning_rate == 0.1
    assert all(stage.weight.no_decay for stage in model[0])


class _Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.inner = nn.Sequential(conv(), conv())
        self.ordered = [None, {"first": self.inner[0]}]
        self.call = self.inner[1].forward
        self.later = functools.partial(torch.relu, self.conv)
        self.fixed = (self.inner[0],)
        self.weak = weakref.ref(self.inner[1])
        self.keyed = {self.conv: "first"}
        self.plain = types.SimpleNamespace(layer=self.conv)
        self.itself = [self]
        object.__setattr__(self, "alias", self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.ordered[1]["first"](self.alias(x))


def test_references_outside_of_the_module_tree_get_the_new_layer_and_are_named_in_warnings(tmp_path: Path) -> None:
    model = _Holder()
    with pytest.warns(AmctWarning) as caught:
        _, changes = auto_decomposition(model, tmp_path / "info.json")
    assert list(changes) == ["conv", "inner.0", "inner.1"]
    warned = {str(warning.message).split(" outside")[0]: str(warning.message) for warning in caught}
    for place, layer, is_set in (
        ("model.ordered[1]['first']", "inner.0", True),
        ("model.plain.layer", "conv", True),
        ("model.alias", "conv", True),
        ("model.call.__self__", "inner.1", False),
        ("model.later.args[0]", "conv", False),
        ("model.fixed[0]", "inner.0", False),
        ("model.weak()", "inner.1", False),
        ("model.keyed.keys()", "conv", False),
    ):
        text = warned.pop(f"{place} holds the layer {layer!r}")
        assert ("now holds the decomposed one" in text) is is_set
        assert ("let it refer to the new layer" in text) is not is_set
    assert warned == {}
    assert {Path(warning.filename).name for warning in caught} == {Path(__file__).name}
    assert model.alias is model.plain.layer is model.conv
    assert model.ordered[1]["first"] is model.inner[0]
    with pytest.warns(AmctWarning) as caught:
        rebuilt, _ = decompose_network(_Holder(), tmp_path / "info.json")
    assert {Path(warning.filename).name for warning in caught} == {Path(__file__).name}
    rebuilt.load_state_dict(model.state_dict())
    x = image(1, 64, 8, 8)
    assert torch.equal(rebuilt(x), model(x))


def test_references_are_found_wherever_they_are_shallow_and_in_modules_outside_of_the_tree() -> None:
    class _Deep(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = conv()
            shared = [[self.conv]]
            self.a = [[[[[shared]]]]]
            self.b = {"x": shared}
            self.hidden = [nn.Sequential(self.conv)]

    model = _Deep()
    with pytest.warns(AmctWarning) as caught:
        auto_decomposition(model)
    assert {str(warning.message).split(" ")[0] for warning in caught} == {"model.b['x'][0][0]", "model.hidden[0].0"}
    assert model.b["x"][0][0] is model.hidden[0][0] is model.conv


def test_a_warning_made_an_error_leaves_the_model_as_it_was() -> None:
    model = _Holder()
    check = snapshot(model)
    with pytest.raises(AmctWarning):  # the suite turns our warnings into errors
        auto_decomposition(model)
    check()
    assert model.alias is model.conv


def test_references_are_put_back_when_the_file_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise OSError(28, "No space left on device")

    model = _Holder()
    check = snapshot(model)
    monkeypatch.setattr(durable.os, "replace", fail)
    with pytest.warns(AmctWarning), pytest.raises(OSError, match="No space left"):
        auto_decomposition(model, tmp_path / "info.json")
    check()
    assert model.alias is model.plain.layer is model.conv
    assert model.ordered[1]["first"] is model.inner[0]


def test_nested_shared_modules_are_replaced_once_and_everywhere() -> None:
    inner = nn.Sequential(conv(), nn.ReLU())
    model = nn.ModuleDict(
        {"left": nn.ModuleList([inner, inner]), "right": nn.ModuleDict({"a": inner, "b": nn.Sequential(inner[0])})}
    )
    _, changes = auto_decomposition(model)
    assert list(changes) == ["left.0.0", "left.1.0", "right.a.0", "right.b.0"]
    assert len({id(chain) for chain in chains(model).values()}) == 1


def test_mixed_dtypes_and_shared_biases_survive() -> None:
    model = nn.Sequential(conv().half(), conv().double(), conv(), conv())
    model[3].bias = model[2].bias
    auto_decomposition(model)
    assert [chain.weight.dtype for chain in model] == [torch.float16, torch.float64, torch.float32, torch.float32]
    assert model[3][1].bias is model[2][1].bias


def test_a_model_that_is_a_conv_itself_is_left_alone_and_a_new_module_returned(tmp_path: Path) -> None:
    original = conv()
    fired: list[nn.Module] = []
    original.register_forward_hook(lambda module, *rest: fired.append(module))
    original.register_load_state_dict_pre_hook(lambda module, *rest: fired.append(module))
    check = snapshot(original)
    chain, changes = auto_decomposition(original, tmp_path / "info.json")
    check()
    assert changes == {"": ["0", "1"]}
    assert isinstance(chain, DecomposedConv2d)
    assert chain[1].bias is not original.bias
    x = image(1, 64, 8, 8)
    chain(x)
    chain.load_state_dict(chain.state_dict())
    original(x)
    original.load_state_dict(original.state_dict())
    assert fired == [chain, chain, original, original]
    rebuilt, rebuilt_changes = decompose_network(original, tmp_path / "info.json")
    check()
    assert rebuilt_changes == changes
    rebuilt.load_state_dict(chain.state_dict())
    assert torch.equal(rebuilt(x), chain(x))
    kept = nn.Conv2d(3, 4, 1)
    assert auto_decomposition(kept) == (kept, {})


def test_copies_pickles_traces_scripts_and_exports_of_a_decomposed_model_work() -> None:
    model, _ = auto_decomposition(TwoConvs().eval())
    expected = model(image())
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (
        copy.deepcopy(model),
        torch.load(buffer, weights_only=False),
        torch.jit.trace(model, image()),
        torch.jit.script(model),
        torch.export.export(model, (image(),)).module(),
    ):
        torch.testing.assert_close(other(image()), expected)


def test_a_lazy_conv_is_decomposed_after_its_first_forward() -> None:
    model = nn.Sequential(nn.LazyConv2d(64, 3))
    assert auto_decomposition(model)[1] == {}
    model(image(1, 64, 8, 8))
    assert list(auto_decomposition(model)[1]) == ["0"]


def test_inference_tensors_become_parameters_that_can_be_trained() -> None:
    with torch.inference_mode():
        model = nn.Sequential(conv(bias=False))
    auto_decomposition(model)
    model(image(1, 64, 8, 8)).sum().backward()
    assert model[0][0].weight.grad is not None


def test_default_dtype_and_device_do_not_leak_into_the_new_layers(tmp_path: Path) -> None:
    model, rebuilt = TwoConvs(), TwoConvs()
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            auto_decomposition(model, tmp_path / "info.json")
            decompose_network(rebuilt, tmp_path / "info.json")
    finally:
        torch.set_default_dtype(torch.float32)
    for parameter in (*model.parameters(), *rebuilt.parameters()):
        assert (parameter.dtype, parameter.device.type) == (torch.float32, "cpu")


def test_new_layers_of_decompose_network_start_as_a_new_conv2d_would(tmp_path: Path) -> None:
    auto_decomposition(TwoConvs(), tmp_path / "info.json")
    rebuilt, _ = decompose_network(TwoConvs(), tmp_path / "info.json")
    first = rebuilt.conv1[0]
    bound = (first.in_channels * 3) ** -0.5
    assert 0.9 * bound < first.weight.abs().max() <= bound
    again, _ = decompose_network(TwoConvs(), tmp_path / "info.json")
    assert torch.equal(first.weight, again.conv1[0].weight)


def test_a_file_of_the_reference_that_names_a_shared_layer_once_replaces_it_there_only(tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = nn.Module()
        model.first = conv()
        model.second = model.first
        return model

    path = tmp_path / "info.json"
    single = nn.Module()
    single.first = conv()
    auto_decomposition(single, path)
    model = build()
    with pytest.warns(AmctWarning, match="'first' is also 'second', which the file does not name"):
        _, changes = decompose_network(model, path)
    assert changes == {"first": ["first.0", "first.1"]}
    assert isinstance(model.second, nn.Conv2d)
    assert model.first.bias is not model.second.bias


def test_one_name_of_a_shared_block_stands_for_all_of_them(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    auto_decomposition(nn.ModuleDict({"a": nn.Sequential(conv())}), path)
    block = nn.Sequential(conv())
    model, changes = decompose_network(nn.ModuleDict({"a": block, "b": block}), path)
    assert changes == {"a.0": ["a.0.0", "a.0.1"], "b.0": ["b.0.0", "b.0.1"]}
    assert isinstance(model["b"][0], DecomposedConv2d)


def test_a_chain_that_was_added_to_goes_on_working(tmp_path: Path) -> None:
    model, _ = auto_decomposition(nn.Sequential(conv(), conv()))
    model[0].append(nn.ReLU())
    assert auto_decomposition(model)[1] == {}
    with pytest.raises(LayerError, match="found ReLU in it"):
        _ = model[0].spec
    with pytest.raises(LayerError, match="'0': expected a chain of layers as a decomposition method makes it"):
        auto_decomposition(model, tmp_path / "info.json")


def test_weight_and_bias_of_a_chain_keep_their_dtype_in_autocast_and_are_no_parameters_of_their_own() -> None:
    model, _ = auto_decomposition(nn.Sequential(conv()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model[0].weight.dtype == torch.float32
    listed = [m.bias for m in model.modules() if isinstance(getattr(m, "bias", None), nn.Parameter)]
    assert len(listed) == 1


def test_a_file_that_splits_one_of_two_convs_of_one_weight_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    single = nn.Sequential(conv())
    auto_decomposition(single, path)
    model = nn.Sequential(conv(), conv())
    model[1].weight = model[0].weight
    with pytest.warns(AmctWarning, match="'0' shares its weight with '1', which the file does not split alike"):
        decompose_network(model, path)


def test_a_chain_changed_by_hand_is_reported_before_a_file_is_written(tmp_path: Path) -> None:
    model, _ = auto_decomposition(nn.Sequential(conv(), conv()))
    model[0][0].stride = (1, 2)
    with pytest.raises(LayerError, match="'0': expected a chain of layers as a decomposition method makes it"):
        auto_decomposition(model, tmp_path / "info.json")
    assert list(tmp_path.iterdir()) == []


def test_decompose_network_twice_changes_nothing_and_another_rank_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    auto_decomposition(TwoConvs(), path)
    model, _ = decompose_network(TwoConvs(), path)
    check = snapshot(model)
    assert decompose_network(model, path) == (model, {})
    check()
    path.write_text(path.read_text().replace("32", "48"))
    with pytest.raises(InfoFileError, match="'conv1' is decomposed already, .* expected rank 48, found rank 32"):
        decompose_network(model, path)
    check()


def test_decompose_network_refuses_a_layer_that_cannot_be_taken_apart(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    auto_decomposition(nn.Sequential(conv()), path)

    class _Own(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    with pytest.raises(LayerError, match="'0' cannot be decomposed as the file says: .*_Own"):
        decompose_network(nn.Sequential(_Own(64, 64, 3, padding=1)), path)


class _Same(nn.Conv2d):
    """Differs from Conv2d in how it is made, initialised and shown."""

    __constants__ = (*nn.Conv2d.__constants__, "note")
    note: str

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1, bias=False)
        self.note = "mine"
        self._initialise()

    def reset_parameters(self) -> None:
        nn.init.kaiming_normal_(self.weight)

    def _initialise(self) -> None:
        nn.init.xavier_normal_(self.weight)

    def extra_repr(self) -> str:
        return self.note


def test_a_subclass_that_computes_what_conv2d_computes_is_decomposed_and_rebuilt(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(_Same(64), _Same(64), conv(bias=False))
    model[2].weight = model[1].weight
    _, changes = auto_decomposition(model, tmp_path / "info.json")
    assert list(changes) == ["0", "1", "2"]
    assert model[0].note == "mine"
    assert model[2][0].weight is model[1][0].weight
    other = nn.Sequential(_Same(64), _Same(64), conv(bias=False))
    other[2].weight = other[1].weight
    rebuilt, _ = decompose_network(other, tmp_path / "info.json")
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(rebuilt(image(1, 64, 8, 8)), model(image(1, 64, 8, 8)))


def _standardised(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.conv2d(x, weight - weight.mean(), bias, padding=1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("forward", lambda self, x: x),
        ("_conv_forward", _standardised),
        ("__call__", lambda self, x: x),
        ("__getattr__", nn.Module.__getattr__),
        ("_load_from_state_dict", nn.Module._load_from_state_dict),
        ("_apply", nn.Module._apply),
        ("stride", property(lambda self: (2, 2), lambda self, value: None)),
        ("flops", lambda self: 1),
        ("gain", 1.0),
    ],
)
@pytest.mark.parametrize("mixed_in", [False, True])
def test_a_subclass_with_something_of_its_own_is_kept(name: str, value: object, mixed_in: bool) -> None:
    bases = (type("_Mixin", (), {name: value}), nn.Conv2d) if mixed_in else (nn.Conv2d,)
    kind = type("_Other", bases, {} if mixed_in else {name: value})
    (layer,) = plan_decomposition(nn.Sequential(kind(64, 64, 3, padding=1))).layers
    assert not layer.decompose
    assert f"_Other with {name} of its own: only torch.nn.Conv2d itself is decomposed" in layer.reason


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_model_on_cuda_stays_there(tmp_path: Path) -> None:
    host = TwoConvs().eval()
    model = copy.deepcopy(host).cuda()
    state = torch.cuda.get_rng_state()
    auto_decomposition(model, tmp_path / "info.json", example_inputs=image().cuda())
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert all(parameter.is_cuda for parameter in model.parameters())
    auto_decomposition(host)
    torch.testing.assert_close(model(image().cuda()).cpu(), host(image()), rtol=1e-2, atol=1e-2)
    rebuilt, _ = decompose_network(TwoConvs().eval().cuda(), tmp_path / "info.json")
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(rebuilt(image().cuda()), model(image().cuda()))


class _Raises(dict):  # type: ignore[type-arg]
    def items(self) -> None:  # type: ignore[override]
        raise RuntimeError("not to be looked at")


def test_what_a_model_holds_besides_is_harmless_to_look_through() -> None:
    model = TwoConvs()
    model.vocabulary = [str(number) for number in range(300_000)]
    model.odd = _Raises(a=1)
    gone = _Raises()
    model.proxy = weakref.proxy(gone)
    del gone
    assert list(auto_decomposition(model)[1]) == ["conv1", "conv2"]
