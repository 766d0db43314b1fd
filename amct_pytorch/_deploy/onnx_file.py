"""Write a model as one ONNX file, and compare its outputs in onnxruntime with those in PyTorch."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import logging
import math
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from .._report.units import ratio_of
from .._run.inputs import batch_size_of, check_finite, checked_inputs, resized, run_model, tensors_of
from .._run.isolation import untouched_generators
from .._run.placement import placed_inputs, placed_model
from .._run.tensors import map_tensors
from ..backend import get_backend
from ..errors import ExportError, MissingExtra, ModelError, quoted
from .dynamic_sizes import Dynamic, at_all_sizes, open_axes
from .export_report import ExportCheck, ExportReport, TensorInfo

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
            'pip install "amct_pytorch[export]"'
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
    check_finite(given := checked_inputs(inputs, "inputs"))
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
        outputs = run_model(model, inputs, "inputs")
    # A ModelOutput is a mapping, but not necessarily registered as a pytree node.
    return tensors_of(dict(outputs) if isinstance(outputs, dict) else outputs)


def write_onnx(model: nn.Module, inputs: Any, file: Path, dynamic: Dynamic, *, opset: int = 18) -> ExportReport:
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

    Raises
    ------
    InputsError
        The model fails on the inputs.
    ExportError
        The exporter fails, the file would be larger than 2 GiB, or onnxruntime cannot run it.
    OSError
        The file cannot be written.
    """
    outputs_of(model, inputs)
    # torch.export treats a size of 1 as a constant.
    example = resized(inputs, 2) if dynamic.batches and batch_size_of(inputs) == 1 else inputs
    program = _program(model, example, dynamic, opset)
    try:
        program.save(file, external_data=False)
    except OSError:
        raise
    except Exception as error:
        raise ExportError(
            f"the ONNX file cannot be written ({_first_lines(error)}): one file holds 2 GiB at most"
        ) from error
    session = _session(file)
    return ExportReport(
        path=os.fspath(file),
        opset=opset,
        size=file.stat().st_size,
        inputs=tuple(TensorInfo(item.name, item.type, tuple(item.shape)) for item in session.get_inputs()),
        outputs=tuple(TensorInfo(item.name, item.type, tuple(item.shape)) for item in session.get_outputs()),
        checks=tuple(_check(model, session, sized) for sized in at_all_sizes(inputs, dynamic)),
        versions=_versions(),
    )


def _program(model: nn.Module, inputs: Any, dynamic: Dynamic, opset: int) -> torch.onnx.ONNXProgram:
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    args = (args,) if isinstance(args, Tensor) else tuple(args)
    arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments
    if args and isinstance(args[-1], dict):
        args += ({},)  # torch.onnx takes a dict in last place for the keyword arguments
    try:
        with _quiet(), torch.no_grad(), untouched_generators([]):
            program = torch.onnx.export(
                model,
                args,
                kwargs=kwargs,
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=open_axes(inputs, arguments, dynamic),
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        layer = _layer_of(error, model)
        where = f" in layer {quoted(layer)}" if layer else ""
        raise ExportError(
            f"the model cannot be exported to ONNX{where}: {_first_lines(_root(error))}. "
            "Replace what cannot be exported, or export the model without that layer"
        ) from error
    program = cast(torch.onnx.ONNXProgram, program)
    made = program.model.opset_imports.get("")
    if made != opset:
        raise ExportError(f"torch {torch.__version__} exported at opset {made}, not at {opset}: ask for opset=18")
    return program


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about missing optional packages, and its own deprecation warnings."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _layer_of(error: BaseException, model: nn.Module) -> str | None:
    """Name of the layer at which the exporter failed: the last that was running, or that of the graph node."""
    names = {module: name for name, module in model.named_modules()}
    layer = None
    step: BaseException | None = error
    while step is not None:
        trace = step.__traceback__
        while trace is not None:
            values = trace.tb_frame.f_locals
            node, running = values.get("node"), values.get("self")
            if isinstance(node, torch.fx.Node) and (stack := node.meta.get("nn_module_stack")):
                layer = list(stack.values())[-1][0]
            elif isinstance(running, nn.Module) and running in names:
                layer = names[running]
            trace = trace.tb_next
        step = step.__cause__
    return layer or None


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _first_lines(error: BaseException) -> str:
    """The first paragraph of a message, in one line."""
    paragraph = " ".join(str(error).strip().partition("\n\n")[0].split())
    return (paragraph or type(error).__name__).rstrip(".")


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"onnxruntime does not load what was exported: {_first_lines(error)}") from error


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
        raise ExportError(f"onnxruntime fails on inputs of {shapes}: {_first_lines(error)}") from error
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
