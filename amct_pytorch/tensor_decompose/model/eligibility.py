"""Whether a layer can be taken apart at all, whatever its geometry: what a split would lose."""

from __future__ import annotations

from typing import TypeGuard, cast

import torch
from torch import nn
from torch.nn.utils import parametrize

from .spec import KINDS, LayerModule, LayerSpec, spec_of

# What a subclass of a layer may define without computing anything else, or having anything that a split would lose.
_HARMLESS = frozenset(
    [
        *("__init__", "reset_parameters", "extra_repr", "__repr__", "_get_name"),
        *("__constants__", "__parameters__", "__orig_bases__", "__abstractmethods__", "_abc_impl"),
        # What Python gives every class, by version.
        *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__"),
        *("__annotations__", "__annotate__", "__annotate_func__", "__annotations_cache__", "__static_attributes__"),
    ]
)

# A quantised Linear layer keeps its weight in a module of a class whose name ends so, in this attribute.
_PACKED, _HOLDS_PACKED = "PackedParams", "_packed_params"


def geometry_of(module: nn.Module) -> LayerSpec | None:
    """The geometry of a layer, or None where it has none that can be read (lazy, quantised, scripted, no layer)."""
    if not isinstance(module, KINDS) or isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return None
    try:
        return spec_of(module)
    except (AttributeError, TypeError, ValueError):  # a subclass may give the attributes another meaning
        return None


def axes_of(module: nn.Module) -> int | None:
    """Number of spatial axes of what a user would call a Linear, Conv1d, Conv2d or Conv3d; None of any other module.

    That is the layer itself, a subclass, a quantised or a scripted one.
    """
    for axes, kind in enumerate(KINDS):
        if isinstance(module, kind):
            return axes
    name = str(module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__)
    if name.endswith(_PACKED) or any(key != _HOLDS_PACKED for key, _ in module.named_children()):
        return None
    return next((axes for axes, kind in enumerate(KINDS) if kind.__name__ in name), None)


def is_transposed(module: nn.Module) -> bool:
    """Whether a module is a transposed convolution, which no method splits."""
    return isinstance(module, nn.modules.conv._ConvTransposeNd)


def is_plain(module: nn.Module) -> TypeGuard[LayerModule]:
    """Whether a module is a layer, or of a subclass that differs in how it is made, initialised and shown alone."""
    if not isinstance(module, KINDS) or isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return False
    return not _of_its_own(type(module))


def why_not_replaceable(module: nn.Module) -> str | None:
    """Why this layer cannot be taken apart whatever its geometry, or None where it can."""
    if parametrize.is_parametrized(module):
        return (
            "its parameters are computed by a parametrisation (weight_norm, spectral_norm, …): "
            "remove it first (torch.nn.utils.parametrize.remove_parametrizations)"
        )
    if not is_plain(module):
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
    weight, spec = module.weight, geometry_of(module)
    if spec is None:
        return f"its attributes are not those that torch.nn.{_kind(type(module)).__name__} gives itself"
    if module._parameters.get("bias") is None and module.bias is not None:
        return "its bias is not a plain Parameter"
    if spec.padding_mode != "zeros" and _padding_in_front(module) != _padding_in_front(spec.build()):
        return "its padding was changed after it was made, in one of the two places where it keeps it only"
    if weight.layout is not torch.strided:
        return f"its weight has the layout {weight.layout}, not the strided one"
    if weight._backward_hooks or getattr(weight, "_post_accumulate_grad_hooks", None):
        return "its weight has hooks on its gradient, which a split would lose: decompose first"
    if weight.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        return f"its weight is {_short(weight.dtype)}: only real floating-point weights are decomposed"
    if tuple(weight.shape) != spec.weight_shape:
        return f"its weight has shape {tuple(weight.shape)} where its attributes say {spec.weight_shape}"
    if not weight.numel():
        return "its weight is empty"
    if type(weight.data) is not torch.Tensor and type(host_weight(module)) is not torch.Tensor:
        return f"its weight is a {type(weight.data).__name__}, not a plain tensor"
    return None


def host_weight(layer: LayerModule) -> torch.Tensor:
    """The weight (out, in, *kernel) on the CPU, outside of autograd, in its own dtype."""
    return layer.weight.detach().cpu()


def _why_not_plain(module: nn.Module) -> str:
    kind = type(module)
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "its shape is not known before its first forward: run the model once, then decompose it"
    if isinstance(module, torch.jit.ScriptModule):
        return "it is scripted: decompose the Python model, then script or trace it"
    if kind.__module__.startswith(("torch.ao.nn.quantized", "torch.nn.quantized")):
        return "it is quantised: decompose first, then quantise"
    if is_transposed(module):
        return "it is a transposed convolution, which no method splits"
    reason = f"it is a {kind.__module__}.{kind.__qualname__}"
    if isinstance(module, KINDS):
        reason += f" with {', '.join(_of_its_own(type(module))[:3])} of its own"
    itself = KINDS[cast(int, axes_of(module))].__name__
    return f"{reason}: only torch.nn.{itself} itself is decomposed, and subclasses that add nothing to what it does"


def _kind(kind: type[LayerModule]) -> type[LayerModule]:
    """The class of torch that a layer's class is, or is derived from."""
    return next(base for base in KINDS if issubclass(kind, base))


def _of_its_own(kind: type[LayerModule]) -> list[str]:
    """What a subclass of a layer defines that a split would lose, in its order."""
    base = _kind(kind)
    kinds = kind.__mro__[: kind.__mro__.index(base)]
    names = dict.fromkeys(name for other in kinds for name in vars(other) if name not in _HARMLESS)
    # Private names that the layer does not have are helpers of its __init__.
    return [name for name in names if not name.startswith("_") or name.startswith("__") or hasattr(base, name)]


def _padding_in_front(layer: LayerModule) -> list[int]:
    """The padding that a convolution gives its inputs before it runs, as `torch.nn.functional.pad` takes it."""
    return list(cast(nn.Conv2d, layer)._reversed_padding_repeated_twice)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
