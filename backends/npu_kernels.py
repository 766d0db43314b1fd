"""The kernels in a recording of torch_npu's profiler: its table kernel_details.csv."""

from __future__ import annotations

import contextlib
import csv
import importlib
import multiprocessing
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import torch

from amct_pytorch.backend import Kernel, KernelKind
from amct_pytorch.errors import DeviceError, quoted

_TABLE = "kernel_details.csv"

# Columns of the table, by the names that versions of torch_npu and CANN's own op_summary give them. It has others,
# before and between these: Step Id, Device_id, Model ID, Task ID, Stream ID, Block Num, shapes, formats, counters.
_COLUMNS = {
    "name": ("Name", "Op Name"),
    "type": ("Type", "OP Type"),
    "core": ("Accelerator Core", "Task Type"),
    "start": ("Start Time(us)", "Task Start Time(us)"),
    "duration": ("Duration(us)", "Task Duration(us)"),
    "hf32": ("HF32 Eligible",),
    "types": ("Input Data Types",),
}
_OPTIONAL = ("hf32", "types")  # only from profiler level 1 on

# Values for "does not apply".
_NONE = ("", "N/A", "NA")

# float32 among types such as "FLOAT;FLOAT16", "DT_FLOAT" or "float32".
_FLOAT32 = re.compile(r"(?<![a-z])(float|float32|fp32)(?![a-z0-9])", re.IGNORECASE)

# Operator types of CANN in lower case, and what such a kernel does; the first that matches decides.
_KINDS: list[tuple[str, KernelKind]] = [
    # Between NCHW or ND and the cube unit's formats NC1HWC0, FRACTAL_Z and FRACTAL_NZ, and between orders of axes.
    (r"^transdata|^transpose|^formattransfer|^npuformatcast", "format conversion"),
    # Into contiguous memory, or from one tensor to another.
    (r"^tensormove|^viewcopy|^asstrided|^identity|^memcpy|^memset|^sdma|^concat|^slice|^stridedslice", "copy"),
    # Conv2D, Conv2DV2, Conv3DV2, DepthwiseConv2D, Conv2DTranspose, Deconvolution, and their backward passes.
    (r"conv(?!er)|^im2col|^col2im", "convolution"),
    # MatMul, MatMulV2, MatMulV3, BatchMatMul, GroupedMatmul.
    (r"mat_?mul|gemm|gemv|^mm$|^bmm$|fullyconnection", "matrix product"),
    # Batch normalisation in eval mode scales and shifts each channel.
    (r"^bninfer|^cast$|^fills?$|^zeroslike|^oneslike|^clip|^clamp|^upsample|^resize", "elementwise"),
    (
        r"^(adds?|addn|axpy|sub|muls?|div|realdiv|pow|sqrt|rsqrt|exp|log|abs|neg|square|reciprocal|maximum|minimum"
        r"|(leaky|p)?relu6?|elu|gelu|fastgelu|silu|swish|sigmoid|tanh|mish|softplus|hardswish|hardsigmoid|hardtanh"
        r"|select|where|masked\w*|greater|less|equal)(v\d|d)?$",
        "elementwise",
    ),
    # Pooling, means, sums, softmax, and the statistics of normalisation.
    (r"pool|^reduce|softmax|norm|^bntraining|^arg(max|min)|^topk", "reduction"),
]


