"""The NPU's backend on the real torch_npu, over a stand-in for CANN.

The device is an Ascend910B3 with 2 GiB, whose kernels do nothing.
"""

from __future__ import annotations

import contextlib
import copy
import multiprocessing
import os
import time
import warnings

import pytest
import torch

from amct_pytorch.backend import Backend, get_backend
from amct_pytorch.errors import DeviceError
from amct_pytorch.tensor_decompose import auto_decomposition

from ..models import TwoConvs

_NPU = get_backend("npu").device()
_MIB = 2**20


@pytest.fixture
def npu() -> Backend:
    return get_backend("npu")


def test_the_device_tells_of_itself(npu: Backend) -> None:
    [info] = npu.devices()
    assert (info.backend, info.index, info.name, info.family) == ("npu", 0, "Ascend910B3", "Atlas A2")
    assert info.total_memory == 2048 * _MIB
    assert info.dtypes == (torch.float32, torch.float16, torch.bfloat16)
    assert info.versions == {
        "torch": torch.__version__,
        "torch_npu": torch.__version__.partition("+")[0],
        "CANN": "9.1.0",
        "driver": "9.1.0",
    }
    assert torch.device("npu", 0) == _NPU


def test_exact_numerics_switches_hf32_off_and_as_it_was_again(npu: Backend) -> None:
    with npu.exact_numerics(_NPU):
        assert not torch.npu.conv.allow_hf32
        assert not torch.npu.matmul.allow_hf32
    assert torch.npu.conv.allow_hf32
    assert not torch.npu.matmul.allow_hf32
    torch.npu.matmul.allow_hf32 = True
    try:
        with contextlib.suppress(KeyboardInterrupt), npu.exact_numerics(_NPU):
            raise KeyboardInterrupt
        assert torch.npu.conv.allow_hf32
        assert torch.npu.matmul.allow_hf32
    finally:
        torch.npu.matmul.allow_hf32 = False


def test_models_are_moved_with_neither_compilation_nor_internal_formats(npu: Backend) -> None:
    torch.npu.set_compile_mode(jit_compile=True)
    torch.npu.config.allow_internal_format = True
    try:
        with contextlib.suppress(KeyboardInterrupt), npu.prepared(_NPU):
            inside = npu.settings(_NPU)
            raise KeyboardInterrupt
        after = npu.settings(_NPU)
    finally:
        torch.npu.set_compile_mode(jit_compile=False)
        torch.npu.config.allow_internal_format = False
    assert (inside["jit_compile"], inside["allow_internal_format"]) == ("False", "False")
    assert (after["jit_compile"], after["allow_internal_format"]) == ("True", "True")
    assert (npu.settings(_NPU)["jit_compile"], npu.settings(_NPU)["allow_internal_format"]) == ("False", "False")


def test_the_settings_of_the_process(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "2")
    monkeypatch.delenv("ASCEND_LAUNCH_BLOCKING", raising=False)
    settings = npu.settings(_NPU)
    assert settings["HF32 conv"] == "True"
    assert settings["HF32 matmul"] == "False"
    assert settings["saturation mode"] == "False"
    assert settings["TASK_QUEUE_ENABLE"] == "2"
    assert settings["ASCEND_LAUNCH_BLOCKING"] == "unset"


def test_ranks_go_by_the_cube_unit(npu: Backend) -> None:
    assert [npu.rank_multiple(dtype) for dtype in (torch.float32, torch.float16, torch.int8)] == [16, 16, 32]


def test_time_is_that_between_two_events(npu: Backend) -> None:
    # The stand-in's events use the host's clock, although torch_npu's queue may delay them.
    assert 0.005 < npu.time(lambda: time.sleep(0.01), device=_NPU, calls=4) < 0.1


