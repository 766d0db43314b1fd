"""Dynamic batch and image sizes of an exported file: which axes they are, and inputs to check them with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from .._run.arguments import is_whole, setting_error
from .._run.inputs import batch_size_of, resized, tensors_of
from .._run.tensors import map_tensors
from ..errors import ConfigError, quoted


@dataclass(frozen=True)
class Dynamic:
    """The dynamic sizes of a file, as the values with which it is checked.

    Attributes
    ----------
    batches
        Numbers of samples; None if the number of samples is fixed.
    image_sizes
        (height, width) of the images in pixels; None if their size is fixed.
    """

    batches: tuple[int, ...] | None = None
    image_sizes: tuple[tuple[int, int], ...] | None = None


def checked_batches(dynamic: bool | Sequence[int], inputs: Any) -> tuple[int, ...] | None:
    """The numbers of samples to check with.

    Parameters
    ----------
    dynamic
        False or None for a fixed number; True for that of the inputs, 1 and 8; or a list of numbers.
    inputs
        The user's inputs, which set the fixed number.

    Returns
    -------
    tuple of int, or None
        None if the number of samples is fixed.

    Raises
    ------
    ConfigError
        The list is empty or has a number below 1, or the inputs have no first axis; `ConfigTypeError` if it is not
        a list of whole numbers.
    """
    if dynamic is False or dynamic is None:
        return None
    now = batch_size_of(inputs)
    if now is None:
        raise ConfigError("dynamic_batch needs inputs with a first axis, found none")
    if dynamic is True:
        return tuple(dict.fromkeys((now, 1, 8)))
    are_whole = isinstance(dynamic, Collection) and all(is_whole(size) for size in dynamic)
    if not are_whole or not dynamic or min(dynamic) < 1:
        raise setting_error(
            f"dynamic_batch must be True or a list of positive numbers of samples, found {quoted(dynamic)}",
            of_right_type=are_whole,
        )
    return tuple(dict.fromkeys(dynamic))


def checked_image_sizes(dynamic: bool | Sequence[tuple[int, int]], inputs: Any) -> tuple[tuple[int, int], ...] | None:
    """The image sizes to check with.

    Parameters
    ----------
    dynamic
        False or None for a fixed size; True for that of the inputs and twice that; or a list of (height, width).
    inputs
        The user's inputs, which set the fixed size.

    Returns
    -------
    tuple of (height, width), or None
        None if the size is fixed.

    Raises
    ------
    ConfigError
        The list is empty or has a size below 1, or no input is (N, C, H, W); `ConfigTypeError` if it is not a list of
        pairs of whole numbers.
    """
    if dynamic is False or dynamic is None:
        return None
    now = image_size_of(inputs)
    if now is None:
        raise ConfigError("dynamic_image_size needs inputs of shape (N, C, H, W), found none")
    if dynamic is True:
        return now, (2 * now[0], 2 * now[1])
    are_pairs = isinstance(dynamic, Collection) and all(
        isinstance(size, list | tuple) and all(isinstance(side, int) for side in size) for size in dynamic
    )
    if not are_pairs or not dynamic or not all(len(size) == 2 and min(size) > 0 for size in dynamic):
        raise setting_error(
            f"dynamic_image_size must be True or a list of (height, width), found {quoted(dynamic)}",
            of_right_type=are_pairs,
        )
    return tuple(dict.fromkeys((height, width) for height, width in dynamic))


def image_size_of(inputs: Any) -> tuple[int, int] | None:
    """Height and width of the first tensor (N, C, H, W); None if there is none.

    Parameters
    ----------
    inputs
        Tensors in any structure of containers.
    """
    images = (tensor for tensor in tensors_of(inputs) if tensor.dim() == 4)
    return next(((image.shape[2], image.shape[3]) for image in images), None)


def open_axes(inputs: Any, arguments: dict[str, Any], dynamic: Dynamic) -> dict[str, Any] | None:
    """The ``dynamic_shapes`` of `torch.onnx.export`: for every input tensor, its dynamic axes and their names.

    Parameters
    ----------
    inputs
        The user's inputs: the first tensor defines the batch size, the first image the image size.
    arguments
        The same inputs by the parameters of the model's forward.
    dynamic
        The dynamic sizes.

    Returns
    -------
    dict or None
        None if all sizes are fixed.
    """
    if dynamic.batches is None and dynamic.image_sizes is None:
        return None
    batch, image = batch_size_of(inputs), image_size_of(inputs)

    def axes(leaf: object) -> dict[int, str] | None:
        named = {}
        if isinstance(leaf, Tensor) and dynamic.batches and leaf.dim() and len(leaf) == batch:
            named[0] = "batch"
        if isinstance(leaf, Tensor) and dynamic.image_sizes and leaf.dim() == 4 and leaf.shape[2:] == image:
            named |= {2: "height", 3: "width"}
        return named or None

    return {name: tree_map(axes, value) for name, value in arguments.items()}


def at_all_sizes(inputs: Any, dynamic: Dynamic) -> Iterator[Any]:
    """The inputs at each size to check, with their values repeated or cut.

    Parameters
    ----------
    inputs
        The user's inputs; yielded as they are if all sizes are fixed.
    dynamic
        The sizes.
    """
    if dynamic.batches is None and dynamic.image_sizes is None:
        yield inputs
    for batch in dynamic.batches or ():
        yield resized(inputs, batch)
    given = image_size_of(inputs)
    for size in dynamic.image_sizes or ():
        if size != given or not dynamic.batches:
            yield _with_images(inputs, size)


def _with_images(inputs: Any, size: tuple[int, int]) -> Any:
    now = image_size_of(inputs)

    def resize(tensor: Tensor) -> Tensor:
        if tensor.dim() != 4 or tensor.shape[2:] != now:
            return tensor
        rows, columns = (torch.arange(side, device=tensor.device) % old for side, old in zip(size, now, strict=True))
        return tensor[:, :, rows][..., columns].contiguous()

    return map_tensors(resize, inputs)
