"""The table kernel_details.csv of torch_npu's profiler, on files made after its documented layouts."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from amct_backends import npu_kernels

from amct_pytorch.backend import Kernel
from amct_pytorch.errors import DeviceError

# torch_npu 2.12 and 2.13 at level 1; with Step Id where the profiler has a schedule.
_LEVEL_1 = (
    "Device_id,Model ID,Task ID,Stream ID,Name,Type,OP State,Accelerator Core,Start Time(us),Duration(us),"
    "Wait Time(us),Block Num,Mix Block Num,HF32 Eligible,Input Shapes,Input Data Types,Input Formats,Output Shapes,"
    "Output Data Types,Output Formats,Context ID,aicore_time(us),aic_total_cycles,cube_utilization(%)"
)


def _table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "kernel_details.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def _read(tmp_path: Path, text: str) -> list[Kernel]:
    return npu_kernels.kernels_in(_table(tmp_path, text))


def test_a_table_of_level_1_is_read(tmp_path: Path) -> None:
    """With tabs after times, as CANN writes them, and shapes in quotes within quotes."""
    rows = [
        "0,4294967295,1,2,aclnnConvolution_TransData_TransData,TransData,dynamic,AI_VECTOR_CORE,1719385632153432.500\t,"
        '12.5,0,40,0,NO,"""64,64,56,56""",FLOAT,NCHW,"""64,8,56,56,8""",FLOAT,NC1HWC0,N/A,0,0,0',
        "0,4294967295,2,2,aclnnConvolution_Conv2d_Conv2D,Conv2D,dynamic,AI_CORE,1719385632153445.250\t,100.25,0.25,20,0,"
        'YES,"""64,8,56,56,8;72,4,16,8""",FLOAT;FLOAT,NC1HWC0;FRACTAL_Z,"""64,8,56,56,8""",FLOAT,NC1HWC0,N/A,9,99,55.5',
        "0,4294967295,3,2,aclnnSort_Sort_Sort,Sort,dynamic,AI_CPU,1719385632153550.000\t,40,4,1,0,NO,,INT64,ND,,,,N/A,0,0,0",
    ]
    conversion, conv, sort = _read(tmp_path, "\n".join([_LEVEL_1, *rows]))
    assert (conversion.name, conversion.kind, conversion.short_format) == ("TransData", "format conversion", None)
    assert (conv.name, conv.kind, conv.short_format) == ("Conv2D", "convolution", "HF32")
    assert (sort.name, sort.kind, sort.short_format) == ("Sort", "CPU", None)
    assert conv.seconds == pytest.approx(100.25e-6)
    assert conv.start - conversion.start == pytest.approx(12.75e-6)


@pytest.mark.parametrize(
    "header",
    [
        "Device_id,Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us),Block Num",
        "Device_id,Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us),Block Dim",
        "Step Id,Device_id,Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us),Block Num",
        "Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us),Block Dim",
        "Device_id,Op Name,OP Type,Task Type,Task Start Time(us),Task Duration(us),Task Wait Time(us),Block Num",
        "Duration(us),Start Time(us),Accelerator Core,Type,Name",
        "\ufeffName,Type,Accelerator Core,Start Time(us),Duration(us)",
        " Name , Type , Accelerator Core , Start Time(us) , Duration(us) ",
    ],
    ids=["level 0", "before 2.12", "steps", "no device", "op_summary", "another order", "a byte order mark", "spaces"],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_the_columns_of_every_version_are_found(header: str, ending: str, tmp_path: Path) -> None:
    cells = {"Name": "conv_1", "Type": "Conv2D", "Core": "AI_CORE", "Start Time(us)": "100.0", "Duration(us)": "2.5"}
    names = {"Op Name": "Name", "OP Type": "Type", "Task Type": "Core", "Accelerator Core": "Core"}
    columns = [column.strip() for column in header.lstrip("\ufeff").split(",")]
    row = [cells.get(names.get(column, column.removeprefix("Task ")), "7") for column in columns]
    found = _read(tmp_path, ending.join([header, ",".join(row), ""]))
    assert found == [Kernel("Conv2D", "convolution", 0.0, pytest.approx(2.5e-6), None)]


def test_times_since_1970_keep_their_nanoseconds(tmp_path: Path) -> None:
    header = "Name,Type,Accelerator Core,Start Time(us),Duration(us)"
    starts = ["1719385632153432.537\t", "1719385632153431.001\t"]
    found = _read(tmp_path, "\n".join([header, *(f"k,Add,AI_VECTOR_CORE,{start},0.02" for start in starts)]))
    assert [kernel.start for kernel in found] == pytest.approx([1.536e-6, 0.0])


def test_without_a_type_the_name_has_it(tmp_path: Path) -> None:
    """As at level 0."""
    header = "Device_id,Name,Type,Accelerator Core,Start Time(us),Duration(us),Wait Time(us),Block Dim"
    names = [
        "aclnnMatmul_MatMulCommon_MatMulV2",
        "aclnnMul_TransposeAiCore_Transpose",
        "aclnnAdd_AddAiCore_Add",
        "Conv2D",
    ]
    rows = [f"0,{name},N/A,N/A,{number},1,0,8" for number, name in enumerate(names)]
    kinds = [kernel.kind for kernel in _read(tmp_path, "\n".join([header, *rows]))]
    assert kinds == ["matrix product", "format conversion", "elementwise", "convolution"]


@pytest.mark.parametrize(
    ("kind", "types", "eligible", "short_format"),
    [
        ("Conv2D", "FLOAT;FLOAT", "YES", "HF32"),
        ("MatMulV3", "DT_FLOAT;DT_FLOAT", "YES", "HF32"),
        ("MatMulV3", "float32;float32", "yes", "HF32"),
        ("Conv2D", "FLOAT;FLOAT", "NO", None),
        ("Conv2D", "FLOAT;FLOAT", "N/A", None),
        ("Conv2D", "FLOAT16;FLOAT16", "YES", None),
        ("Conv2D", "DT_BF16;DT_BF16", "YES", None),
        ("Conv2D", "N/A", "YES", "HF32"),
        ("Mul", "FLOAT;FLOAT", "YES", None),
    ],
)
def test_hf32_is_that_of_products_of_float32(
    kind: str, types: str, eligible: str, short_format: str | None, tmp_path: Path
) -> None:
    header = "Name,Type,Accelerator Core,Start Time(us),Duration(us),HF32 Eligible,Input Data Types"
    [kernel] = _read(tmp_path, f"{header}\nk,{kind},AI_CORE,1,1,{eligible},{types}\n")
    assert kernel.short_format == short_format


@pytest.mark.parametrize(
    ("kind", "operators"),
    [
        (
            "convolution",
            [
                "Conv2D",
                "Conv2DV2",
                "Conv3DV2",
                "DepthwiseConv2D",
                "Conv2DTranspose",
                "Deconvolution",
                "Conv2DBackpropInput",
            ],
        ),
        ("matrix product", ["MatMul", "MatMulV2", "MatMulV3", "BatchMatMulV2", "GroupedMatmul", "Gemm"]),
        ("format conversion", ["TransData", "TransDataRNN", "Transpose", "TransposeD"]),
        (
            "elementwise",
            [
                "Add",
                "Adds",
                "AddN",
                "Mul",
                "Muls",
                "RealDiv",
                "Relu",
                "LeakyRelu",
                "Relu6",
                "Cast",
                "BNInfer",
                "Sigmoid",
            ],
        ),
        (
            "reduction",
            ["ReduceMean", "ReduceSumD", "MaxPoolV3", "AvgPoolV2", "SoftmaxV2", "LayerNormV3", "BNTrainingReduce"],
        ),
        ("copy", ["TensorMove", "ViewCopy", "AsStrided", "MEMCPY_ASYNC", "ConcatD"]),
        ("other", ["FlashAttentionScore", "Sort", "RandomUniform", "KERNEL_AICORE", "Address", "Convert"]),
    ],
)
def test_a_kernel_of_an_npu_is_known_by_its_operator(kind: str, operators: list[str]) -> None:
    assert {name: npu_kernels.kind_of(name) for name in operators} == dict.fromkeys(operators, kind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a column 'Name' or 'Op Name', found none"),
        (
            "Name,Type,Accelerator Core,Duration(us)\n",
            r"expected a column 'Start Time\(us\)' or 'Task Start Time\(us\)'",
        ),
        (
            "Name,Type,Accelerator Core,Start Time(us),Duration(us)\nk,Conv2D,AI_CORE,1\n",
            "line 2: expected 5 cells, found 4",
        ),
        (
            "Name,Type,Accelerator Core,Start Time(us),Duration(us)\nk,Conv2D,AI_CORE,1,2\nk,Conv2D,AI_CORE,1,N/A\n",
            r"line 3: expected microseconds under Duration\(us\), found 'N/A'",
        ),
        ("Name,Type,Accelerator Core,Start Time(us),Duration(us)\nk,Conv2D,AI_CORE,1,-2\n", "found '-2'"),
        ("Name,Type,Accelerator Core,Start Time(us),Duration(us)\nk,Conv2D,AI_CORE,nan,2\n", "under Start Time"),
        ("Name,Type,Accelerator Core,Start Time(us),Duration(us)\nk,Conv2D,AI_CORE,1,inf\n", "found 'inf'"),
        ('Name,Type,Accelerator Core,Start Time(us),Duration(us)\n"k,Conv2D,AI_CORE,1,2\n', "unexpected end of data"),
        ("Name,Type,Accelerator Core,Start Time(us),Duration(us)\nk\x00,Conv2D,AI_CORE,1,x\n", "line 2"),
    ],
)
def test_a_broken_table_is_an_error_that_names_the_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=f"torch_npu's profile .*kernel_details.csv cannot be read: .*{message}"):
        _read(tmp_path, text)


def test_a_table_that_is_no_text_or_not_there_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "kernel_details.csv"
    with pytest.raises(DeviceError, match="cannot be read: .*No such file"):
        npu_kernels.kernels_in(path)
    path.write_bytes(b"Name,Type\n\xff\xfe\x00")
    with pytest.raises(DeviceError, match="cannot be read"):
        npu_kernels.kernels_in(path)


@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n,,,,\n"])
def test_an_empty_table_has_no_kernels(end: str, tmp_path: Path) -> None:
    assert _read(tmp_path, f"Name,Type,Accelerator Core,Start Time(us),Duration(us){end}") == []


def test_quotes_commas_and_line_ends_inside_cells_are_kept_apart(tmp_path: Path) -> None:
    path = tmp_path / "kernel_details.csv"
    with path.open("w", newline="") as file:
        header = ["Name", "Type", "Accelerator Core", "Start Time(us)", "Duration(us)", "Input Shapes"]
        csv.writer(file).writerows([header, ['a"b,\nc_Add', "N/A", "AI_CORE", "1", "2", '"1,2;3"']])
    [kernel] = npu_kernels.kernels_in(path)
    assert (kernel.name, kernel.kind) == ("Add", "elementwise")
