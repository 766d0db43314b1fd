"""A model as one ONNX file, and the proof that it computes what PyTorch does."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from torch import nn

from ._deploy.dynamic_sizes import Dynamic, checked_batches, checked_image_sizes
from ._deploy.export_report import ExportCheck, ExportReport, TensorInfo
from ._deploy.onnx_file import on_host, require_extra, write_onnx
from ._storage.drafts import checked_place, drafted
from .errors import ConfigError, ExportAccessError

__all__ = ["ExportCheck", "ExportReport", "TensorInfo", "export_onnx"]


def export_onnx(
    model: nn.Module,
    inputs: object,
    path: str | os.PathLike[str],
    *,
    dynamic_batch: bool | Sequence[int] = False,
    dynamic_image_size: bool | Sequence[tuple[int, int]] = False,
    opset: int = 18,
) -> ExportReport:
    """Write a model as one ONNX file, and run it in onnxruntime against PyTorch.

    The file is of the model in eval mode, with weights and inputs in float32, whatever they are. It is in place
    only when it is complete: after an error or an interrupt there is the old file or none.

    Parameters
    ----------
    model
        A decomposed model, or any other; on any device.
    inputs
        A tensor, a tuple of arguments, or a mapping of keywords. Floating-point tensors count as float32.
    path
        Of the file; folders that are missing are made.
    dynamic_batch
        Leave the number of samples open: of every input tensor that is as long as the first. It is checked at the
        given number, 1, and 8, or at those that are listed.
    dynamic_image_size
        Leave height and width open: of every (N, C, H, W) input of the first one's size. It is checked at the given
        size and at twice that, or at the sizes that are listed as (height, width).
    opset
        Version of the ONNX operators. ATC reads up to 18.

    Returns
    -------
    ExportReport
        Model, inputs and random generators are as they were. Look at its ``ok``: a model that draws random numbers
        in eval mode, say, cannot agree with itself.

    Raises
    ------
    MissingExtra
        The extra ``export`` is not installed.
    ConfigError, ModelError
        A setting is wrong, or this is no model.
    InputsError, DeviceError
        The model fails on the inputs, these hold NaN, or it cannot be copied to the host.
    ExportError
        ONNX does not have what the model does; the message names operator and layer.
    ExportAccessError
        The file cannot be written.
    """
    require_extra()
    place = checked_place(path, "path")
    if place.is_dir():
        raise ExportAccessError(f"{path}: expected the path of a file to write, found a directory")
    if not isinstance(opset, int) or isinstance(opset, bool) or opset < 1:
        raise ConfigError(f"opset must be a positive integer, found {opset!r}")
    copied, given = on_host(model, inputs)
    dynamic = Dynamic(checked_batches(dynamic_batch, given), checked_image_sizes(dynamic_image_size, given))
    with drafted(place) as folder:
        draft = folder / place.name
        report = write_onnx(copied, given, draft, dynamic, opset=opset)
        draft.replace(place)
    return dataclasses.replace(report, path=os.fspath(path))
