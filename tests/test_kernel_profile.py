"""benchmark(profile=True): what the device does, by kind of kernel, and whether the host keeps it waiting."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from amct_backends import cuda_kernels
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.autograd import DeviceType

from amct_pytorch._measure import timing
from amct_pytorch._measure.cpu_share import CpuCounters
from amct_pytorch._measure.kernel_summary import summary_of
from amct_pytorch.backend import Backend, DeviceInfo, Kernel, get_backend, list_backends
from amct_pytorch.benchmark import BenchmarkReport, benchmark
from amct_pytorch.errors import ConfigError, DeviceError
from amct_pytorch.tensor_decompose import auto_decomposition

from .models import TwoConvs, image, snapshot

pytestmark = pytest.mark.usefixtures("collected_fast")

# The kernels of a GPU


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        (
            "convolution",
            [
                "sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x128x16_stage4_warpsize2x2x1"
                "_g1_tensor16x8x8_execute_kernel__5x_cudnn",
                "sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_tilesize128x128x64_kernel__5x_cudnn",
                "sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_tilesize128x32x8_ffma_kernel__5x_cudnn",
                "sm90_xmma_dgrad_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_tilesize128x64x32_kernel__5x_cudnn",
                "void cutlass__5x_cudnn::Kernel<cutlass_tensorop_f16_s16816fprop_optimized_f16_256x128_32x3_nhwc>",
                "void implicit_convolve_sgemm<float, float, 1024, 5, 5, 3, 3, 3, 1, false, false, true>(int)",
                "_Z23implicit_convolve_sgemmIffLi1024ELi5ELi5ELi3ELi3ELi3ELi1ELb0ELb1ELb1EEviiiPKT_iPT0_S2_18",
                "_5x_cudnn_ampere_scudnn_winograd_128x128_ldg1_ldg4_relu_tile148t_nt_v1",
                "ampere_scudnn_128x64_relu_small_nn_v1",
                "void cudnn::winograd::generateWinogradTilesKernel<0, float, float>(cudnn::winograd::Params)",
                "void cask__5x_cudnn::computeOffsetsKernel<(bool)0, (bool)0>(cask__5x_cudnn::ComputeOffsetsParams)",
                "void fft2d_r2c_32x32<float, false, 0u, false>(float2*, float const*, int)",
                "void cudnn::cnn::conv2d_grouped_direct_kernel<false, true, false, false, 0, 0, float>(int)",
                "void at::native::(anonymous namespace)::conv_depthwise2d_forward_kernel<3, float, int>(at::X)",
                "void at::native::im2col_kernel<float>(long, float const*)",
                "triton_tem_fused_convolution_1",
                "igemm_fwd_gtcx_nhwc_fp16_bx0_ex0_bt64x64x32",
            ],
        ),
        (
            "matrix product",
            [
                "sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize128x128x32_warpgroupsize1x1x1_kernel__5x_cublas",
                "void cutlass::Kernel2<cutlass_80_simt_sgemm_64x64_8x5_tn_align1>(cutlass_80_simt_sgemm::Params)",
                "nvjet_tst_128x64_64x11_2x1_v_bz_TNT",
                "nvjet_sss_tf32_128x256_TNT",
                "ampere_sgemm_128x64_tn",
                "void gemv2T_kernel_val<int, int, float, float, float, float, 128, 16, 4, 4, false, false>(x)",
                "void cublasLt::splitKreduce_kernel<32, 16, int, float, float, float, float, false>(x)",
                "triton_mm",
                "triton_tem_fused_addmm_0",
                "Cijk_Ailk_Bljk_SB_MT64x64x16",
            ],
        ),
        (
            "format conversion",
            [
                "void cudnn::ops::nchwToNhwcKernel<float, float, float, false, true, (cudnnKernelDataType_t)2>(x)",
                "void nhwcToNchwKernel<float, float, float, bool=1, bool=0>(int, int, int, int, float const *)",
                "_ZN5cudnn19engines_precompiled16nchwToNhwcKernelIfffLb0ELb1ELNS_21cudnnKernelDataTypeE2EEE",
                "void cudnn::ops::genericTranspose_kernel<float, __half, float, true, (cudnnKernelDataType_t)0>(x)",
            ],
        ),
        (
            "elementwise",
            [
                "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, x>(int)",
                "void at::native::elementwise_kernel<128, 2, at::native::gpu_kernel_impl_nocast<x>>(int)",
                "_ZN2at6native29vectorized_elementwise_kernelILi4EZZZNS0_17clamp_scalar_kernel",
                "void cudnn::bn_fw_inf_1C11_kernel_NCHW<float, float, true, 1>(float, float)",
                "void at::native::batch_norm_transform_input_kernel<float, float, float, true, int>(x)",
                "triton_poi_fused_convolution_relu_0",
            ],
        ),
        (
            "reduction",
            [
                "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float>>>(x)",
                "void at::native::(anonymous namespace)::max_pool_forward_nchw<float>(int)",
                "void cudnn::maxpool_nhwc<float>(x)",
                "void cunn_SoftMaxForward<4, float, float, float>(float*)",
                "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<float, float>(int)",
                "triton_red_fused_mean_2",
                "triton_per_fused__softmax_0",
            ],
        ),
        (
            "copy",
            [
                "Memcpy DtoD (Device -> Device)",
                "Memset (Device)",
                "void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda(at::X)::{lambda}>(x)",
                "void at::native::(anonymous namespace)::CatArrayBatchedCopy<float, unsigned int, 4, 64, 64>(x)",
            ],
        ),
        ("other", ["void my_kernel(float*)", "cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "flash_fwd_kernel"]),
    ],
)
def test_a_kernel_of_a_gpu_is_known_by_its_name(kind: str, names: list[str]) -> None:
    assert {name: cuda_kernels.kind_of(name) for name in names} == dict.fromkeys(names, kind)


def _event(name: str, start: float = 0.0, end: float = 1.0, **other: object) -> SimpleNamespace:
    """An event of torch.profiler, with times in microseconds."""
    span = SimpleNamespace(start=start, end=end, elapsed_us=lambda: end - start)
    return SimpleNamespace(
        **{"name": name, "time_range": span, "device_type": DeviceType.CUDA, "is_user_annotation": False, **other}
    )


@pytest.mark.parametrize(
    ("name", "short_format"),
    [
        ("sm80_xmma_fprop_implicit_gemm_tf32f32_tf32f32_f32_nhwckrsc_nchw", "TF32"),
        ("sm90_xmma_gemm_f32f32_tf32f32_f32_tn_n", "TF32"),
        ("nvjet_sss_tf32_128x256_TNT", "TF32"),
        ("void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_128x256_16x3_nn_align4>(x)", "TF32"),
        ("ampere_bf16_s1688gemm_bf16_128x128_ldg8_f2f_stages_32x1_nn", None),
        ("turing_fp16_s1688gemm_fp16_128x128_ldg8_f2f_nn", None),
        ("sm80_xmma_fprop_implicit_gemm_f32f32_f32f32_f32_nchwkcrs_nchw_ffma", None),
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f32_f32_nhwckrsc_nhwc", None),
    ],
)
def test_products_in_tf32_are_known_by_their_name(name: str, short_format: str | None) -> None:
    [kernel] = cuda_kernels.kernels_of([_event(name)])
    assert kernel.short_format == short_format


def test_events_of_the_host_and_ranges_that_the_user_named_are_no_kernels() -> None:
    events = [
        _event("cudaLaunchKernel", device_type=DeviceType.CPU),
        _event("my range", is_user_annotation=True),
        _event("ampere_sgemm_128x64_tn", 3.0, 5.5),
    ]
    [kernel] = cuda_kernels.kernels_of(events)
    assert (kernel.name, kernel.kind) == ("ampere_sgemm_128x64_tn", "matrix product")
    assert (kernel.start, kernel.seconds) == pytest.approx((3e-6, 2.5e-6))


@pytest.mark.slow
def test_events_are_read_as_torch_profiler_makes_them() -> None:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        torch.ones(3).sum()
    assert len(profiler.events()) > 0
    assert cuda_kernels.kernels_of(profiler.events()) == []


# Summing up


def _kernel(kind: str, start: float, seconds: float, name: str = "k", short_format: str | None = None) -> Kernel:
    return Kernel(name, kind, start, seconds, short_format)  # type: ignore[arg-type]


def test_times_are_summed_by_kind_a_pass() -> None:
    kernels = [
        _kernel("copy", 0.0, 0.1),
        _kernel("convolution", 0.1, 0.4, short_format="TF32"),
        _kernel("other", 0.6, 0.2, "odd"),
        _kernel("other", 0.9, 0.1, "even"),
        _kernel("convolution", 1.0, 0.6),
        _kernel("other", 2.0, 0.1, "even"),
    ]
    found = summary_of(kernels, calls=2, seconds=0.9)
    assert found.kinds == pytest.approx({"convolution": 0.5, "other": 0.2, "copy": 0.05})
    assert list(found.kinds) == ["convolution", "other", "copy"]
    assert found.unrecognised == pytest.approx({"odd": 0.1, "even": 0.1})
    assert (found.launches, found.seconds, found.short_formats) == (3, 0.9, ("TF32",))
    assert found.busy == pytest.approx(0.75)
    assert found.busy_share == pytest.approx(0.75 / 0.9)


def test_kernels_at_the_same_time_keep_the_device_busy_once() -> None:
    kernels = [_kernel("copy", 2.0, 1.0), _kernel("copy", 0.0, 3.0), _kernel("copy", 1.0, 0.5), _kernel("copy", 5.0, 1)]
    assert summary_of(kernels, calls=1, seconds=1.0).busy == pytest.approx(4.0)


@pytest.mark.parametrize(("busy", "host_bound"), [(0.2, True), (0.79, True), (0.81, False), (1.05, False)])
def test_a_device_that_is_idle_for_a_fifth_of_the_time_waits_for_the_host(busy: float, host_bound: bool) -> None:
    assert summary_of([_kernel("convolution", 0.0, busy)], calls=1, seconds=1.0).host_bound == host_bound


@given(
    st.lists(st.tuples(st.sampled_from(["copy", "convolution"]), st.integers(0, 40), st.integers(0, 9)), min_size=1),
    st.randoms(use_true_random=False),
)
def test_a_summary_knows_no_order_and_busy_is_between_the_longest_and_the_sum(
    times: list[tuple[str, int, int]], random: object
) -> None:
    kernels = [_kernel(*each) for each in times]
    found = summary_of(kernels, calls=1, seconds=1.0)
    shuffled = kernels.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert summary_of(shuffled, calls=1, seconds=1.0).kinds == pytest.approx(found.kinds)
    assert summary_of(shuffled, calls=1, seconds=1.0).busy == pytest.approx(found.busy)
    longest, total = max(kernel.seconds for kernel in kernels), sum(kernel.seconds for kernel in kernels)
    assert longest <= found.busy <= total
    assert sum(found.kinds.values()) == pytest.approx(total)


# In a benchmark

CpuBackend = type(get_backend("cpu"))


class Recorded(CpuBackend):  # type: ignore[misc,valid-type]
    """A device by whose clock every call takes a millisecond, and whose kernels are given."""

    records_kernels = True

    def __init__(self, busy: float = 0.9, names: Sequence[str] = ("strange",)) -> None:
        self._busy, self._names = busy, names
        self.order: list[str] = []

    def devices(self) -> list[DeviceInfo]:
        return [dataclasses.replace(info, cache=4096) for info in super().devices()]

    def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
        self.order.append("time")
        return 1e-3 if fn() is None else 1e-2  # of a layer, and of the model

    def kernels(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> list[Kernel]:
        self.order.append("kernels")
        seconds = 1e-3 if fn() is None else 1e-2
        rest = 0.1 * self._busy * seconds / len(self._names)
        return [
            kernel
            for call in range(calls)
            for kernel in (
                Kernel("conv", "convolution", call * seconds, 0.9 * self._busy * seconds, "HF32"),
                *(
                    Kernel(name, "other", (call + 0.9 * self._busy) * seconds + number * rest, rest)
                    for number, name in enumerate(self._names)
                ),
            )
        ]


@pytest.fixture(autouse=True)
def _a_quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters by which the process got all of the CPU."""
    seconds = itertools.count()
    monkeypatch.setattr(timing, "read_counters", lambda: CpuCounters(next(seconds), 0, {1: 0}))


