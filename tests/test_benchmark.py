"""benchmark: whether a decomposed model is faster on a device, and with what confidence."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from amct_pytorch._measure import cpu_share as cpu_share_module
from amct_pytorch._measure import timing
from amct_pytorch._measure.cpu_share import LEAST_SHARE, CpuCounters, cpu_share, read_counters
from amct_pytorch._measure.timing import compare, speed_up_of
from amct_pytorch.backend import DeviceInfo, get_backend
from amct_pytorch.benchmark import BenchmarkReport, benchmark
from amct_pytorch.errors import AmctError, AmctWarning, ConfigError, DeviceError, InputsError, LayerError, ModelError
from amct_pytorch.tensor_decompose import auto_decomposition, plan_decomposition

from .models import TwoConvs, conv, image, snapshot

pytestmark = pytest.mark.usefixtures("collected_fast")


def _let_the_share_be(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up counters, of which any two in turn give this share of the CPU."""
    seconds = itertools.count()

    def read() -> CpuCounters:
        wall = float(next(seconds))
        return CpuCounters(wall, wall, {1: (1 - share) * wall})

    monkeypatch.setattr(timing, "read_counters", read)


@pytest.fixture(autouse=True)
def _a_quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    _let_the_share_be(1.0, monkeypatch)


CpuBackend = type(get_backend("cpu"))


class Instant(CpuBackend):  # type: ignore[misc,valid-type]
    """A clock by which every call takes the same time, long enough for groups of one, and a small cache."""

    def devices(self) -> list[DeviceInfo]:
        return [dataclasses.replace(info, cache=4096) for info in super().devices()]

    def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
        fn()
        return 1.0


class _CountConvolutions(TorchFunctionMode):
    count = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.conv2d
        return func(*args, **(kwargs or {}))


class FakeClock(Instant):
    """A clock by which every convolution takes a millisecond."""

    def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
        with _CountConvolutions() as counted:
            fn()
        return 1e-3 * counted.count


def _pair() -> tuple[nn.Module, nn.Module]:
    original = TwoConvs().eval()
    return original, auto_decomposition(copy.deepcopy(original))[0]


@pytest.mark.slow
def test_a_layer_against_itself_shows_no_difference_in_38_of_40_runs() -> None:
    backend, layer, x = get_backend("cpu"), conv().eval(), torch.randn(1, 64, 8, 8)
    with torch.no_grad():
        verdicts = [
            compare(lambda: layer(x), lambda: layer(x), backend=backend, device=backend.device()).speed_up.verdict
            for _ in range(40)
        ]
    assert verdicts.count("no difference seen") >= 38, verdicts


def test_what_the_first_call_of_a_group_costs_makes_no_difference() -> None:
    """The second call appears three times as slow while the group size is chosen, as on a busy machine."""

    class ColdCache(Instant):
        busy = 0

        def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
            self.busy += fn is second and self.busy < 12
            slow = 3 if fn is second and self.busy < 12 else 1
            return slow * 1e-4 * (calls + 5) / calls

    def first() -> None: ...

    def second() -> None: ...

    backend = ColdCache()
    found = compare(first, second, backend=backend, device=backend.device())
    assert backend.busy == 12
    assert found.before.calls == found.after.calls
    assert (found.speed_up.ratio, found.speed_up.verdict) == (1.0, "no difference seen")


