"""Behaviour specific to the NPU's backend, on the simulated device."""

from __future__ import annotations

import collections
import contextlib
import copy
import multiprocessing
import os
import sys
import time
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from amct_pytorch.backend import Backend, get_backend, list_backends, refresh_backends
from amct_pytorch.backend_testing import BackendConformance
from amct_pytorch.errors import AmctWarning, DeviceError
from amct_pytorch.tensor_decompose import auto_decomposition, decompose_network, plan_decomposition
from amct_pytorch.validate import validate

from .. import simulated_npu
from ..models import TwoConvs, chains, image, snapshot

_NPU = torch.device("npu", 0)


@pytest.fixture
def npu() -> Iterator[Backend]:
    """A new backend, which has not probed the device yet."""
    refresh_backends()
    yield get_backend("npu")
    refresh_backends()


def _net() -> TwoConvs:
    torch.manual_seed(3)
    return TwoConvs()


def _same(found: nn.Module, expected: nn.Module) -> bool:
    return found.state_dict().keys() == expected.state_dict().keys() and all(
        torch.equal(found.state_dict()[key].cpu(), value.cpu()) for key, value in expected.state_dict().items()
    )


# The device


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("Ascend910B1", "Atlas A2"),
        ("Ascend910B2C", "Atlas A2"),
        ("Ascend910B4-1", "Atlas A2"),
        ("Ascend910_9391", "Atlas A3"),
        ("Ascend910_9362", "Atlas A3"),
        ("Ascend950PR_9599", "Ascend 950"),
        ("Ascend950DT_9582", "Ascend 950"),
        ("Ascend910B", "Ascend910B (none of Atlas A2, Atlas A3, Ascend 950)"),
        ("Ascend910_1234", "Ascend910_1234 (none of Atlas A2, Atlas A3, Ascend 950)"),
        ("Ascend310P3", "Ascend310P3 (none of Atlas A2, Atlas A3, Ascend 950)"),
    ],
)
def test_the_family_goes_by_the_name(npu: Backend, name: str, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_npu.chip, "name", name)
    assert [(info.name, info.family) for info in npu.devices()] == [(name, family)]


def test_the_device_tells_of_itself(npu: Backend) -> None:
    [info] = npu.devices()
    assert (info.backend, info.index, info.total_memory, info.cache) == ("npu", 0, 64 * 2**30, 2**20)
    assert info.dtypes == (torch.float32, torch.float16, torch.bfloat16)
    assert info.emulated == ()
    assert info.versions["torch_npu"] == torch.__version__.partition("+")[0]
    assert (info.versions["CANN"], info.versions["driver"]) == ("9.1.0", "25.5.0")


def test_a_device_whose_bfloat16_is_missing_and_whose_versions_are_silent(
    npu: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated_npu.npu, "is_bf16_supported", lambda: False)
    monkeypatch.setattr(simulated_npu.npu, "utils", types.SimpleNamespace())  # as an older torch_npu's
    [info] = npu.devices()
    assert info.dtypes == (torch.float32, torch.float16)
    assert set(info.versions) == {"torch", "torch_npu"}


