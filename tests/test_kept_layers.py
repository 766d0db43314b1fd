"""Layers that are kept because of what the model does with them besides running them, and the reason given."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from amct_pytorch.errors import AmctWarning
from amct_pytorch.tensor_decompose import DecompositionConfig, RatioRank, auto_decomposition, plan_decomposition
from amct_pytorch.tensor_decompose.methods import register_method

from .models import conv, image
from .split_methods import ChannelSplit


class _LoraLayer(nn.Module):
    """A low-rank change of a convolution, as PEFT keeps and merges it."""

    def __init__(self, base_layer: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": conv(bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Conv2d(64, base_layer.out_channels, 1, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))

    def merge(self) -> nn.Module:
        first, last = self.lora_A["default"].weight.data, self.lora_B["default"].weight.data
        self.base_layer.weight.data += torch.einsum("or,rikl->oikl", last.flatten(1), first)
        return self.base_layer


class _ConvLoRA(nn.Module):
    """The same with plain Parameters, as loralib does it."""

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__()
        self.conv = layer
        self.lora_A = nn.Parameter(torch.randn(8, 64 * 9) * 0.1)
        self.lora_B = nn.Parameter(torch.randn(layer.out_channels, 8) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + nn.functional.conv2d(x, self._delta(), padding=1)

    def _delta(self) -> Tensor:
        return (self.lora_B @ self.lora_A).view(self.conv.weight.shape)

    def merge(self) -> nn.Module:
        self.conv.weight.data += self._delta()
        return self.conv


class _FullChange(nn.Module):
    """The change as a whole, under a name that says nothing."""

    def __init__(self, inner: nn.Conv2d) -> None:
        super().__init__()
        self.inner, self.change = inner, nn.Parameter(torch.randn_like(inner.weight) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + nn.functional.conv2d(x, self.change, padding=1)

    def merge(self) -> nn.Module:
        self.inner.weight.data += self.change.data
        return self.inner


@pytest.mark.parametrize("adapter", [_LoraLayer, _ConvLoRA, _FullChange])
def test_layers_in_an_adapter_are_kept_until_it_is_merged(adapter: Callable[[nn.Conv2d], nn.Module]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(adapter(conv()), conv())
    plan = plan_decomposition(model)
    kept = [layer for layer in plan.layers if not layer.decompose]
    assert [layer.name for layer in plan.layers if layer.decompose] == ["1"]
    assert {layer.reason for layer in kept} == {
        f"it is part of '0', an adapter ({adapter.__name__}): merge the adapter first, then decompose"
    }
    plan.apply(model)
    x = image(1, 64, 8, 8)
    before = model(x)
    model[0] = model[0].merge()
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)
    assert list(auto_decomposition(model)[1]) == ["0"]


def test_a_block_that_holds_an_adapter_of_another_layer_is_decomposed() -> None:
    class _Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.attention, self.scale = conv(), nn.Module(), nn.Parameter(torch.ones(64, 1, 1))
            self.attention.base_layer = nn.Linear(64, 64)
            self.attention.lora_A = nn.Linear(64, 8)

    assert list(auto_decomposition(_Block())[1]) == ["conv"]


def _branch(kernel_size: int) -> nn.Sequential:
    branch = nn.Sequential()
    branch.conv = conv(kernel_size=kernel_size, padding=kernel_size // 2, bias=False)
    branch.bn = nn.BatchNorm2d(64)
    return branch


class _NormedBranch(nn.Module):
    """A branch on lines whose weight is not its own, so that nothing but its BatchNorm shows what is to be merged."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 3)), nn.BatchNorm1d(8)
        self.last = nn.Conv1d(8, 4, 1)

    def fuse_convs(self) -> None: ...


def test_branches_of_another_kind_are_kept_too() -> None:
    plan = plan_decomposition(nn.Sequential(_NormedBranch(), nn.Conv1d(8, 8, 3)), _for_all_kinds())
    assert [layer.name for layer in plan.layers if layer.decompose] == ["1"]
    assert plan.layers[1].reason.startswith("it is a branch in '0': merge its branches first (its method fuse_convs)")


