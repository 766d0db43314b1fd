"""Code of users that writes the weight or the bias of a replaced layer: folding, merging, initialising, freezing."""

from __future__ import annotations

import copy
import io
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval, fuse_conv_bn_weights
from torch.utils.flop_counter import FlopCounterMode

from amct_pytorch.errors import LayerError
from amct_pytorch.tensor_decompose import DecomposedConv2d, auto_decomposition

from .models import conv, image, snapshot

_GEOMETRIES = (
    {},
    {"bias": False},
    {"stride": 2, "padding": (0, 2)},
    {"kernel_size": (3, 5), "padding": 2, "padding_mode": "reflect"},
)


def _norm(channels: int = 64) -> nn.BatchNorm2d:
    """A BatchNorm as training leaves it, with a channel that it turns off and one that it turns round."""
    norm = nn.BatchNorm2d(channels).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean):
            tensor.normal_(generator=generator)
        norm.running_var.uniform_(0.1, 3, generator=generator)
        norm.weight[0] = 0
        norm.weight[1] = -2
    return norm


def _chain(dtype: torch.dtype = torch.float32, **options: object) -> DecomposedConv2d:
    torch.manual_seed(0)
    model, _ = auto_decomposition(nn.Sequential(nn.Sequential(conv(**options).to(dtype))).eval())
    return model[0][0]