@pytest.mark.parametrize("failure", ["none", "raises"])
def test_no_device_is_a_reason(npu: Backend, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    def fail() -> bool:
        raise RuntimeError("dcmi initialise failed")

    monkeypatch.setattr(simulated_npu.npu, "is_available", fail if failure == "raises" else lambda: False)
    refresh_backends()
    [reason] = [status.reason for status in list_backends() if status.name == "npu"]
    assert reason is not None
    assert "npu-smi info" in reason
    assert ("dcmi initialise failed" in reason) == (failure == "raises")


def test_settings_name_what_changes_numbers_and_speed(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASK_QUEUE_ENABLE", "2")
    for variable in ("ASCEND_LAUNCH_BLOCKING", "TORCH_NPU_FALLBACK_CPU_DISABLE"):
        monkeypatch.delenv(variable, raising=False)
    assert npu.settings(_NPU) == {
        "HF32 conv": "True",
        "HF32 matmul": "False",
        "jit_compile": "False",
        "allow_internal_format": "False",
        "saturation mode": "False",
        "TASK_QUEUE_ENABLE": "2",
        "ASCEND_LAUNCH_BLOCKING": "unset",
        "TORCH_NPU_FALLBACK_CPU_DISABLE": "unset",
    }


def test_saturation_mode_is_one_of_the_settings(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not npu.saturates(_NPU)
    monkeypatch.setenv("INF_NAN_MODE_FORCE_DISABLE", "1")
    assert npu.saturates(_NPU)
    assert npu.settings(_NPU)["saturation mode"] == "True"


# Its arithmetic


def _error(device: torch.device) -> float:
    """Relative error of a float32 convolution."""
    conv, x = nn.Conv2d(64, 64, 3), image(1, 64, 12, 12)
    with torch.no_grad():
        exact = copy.deepcopy(conv).double()(x.double())
        return float((conv.to(device)(x.to(device)).cpu() - exact).norm() / exact.norm())


def test_exact_numerics_is_float32_and_hf32_is_back_after_it(npu: Backend) -> None:
    assert _error(_NPU) > 1e-4
    with npu.exact_numerics(_NPU):
        assert _error(_NPU) < npu.tolerance(torch.float32, _NPU).norm == 1e-5
        with npu.exact_numerics(_NPU):
            assert _error(_NPU) < 1e-5
        assert _error(_NPU) < 1e-5
    assert _error(_NPU) > 1e-4


def test_exact_numerics_gives_every_switch_back_as_it_was(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_npu.npu.conv, "allow_hf32", False)
    monkeypatch.setattr(simulated_npu.npu.matmul, "allow_hf32", True)
    with contextlib.suppress(KeyboardInterrupt), npu.exact_numerics(_NPU):
        assert not torch.npu.matmul.allow_hf32
        raise KeyboardInterrupt
    assert not torch.npu.conv.allow_hf32
    assert torch.npu.matmul.allow_hf32


@pytest.mark.parametrize(
    ("float32", "how"), [("hf32", r"its relative error is [1-9]e-04"), ("fails", "it fails: .*HF32")]
)
def test_a_device_with_hf32_only_is_measured_by_its_tolerance(
    npu: Backend, monkeypatch: pytest.MonkeyPatch, float32: str, how: str
) -> None:
    strict = npu.tolerance(torch.float32, _NPU)
    refresh_backends()
    npu = get_backend("npu")
    monkeypatch.setattr(simulated_npu.chip, "float32", float32)
    with pytest.warns(AmctWarning, match=f"npu:0: float32 convolutions are in HF32 even where .*{how}") as caught:
        loose = npu.tolerance(torch.float32, _NPU)
    assert [warning.filename for warning in caught] == [__file__]
    with npu.exact_numerics(_NPU):  # the warning comes once: a second one would be an error
        error = _error(_NPU)
    assert strict.norm < error < loose.norm
    assert loose == npu.tolerance(torch.float16, _NPU)
    assert torch.npu.conv.allow_hf32


def test_a_warning_of_exact_numerics_points_at_the_users_line(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_npu.chip, "float32", "hf32")
    original = _net().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    with pytest.warns(AmctWarning, match="are in HF32") as caught, npu.exact_numerics(_NPU):
        pass
    refresh_backends()
    with pytest.warns(AmctWarning, match="are in HF32") as also_caught:
        report = validate(original, decomposed, image(), "npu")
    assert [warning.filename for warning in (*caught, *also_caught)] == [__file__, __file__]
    assert report.ok
    assert report.runs[0].tolerance.norm > 1e-4


def test_hf32_is_not_blamed_for_memory_that_does_not_suffice(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(simulated_npu.chip, "total_memory", simulated_npu.memory.allocated)
        with npu.exact_numerics(_NPU):
            assert not torch.npu.conv.allow_hf32
    with npu.exact_numerics(_NPU):
        assert _error(_NPU) < npu.tolerance(torch.float32, _NPU).norm == 1e-5


@pytest.mark.parametrize("state", ["autocast", "default dtype", "default device"])
@pytest.mark.parametrize("only_hf32", [False, True])
def test_hf32_is_found_whatever_the_state_of_the_process(
    npu: Backend, monkeypatch: pytest.MonkeyPatch, state: str, only_hf32: bool
) -> None:
    monkeypatch.setattr(simulated_npu.chip, "float32", "hf32" if only_hf32 else "exact")
    try:
        if state == "default dtype":
            torch.set_default_dtype(torch.float64)
        if state == "default device":
            torch.set_default_device("npu")
        with (
            pytest.warns(AmctWarning, match="its relative error") if only_hf32 else contextlib.nullcontext(),
            torch.autocast("npu", enabled=state == "autocast"),
            npu.exact_numerics(_NPU),
        ):
            assert torch.npu.conv.allow_hf32 == only_hf32
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


# Settings for moving and measuring models


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("recasts", [False, True])
def test_prepared_switches_off_what_was_on_and_on_again(
    npu: Backend, monkeypatch: pytest.MonkeyPatch, compiles: bool, recasts: bool
) -> None:
    monkeypatch.setattr(simulated_npu.npu, "_jit_compile", compiles)
    monkeypatch.setattr(simulated_npu.npu.config, "allow_internal_format", recasts)
    with contextlib.suppress(KeyboardInterrupt), npu.prepared(_NPU):
        inside = npu.settings(_NPU)
        raise KeyboardInterrupt
    assert (inside["jit_compile"], inside["allow_internal_format"]) == ("False", "False")
    after = npu.settings(_NPU)
    assert (after["jit_compile"], after["allow_internal_format"]) == (str(compiles), str(recasts))


def test_fallbacks_are_named_and_all_else_is_let_through(
    npu: Backend, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated_npu, "_warned", set())
    matrix = torch.eye(3, device="npu")
    with warnings.catch_warnings(record=True) as caught, npu.fallbacks() as names:
        warnings.simplefilter("always")
        os.write(2, b"from C\n")
        print("from Python", file=sys.stderr)
        torch.linalg.eigh(matrix)
        torch.linalg.matrix_exp(matrix)
        torch.linalg.eigh(matrix)
        warnings.warn("of another kind", stacklevel=1)
    assert names == ["aten::_linalg_eigh", "aten::linalg_matrix_exp"]
    assert [str(warning.message) for warning in caught] == ["of another kind"]
    captured = capfd.readouterr().err
    assert "from C\n" in captured
    assert "from Python\n" in captured
    assert captured.count("CAUTION") == 2


def test_standard_error_is_whole_again_after_an_exception(npu: Backend, capfd: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(KeyboardInterrupt), npu.fallbacks():
        os.write(2, b"inside\n")
        raise KeyboardInterrupt
    os.write(2, b"outside\n")
    assert capfd.readouterr().err == "inside\noutside\n"


def test_fallbacks_need_no_standard_error(npu: Backend) -> None:
    kept = os.dup(2)
    os.close(2)
    try:
        with npu.fallbacks() as names:
            torch.eye(3, device="npu") + 1
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert names == []


def test_memory_that_does_not_suffice_is_recognised(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulated_npu.chip, "total_memory", simulated_npu.memory.allocated + 2**20)
    with pytest.raises(RuntimeError, match="NPU out of memory") as caught:
        torch.zeros(2**20, device="npu")
    assert npu.is_out_of_memory(caught.value)
    assert npu.is_out_of_memory(RuntimeError("NPU out of memory. Tried to allocate 4.00 MiB"))
    assert not npu.is_out_of_memory(RuntimeError("Expected all tensors to be on the same device"))
    assert not npu.is_out_of_memory(ValueError("NPU out of memory"))


def test_a_clock_that_does_not_wait_for_the_device_is_wrong(npu: Backend) -> None:
    """Property of the simulation: the device lags behind the host, as synchronize() and time() both show."""
    x, weight = image(8, 64, 28, 28).npu(), image(64, 64, 3, 3).npu()

    def work() -> Tensor:
        return nn.functional.conv2d(x, weight)

    work()
    npu.synchronize(_NPU)
    begin = time.perf_counter()
    work()
    asked = time.perf_counter() - begin
    npu.synchronize(_NPU)
    done = time.perf_counter() - begin
    assert done > 1.8 * asked
    assert npu.time(work, device=_NPU, calls=3) > 1.5 * asked


class _BrokenLazily(types.ModuleType):
    """As torch_npu's torchair, which is imported at its first use."""

    def __getattr__(self, name: str) -> object:
        raise AssertionError("no module named google.protobuf")


@pytest.mark.parametrize(
    ("torchair", "why"),
    [(None, "ModuleNotFoundError: import of torchair"), (_BrokenLazily("t"), "AssertionError: no mod")],
)
def test_to_compile_where_torchair_fails_in_any_way_says_so(
    npu: Backend, monkeypatch: pytest.MonkeyPatch, torchair: object, why: str
) -> None:
    monkeypatch.setitem(sys.modules, "torchair", torchair)
    with pytest.raises(DeviceError, match=f"torchair, which comes with torch_npu, .*{why}.*leave compiled=True out"):
        npu.compile(nn.Conv2d(3, 4, 1))


def test_to_compile_hands_the_model_to_torchair(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights at fixed addresses, and one graph for each size of the inputs."""
    seen, configs = [], []

    def compiler(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        seen.append(inputs)
        return graph.forward

    def backend_of(compiler_config: types.SimpleNamespace) -> object:
        configs.append(compiler_config.experimental_config.frozen_parameter)
        return compiler

    def config() -> types.SimpleNamespace:
        return types.SimpleNamespace(experimental_config=types.SimpleNamespace(frozen_parameter=False))

    torchair = types.SimpleNamespace(CompilerConfig=config, get_npu_backend=backend_of)
    monkeypatch.setitem(sys.modules, "torchair", torchair)
    conv = nn.Conv2d(3, 4, 1)
    compiled = npu.compile(conv)
    with torch.no_grad():
        for size in (2, 3, 4):
            assert torch.equal(compiled(image(size, 3, 8, 8)), conv(image(size, 3, 8, 8)))
    assert configs == [True]
    assert len(seen) == 3
    assert not any(isinstance(size, torch.SymInt) for inputs in seen for size in inputs)


# What a report says of its figures


def test_reports_say_how_to_be_sure_that_nothing_ran_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("TORCH_NPU_WARNING_DISABLE", "TORCH_NPU_FALLBACK_CPU_DISABLE", "RANK"):
        monkeypatch.delenv(variable, raising=False)
    original = _net().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    advice = "run once with TORCH_NPU_FALLBACK_CPU_DISABLE=1"
    assert advice in validate(original, decomposed, image(), "npu").text(width=400)
    monkeypatch.setenv("TORCH_NPU_WARNING_DISABLE", "1")
    text = validate(original, decomposed, image(), "npu").text(width=400)
    assert "were not watched: TORCH_NPU_WARNING_DISABLE=1 silences torch_npu" in text


@pytest.mark.parametrize(
    ("name", "converts"), [("Ascend910B3", True), ("Ascend910_9391", True), ("Ascend950PR_9599", False)]
)
def test_compiled_times_say_what_they_include(
    npu: Backend, monkeypatch: pytest.MonkeyPatch, name: str, converts: bool
) -> None:
    monkeypatch.setattr(simulated_npu.chip, "name", name)
    cautions = npu.cautions(_NPU, compiled=True)
    assert any("include the conversion of each convolution's weight" in caution for caution in cautions) == converts
    assert not any("Compiled" in caution for caution in npu.cautions(_NPU))


# Its kernels


@pytest.mark.parametrize(("dtype", "short_format"), [(torch.float32, "HF32"), (torch.bfloat16, None)])
def test_the_kernels_of_a_model_are_recorded(npu: Backend, dtype: torch.dtype, short_format: str | None) -> None:
    chain, _ = auto_decomposition(_net().eval())
    model, x = chain.to(_NPU, dtype), image().to(_NPU, dtype)
    before, method = npu.settings(_NPU), multiprocessing.get_start_method(allow_none=True)
    with torch.no_grad():
        kernels = npu.kernels(lambda: model(x), device=_NPU, calls=2)
    kinds = collections.Counter(kernel.kind for kernel in kernels)
    assert kinds["convolution"] == 2 * 5  # two calls of a layer that is kept and two chains
    assert kinds["format conversion"] == 2 * kinds["convolution"]
    assert {kernel.short_format for kernel in kernels if kernel.kind == "convolution"} == {short_format}
    assert {kernel.short_format for kernel in kernels if kernel.kind == "format conversion"} == {None}
    assert min(kernel.start for kernel in kernels) == 0
    assert all(kernel.seconds > 0 for kernel in kernels)
    assert npu.settings(_NPU) == before
    assert multiprocessing.get_start_method(allow_none=True) == method


def test_a_profiler_that_writes_nothing_is_an_error(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    method = multiprocessing.get_start_method(allow_none=True)
    monkeypatch.setattr(simulated_npu.profiler, "fails", True)
    with pytest.raises(DeviceError, match="torch_npu's profiler recorded no kernel on npu:0: see what it printed"):
        npu.kernels(lambda: torch.ones(3, device="npu") + 1, device=_NPU)
    assert multiprocessing.get_start_method(allow_none=True) == method


def test_a_torch_npu_without_its_profiler_is_an_error(npu: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys.modules["torch_npu"], "profiler")
    with pytest.raises(DeviceError, match="torch_npu's profiler cannot be used .*AttributeError"):
        npu.kernels(lambda: None, device=_NPU)


def test_an_error_of_the_model_under_the_profiler_is_its_own(npu: Backend) -> None:
    def fail() -> None:
        calls.append(1)
        if len(calls) > 1:
            raise ZeroDivisionError

    calls: list[int] = []
    with pytest.raises(ZeroDivisionError):
        npu.kernels(fail, device=_NPU, calls=3)


# Models on it


def test_a_model_on_the_device_is_decomposed_as_on_the_host_and_stays_there() -> None:
    expected, expected_changes = auto_decomposition(_net())
    model, changes = auto_decomposition(_net().to("npu"))
    assert changes == expected_changes
    assert {parameter.device for parameter in model.parameters()} == {_NPU}
    assert _same(model, expected)


class _Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def test_a_plan_sees_the_sizes_of_inputs_on_the_device_and_leaves_its_generator_alone() -> None:
    model = nn.Sequential(_Noise(), _net()).to("npu")
    check = snapshot(model)
    torch.manual_seed(4)
    drawn = torch.randn(3, device="npu")
    torch.manual_seed(4)
    plan = plan_decomposition(model.train(), example_inputs=image().npu())
    assert torch.equal(torch.randn(3, device="npu"), drawn)
    check()
    on_host = plan_decomposition(nn.Sequential(_Noise(), _net()), example_inputs=image())
    assert str(plan) == str(on_host)
    assert plan.layers[1].macs is not None


def test_inputs_on_the_host_for_a_model_on_the_device_are_told_of() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3, 16, 16\) torch.float32 on cpu.*same device"):
        plan_decomposition(_net().to("npu"), example_inputs=image())


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
def test_the_response_is_the_hosts_in_every_padding_mode(npu: Backend, padding_mode: str) -> None:
    conv = nn.Conv2d(64, 64, (3, 5), stride=(2, 1), padding=(1, 2), padding_mode=padding_mode)
    row, _ = auto_decomposition(conv)
    x = image(2, 64, 14, 14)
    with torch.inference_mode(), npu.exact_numerics(_NPU):
        expected = row(x)
        found = copy.deepcopy(row).to("npu")(x.npu()).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def _train(model: nn.Module, device: str, optimizer_of: type[torch.optim.Optimizer]) -> list[float]:
    """Losses of a few steps under autocast with scaled gradients."""
    model.to(device)
    optimizer, scaler = optimizer_of(model.parameters(), lr=1e-3), torch.amp.GradScaler(device)
    losses = []
    for _ in range(4):
        with torch.autocast(device, dtype=torch.bfloat16):
            response = model(image().to(device))
            assert response.dtype == torch.bfloat16
            loss = nn.functional.cross_entropy(response.float(), torch.tensor([1, 7]).to(device))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("optimizer_of", [torch.optim.SGD, torch.optim.AdamW])
def test_a_decomposed_model_is_fine_tuned_under_autocast_as_on_the_host(
    optimizer_of: type[torch.optim.Optimizer],
) -> None:
    model, _ = auto_decomposition(_net())
    on_device = copy.deepcopy(model)
    expected, found = _train(model, "cpu", optimizer_of), _train(on_device, "npu", optimizer_of)
    assert expected[-1] < expected[0]
    assert found == pytest.approx(expected, rel=0.02)
    for key, value in model.state_dict().items():
        torch.testing.assert_close(on_device.state_dict()[key].cpu(), value, rtol=0.05, atol=5e-3, msg=key)


def test_gradients_in_float32_are_the_hosts(npu: Backend) -> None:
    model, _ = auto_decomposition(_net())
    on_device = copy.deepcopy(model).to("npu")
    with npu.exact_numerics(_NPU):
        model(image()).square().mean().backward()
        on_device(image().npu()).square().mean().backward()
    for (name, expected), found in zip(model.named_parameters(), on_device.parameters(), strict=True):
        assert expected.grad is not None, name
        torch.testing.assert_close(found.grad.cpu(), expected.grad, rtol=1e-4, atol=1e-7, msg=name)


def test_the_offline_flow_on_the_device(tmp_path: Path) -> None:
    info, weights = str(tmp_path / "decompose_info.json"), tmp_path / "decomposed.pth"
    model, changes = auto_decomposition(_net().to("npu"), info)
    torch.save(model.state_dict(), weights)

    again, changes_again = decompose_network(TwoConvs().to("npu"), info)
    again.load_state_dict(torch.load(weights))
    assert changes_again == changes
    assert {parameter.device for parameter in again.parameters()} == {_NPU}
    assert _same(again, model)

    on_host, _ = decompose_network(TwoConvs(), info)
    on_host.load_state_dict(torch.load(weights, map_location="cpu"))
    assert {parameter.device for parameter in on_host.parameters()} == {torch.device("cpu")}
    assert _same(on_host, model)
    assert list(chains(on_host)) == ["conv1", "conv2"]


class _HostClock(type(get_backend("npu"))):
    """Measures the launch on the host instead of the work on the device."""

    def time(self, fn, *, device, calls=1):
        begin = time.perf_counter()
        for _ in range(calls):
            fn()
        return (time.perf_counter() - begin) / calls


class _DoesNotWait(type(get_backend("npu"))):
    """Does not wait for the device."""

    def synchronize(self, device):
        pass


@pytest.mark.parametrize(
    ("broken", "check", "why"),
    [
        (_HostClock, "test_time_waits_for_the_device", "it must synchronise"),
        (_DoesNotWait, "test_synchronize_waits_for_the_device", "the result took another"),
    ],
)
def test_the_kit_finds_a_backend_that_does_not_wait_for_an_asynchronous_device(broken, check, why) -> None:
    kit = type("Kit", (BackendConformance,), {"backend": broken})()
    with pytest.raises(AssertionError, match=why):
        getattr(kit, check)()


def test_the_weight_of_a_chain_is_read_where_it_is(npu: Backend) -> None:
    model, _ = auto_decomposition(_net().eval())
    layer = next(iter(chains(model).values()))
    expected = layer.weight.detach()
    layer.to(_NPU)
    with torch.no_grad():
        weight = layer.weight
        assert (weight.device, weight.dtype) == (_NPU, expected.dtype)
        torch.testing.assert_close(weight.cpu(), expected)
        assert weight.device == _NPU