class _RepVGGBlock(nn.Module):
    """Two branches that are summed, and made one convolution for inference, with a gate behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.rbr_dense, self.rbr_1x1 = _branch(3), _branch(1)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, 8, 1), nn.Conv2d(8, 64, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        y = self.rbr_reparam(x) if hasattr(self, "rbr_reparam") else self.rbr_dense(x) + self.rbr_1x1(x)
        return y * self.gate(y)

    def switch_to_deploy(self) -> None:
        kernels, biases = zip(*(self._folded(branch) for branch in (self.rbr_dense, self.rbr_1x1)), strict=True)
        self.rbr_reparam = conv()
        self.rbr_reparam.weight.data = kernels[0] + nn.functional.pad(kernels[1], [1, 1, 1, 1])
        self.rbr_reparam.bias.data = sum(biases)
        del self.rbr_dense, self.rbr_1x1

    def _folded(self, branch: nn.Sequential) -> tuple[Tensor, Tensor]:
        scale = branch.bn.weight / (branch.bn.running_var + branch.bn.eps).sqrt()
        folded = branch.conv.weight * scale.view(-1, 1, 1, 1)
        return folded.detach(), (branch.bn.bias - branch.bn.running_mean * scale).detach()


class _RepVGG(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.last = nn.Sequential(_RepVGGBlock(), _RepVGGBlock()), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.blocks(x))

    def switch_to_deploy(self) -> None:
        for block in self.blocks:
            block.switch_to_deploy()


def test_branches_that_are_merged_later_are_kept_until_they_are() -> None:
    torch.manual_seed(0)
    model = _RepVGG().eval()
    x = image(1, 64, 8, 8)
    plan = plan_decomposition(model)
    assert [layer.name for layer in plan.layers if layer.decompose] == ["last"]
    reasons = {layer.name: layer.reason for layer in plan.layers}
    assert reasons["blocks.1.rbr_dense.conv"] == (
        "it is a branch in 'blocks.1': merge its branches first (its method switch_to_deploy), then decompose"
    )
    plan.apply(model)
    before = model(x)
    model.switch_to_deploy()
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    assert list(auto_decomposition(model)[1]) == ["blocks.0.rbr_reparam", "blocks.1.rbr_reparam"]


def test_a_method_of_that_name_that_takes_arguments_merges_nothing() -> None:
    class _Vae(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(conv(), nn.BatchNorm2d(64), conv())

        def reparameterize(self, mean: Tensor, log_variance: Tensor) -> Tensor:
            return mean + log_variance.exp()

    assert list(auto_decomposition(_Vae())[1]) == ["encoder.0", "encoder.2"]


def _in_a_list(model: nn.Module, weight: nn.Parameter) -> str:
    model.kernels = [weight]
    return "model.kernels[0]"


def _in_a_dict(model: nn.Module, weight: nn.Parameter) -> str:
    model.kernels = {"first": (weight,)}
    return "model.kernels['first'][0]"


def _in_an_attribute(model: nn.Module, weight: nn.Parameter) -> str:
    object.__setattr__(model, "kernel", weight)
    return "model.kernel"


def _as_a_view_of_its_values(model: nn.Module, weight: nn.Parameter) -> str:
    model.kernel = weight.detach().flatten(1)
    return "model.kernel"


def _in_a_closure(model: nn.Module, weight: nn.Parameter) -> str:
    model.run = lambda x: nn.functional.conv2d(x, weight)
    return "model.run.__closure__['weight']"


def _in_a_partial(model: nn.Module, weight: nn.Parameter) -> str:
    model.run = functools.partial(nn.functional.conv2d, weight=weight)
    return "model.run.keywords['weight']"


def _as_a_default(model: nn.Module, weight: nn.Parameter) -> str:
    def run(x: Tensor, weight: Tensor = weight) -> Tensor:
        return nn.functional.conv2d(x, weight)

    model.run = run
    return "model.run.__defaults__[0]"


def _as_a_default_of_a_keyword(model: nn.Module, weight: nn.Parameter) -> str:
    def run(x: Tensor, *, weight: Tensor = weight) -> Tensor:
        return nn.functional.conv2d(x, weight)

    model.run = run
    return "model.run.__kwdefaults__['weight']"


def _in_a_hook(model: nn.Module, weight: nn.Parameter) -> str:
    handle = model.register_forward_hook(lambda module, inputs, output: output + weight.sum())
    return f"model._forward_hooks[{handle.id}].__closure__['weight']"


def _in_a_layer_outside_of_the_tree(model: nn.Module, weight: nn.Parameter) -> str:
    other = nn.Conv2d(64, 64, 3)
    other.weight = weight
    model.others = [nn.Sequential(other)]
    return "model.others[0].0.weight"


def _in_an_optimizer(model: nn.Module, weight: nn.Parameter) -> str:
    model.optimizer = torch.optim.SGD([weight], 0.1)
    return "model.optimizer.param_groups[0]['params'][0]"


@pytest.mark.parametrize(
    "keep",
    [
        *(_in_a_list, _in_a_dict, _in_an_attribute, _as_a_view_of_its_values, _in_a_closure, _in_a_partial),
        *(_as_a_default, _as_a_default_of_a_keyword, _in_a_hook, _in_a_layer_outside_of_the_tree, _in_an_optimizer),
    ],
)
def test_a_layer_whose_weight_is_kept_elsewhere_is_kept(keep: Callable[[nn.Module, nn.Parameter], str]) -> None:
    model = nn.Sequential(conv(), conv())
    place = keep(model, model[1].weight)
    kept = plan_decomposition(model).layers[1]
    assert not kept.decompose
    assert kept.reason == (
        f"its weight is also kept in {place}, outside of the module tree, which a split would leave behind: keep the "
        "layer there instead, and read its weight where it is needed"
    )
    assert list(auto_decomposition(model)[1]) == ["0"]


def test_a_method_of_a_class_made_in_a_function_may_hold_the_weight() -> None:
    layer = conv()

    class _Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = layer

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, weight)

    weight = layer.weight
    assert "model.forward.__closure__['weight']" in plan_decomposition(_Net()).layers[0].reason


def test_functions_that_hold_a_layer_are_named_in_warnings() -> None:
    class _Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = layer = conv()
            self.run = lambda x: layer(x)

            def default(x: Tensor, layer: nn.Module = layer, *, again: nn.Module = layer) -> Tensor:
                return again(layer(x))

            self.default = default

    model = _Net()
    with pytest.warns(AmctWarning) as caught:
        auto_decomposition(model)
    is_set = {text.split(" holds")[0]: "now holds" in text for text in (str(warning.message) for warning in caught)}
    assert is_set == {
        "model.run.__closure__['layer']": False,
        "model.default.__defaults__[0]": False,
        "model.default.__kwdefaults__['again']": True,
    }
    assert model.default.__kwdefaults__["again"] is model.conv


class _Padded(nn.Module):
    """Reads the weight of a layer that itself never runs."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.run = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(nn.functional.conv2d(x, self.read.weight, self.read.bias, padding=2))