def test_peak_memory_is_that_of_the_caching_allocator(npu: Backend) -> None:
    with npu.peak_memory(_NPU) as peak:
        torch.empty(64 * _MIB, dtype=torch.uint8, device=_NPU)
    assert 64 * _MIB <= peak.bytes < 65 * _MIB
    # Memory allocated before does not count.
    before = torch.empty(64 * _MIB, dtype=torch.uint8, device=_NPU)
    with npu.peak_memory(_NPU) as peak:
        torch.empty(_MIB, dtype=torch.uint8, device=_NPU)
    del before
    assert _MIB <= peak.bytes < 2 * _MIB


def test_memory_held_ready_is_given_back(npu: Backend) -> None:
    torch.empty(512 * _MIB, dtype=torch.uint8, device=_NPU)
    before, _ = torch.npu.mem_get_info()
    npu.release_memory(_NPU)
    after, _ = torch.npu.mem_get_info()
    assert after - before >= 512 * _MIB


def test_memory_that_does_not_suffice_is_recognised(npu: Backend) -> None:
    with pytest.raises(RuntimeError, match="NPU out of memory") as caught:
        torch.empty(4096 * _MIB, dtype=torch.uint8, device=_NPU)
    assert npu.is_out_of_memory(caught.value)
    assert not npu.is_out_of_memory(RuntimeError("aicore exception"))


def test_operators_that_run_on_the_cpu_are_named(npu: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    """By torch_npu's dispatcher, by its own kernels for the CPU, and by Python's warnings."""
    matrix = torch.eye(3).to(_NPU)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch_npu issues many other warnings
        with npu.fallbacks() as names:
            os.write(2, b"something else\n")
            torch.linalg.matrix_exp(matrix)
            torch.linalg.matrix_exp(matrix)
            torch.linalg.eigh(matrix)
            torch.sinc(matrix)
            torch.logit(matrix)
            torch.polar(matrix, matrix)
    assert names == [
        "aten::linalg_matrix_exp",
        "aten::_linalg_eigh.eigenvalues",
        "aten::sinc",
        "aten::logit",
        "aten::logit_",
        "aten::logit.out",
        "aten::polar",
    ]
    assert "something else\n" in capfd.readouterr().err
    with npu.fallbacks() as names:
        matrix + 1
    assert names == []


def test_the_profiler_without_its_library_is_an_error_and_leaves_all_as_it_was(npu: Backend) -> None:
    settings, method = npu.settings(_NPU), multiprocessing.get_start_method(allow_none=True)
    with pytest.raises(DeviceError, match="torch_npu's profiler recorded no kernel on npu:0: see what it printed"):
        npu.kernels(lambda: torch.ones(3, device=_NPU) + 1, device=_NPU, calls=2)
    assert npu.settings(_NPU) == settings
    assert multiprocessing.get_start_method(allow_none=True) == method
    assert npu.time(lambda: torch.ones(3, device=_NPU), device=_NPU) > 0  # events are torch_npu's own again


def test_to_compile_without_what_torchair_needs_says_so(npu: Backend) -> None:
    with pytest.raises(DeviceError, match=r"torchair.* cannot be used \(ImportError: lib\w+.so: cannot open"):
        npu.compile(torch.nn.Conv2d(3, 4, 1))


def test_channels_last_is_refused_as_the_backend_says(npu: Backend) -> None:
    assert not npu.channels_last
    with pytest.raises(RuntimeError, match="contiguous"):
        torch.ones(1, 2, 4, 4).to(_NPU).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("where_decomposed", ["cpu", "npu"])
def test_a_decomposed_model_moves_to_the_device_and_back_bit_for_bit(npu: Backend, where_decomposed: str) -> None:
    original = TwoConvs()
    expected, _ = auto_decomposition(copy.deepcopy(original))
    with npu.prepared(_NPU):
        model, changes = auto_decomposition(original.to(where_decomposed))
        model = model.to(_NPU)
    assert list(changes) == ["conv1", "conv2"]
    assert {parameter.device for parameter in model.parameters()} == {_NPU}
    model = model.to("cpu")
    for (name, found), (_, value) in zip(model.named_parameters(), expected.named_parameters(), strict=True):
        assert torch.equal(found, value), name
