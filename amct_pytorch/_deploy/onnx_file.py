"""Write a model as one ONNX file, and compare its outputs in onnxruntime with those in PyTorch."""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .._report.units import ratio_of
from .._run.inputs import batch_size_of, check_finite, check_samples, checked_inputs, resized, run_model, tensors_of
from .._run.isolation import untouched_generators
from .._run.placement import placed_inputs, placed_model
from .._run.tensors import map_tensors
from ..backend import get_backend
from ..errors import ExportError, MissingExtra, ModelError
from .dynamic_sizes import Dynamic, at_all_sizes
from .export_report import ExportCheck, ExportReport, TensorInfo
from .exporters import export_to_file, first_lines, output_tensors

_PACKAGES = ("onnx", "onnxscript", "onnxruntime")  # of the extra "export"
_CPU = torch.device("cpu")


def require_extra() -> None:
    """Check that the packages of the extra ``export`` are installed.

    Raises
    ------
    MissingExtra
        One is not installed.
    """
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"exporting needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed: "
            f"pip install {' '.join(missing)}"
        )


def on_host(model: nn.Module, inputs: object) -> tuple[nn.Module, Any]:
    """Contiguous float32 copies of model and inputs on the host, the model in eval mode.

    Parameters
    ----------
    model
        On any device.
    inputs
        A tensor, a tuple of positional arguments, or a mapping of keyword arguments; on any device.

    Raises
    ------
    ModelError
        The model is not a `torch.nn.Module`, was made by torch.jit, or has uninitialised parameters.
    InputsError
        The inputs have another type, contain NaN or infinity, or are on the meta device.
    DeviceError
        The model cannot be copied.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"model must be a torch.nn.Module, found {type(model).__module__}.{type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError("the model was made by torch.jit: export the torch.nn.Module that was scripted or traced")
    lazy = [name for name, weight in model.named_parameters() if isinstance(weight, nn.UninitializedParameter)]
    if lazy:
        raise ModelError(f"{', '.join(lazy)} have no values yet: run the model once, then export it")
    check_samples(given := checked_inputs(inputs, "inputs"))
    check_finite(given)
    cpu = get_backend("cpu")
    copied = placed_model(model, cpu, _CPU, torch.float32)
    copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # documented, not typed
    return copied, map_tensors(Tensor.contiguous, placed_inputs(given, cpu, _CPU, torch.float32))


def outputs_of(model: nn.Module, inputs: Any) -> list[Tensor]:
    """The tensors that a model returns, in their order in the output structure.

    Parameters
    ----------
    model, inputs
        From `on_host`.

    Raises
    ------
    InputsError
        The model fails on the inputs.
    """
    with torch.no_grad(), untouched_generators([]):
        return output_tensors(run_model(model, inputs, "inputs"))


def write_onnx(
    model: nn.Module,
    inputs: Any,
    file: Path,
    dynamic: Dynamic,
    *,
    opset: int = 18,
    adapt: Callable[[Path], object] | None = None,
) -> ExportReport:
    """Export a model to a file, and check the file in onnxruntime.

    Parameters
    ----------
    model, inputs
        From `on_host`.
    file
        The file to write, in an existing folder.
    dynamic
        The dynamic sizes, and the values to check them with.
    opset
        Version of the ONNX operators.
    adapt
        Called with the file before it is checked, to change or to refuse it.

    Raises
    ------
    InputsError
        The model fails on the inputs.
    ExportError
        Both of torch's exporters fail, the file would be larger than 2 GiB, or onnxruntime cannot run it.
    OSError
        The file cannot be written.
    """
    outputs_of(model, inputs)
    # torch.export treats a size of 1 as a constant.
    example = resized(inputs, 2) if dynamic.batches and batch_size_of(inputs) == 1 else inputs
    exporter = export_to_file(model, example, file, dynamic, opset)
    if adapt is not None:
        adapt(file)
    session = _session(file)
    _check_inputs(session, inputs)
    return ExportReport(
        path=os.fspath(file),
        opset=opset,
        size=file.stat().st_size,
        inputs=tuple(TensorInfo(item.name, item.type, tuple(item.shape)) for item in session.get_inputs()),
        outputs=tuple(TensorInfo(item.name, item.type, tuple(item.shape)) for item in session.get_outputs()),
        checks=tuple(_check(model, session, sized) for sized in at_all_sizes(inputs, dynamic)),
        versions=_versions(),
        exporter=exporter,
    )


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"onnxruntime does not load what was exported: {first_lines(error)}") from error


def _check_inputs(session: Any, inputs: Any) -> None:
    """Check that the file takes every input tensor: TorchScript leaves out those that it does not use."""
    names = [item.name for item in session.get_inputs()]
    if len(names) != (given := len(tensors_of(inputs))):
        raise ExportError(
            f"the file takes {len(names)} of the {given} input tensors ({', '.join(names)}): leave out those that no "
            "output depends on"
        )


def _check(model: nn.Module, session: Any, inputs: Any) -> ExportCheck:
    expected = outputs_of(model, inputs)
    tensors = tensors_of(inputs)
    # The inputs of the file have the order of the arguments.
    names = [item.name for item in session.get_inputs()]
    try:
        found = session.run(None, {name: leaf.numpy() for name, leaf in zip(names, tensors, strict=True)})
        pairs = list(zip(map(torch.from_numpy, found), expected, strict=True))
    except Exception as error:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
        raise ExportError(f"onnxruntime fails on inputs of {shapes}: {first_lines(error)}") from error
    differences = [(output.double() - reference.double()).abs() for output, reference in pairs]
    every = torch.cat([difference.flatten() for difference in differences])
    relative = (
        ratio_of(_largest(difference), _largest(reference.double().abs()))
        for difference, (_, reference) in zip(differences, pairs, strict=True)
    )
    return ExportCheck(
        shapes=tuple(tuple(tensor.shape) for tensor in tensors),
        max_difference=_largest(every),
        mean_difference=float(every.mean()) if len(every) else 0.0,
        relative_difference=max(relative, default=0.0, key=lambda value: math.inf if math.isnan(value) else value),
    )


def _largest(values: Tensor) -> float:
    return float(values.max()) if values.numel() else 0.0


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {"torch": str(torch.__version__), **{name: version(name) for name in _PACKAGES}}