def test_a_layer_that_never_runs_on_the_example_inputs_is_kept() -> None:
    model = _Padded().eval()
    assert [layer.decompose for layer in plan_decomposition(model).layers] == [True, True]
    plan = plan_decomposition(model, example_inputs=image(1, 64, 8, 8))
    assert [layer.decompose for layer in plan.layers] == [False, True]
    assert plan.layers[0].reason == "it never ran on the example inputs"
    assert plan.layers[0].macs == plan.layers[0].macs_after == 0
    assert list(plan.apply(model)[1]) == ["run"]


def test_a_layer_that_never_runs_keeps_those_that_share_its_weight() -> None:
    model = _Padded().eval()
    model.run.weight = model.read.weight
    plan = plan_decomposition(model, example_inputs=image(1, 64, 8, 8))
    assert [layer.decompose for layer in plan.layers] == [False, False]
    assert plan.layers[1].reason == (
        "its weight is also that of 'read', which is kept (it never ran on the example inputs)"
    )


class _WithTwoLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj, self.block = nn.Linear(8, 8), nn.ModuleDict({"inner": nn.Linear(8, 8)})


class _ReadsInForward(_WithTwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.proj.weight, self.proj.bias)


class _ReadsInAMethod(_WithTwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        return self._project(x)

    def _project(self, x: Tensor) -> Tensor:
        weight = self.proj.weight
        return x @ weight.T


class _ReadsInAProperty(_WithTwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.kernel

    @property
    def kernel(self) -> Tensor:
        return self.proj.weight.T


class _ReadsInAComprehension(_WithTwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part @ self.proj.weight.T for part in x.split(1)])


class _ReadsInItsBase(_ReadsInForward):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class _ReadsAndRunsIt(_WithTwoLayers):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x) + self.proj.weight.norm()


class _Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def kernel(self) -> Tensor:
        return self.inner.weight


