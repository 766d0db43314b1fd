"""Torch's two exporters to ONNX: torch.export and, for models that it cannot follow, TorchScript."""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import os
import textwrap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_flatten_with_path, tree_unflatten

from .._run.inputs import call_with, tensors_of
from .._run.interrupts import left_whole
from .._run.isolation import leaving_no_trace
from ..errors import ExportError, quoted
from .dynamic_sizes import Dynamic, open_axes
from .input_values import value_read

# What one file of protobuf, the format of ONNX, can hold in bytes.
_LARGEST_FILE = 2**31
# Characters of an exporter's message that are worth repeating: one sentence or two.
_LONGEST_REASON = 300


def export_to_file(model: nn.Module, inputs: Any, file: Path, dynamic: Dynamic, opset: int) -> str:
    """Export a model to one ONNX file.

    torch.export follows the model's code, for any size. TorchScript, torch's older exporter, records one run: sizes are
    fixed, and what the code decides by is recorded as a constant. So it is only for models that do not decide by the
    values of their inputs.

    Parameters
    ----------
    model
        On the host, in eval mode.
    inputs
        A tensor, a tuple of positional arguments, or a mapping of keyword arguments.
    file
        The file to write, in an existing folder.
    dynamic
        The dynamic sizes.
    opset
        Version of the ONNX operators.

    Returns
    -------
    str
        The exporter that has made the file: "torch.export" or "TorchScript".

    Raises
    ------
    ExportError
        Both exporters fail, or the file would be larger than 2 GiB.
    OSError
        The file cannot be written.
    """
    try:
        with leaving_no_trace(model), left_whole(_quiet()):
            program = _program(model, inputs, dynamic, opset)
    except Exception as error:
        _export_traced(model, inputs, file, dynamic, opset, error)
        return "TorchScript"
    made = program.model.opset_imports.get("")
    if made != opset:
        raise ExportError(f"torch {torch.__version__} exported at opset {made}, not at {opset}: ask for opset=18")
    try:
        program.save(file, external_data=False)
    except OSError:
        raise
    except Exception as error:
        raise ExportError(
            f"the ONNX file cannot be written ({first_lines(error)}): one file holds 2 GiB at most"
        ) from error
    return "torch.export"


def first_lines(error: BaseException) -> str:
    """The first paragraph of an error's message, in one line of sensible length.

    Parameters
    ----------
    error
        Any.
    """
    paragraph = str(error).strip().partition("\n\n")[0] or type(error).__name__
    return textwrap.shorten(paragraph, _LONGEST_REASON, placeholder=" …").rstrip(".")


def _program(model: nn.Module, inputs: Any, dynamic: Dynamic, opset: int) -> torch.onnx.ONNXProgram:
    args, kwargs = _arguments(inputs)
    if args and isinstance(args[-1], dict):
        args += ({},)  # torch.onnx takes a dict in last place for the keyword arguments
    program = torch.onnx.export(
        model,
        args,
        kwargs=kwargs,
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=open_axes(inputs, _by_parameter(model, inputs), dynamic),
        external_data=False,
        verbose=False,
    )
    return cast(torch.onnx.ONNXProgram, program)


def _export_traced(model: nn.Module, inputs: Any, file: Path, dynamic: Dynamic, opset: int, refusal: Exception) -> None:
    """Export by TorchScript what torch.export has refused.

    Raises
    ------
    ExportError
        TorchScript fails too, or would record what holds for these inputs only; with the reasons of both.
    OSError
        The file cannot be written.
    """
    failure: Exception | None = None
    try:
        reason = _why_not_traced(model, inputs, dynamic)
        if reason is None:
            with leaving_no_trace(model), left_whole(_quiet_about_traces()):
                torch.onnx.export(
                    _Flat(model, inputs),
                    tuple(tensors_of(inputs)),
                    os.fspath(file),
                    dynamo=False,
                    opset_version=opset,
                    input_names=_input_names(_by_parameter(model, inputs)),
                    verbose=False,
                )
            return
    except OSError:
        raise
    except Exception as error:
        failure, reason = error, first_lines(_root(error))
    layer = _layer_of(refusal, model) or (failure and _layer_of(failure, model))
    where = f" in layer {quoted(layer)}" if layer else ""
    raise ExportError(
        f"the model cannot be exported to ONNX{where}: {first_lines(_root(refusal))}. Nor can it by TorchScript, "
        f"torch's older exporter: {reason}. Replace what cannot be exported, or export the model without that layer"
    ) from refusal


def _why_not_traced(model: nn.Module, inputs: Any, dynamic: Dynamic) -> str | None:
    """Why a record of one run would not be the model, or would not fit into one file; None if neither is so."""
    if dynamic.batches is not None or dynamic.image_sizes is not None:
        return "it records one run, whose sizes are fixed: leave out dynamic_batch and dynamic_image_size to try it"
    if (size := sum(item.nbytes for item in (*model.parameters(), *model.buffers()))) >= _LARGEST_FILE:
        return f"one file holds 2 GiB at most, and the weights take {size / 2**30:.1f} GiB"
    with leaving_no_trace(model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the model has run on these inputs before, and warned then
        read = value_read(model, inputs)
    return read and f"{read}, which its record of one run would hold as constants"


class _Flat(nn.Module):
    """A model that takes its tensors one by one, as TorchScript does, and returns a tuple of tensors."""

    def __init__(self, model: nn.Module, inputs: Any) -> None:
        super().__init__()
        self.model = model
        self._leaves, self._structure = tree_flatten(inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the model."""
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        return tuple(output_tensors(call_with(self.model, tree_unflatten(leaves, self._structure))))


def output_tensors(outputs: object) -> list[Tensor]:
    """The tensors that a model has returned, in their order in the output structure.

    Parameters
    ----------
    outputs
        What the forward returned.
    """
    # A ModelOutput is a mapping, but not necessarily registered as a pytree node.
    return tensors_of(dict(outputs) if isinstance(outputs, dict) else outputs)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, dict):
        return (), inputs
    return ((inputs,) if isinstance(inputs, Tensor) else tuple(inputs)), {}


def _by_parameter(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """The inputs by the parameters of the model's forward."""
    args, kwargs = _arguments(inputs)
    return inspect.signature(model.forward).bind(*args, **kwargs).arguments


def _input_names(arguments: dict[str, Any]) -> list[str]:
    """A name for each input tensor, made as torch.export makes it: pairs_0_a of pairs[0]["a"]."""
    return [
        "_".join(str(getattr(key, "key", getattr(key, "idx", getattr(key, "name", key)))) for key in path)
        for path, leaf in tree_flatten_with_path(arguments)[0]
        if isinstance(leaf, Tensor)
    ]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch.export prints: missing optional packages, its own deprecations, graphs that it gives up."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _quiet_about_traces() -> Iterator[None]:
    """Silence that the exporter is deprecated, and what a trace records as a constant, which was looked into before."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, torch.jit._trace.TracerWarning):
            warnings.simplefilter("ignore", category)
        warnings.filterwarnings("error", "Exporting to ONNX opset version")  # it goes on at a version that it has not
        yield


def _layer_of(error: BaseException, model: nn.Module) -> str | None:
    """Name of the layer at which an exporter failed: the last that was running, or that of the graph node."""
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