def _pair() -> tuple[nn.Module, nn.Module]:
    original = TwoConvs().eval()
    return original, auto_decomposition(copy.deepcopy(original))[0]


def test_models_and_layers_are_profiled_after_all_were_timed() -> None:
    original, decomposed = _pair()
    unchanged = [snapshot(original), snapshot(decomposed)]
    backend, seen = Recorded(), []
    report = benchmark(
        original,
        decomposed,
        image(),
        backend,
        batch_sizes=[1, 2],
        profile=True,
        progress=lambda *at: seen.append(at),
    )
    for run in report.runs:
        assert run.profile is not None
        for name, profile in [("whole", run.profile), *((layer.name, layer.profile) for layer in run.layers)]:
            for summary in (profile.before, profile.after):
                assert summary.busy_share == pytest.approx(0.9), name
                assert summary.kinds["convolution"] == pytest.approx(0.81 * summary.seconds)
                assert summary.launches == 2
                assert not summary.host_bound
        assert run.profile.before.seconds == run.model.before.median == 1e-2
    first = backend.order.index("kernels")
    assert set(backend.order[first:]) == {"kernels"}
    assert backend.order.count("kernels") == 2 * 2 * 3
    assert seen[-1][0] == seen[-1][1] == len(seen) == 2 * 2 * 3
    for check in unchanged:
        check()


