"""What we know of a 2-D convolution: its geometry, and whether its weight can be factored at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import parametrize

Pair = tuple[int, int]


@dataclass(frozen=True)
class ConvSpec:
    """The geometry of a 2-D convolution.

    ``padding`` is a pair of ints, or ``"same"`` or ``"valid"`` as in `torch.nn.Conv2d`.
    """

    in_channels: int
    out_channels: int
    kernel_size: Pair
    stride: Pair = (1, 1)
    padding: Pair | str = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    padding_mode: str = "zeros"
    bias: bool = False

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(out, in / groups, kh, kw)."""
        return (self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    @property
    def parameters(self) -> int:
        """Number of weights and biases."""
        return math.prod(self.weight_shape) + (self.out_channels if self.bias else 0)

    def output_size(self, height: int, width: int) -> Pair:
        """Height and width of the response to an input of (height, width)."""
        if self.padding == "same":
            return height, width
        padding = (0, 0) if isinstance(self.padding, str) else self.padding
        return tuple(  # type: ignore[return-value]  # a generator over two axes is a pair
            (size + 2 * p - d * (k - 1) - 1) // s + 1
            for size, p, d, k, s in zip(
                (height, width), padding, self.dilation, self.kernel_size, self.stride, strict=True
            )
        )

    def macs(self, height: int, width: int) -> int:
        """Multiply-accumulates for one image of (height, width)."""
        return math.prod(self.weight_shape) * math.prod(self.output_size(height, width))

    def __str__(self) -> str:
        text = f"{self.in_channels}→{self.out_channels}, {self.kernel_size[0]}×{self.kernel_size[1]}"
        if self.stride != (1, 1):
            text += f", stride {self.stride[0]}×{self.stride[1]}"
        return text


def geometry_of(module: nn.Module) -> ConvSpec | None:
    """The geometry of a Conv2d-like layer, or None where it has none that can be read (lazy, quantised, scripted)."""
    if not isinstance(module, nn.Conv2d) or isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return None
    try:
        return spec_of(module)
    except (AttributeError, TypeError, ValueError):  # a subclass may use the attributes in a way of its own
        return None


def spec_of(conv: nn.Conv2d) -> ConvSpec:
    """The geometry of a convolution layer."""
    return ConvSpec(
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel_size=_pair(conv.kernel_size),
        stride=_pair(conv.stride),
        padding=conv.padding if isinstance(conv.padding, str) else _pair(conv.padding),
        dilation=_pair(conv.dilation),
        groups=conv.groups,
        padding_mode=conv.padding_mode,
        bias=conv.bias is not None,
    )


def build_conv(spec: ConvSpec) -> nn.Conv2d:
    """A convolution layer of this geometry with no storage: its parameters are on the meta device.

    Nothing is drawn from a random generator.
    """
    return nn.Conv2d(
        spec.in_channels,
        spec.out_channels,
        spec.kernel_size,
        stride=spec.stride,
        padding=spec.padding,
        dilation=spec.dilation,
        groups=spec.groups,
        bias=spec.bias,
        padding_mode=spec.padding_mode,  # type: ignore[arg-type]  # one of the four that Conv2d knows
        device="meta",
    )


def is_conv2d_like(module: nn.Module) -> bool:
    """Whether a user would call this module a Conv2d: the layer itself, a subclass, a quantised or a scripted one."""
    if isinstance(module, nn.Conv2d):
        return True
    name = module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
    return "Conv2d" in str(name) and next(module.children(), None) is None


def why_not_replaceable(module: nn.Module) -> str | None:
    """Why this Conv2d-like layer cannot be taken apart whatever its geometry, or None where it can."""
    if parametrize.is_parametrized(module):
        return (
            "its parameters are computed by a parametrisation (weight_norm, spectral_norm, …): "
            "remove it first (torch.nn.utils.parametrize.remove_parametrizations)"
        )
    if type(module) is not nn.Conv2d:
        return _why_not_plain(module)
    if not isinstance(module._parameters.get("weight"), nn.Parameter):
        return (
            "its weight is not a plain Parameter (weight_norm, spectral_norm, pruning, …): "
            "make it permanent first (remove_weight_norm, prune.remove, …)"
        )
    extra = [
        *(name for name in module._parameters if name not in ("weight", "bias")),
        *module._buffers,
        *module._modules,
    ]
    if extra:
        return f"it holds more than weight and bias ({', '.join(extra)}), which a split would lose"
    if "forward" in vars(module) or "_conv_forward" in vars(module):
        return "its forward method was replaced on the object, which a split would lose"
    weight, conv = module.weight, geometry_of(module)
    if conv is None:
        return "its attributes are not those that torch.nn.Conv2d gives itself"
    if module._parameters.get("bias") is None and module.bias is not None:
        return "its bias is not a plain Parameter"
    if conv.padding_mode != "zeros" and (
        list(module._reversed_padding_repeated_twice) != list(build_conv(conv)._reversed_padding_repeated_twice)
    ):
        return "its padding was changed after it was made, in one of the two places where it keeps it only"
    if weight.layout is not torch.strided:
        return f"its weight has the layout {weight.layout}, not the strided one"
    if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None):
        return "its weight has hooks on its gradient, which a split would lose: decompose first"
    if weight.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        return f"its weight is {_short(weight.dtype)}: only real floating-point weights are decomposed"
    if tuple(weight.shape) != conv.weight_shape:
        return f"its weight has shape {tuple(weight.shape)} where its attributes say {conv.weight_shape}"
    if type(weight.data) is not torch.Tensor and type(host_weight(module)) is not torch.Tensor:
        return f"its weight is a {type(weight.data).__name__}, not a plain tensor"
    return None


def host_weight(conv: nn.Conv2d) -> torch.Tensor:
    """The weight (out, in, kh, kw) on the CPU, outside of autograd, in its own dtype."""
    return conv.weight.detach().cpu()


def _why_not_plain(module: nn.Module) -> str:
    kind = type(module)
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "its shape is not known before its first forward: run the model once, then decompose it"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted: decompose the Python model, then script or trace it"
    if kind.__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
        return "it is quantised: decompose first, then quantise"
    return f"it is a {kind.__module__}.{kind.__qualname__}: only torch.nn.Conv2d itself is decomposed"


def _pair(value: int | tuple[int, ...]) -> Pair:
    # A number for both axes is what the functional interface takes, so code may have set one.
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