def test_a_layer_of_twice_the_work_is_slower_and_the_other_way_round_faster() -> None:
    backend, x = get_backend("cpu"), torch.randn(2, 64, 16, 16)
    one, two = conv().eval(), nn.Sequential(conv(), conv()).eval()
    with torch.no_grad():
        slower = compare(lambda: one(x), lambda: two(x), backend=backend, device=backend.device())
        faster = compare(lambda: two(x), lambda: one(x), backend=backend, device=backend.device())
    assert slower.speed_up.verdict == "slower"
    assert faster.speed_up.verdict == "faster"
    assert slower.after.median > slower.before.median


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Times with heavy tails and drift; the true speed-up is 1.1."""
    draw = np.random.default_rng(5)
    held = 0
    for _ in range(300):
        drift = np.exp(np.cumsum(draw.normal(0, 0.05, 25)))
        noise = np.exp(0.03 * draw.standard_t(3, (2, 25)))
        found = speed_up_of(1.1 * drift * noise[0], drift * noise[1])
        held += found.low <= 1.1 <= found.high
    assert held >= 0.97 * 300


@pytest.mark.parametrize(
    ("waits", "share"),
    [
        ({1: (0.0, 0.0)}, 1.0),
        ({1: (5.0, 5.6)}, 0.4),
        ({1: (0.0, 0.0), 2: (7.0, 7.0), 3: (0.0, 0.0)}, 1.0),  # those of a pool sleep
        ({number: (0.0, 0.5 * (number == 7)) for number in range(8)}, 0.5),  # the others wait for it
        ({1: (0.0, 0.1), 2: (None, 0.3)}, 0.7),  # started meanwhile
        ({1: (0.0, 0.0), 2: (0.9, None)}, 1.0),  # ended meanwhile
        ({1: (0.0, 1.2)}, 0.0),
    ],
)
def test_the_share_of_the_cpu_is_that_of_the_thread_that_waited_longest(
    waits: dict[int, tuple[float | None, float | None]], share: float
) -> None:
    def at(moment: int) -> Mapping[int, float]:
        return {thread: values[moment] for thread, values in waits.items() if values[moment] is not None}  # type: ignore[misc]

    for computes in (True, False):
        found = cpu_share(CpuCounters(3, 0, at(0)), CpuCounters(4, 0, at(1)), computes_throughout=computes)
        assert found == pytest.approx(share)


def test_without_counts_of_waiting_the_time_of_the_process_says_what_it_can() -> None:
    begin = CpuCounters(wall=10, used=5)
    for used, share in ((0.4, 0.4), (1.0, 1.0), (1.9, 1.0)):
        end = CpuCounters(wall=11, used=5 + used)
        assert cpu_share(begin, end, computes_throughout=True) == pytest.approx(share)
        assert cpu_share(begin, end, computes_throughout=False) is None
    assert cpu_share(begin, begin, computes_throughout=True) is None


def test_what_the_hypervisor_takes_is_missing_too() -> None:
    begin, end = CpuCounters(0, 0, {1: 0}, 100, 10), CpuCounters(1, 1, {1: 0.2}, 102, 10.5)
    assert cpu_share(begin, end, computes_throughout=True) == pytest.approx(0.8 * 0.75)


def test_counters_are_read_where_linux_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_share_module, "_PROC", tmp_path)
    nothing = read_counters()
    assert (nothing.waits, nothing.machine, nothing.stolen) == (None, 0.0, 0.0)
    for number in ("11", "12"):
        (tmp_path / "self/task" / number).mkdir(parents=True)
        (tmp_path / "self/task" / number / "schedstat").write_text("0 0 5\n")
    assert read_counters().waits is None  # the kernel does not count
    (tmp_path / "self/task/12/schedstat").write_text("3000000000 500000000 5\n")
    assert read_counters().waits == {11: 0.0, 12: 0.5}
    (tmp_path / "self/task/13").mkdir()  # it has just ended
    assert read_counters().waits == {11: 0.0, 12: 0.5}
    if hasattr(os, "sysconf"):
        (tmp_path / "stat").write_text("cpu  400 100 200 9000 50 10 20 70 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n")
        found, tick = read_counters(), 1 / os.sysconf("SC_CLK_TCK")
        assert (found.machine, found.stolen) == pytest.approx((800 * tick, 70 * tick))


def test_a_starved_process_gives_no_verdict_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = _pair()
    _let_the_share_be(0.42, monkeypatch)
    report = benchmark(*pair, image(), FakeClock())
    (run,) = report.runs
    assert [layer.verdict for layer in run.layers] == ["unknown", "unknown"]
    assert run.model.speed_up.verdict == "unknown"
    assert math.isnan(run.model.speed_up.ratio)
    assert not run.model.speed_up.low > 1
    assert run.model.cpu_share == pytest.approx(0.42)
    line = "3 of 3 verdicts are unknown, as their times are not to be trusted: the process got as little as 42%"
    assert line in " ".join(report.text(80).split())
    report.save(tmp_path / "report.json")
    (saved,) = json.loads((tmp_path / "report.json").read_text())["runs"]
    assert saved["model"]["speed_up"] == {"ratio": None, "low": None, "high": None, "verdict": "unknown"}
    assert saved["model"]["cpu_share"] == pytest.approx(0.42)
    assert "42%" in saved["model"]["doubt"]
    assert line in saved["notes"][0]


@pytest.mark.parametrize("share", [1.0, LEAST_SHARE + 0.01])
def test_a_process_that_got_the_cpu_gives_verdicts(share: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _let_the_share_be(share, monkeypatch)
    (run,) = benchmark(*_pair(), image(), FakeClock()).runs
    assert [layer.verdict for layer in run.layers] == ["slower", "slower"]
    assert (run.model.speed_up.verdict, run.model.doubt, run.notes) == ("slower", None, ())


def test_only_the_layer_that_was_timed_while_the_machine_was_busy_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = itertools.accumulate(itertools.chain([0, 0.1, 0, 0.7], itertools.repeat(0)))
    monkeypatch.setattr(timing, "read_counters", lambda: CpuCounters(next(seconds), 0, {1: next(waited)}))
    seconds = itertools.count()
    (run,) = benchmark(*_pair(), image(), FakeClock()).runs
    assert [run.model.speed_up.verdict, *(layer.verdict for layer in run.layers)] == ["slower", "unknown", "slower"]
    assert run.notes[0].startswith("1 of 3 verdicts are unknown")


def test_a_layer_that_takes_longer_than_its_model_is_unknown() -> None:
    class Disturbed(FakeClock):
        """Every layer alone takes longer than in the model, by a factor."""

        factor = 1.0

        def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
            seconds = super().time(fn, device=device, calls=calls)
            return seconds * (self.factor if seconds < 3e-3 else 1.0)

    original, decomposed = _pair()
    for factor, verdict in ((1.0, "slower"), (1.2, "slower"), (4.0, "unknown")):
        backend = Disturbed()
        backend.factor = factor
        (run,) = benchmark(original, decomposed, image(), backend).runs
        assert {layer.verdict for layer in run.layers} == {verdict}
    assert "'conv1' alone seems to take longer than the whole model" in run.notes[0]


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_on_a_busy_machine_verdicts_are_unknown(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "read_counters", read_counters)
    torch.set_num_threads(threads)
    backend, x = get_backend("cpu"), torch.randn(2, 64, 16, 16)
    one, two = conv().eval(), nn.Sequential(conv(), conv()).eval()
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        with torch.no_grad():
            found = compare(lambda: one(x), lambda: two(x), backend=backend, device=backend.device())
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert found.cpu_share is not None
    assert found.cpu_share < LEAST_SHARE
    assert found.speed_up.verdict == "unknown"
    assert found.doubt is not None


@given(st.lists(st.floats(1e-6, 1e3), min_size=5, max_size=40), st.floats(0.01, 100))
def test_a_speed_up_knows_no_unit_and_is_turned_over_with_the_order(times: list[float], unit: float) -> None:
    after = list(reversed(times))
    found, turned = speed_up_of(times, after), speed_up_of(after, times)
    assert found.low <= found.ratio * (1 + 1e-9)
    assert found.ratio <= found.high * (1 + 1e-9)
    assert turned.ratio == pytest.approx(1 / found.ratio)
    scaled = speed_up_of([unit * time for time in times], [unit * time for time in after])
    assert scaled.ratio == pytest.approx(found.ratio)


def test_every_layer_and_the_whole_are_measured_at_every_batch_size_and_type() -> None:
    original, decomposed = _pair()
    unchanged = [snapshot(original), snapshot(decomposed)]
    seen: list[tuple[int, int, str]] = []
    report = benchmark(
        original,
        decomposed,
        image(),
        Instant(),
        batch_sizes=[1, 3],
        dtypes=[torch.float32, torch.float64],
        progress=lambda *at: seen.append(at),
    )
    kinds = [(run.dtype, run.batch_size, run.compiled) for run in report.runs]
    assert kinds == [(dtype, size, False) for dtype in (torch.float32, torch.float64) for size in (1, 3)]
    plan = plan_decomposition(original, example_inputs=image(3, 3, 16, 16))
    for run, size in zip(report.runs, (1, 3, 1, 3), strict=True):
        assert [layer.name for layer in run.layers] == ["conv1", "conv2"]
        for layer, planned in zip(run.layers, plan.layers[1:], strict=True):
            assert (layer.macs * 3, layer.macs_after * 3) == (planned.macs * size, planned.macs_after * size)
            assert (layer.parameters, layer.parameters_after) == (planned.parameters, planned.parameters_after)
        assert (run.parameters, run.parameters_after) == (plan.parameters, plan.parameters_after)
        assert run.model.speed_up.verdict == "no difference seen"
    assert [done for done, _, _ in seen] == list(range(1, 13))
    assert {total for _, total, _ in seen} == {12}
    assert [name for _, _, name in seen[:3]] == ["whole model", "conv1", "conv2"]
    for check in unchanged:
        check()


def test_the_layer_times_are_those_of_all_its_calls() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.idle = conv(), conv()

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.conv(x)[..., ::2])

    original = Twice().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    (run,) = benchmark(original, decomposed, torch.randn(1, 64, 8, 8), FakeClock()).runs
    used, idle = run.layers
    assert used.calls == 2
    assert used.comparison is not None
    assert used.comparison.before.median == pytest.approx(2e-3)
    assert used.comparison.after.median == pytest.approx(4e-3)
    assert used.verdict == "slower"
    assert (idle.calls, idle.comparison, idle.verdict) == (0, None, "did not run")
    assert used.macs == conv_macs(8, 8) + conv_macs(8, 4)


def conv_macs(height: int, width: int) -> int:
    return 64 * 64 * 9 * height * width


def test_layers_that_are_alike_are_measured_once() -> None:
    original = nn.Sequential(conv(), nn.ReLU(), conv(), nn.ReLU(), conv(64, 128)).eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    counted = Instant()
    seen: list[str] = []
    (run,) = benchmark(
        original, decomposed, torch.randn(1, 64, 8, 8), counted, progress=lambda *at: seen.append(at[2])
    ).runs
    assert run.layers[0].comparison is run.layers[1].comparison
    assert run.layers[2].comparison is not run.layers[0].comparison
    assert seen == ["whole model", "0", "2", "4"]


def test_a_layer_gets_inputs_of_the_shape_type_and_memory_format_that_reach_it() -> None:
    seen = []
    original = nn.Sequential(conv(), nn.ReLU()).eval().to(memory_format=torch.channels_last)
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    original[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    given_image = torch.randn(2, 64, 8, 8).to(memory_format=torch.channels_last)
    benchmark(original, decomposed, given_image, Instant(), dtypes=[torch.bfloat16])
    kinds = {(tuple(x.shape), x.dtype, x.is_contiguous(memory_format=torch.channels_last)) for x in seen}
    assert kinds == {((2, 64, 8, 8), torch.bfloat16, True)}


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_layer_whose_inputs_a_hook_changes_is_timed_on_what_reaches_it(compiled: bool) -> None:
    original = nn.Sequential(conv(128, 64)).eval()
    original[0].register_forward_pre_hook(lambda _, args: nn.functional.pad(args[0].repeat(1, 2, 1, 1), (1, 1, 1, 1)))
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    run = benchmark(original, decomposed, torch.randn(1, 64, 8, 8), Instant(), compiled=compiled).runs[-1]
    assert run.layers[0].macs == 64 * 128 * 9 * 10 * 10
    assert run.layers[0].comparison is not None


def test_peak_memory_counts_weights_and_responses() -> None:
    original = nn.Sequential(conv(bias=False), conv(bias=False)).eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    (run,) = benchmark(original, decomposed, torch.randn(1, 64, 32, 32), Instant()).runs
    response = 64 * 32 * 32 * 4
    assert run.peak_memory == sum(p.nbytes for p in original.parameters()) + 2 * response
    assert run.peak_memory_after is not None
    assert run.peak_memory_after < run.peak_memory


@pytest.mark.slow
def test_compiled_models_are_measured_beside_the_eager_ones() -> None:
    report = benchmark(*_pair(), image(), Instant(), compiled=True)
    eager, compiled = report.runs
    assert (eager.compiled, compiled.compiled) == (False, True)
    assert [layer.name for layer in compiled.layers] == ["conv1", "conv2"]
    assert compiled.peak_memory is None
    assert re.search(r"^float32, batch 2, compiled, CPU share \d+%: threads", str(report), re.MULTILINE)


def test_a_model_that_cannot_be_compiled_is_told() -> None:
    class Uncompiled(Instant):
        def compile(self, model: nn.Module) -> Callable[..., object]:
            def fail(*_: object) -> object:
                raise RuntimeError("no C++ compiler")

            return fail

    with pytest.raises(DeviceError, match="cannot be compiled for cpu .*no C\\+\\+ compiler.*leave compiled=True out"):
        benchmark(*_pair(), image(), Uncompiled(), compiled=True)


class SmallMemory(Instant):
    """Has memory for four images."""

    def __init__(self) -> None:
        self.released = 0

    def release_memory(self, device: torch.device) -> None:
        self.released += 1


class FourAtMost(TwoConvs):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 4:
            torch.empty(2**50, dtype=torch.uint8)
        return super().forward(x)


def test_out_of_memory_halves_the_batch_and_says_so() -> None:
    original = FourAtMost().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    backend = SmallMemory()
    with pytest.warns(
        AmctWarning, match="a batch of .* does not fit into the memory of cpu in float32: halved to"
    ) as warned:
        report = benchmark(original, decomposed, image(), backend, batch_sizes=[2, 16])
    assert len(warned) == 2
    assert [run.batch_size for run in report.runs] == [2, 4]
    assert report.runs[0].notes == ()
    assert "A batch of 16 does not fit into the memory of cpu in float32." in report.text(width=400)
    assert backend.released == 4


def test_out_of_memory_for_a_single_image_is_an_error() -> None:
    class NoneAtAll(TwoConvs):
        def forward(self, x: Tensor) -> Tensor:
            torch.empty(2**50, dtype=torch.uint8)
            return super().forward(x)

    original = NoneAtAll().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    with pytest.warns(AmctWarning, match="halved to 1"), pytest.raises(DeviceError, match="a batch of 1: give fewer"):
        benchmark(original, decomposed, image(), Instant())


def test_an_interrupted_benchmark_leaves_everything_as_it_was() -> None:
    original, decomposed = _pair()
    original.train()
    unchanged = [snapshot(original), snapshot(decomposed)]
    state = torch.get_rng_state()
    settings = get_backend("cpu").settings(torch.device("cpu"))

    def interrupt(done: int, total: int, name: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        benchmark(original, decomposed, image(), Instant(), progress=interrupt)
    assert torch.equal(torch.get_rng_state(), state)
    assert get_backend("cpu").settings(torch.device("cpu")) == settings
    for check in unchanged:
        check()


def test_the_report_prints_and_is_saved_with_every_time(tmp_path: Path) -> None:
    report = benchmark(*_pair(), image(), FakeClock())
    text = report.text(width=400)
    for word in (
        "Benchmark on",
        "float32, batch 2, eager",
        "whole model",
        "conv2",
        "slower",
        "Peak memory",
        "threads 1",
    ):
        assert word in text
    report.save(tmp_path / "report.json")
    saved = json.loads((tmp_path / "report.json").read_text())
    assert (saved["format"], saved["version"]) == ("amct_pytorch.benchmark", 4)
    assert saved["device"]["name"] == report.device.name
    times = saved["runs"][0]["model"]["before"]["samples"]
    assert times == list(report.runs[0].model.before.samples)
    assert len(times) == 25


def test_the_report_says_what_the_backend_cautions_of() -> None:
    class Careful(Instant):
        def cautions(self, device: torch.device, *, compiled: bool = False) -> list[str]:
            return [f"Times on {device} are not what they seem."]

    (run,) = benchmark(*_pair(), image(), Careful()).runs
    assert run.notes == ("Times on cpu are not what they seem.",)


def test_inputs_may_be_tuples_and_mappings_with_parts_that_have_no_batch() -> None:
    class Scaled(TwoConvs):
        def forward(self, x: Tensor, scale: Tensor, flag: bool = False) -> Tensor:
            assert flag
            return super().forward(x * scale)

    original = Scaled().eval()
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    scale = torch.ones(3, 1, 1)
    for inputs in ((image(), scale, True), {"x": image(), "scale": scale, "flag": True}):
        report: BenchmarkReport = benchmark(original, decomposed, inputs, Instant(), batch_sizes=[5])
        assert report.runs[0].batch_size == 5


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_sizes": []}, ConfigError, "batch_sizes must be a list of numbers"),
        ({"batch_sizes": 4}, ConfigError, "batch_sizes must be a list of numbers, found 4"),
        ({"batch_sizes": [0]}, ConfigError, "whole numbers from 1 on, found 0"),
        ({"batch_sizes": [2.0]}, ConfigError, "whole numbers from 1 on, found 2.0"),
        ({"batch_sizes": [2], "inputs": torch.ones(0, 3, 16, 16)}, ConfigError, "a sample at least"),
        ({"inputs": torch.ones(1, 5, 16, 16)}, InputsError, "the model fails on inputs on cpu in float32"),
        ({"progress": 3}, ConfigError, "progress must be True, False or a function"),
        ({"dtypes": [torch.complex64]}, ConfigError, "does not compute convolutions in complex64"),
        ({"decomposed": None}, ModelError, "decomposed must be a torch.nn.Module"),
        ({"decomposed": nn.Sequential(conv())}, LayerError, "no layer of the decomposed model is decomposed"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], error: type[AmctError], message: str) -> None:
    original, decomposed = _pair()
    with pytest.raises(error, match=message):
        benchmark(
            **{"original": original, "decomposed": decomposed, "inputs": image(), "backend": Instant(), **options}
        )