def _fold_of_torch(layer: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    return fuse_conv_bn_eval(layer, norm)


def _fold_of_mmcv(layer: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    bias = layer.bias if layer.bias is not None else torch.zeros_like(norm.running_mean)
    factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
    layer.weight = nn.Parameter(layer.weight * factor.reshape([layer.out_channels, 1, 1, 1]))
    layer.bias = nn.Parameter((bias - norm.running_mean) * factor + norm.bias)
    return layer


def _fold_with_bias_first(layer: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    weight, layer.bias = fuse_conv_bn_weights(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    layer.weight = weight
    return layer


def _fold_of_data(layer: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).data
    if layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
    layer.weight.data = layer.weight.data * factor[:, None, None, None]
    layer.bias.data = (layer.bias.data - norm.running_mean) * factor + norm.bias.data
    return layer


def _fold_in_place(layer: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).data
    if layer.bias is None:
        layer.register_parameter("bias", nn.Parameter(torch.zeros(layer.out_channels)))
    layer.weight.data.mul_(factor[:, None, None, None])
    with torch.no_grad():
        layer.bias.sub_(norm.running_mean).mul_(factor)
        layer.bias += norm.bias
    return layer


def _fold_of_ultralytics(layer: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    scale = torch.diag(norm.weight.div(torch.sqrt(norm.eps + norm.running_var)))
    layer.weight.data = torch.mm(scale, layer.weight.view(layer.out_channels, -1)).view(layer.weight.shape)
    bias = torch.zeros(layer.out_channels, device=layer.weight.device) if layer.bias is None else layer.bias
    shift = norm.bias - norm.weight.mul(norm.running_mean).div(torch.sqrt(norm.running_var + norm.eps))
    fused = torch.mm(scale, bias.reshape(-1, 1)).reshape(-1) + shift
    if layer.bias is None:
        layer.register_parameter("bias", nn.Parameter(fused))
    else:
        layer.bias.data = fused
    return layer.requires_grad_(False)


def _fold_of_old_ultralytics(layer: nn.Module, norm: nn.BatchNorm2d) -> nn.Module:
    fused = (
        nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            kernel_size=layer.kernel_size,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            bias=True,
        )
        .requires_grad_(False)
        .to(layer.weight.device)
    )
    fused.padding_mode = layer.padding_mode
    fused._reversed_padding_repeated_twice = layer._reversed_padding_repeated_twice
    weight = layer.weight.view(layer.out_channels, -1)
    scale = torch.diag(norm.weight.div(torch.sqrt(norm.eps + norm.running_var)))
    fused.weight.copy_(torch.mm(scale, weight).view(fused.weight.shape))
    bias = torch.zeros(layer.weight.shape[0]) if layer.bias is None else layer.bias
    shift = norm.bias - norm.weight.mul(norm.running_mean).div(torch.sqrt(norm.running_var + norm.eps))
    fused.bias.copy_(torch.mm(scale, bias.reshape(-1, 1)).reshape(-1) + shift)
    return fused


@pytest.mark.parametrize("options", _GEOMETRIES, ids=str)
@pytest.mark.parametrize(
    "fold",
    [
        *(_fold_of_torch, _fold_of_mmcv, _fold_with_bias_first, _fold_of_data, _fold_in_place, _fold_of_ultralytics),
        _fold_of_old_ultralytics,
    ],
)
def test_a_batchnorm_is_folded_into_a_decomposed_layer(
    fold: Callable[[nn.Module, nn.BatchNorm2d], nn.Module], options: dict[str, object]
) -> None:
    chain, norm, x = _chain(**options), _norm(), image(2, 64, 9, 9)
    expected = norm(chain(x))
    with torch.set_grad_enabled(fold is _fold_of_ultralytics):
        folded = fold(chain, norm)
    torch.testing.assert_close(folded(x), expected, rtol=1e-5, atol=1e-5)
    if fold is not _fold_of_old_ultralytics:
        assert isinstance(folded, DecomposedConv2d)
        assert list(folded.state_dict()) == ["0.weight", "1.weight", "1.bias"]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_batchnorm_is_folded_in_every_precision(dtype: torch.dtype) -> None:
    chain, norm, x = _chain(dtype), _norm().to(dtype), image(2, 64, 9, 9).to(dtype)
    expected = norm(chain(x))
    folded = fuse_conv_bn_eval(chain, norm)
    assert isinstance(folded, DecomposedConv2d)
    assert folded.weight.dtype == dtype
    rounding = 1e-12 if dtype is torch.float64 else 16 * torch.finfo(dtype).eps
    torch.testing.assert_close(folded(x), expected, rtol=rounding, atol=rounding)


def test_a_fold_of_a_copy_leaves_the_layer_itself_as_it_was() -> None:
    chain = _chain()
    check = snapshot(chain)
    fuse_conv_bn_eval(chain, _norm())
    check()


def test_a_fold_is_one_of_this_layer_alone_where_the_weight_is_shared() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(conv(), conv()).eval()
    model[1].weight = model[0].weight
    auto_decomposition(model)
    x = image(1, 64, 8, 8)
    other = model[1](x)
    with torch.no_grad():
        _fold_of_mmcv(model[0], _norm())
    assert torch.equal(model[1](x), other)


def _scaled_by_index(chain: nn.Module) -> None:
    for channel in range(4):
        chain.weight.data[channel] *= 0.5


def _scaled_by_views(chain: nn.Module) -> None:
    with torch.no_grad():
        chain.weight.view(64, -1)[:4].mul_(0.5)


def _scaled_by_rows(chain: nn.Module) -> None:
    for row, _ in zip(chain.weight.detach(), range(4), strict=False):
        row.mul_(0.5)


def _scaled_by_copying(chain: nn.Module) -> None:
    with torch.no_grad():
        chain.weight.copy_(torch.cat([chain.weight[:4] / 2, chain.weight[4:]]))


def _scaled_into_out(chain: nn.Module) -> None:
    with torch.no_grad():
        weight = chain.weight
        torch.mul(weight, _HALVES, out=weight)


def _scaled_together(chain: nn.Module) -> None:
    torch._foreach_mul_([chain.weight.detach()], [_HALVES])


def _scaled_by_augmented_assignment(chain: nn.Module) -> None:
    with torch.no_grad():
        chain.weight *= _HALVES


def _scaled_twice_through_one_tensor(chain: nn.Module) -> None:
    weight = chain.weight.data
    weight *= _HALVES.sqrt()
    weight *= _HALVES.sqrt()


def _scaled_in_inference_mode(chain: nn.Module) -> None:
    with torch.inference_mode():
        chain.weight.mul_(_HALVES)


_HALVES = torch.ones(64, 1, 1, 1)
_HALVES[:4] = 0.5
_SCALINGS = [
    _scaled_by_index,
    _scaled_by_views,
    _scaled_by_rows,
    _scaled_by_copying,
    _scaled_into_out,
    _scaled_together,
    _scaled_by_augmented_assignment,
    _scaled_twice_through_one_tensor,
    _scaled_in_inference_mode,
]


@pytest.mark.parametrize("scale", _SCALINGS)
def test_what_scales_output_channels_in_place_reaches_the_chain(scale: Callable[[nn.Module], None]) -> None:
    chain = _chain(bias=False)
    x = image(1, 64, 8, 8)
    expected = chain(x) * _HALVES.view(-1, 1, 1)
    scale(chain)
    torch.testing.assert_close(chain(x), expected, rtol=1e-5, atol=1e-6)


def test_a_weight_can_be_made_zero_and_nothing_else_from_there() -> None:
    chain = _chain()
    nn.init.zeros_(chain.weight)
    nn.init.zeros_(chain.bias)
    assert not chain(image(1, 64, 8, 8)).any()
    with pytest.raises(LayerError, match="merge first, then decompose"):
        nn.init.ones_(chain.weight)


def _delta() -> Tensor:
    return 1e-3 * image(64, 64, 3, 3)


def _merged(chain: nn.Module) -> None:
    chain.weight.data += _delta()


def _merged_by_assignment(chain: nn.Module) -> None:
    chain.weight = nn.Parameter(chain.weight + _delta())


def _merged_by_data(chain: nn.Module) -> None:
    chain.weight.data = chain.weight.data + _delta()


def _merged_after_the_bias(chain: nn.Module) -> None:
    chain.bias = nn.Parameter(chain.bias + 1)
    chain.weight = nn.Parameter(chain.weight * (1 + _delta().mean((0, 2, 3), keepdim=True)))


def _merged_after_the_bias_in_place(chain: nn.Module) -> None:
    chain.bias.data += 1
    chain.bias.data = chain.bias.data + 1
    chain.weight.data += _delta()


def _initialised(chain: nn.Module) -> None:
    nn.init.kaiming_normal_(chain.weight)


def _one_tap(chain: nn.Module) -> None:
    chain.weight.data[0, 0, 0, 0] += 1


def _pruned(chain: nn.Module) -> None:
    chain.weight.data.masked_fill_(chain.weight.abs() < 0.01, 0)


def _not_finite(chain: nn.Module) -> None:
    chain.weight.data.fill_(float("nan"))


def _other_shape(chain: nn.Module) -> None:
    chain.weight = nn.Parameter(chain.weight[:32])


def _other_dtype(chain: nn.Module) -> None:
    chain.weight = nn.Parameter(chain.weight.double())


def _other_bias_shape(chain: nn.Module) -> None:
    chain.bias = nn.Parameter(chain.bias[:32])


def _other_size(chain: nn.Module) -> None:
    with torch.no_grad():
        chain.weight.resize_(1)


def _outdated(chain: nn.Module) -> None:
    weight = chain.weight.data
    chain.weight.data.mul_(1)
    weight.mul_(2)


def _while_recording(chain: nn.Module) -> None:
    chain.weight.mul_(2)


@pytest.mark.parametrize(
    "write",
    [
        *(_merged, _merged_by_assignment, _merged_by_data, _merged_after_the_bias, _merged_after_the_bias_in_place),
        *(_initialised, _one_tap, _pruned, _not_finite, _other_shape, _other_dtype, _other_bias_shape, _outdated),
        *(_other_size, _while_recording),
    ],
)
def test_a_write_that_cannot_be_carried_is_refused_and_changes_nothing(write: Callable[[nn.Module], None]) -> None:
    chain = _chain()
    check = snapshot(chain)
    bias = chain[1].bias
    with pytest.raises(LayerError) as caught:
        write(chain)
    if write is not _while_recording:
        assert str(caught.value).startswith("the layer '0.0' (Conv2d 64→64, 3×3, decomposed): expected a ")
    check()
    assert chain[1].bias is bias


def test_a_bias_that_the_layer_has_run_with_is_kept_when_the_weight_is_refused_later() -> None:
    chain = _chain()
    chain.bias = bias = nn.Parameter(torch.ones(64))
    chain(image(1, 64, 8, 8))
    with pytest.raises(LayerError):
        _merged(chain)
    assert chain[1].bias is bias
    assert bias.eq(1).all()


@pytest.mark.parametrize("value", [torch.ones(64, 64, 3, 3), None, 1], ids=["tensor", "None", "number"])
def test_what_is_no_parameter_is_refused_as_a_weight(value: object) -> None:
    chain = _chain()
    check = snapshot(chain)
    with pytest.raises(TypeError, match="expected a Parameter as its weight"):
        chain.weight = value
    check()


def test_the_bias_is_that_of_the_last_convolution_to_write_as_to_read() -> None:
    chain = _chain()
    x = image(1, 64, 8, 8)
    without = chain(x) - chain.bias.view(-1, 1, 1)
    chain.bias = own = nn.Parameter(torch.arange(64.0))
    assert chain[1].bias is own
    torch.testing.assert_close(chain(x), without + torch.arange(64.0).view(-1, 1, 1), rtol=1e-5, atol=1e-5)
    chain.bias.data.zero_()
    assert not own.any()
    chain.bias = None
    assert chain.bias is None
    torch.testing.assert_close(chain(x), without, rtol=1e-5, atol=1e-5)
    with pytest.raises(TypeError, match="expected a Parameter as its bias, found Tensor"):
        chain.bias = torch.ones(64)


def test_a_decomposed_layer_is_frozen_through_its_weight_and_bias() -> None:
    chain = _chain()
    chain.weight.requires_grad = False
    chain.bias.requires_grad_(False)
    assert [parameter.requires_grad for parameter in chain.parameters()] == [False] * 3
    chain.weight.requires_grad_()
    assert [parameter.requires_grad for parameter in chain.parameters()] == [True, True, False]


def test_the_weight_is_laid_out_as_that_of_a_convolution() -> None:
    assert _chain().weight.view(64, -1).shape == (64, 576)


def test_numpy_sees_the_weight_read_only() -> None:
    seen = _chain().weight.detach().numpy()
    with pytest.raises(ValueError, match="read-only"):
        seen *= 2


def test_what_is_made_of_the_weight_is_plain_and_goes_its_own_way() -> None:
    chain = _chain()
    check = snapshot(chain)
    own = nn.Conv2d(64, 64, 3, padding=1)
    own.weight, own.bias = nn.Parameter(chain.weight), nn.Parameter(chain.bias.clone())
    assert type(own.weight) is nn.Parameter
    assert type(chain.weight * 2) is type(chain.weight.clone()) is type(copy.deepcopy(chain.weight.detach())) is Tensor
    x = image(1, 64, 8, 8)
    torch.testing.assert_close(own(x), chain(x), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        own.weight.normal_()
        chain.weight.clone().normal_()
    (own(x) ** 2).sum().backward()
    torch.optim.SGD(own.parameters(), 0.1).step()
    buffer = io.BytesIO()
    torch.save({"weight": chain.weight.detach(), **own.state_dict()}, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=True)["weight"], own.weight)
    check()


class _Standardised(nn.Module):
    """Computes with the weight of its layer, standardised, and with its bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight
        weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.view(64, -1).std(1).view(-1, 1, 1, 1)
        return nn.functional.conv2d(x, weight, self.conv.bias, padding=1)


@pytest.mark.parametrize(
    "record",
    [
        lambda model, x: torch.compile(model, backend="aot_eager", fullgraph=True),
        lambda model, x: torch.export.export(model, (x,), strict=True).module(),
        lambda model, x: torch.export.export(model, (x,), strict=False).module(),
        lambda model, x: torch.jit.trace(model, x),
        lambda model, x: torch.inference_mode()(model),
        lambda model, x: lambda x: torch.vmap(model)(x[None])[0],
        lambda model, x: lambda x: torch.func.functional_call(model, dict(model.named_parameters()), (x,)),
        lambda model, x: copy.deepcopy(model),
    ],
    ids=["compile", "strict export", "export", "trace", "inference mode", "vmap", "functional call", "copy"],
)
def test_a_model_that_computes_with_the_weight_can_be_recorded(record: Callable[[nn.Module, Tensor], object]) -> None:
    torch.manual_seed(0)
    model, _ = auto_decomposition(_Standardised().eval())
    x = image(1, 64, 8, 8)
    torch.testing.assert_close(record(model, x)(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_compiled_function_takes_the_weight() -> None:
    chain = _chain()
    x = image(1, 64, 8, 8)
    compiled = torch.compile(lambda weight, bias: nn.functional.conv2d(x, weight, bias, padding=1), backend="eager")
    torch.testing.assert_close(compiled(chain.weight, chain.bias), chain(x), rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_the_weight_alike_in_eager_mode_and_in_torch_func() -> None:
    torch.manual_seed(0)
    model, _ = auto_decomposition(_Standardised())
    x = image(1, 64, 8, 8)
    functional = torch.func.grad(lambda named: torch.func.functional_call(model, named, (x,)).square().mean())
    expected = functional(dict(model.named_parameters()))
    model(x).square().mean().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("recording", [torch.no_grad, torch.inference_mode])
def test_to_ask_what_a_weight_is_composes_nothing(recording: Callable[[], AbstractContextManager[None]]) -> None:
    chain = _chain()
    with recording(), FlopCounterMode(display=False) as counter:
        weight = chain.weight
        assert isinstance(weight, Tensor)
        assert (weight.dtype, weight.device.type, weight.shape) == (torch.float32, "cpu", (64, 64, 3, 3))
        assert (weight.size(0), weight.dim(), weight.ndim, weight.numel()) == (64, 4, 4, 64 * 64 * 9)
        assert weight.is_floating_point()
        assert {weight.requires_grad, weight.is_cuda, weight.is_meta} == {False}
        assert counter.get_total_flops() == 0
        weight.sum()
        assert counter.get_total_flops() > 0


def _without_asking_the_class(weight: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return weight + 0


def _held_weakly(weight: Tensor) -> Tensor:
    reference = weakref.ref(weight)
    assert reference() is weight
    return weight + 0


def _loaded(weight: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(weight, file)
    file.seek(0)
    return torch.load(file)


def _in_a_state_dict(weight: Tensor) -> Tensor:
    layer = nn.Conv2d(64, 64, 3, bias=False)
    layer.load_state_dict({"weight": weight})
    return layer.weight


@pytest.mark.parametrize("recording", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    "use",
    [
        *(nn.Parameter, copy.deepcopy, torch.from_dlpack, torch.clone, _loaded, _in_a_state_dict),
        *(_without_asking_the_class, _held_weakly, lambda weight: weight.data, lambda weight: torch.cat([weight])),
        *(lambda weight: torch.from_numpy(weight.numpy().copy()), lambda weight: torch.ops.aten.mul(weight, 1)),
        *(lambda weight: torch.zeros_like(weight).copy_(weight), lambda weight: torch.vmap(lambda part: part)(weight)),
    ],
)
def test_a_weight_that_was_read_has_its_values_wherever_it_goes(
    use: Callable[[Tensor], Tensor], recording: Callable[[], AbstractContextManager[None]]
) -> None:
    chain = _chain()
    expected = chain.weight.detach().clone()
    with recording():
        weight = chain.weight
        assert torch.equal(use(weight), expected)
        assert torch.equal(weight, expected)