def test_layers_that_are_alike_are_profiled_once_and_idle_ones_not_at_all() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.idle = (nn.Conv2d(64, 64, 3, padding=1) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.two(self.one(x))

    original = Idle().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    backend = Recorded()
    (run,) = benchmark(original, decomposed, image(1, 64, 8, 8), backend, profile=True).runs
    assert run.layers[0].profile is run.layers[1].profile is not None
    assert run.layers[2].profile is None
    assert backend.order.count("kernels") == 4
    assert "idle" not in "\n".join(row[0] for row in run_tables(run)[-1].rows)


def run_tables(run: object) -> list:
    return BenchmarkReport(get_backend("cpu").devices()[0], (run,)).tables()  # type: ignore[arg-type]


def test_the_report_prints_the_profile_and_saves_it(tmp_path: Path) -> None:
    names = [f"strange_{number}" for number in range(7)]
    report = benchmark(*_pair(), image(), Recorded(0.5, names), profile=True)
    _, timed, kernels = report.tables()
    assert {row[-1] for row in timed.rows} == {"– no difference seen, host-bound"}
    assert [row[0] for row in kernels.rows] == ["conv1", "conv1", "conv2", "conv2", "whole model", "whole model"]
    assert kernels.rows[-1][1:] == ("decomposed", "8", "5", "50%", "HF32", "convolution 90%, other 10%")
    text = report.text(width=400)
    assert "Host-bound: the device is busy for less than 80% of the time" in text
    assert "Kernels not recognised: strange_" in text
    assert "and 2 more, see the JSON file" in text
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert saved["version"] == 4
    whole = saved["runs"][0]["profile"]["before"]
    assert whole["host_bound"] is True
    assert set(whole["unrecognised"]) == set(names)
    assert saved["runs"][0]["layers"][0]["profile"]["after"]["kinds"]["convolution"] == pytest.approx(0.45e-3)


def test_a_busy_device_is_not_called_host_bound_and_without_a_profile_there_is_none() -> None:
    text = benchmark(*_pair(), image(), Recorded(0.95), profile=True).text(width=400)
    assert "busy" in text
    assert "ost-bound" not in text
    report = benchmark(*_pair(), image(), Recorded())
    assert len(report.tables()) == 2
    assert (report.runs[0].profile, report.runs[0].layers[0].profile) == (None, None)


def test_an_unknown_verdict_is_not_blamed_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = itertools.count()
    monkeypatch.setattr(timing, "read_counters", lambda: CpuCounters(2.0 * next(waited), 0, {1: next(waited)}))
    _, timed, _ = benchmark(*_pair(), image(), Recorded(0.5), profile=True).tables()
    assert {row[-1] for row in timed.rows} == {"– unknown"}


def test_a_backend_that_records_no_kernels_says_so_before_anything_runs() -> None:
    original, decomposed = _pair()
    original.register_forward_pre_hook(lambda *_: pytest.fail("ran"))
    with pytest.raises(ConfigError, match="backend 'cpu' records no kernels: leave profile=True out"):
        benchmark(original, decomposed, image(), "cpu", profile=True)
    with pytest.raises(ConfigError, match="backend 'cpu' records no kernels"):
        get_backend("cpu").kernels(lambda: None, device=torch.device("cpu"))


@pytest.mark.parametrize("wanted", [1, None, "yes"])
def test_profile_is_a_flag(wanted: object) -> None:
    with pytest.raises(TypeError, match="profile must be True or False, found"):
        benchmark(*_pair(), image(), Recorded(), profile=wanted)  # type: ignore[arg-type]


def test_a_profiler_that_fails_is_an_error_that_leaves_all_as_it_was() -> None:
    class Broken(Recorded):
        def kernels(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> list[Kernel]:
            raise DeviceError("no kernel was recorded")

    original, decomposed = _pair()
    unchanged = [snapshot(original), snapshot(decomposed)]
    with pytest.raises(DeviceError, match="no kernel was recorded"):
        benchmark(original, decomposed, image(), Broken(), profile=True)
    for check in unchanged:
        check()


# On a GPU: pytest -m cuda tests/test_kernel_profile.py


@pytest.fixture
def cuda() -> Backend:
    status = next(status for status in list_backends() if status.name == "cuda")
    if not status.available:
        pytest.skip(str(status))
    return get_backend("cuda")


def _large() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    """Convolutions whose kernels are long beside their launch."""
    convs = [nn.Conv2d(256, 256, 3, padding=1) for _ in range(2)]
    original = nn.Sequential(convs[0], nn.BatchNorm2d(256), nn.ReLU(), convs[1]).eval()
    return original, auto_decomposition(copy.deepcopy(original))[0], torch.randn(32, 256, 56, 56)


@pytest.mark.cuda
@pytest.mark.parametrize("tf32", [True, False])
def test_a_gpu_is_busy_with_convolutions_in_the_format_that_was_allowed(cuda: Backend, tf32: bool) -> None:
    original, decomposed, images = _large()
    before = cuda.settings(cuda.device())
    allowed = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        report = benchmark(original, decomposed, images, cuda, profile=True)
    finally:
        torch.backends.cudnn.conv.fp32_precision = allowed
    print(report.text(width=200))
    assert cuda.settings(cuda.device()) == before
    (run,) = report.runs
    for profile in (run.profile, *(layer.profile for layer in run.layers)):
        assert profile is not None
        for summary in (profile.before, profile.after):
            assert summary.unrecognised == {}
            assert summary.kinds.get("convolution", 0.0) + summary.kinds.get("matrix product", 0.0) > summary.busy / 2
            assert sum(summary.kinds.values()) == pytest.approx(summary.busy, rel=0.05)  # one stream
            assert 0.8 < summary.busy_share < 1.2
            assert not summary.host_bound
            assert summary.short_formats == (("TF32",) if tf32 else ())
    assert run.profile is not None
    assert run.profile.before.kinds["elementwise"] > 0


@pytest.mark.cuda
def test_a_gpu_with_little_to_do_waits_for_the_host(cuda: Backend) -> None:
    (run,) = benchmark(*_pair(), image(1, 3, 16, 16), cuda, dtypes=[torch.float16], profile=True).runs
    assert run.profile is not None
    assert run.profile.host_bound
    assert run.profile.before.short_formats == run.profile.after.short_formats == ()


@pytest.mark.cuda
def test_a_second_profiler_on_a_gpu_is_an_error(cuda: Backend) -> None:
    with (
        torch.profiler.profile(),
        pytest.raises(DeviceError, match="torch.profiler does not start on cuda:0"),
    ):
        cuda.kernels(lambda: torch.ones(3, device="cuda") + 1, device=cuda.device())
