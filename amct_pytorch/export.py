"""Export a model as one ONNX file, and compare its outputs in onnxruntime with those in PyTorch."""

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
    when it is complete: after an error or an interrupt, a file that existed before is unchanged.

    Where torch.export cannot follow the model, and all sizes are fixed, TorchScript, torch's older exporter, records
    one run of it, unless its code decides anything by the values of the inputs. The report says which one it was.

    Parameters
    ----------
    model
        A decomposed model, or any other; on any device.
    inputs
        A tensor, a tuple of positional arguments, or a mapping of keyword arguments.
    path
        The file to write. An existing file is replaced; missing folders are created.
    dynamic_batch
        Make the number of samples dynamic: the first axis of every input that has as many samples as the first input.
        True checks the file with the number of samples of the inputs, with 1 and with 8; a list gives the numbers to
        check with.
    dynamic_image_size
        Make height and width dynamic in every (N, C, H, W) input that has the size of the first one. True checks the
        file with the size of the inputs and with twice that; a list gives the sizes (height, width), in pixels, to
        check with.
    opset
        Version of the ONNX operators. ATC reads versions up to 18.

    Returns
    -------
    ExportReport
        What was written, and how far the outputs differ. Check its ``ok``: it is False if they differ too much, as for
        a model that draws random numbers in eval mode. Model, inputs and random generators are left as they were.

    Raises
    ------
    MissingExtra
        The extra ``export`` is not installed.
    ConfigError
        An argument has a wrong value; `ConfigTypeError` for a wrong type.
    ModelError
        The model is not a `torch.nn.Module`, was made by torch.jit, or has uninitialised parameters.
    InputsError
        The inputs hold no sample, or NaN or infinity, or the model fails on them.
    DeviceError
        The model cannot be copied to the host.
    ExportError
        ONNX has no operator for something that the model does (the message names operator and layer), neither exporter
        can follow it, or onnxruntime cannot run the file.
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