def kernels_in(path: Path) -> list[Kernel]:
    """The kernels in a table of torch_npu's profiler.

    Parameters
    ----------
    path
        The file kernel_details.csv.

    Raises
    ------
    DeviceError
        The file cannot be read, a column is missing, or a cell is not a time; the message names the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, strict=True)
            header = [cell.strip() for cell in next(rows, [])]
            places = _places(header)
            timed = [_timed(row, places, len(header), rows.line_num) for row in rows if any(map(str.strip, row))]
    except (OSError, UnicodeError, csv.Error, ValueError) as error:
        raise DeviceError(f"torch_npu's profile {path} cannot be read: {error}") from error
    origin = min((start for _, start, _ in timed), default=Decimal(0))
    return [_kernel(cells, float(start - origin) / 1e6, float(spent) / 1e6) for cells, start, spent in timed]


def kind_of(operator: str) -> KernelKind:
    """What the kernels of an operator do.

    Parameters
    ----------
    operator
        Its type: "Conv2D".
    """
    return next((kind for pattern, kind in _KINDS if re.search(pattern, operator.lower())), "other")


@contextlib.contextmanager
def recorded(device: torch.device) -> Iterator[list[Kernel]]:
    """Record the kernels of a block, in a list that is filled when the block ends.

    Parameters
    ----------
    device
        The device that runs them.

    Raises
    ------
    DeviceError
        The profiler cannot be used, or recorded nothing.
    """
    found: list[Kernel] = []
    # The analysis of a recording sets the start method of multiprocessing to fork.
    method = multiprocessing.get_start_method(allow_none=True)
    with tempfile.TemporaryDirectory(prefix="npu_profile_") as folder:
        try:
            with _profiler(folder):
                yield found
        finally:
            multiprocessing.set_start_method(method, force=True)
        for table in sorted(Path(folder).rglob(_TABLE)):
            found += kernels_in(table)
    if not found:
        raise DeviceError(
            f"torch_npu's profiler recorded no kernel on {device}: see what it printed. It needs the profiling library "
            "of CANN's toolkit, a folder for temporary files that it may write to, and no msprof around this process"
        )


def _profiler(folder: str) -> Any:
    """torch_npu's profiler, which writes to this folder when it ends; it prints its failures and raises none."""
    try:
        profiler = importlib.import_module("torch_npu").profiler
        settings = profiler._ExperimentalConfig(
            export_type=profiler.ExportType.Text, profiler_level=profiler.ProfilerLevel.Level1
        )
        return profiler.profile(on_trace_ready=profiler.tensorboard_trace_handler(folder), experimental_config=settings)
    except Exception as error:
        raise DeviceError(f"torch_npu's profiler cannot be used ({type(error).__name__}: {error})") from error


def _places(header: Sequence[str]) -> dict[str, int]:
    """The position of each column, by our name for it."""
    places = {}
    for column, names in _COLUMNS.items():
        found = [header.index(name) for name in names if name in header]
        if found:
            places[column] = found[0]
        elif column not in _OPTIONAL:
            raise ValueError(
                f"expected a column {' or '.join(map(quoted, names))}, found {', '.join(header) or 'none'}"
            )
    return places


def _timed(
    row: Sequence[str], places: Mapping[str, int], columns: int, line: int
) -> tuple[dict[str, str], Decimal, Decimal]:
    """The cells of a row by our names, its start and its duration; in microseconds since 1970, too many for a float."""
    if len(row) != columns:
        raise ValueError(f"line {line}: expected {columns} cells, found {len(row)}")
    cells = {column: row[place].strip() for column, place in places.items()}
    return cells, _microseconds(cells["start"], "start", line), _microseconds(cells["duration"], "duration", line)


def _kernel(cells: Mapping[str, str], start: float, seconds: float) -> Kernel:
    # At lower levels the type is left out, but an aclnn name ends with it: aclnnAdd_AddAiCore_Add.
    operator = cells["name"].rpartition("_")[2] if cells["type"] in _NONE else cells["type"]
    kind: KernelKind = "CPU" if cells["core"].upper() == "AI_CPU" else kind_of(operator)
    return Kernel(operator or cells["name"], kind, start, seconds, "HF32" if _in_hf32(kind, cells) else None)


def _in_hf32(kind: KernelKind, cells: Mapping[str, str]) -> bool:
    """Whether products of float32 numbers were in HF32: the flag may be set for half precision too."""
    types = cells.get("types", "")
    return (
        kind in ("convolution", "matrix product")
        and cells.get("hf32", "").upper() == "YES"
        and (types in _NONE or bool(_FLOAT32.search(types)))
    )


def _microseconds(cell: str, column: str, line: int) -> Decimal:
    try:
        value = Decimal(cell)
    except InvalidOperation:
        value = Decimal("nan")
    if not value.is_finite() or value < 0:
        raise ValueError(f"line {line}: expected microseconds under {_COLUMNS[column][0]}, found {quoted(cell)}")
    return value