class _ReadsThroughAMethodOfAnother(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = _Reader()

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.proj.kernel()


@pytest.mark.parametrize(
    "kind",
    [
        *(_ReadsInForward, _ReadsInAMethod, _ReadsInAProperty, _ReadsInAComprehension, _ReadsAndRunsIt),
        *(_ReadsInItsBase, _ReadsThroughAMethodOfAnother),
    ],
)
def test_a_linear_layer_whose_weight_the_forward_pass_reads_is_kept(kind: type[nn.Module]) -> None:
    plan = plan_decomposition(nn.Sequential(kind()), _for_all_kinds())
    kept = [layer for layer in plan.layers if not layer.decompose]
    assert [layer.name.split(".")[:2] for layer in kept] == [["0", "proj"]]
    assert kept[0].reason.startswith("its weight is read in '0' (by ")


class _OnlyLooks(_WithTwoLayers):
    """What the libraries of transformers do with a weight besides running the layer."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.proj.weight.dtype).to(device=self.proj.weight.device)
        if isinstance(self.proj.weight, Tensor) and self.proj.weight.shape[0] == 8:
            x = x + self.proj.weight.new_zeros(8)
        return self.proj(x)

    def reset(self) -> None:
        nn.init.eye_(self.proj.weight)

    def penalty(self) -> Tensor:
        return self.proj.weight.norm()


def test_a_weight_that_is_only_looked_at_or_read_besides_the_forward_pass_is_decomposed() -> None:
    model, changes = auto_decomposition(_OnlyLooks(), config=_for_all_kinds())
    assert list(changes) == ["proj", "block.inner"]
    assert model(torch.ones(2, 8)).shape == (2, 8)


@pytest.mark.parametrize("example_inputs", [None, torch.ones(2, 5, 16)], ids=["plan", "run"])
def test_attention_of_torch_and_its_fast_path_read_weights_which_are_kept(example_inputs: Tensor | None) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    model = nn.Sequential(nn.Linear(16, 16), nn.TransformerEncoder(layer, 2)).eval()
    plan = plan_decomposition(model, _for_all_kinds(), example_inputs=example_inputs)
    reasons = {layer.name: layer.reason for layer in plan.layers if not layer.decompose}
    assert len(reasons) == 6
    assert "(by MultiheadAttention.forward)" in reasons["1.layers.0.self_attn.out_proj"]
    assert "(by TransformerEncoderLayer.forward)" in reasons["1.layers.1.linear1"]
    _, changes = plan.apply(model)
    assert list(changes) == ["0"]
    x = torch.ones(2, 5, 16)
    with torch.no_grad():
        fast = model(x)
    torch.testing.assert_close(fast, model(x))


def test_a_head_that_shares_its_weight_with_an_embedding_is_kept() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(20, 8), "head": nn.Linear(8, 20, bias=False)})
    model["head"].weight = model["embed"].weight
    (layer,) = plan_decomposition(model, _for_all_kinds()).layers
    assert layer.reason == "its weight is also 'embed.weight', which a split would untie"


class _LinearAdapter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Linear(8, 8)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(8, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, 8, bias=False)})


def test_linear_layers_in_an_adapter_are_kept_until_it_is_merged() -> None:
    plan = plan_decomposition(nn.Sequential(_LinearAdapter(), nn.Linear(8, 8)), _for_all_kinds())
    assert [layer.name for layer in plan.layers if layer.decompose] == ["1"]
    assert {layer.reason for layer in plan.layers if not layer.decompose} == {
        "it is part of '0', an adapter (_LinearAdapter): merge the adapter first, then decompose"
    }


def _for_all_kinds() -> DecompositionConfig:
    register_method(ChannelSplit())
    return DecompositionConfig(method="test-channel", rank=RatioRank(0.5), rank_multiple=1, require_gain=False)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("method", ["separable", "channel", "tucker2"])
def test_layers_without_channels_are_kept(method: str) -> None:
    model = nn.Sequential(nn.Conv2d(8, 0, 3), nn.Conv2d(0, 8, 3), nn.Linear(0, 8), nn.Linear(8, 0), conv(16, 16))
    config = DecompositionConfig(method=method, rule="any", rank=RatioRank(0.25), rank_multiple=1)
    layers = plan_decomposition(model, config).layers
    assert {layer.reason for layer in layers[:-1]} == {"its weight is empty"}
    assert layers[-1].decompose
