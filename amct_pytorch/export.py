"""Export a model as one ONNX file, and compare what onnxruntime computes with it to what PyTorch does."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence

from torch import nn

from ._deploy.dynamic_sizes import Dynamic, checked_batches, checked_image_sizes
from ._deploy.export_report import ExportCheck, ExportReport, TensorInfo
from ._deploy.onnx_file import on_host, require_extra, write_onnx
from ._run.arguments import check_whole
from ._storage.atomic import new_file
from ._storage.paths import file_to_write
from .errors import ExportAccessError

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
    """Write a model as one ONNX file, and compare its outputs in onnxruntime with those of PyTorch.

    The model is exported in eval mode, with weights and inputs converted to float32. The file is put into place only
    when it is complete: after an error or an interrupt there is the earlier file, or none.

    Parameters
    ----------
    model
        A decomposed model, or any other; on any device.
    inputs
        A tensor, a tuple of arguments, or a mapping of keywords. Floating-point tensors are converted to float32.
    path
        Where to write the file. One that is there is replaced, missing folders are made.
    dynamic_batch
        Leave the number of samples open, in every input tensor whose first axis is as long as that of the first. It
        is checked with the number of the inputs, 1, and 8, or with those that are listed.
    dynamic_image_size
        Leave height and width open, in every (N, C, H, W) input of the same height and width as the first. It is
        checked with the size of the inputs and twice that, or with the listed sizes (height, width) in pixels.
    opset
        Version of the ONNX operators. ATC reads up to 18.

    Returns
    -------
    ExportReport
        What was written, and how far the outputs differ. Check its ``ok``, which is False where they differ too much,
        as with a model that draws random numbers in eval mode. Model, inputs and random generators are as they were.

    Raises
    ------
    MissingExtra
        The extra ``export`` is not installed.
    ConfigError, ModelError
        A setting is wrong, of the wrong type with `ConfigTypeError`, or this is no model.
    InputsError, DeviceError
        The model fails on the inputs, these hold NaN, or the model cannot be copied to the host.
    ExportError
        ONNX has no operator for what the model does; the message names operator and layer.
    ExportAccessError
        The file cannot be written.
    """
    require_extra()
    place = file_to_write(path, "path", ExportAccessError)
    check_whole("opset", opset)
    copied, given = on_host(model, inputs)
    dynamic = Dynamic(checked_batches(dynamic_batch, given), checked_image_sizes(dynamic_image_size, given))
    with new_file(place, ExportAccessError) as draft:
        report = write_onnx(copied, given, draft, dynamic, opset=opset)
    return dataclasses.replace(report, path=os.fspath(path))
