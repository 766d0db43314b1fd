"""Budgets of latency, on a simulated device: what is timed, kept, chosen, proved, and said."""

from __future__ import annotations

import copy
import dataclasses
import gc
import itertools
import json
import math
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from amct_pytorch._measure import benchmark_setting, latency_table, stopwatch, timing
from amct_pytorch._measure.cpu_share import LEAST_SHARE, CpuCounters
from amct_pytorch._measure.latency_table import LatencyTable
from amct_pytorch._measure.layer_latency import LayerTime, worth_splitting_at
from amct_pytorch._measure.timing import Comparison, SpeedUp, Timing
from amct_pytorch._storage.json_text import content_hash
from amct_pytorch.backend import DeviceInfo, get_backend
from amct_pytorch.benchmark import benchmark
from amct_pytorch.errors import (
    AmctWarning,
    BackendUnavailable,
    ConfigError,
    ConfigTypeError,
    DeviceError,
    InputsError,
)
from amct_pytorch.tensor_decompose import (
    Budget,
    Calibration,
    DecompositionConfig,
    DecompositionPlan,
    auto_decomposition,
    load_plan,
    plan_decomposition,
)

from .models import snapshot
from .processes import run_in_processes

CpuBackend = type(get_backend("cpu"))

BLOCK = 8
"""Channels that the simulated device computes in one piece."""


class _Seconds(TorchFunctionMode):
    """Adds up what the layers that run would take on the simulated device."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[float] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.conv2d or func is nn.functional.linear:
            weight = args[1]
            rows, columns = (math.ceil(size / BLOCK) * BLOCK for size in weight.shape[:2])
            positions = result.numel() // weight.shape[0]
            self.each.append(1e-4 + 4e-9 * rows * columns * weight[0, 0].numel() * positions)
        return result


class Simulated(CpuBackend):  # type: ignore[misc,valid-type]
    """A device that computes in blocks of channels, and needs a tenth of a millisecond for each layer besides."""

    def devices(self) -> list[DeviceInfo]:
        return [dataclasses.replace(info, name="simulated", cache=4096) for info in super().devices()]

    def rank_multiple(self, dtype: torch.dtype) -> int:
        return 4

    def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
        with _Seconds() as counted:
            fn()
        return self.seconds(counted.each)

    def seconds(self, each: list[float]) -> float:
        """Of a call that runs these layers."""
        return sum(each)


class Net(nn.Module):
    """Layers alike, one of which is called twice, and others."""

    def __init__(self, alike: int = 2) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.alike = nn.ModuleList(nn.Conv2d(32, 32, 3, padding=1) for _ in range(alike))
        self.wide = nn.Conv2d(32, 64, 3, padding=1, stride=2)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        for layer in self.alike:
            x = layer(x).relu()
        return self.head(self.wide(x).relu().mean((2, 3)))


LAYERS = 3 + 2
"""Of such a network."""


def image(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(7))


def budget(share: float = 0.6, device: Simulated | None = None, **settings: Any) -> Budget:
    return Budget(latency=share, backend=device or Simulated(), **settings)


def planned(
    share: float = 0.6, device: Simulated | None = None, model: nn.Module | None = None, **settings: Any
) -> DecompositionPlan:
    return plan_decomposition(model or Net(), budget=budget(share, device, **settings), example_inputs=image())


def _compare_once(
    before: Callable[[], object],
    after: Callable[[], object],
    *,
    backend: Simulated,
    device: torch.device,
    pairs: int = 1,
) -> Comparison:
    """Two calls timed without repetition, as a simulated clock never differs."""
    first, second = (backend.time(fn, device=device) for fn in (before, after))
    times = [Timing(seconds, seconds, seconds, 1, (seconds,)) for seconds in (first, second)]
    ratio = first / second
    return Comparison(*times, SpeedUp(ratio, ratio, ratio, "faster" if ratio > 1.01 else "slower"), cpu_share=1.0)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, a quiet machine, and no rest."""
    monkeypatch.setattr(stopwatch, "compare", _compare_once)
    monkeypatch.setattr(benchmark_setting, "compare", _compare_once)
    monkeypatch.setattr(gc, "collect", lambda: 0)
    monkeypatch.setattr(stopwatch, "_PAUSES", (0, 0))
    monkeypatch.setattr(stopwatch, "_STEP_OF_LAYER", 0.25)
    monkeypatch.setattr(latency_table, "user_cache_path", lambda *_, **__: tmp_path / "cache")
    return tmp_path / "cache" / "latency"


@pytest.fixture
def comparisons(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was timed, one entry a measurement."""
    seen: list[str] = []
    real = stopwatch.DeviceStopwatch._compare

    def noting(self: Any, calls: Any, what: str, *rest: Any) -> Any:
        seen.append(what)
        return real(self, calls, what, *rest)

    monkeypatch.setattr(stopwatch.DeviceStopwatch, "_compare", noting)
    return seen


def tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def time_left(plan: DecompositionPlan, model: nn.Module) -> float:
    """The share of the time that the decomposed model takes, as the simulated device has it."""
    before, after = copy.deepcopy(model).eval(), plan.apply(copy.deepcopy(model))[0].eval()
    device = Simulated()
    with torch.no_grad():
        times = [device.time(lambda one=one: one(image()), device=device.device()) for one in (before, after)]
    return times[1] / times[0]


# The search along the ranks.


def stairs(*heights: float, each: int = 4) -> list[float]:
    return [height for height in heights for _ in range(each)]


@pytest.mark.parametrize(
    ("shares", "kept", "most"),
    [
        (stairs(0.3, 0.6, 0.9, 1.2, each=8), [8, 16, 24], 14),
        (stairs(0.3, 0.3, 0.3, 0.3, each=8), [32], 2),  # one step: its largest rank
        (stairs(1.1, 1.2, each=16), [], 2),
        (stairs(0.5, 0.52, 0.55, 1.5, each=8), [1, 16, 24], 9),  # little to choose between the first three
        ([], [], 0),
        ([0.4], [1], 1),
        ([1.4], [], 1),
    ],
)
def test_few_measurements_find_the_right_edges_of_the_steps(shares: list[float], kept: list[int], most: int) -> None:
    asked: list[int] = []

    def measure(ranks: tuple[int, ...]) -> LayerTime:
        asked.append(ranks[0])
        share = shares[ranks[0] - 1]
        return LayerTime(1.0, share, share < 0.99)

    path = [(rank,) for rank in range(1, len(shares) + 1)]
    found = worth_splitting_at(path, measure, step=0.1)
    assert len(asked) == len(set(asked))
    assert len(asked) <= most
    edges = [rank for (rank,) in sorted(found)]
    assert edges == kept


@given(st.lists(st.floats(0.05, 1.6), min_size=1, max_size=32), st.floats(0.02, 0.5))
def test_what_is_kept_is_faster_and_a_larger_rank_takes_longer(shares: list[float], step: float) -> None:
    shares = sorted(shares)
    asked: list[int] = []

    def measure(ranks: tuple[int, ...]) -> LayerTime:
        asked.append(ranks[0])
        return LayerTime(1.0, shares[ranks[0]], shares[ranks[0]] < 0.99)

    found = worth_splitting_at([(rank,) for rank in range(len(shares))], measure, step)
    kept = [(*ranks, time.share) for ranks, time in sorted(found.items())]
    assert all(share < 0.99 for _, share in kept)
    assert all(less < more for (_, less), (_, more) in itertools.pairwise(kept))
    assert bool(kept) == (shares[0] < 0.99)
    # No gap between neighbours that were measured is wider than the step, unless they are next to each other.
    measured = sorted(set(asked))
    for low, high in itertools.pairwise(measured):
        assert high - low == 1 or shares[high] - shares[low] < step or shares[low] >= 0.99


# What is chosen.


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_the_model_takes_the_share_of_the_time_and_the_plan_says_so(share: float) -> None:
    model = Net()
    plan = planned(share, model=model)
    assert plan.latency is not None
    assert plan.latency.measured <= share * 1.02
    assert plan.latency.measured == pytest.approx(time_left(plan, model))
    assert plan.latency.low <= plan.latency.measured <= plan.latency.high
    text = plan.text(width=2000)
    assert f"Budget latency={share:g}: {plan.latency.measured:.1%} [" in text
    for said in ("expected, in", "on simulated, cpu:0, batch 2, float32, eager (threads 1,", "100% of the CPU time"):
        assert said in text
    assert re.search(r"next better: [^;]*, \+\d+\.\d+% of the time, -\d+\.\d+% damage", plan.explain().text(width=2000))


def test_no_layer_in_the_plan_is_slower_than_its_original() -> None:
    model, device = Net(), Simulated()
    decomposed, _ = planned(0.6, device, model).apply(copy.deepcopy(model))
    (run,) = benchmark(model.eval(), decomposed.eval(), image(), device).runs
    assert {layer.verdict for layer in run.layers} == {"faster"}
    assert 1 / run.model.speed_up.ratio <= 0.63


def test_the_model_and_the_generators_are_left_alone() -> None:
    model = Net()
    unchanged = snapshot(model)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    planned(model=model)
    unchanged()
    state = random.random(), np.random.rand(), torch.rand(())
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert state == (random.random(), np.random.rand(), torch.rand(()))


def test_more_time_is_never_more_damage() -> None:
    damages = [float(planned(share).budget.split("expected damage ")[1][:-1]) for share in (0.4, 0.6, 0.8)]
    assert damages == sorted(damages, reverse=True)


def test_all_of_the_time_keeps_all() -> None:
    plan = planned(1.0)
    assert not any(layer.decompose for layer in plan.layers)
    assert plan.latency is None
    assert "100.0% of the time" in plan.budget


@pytest.mark.parametrize("mode", ["refit", pytest.param("reconstruct", marks=pytest.mark.slow)])
def test_with_calibration_layers_are_timed_once(mode: Any, comparisons: list[str]) -> None:
    model = Net()
    calibration = Calibration([image(16), image(16)], mode=mode)
    plan = plan_decomposition(model, budget=budget(), example_inputs=image(), calibration=calibration)
    assert plan.latency is not None
    assert plan.latency.measured <= 0.6 * 1.02
    assert comparisons.count("the whole model") == 1
    assert comparisons.count("the decomposed model") == plan.latency.rounds
    assert plan.outcome is not None


def test_auto_decomposition_takes_it_too(tmp_path: Path) -> None:
    model = Net()
    before = copy.deepcopy(model).eval()
    decomposed, changes = auto_decomposition(model, tmp_path / "info.json", budget=budget(), example_inputs=image())
    assert changes
    assert torch.isfinite(decomposed.eval()(image())).all()
    assert before(image()).shape == decomposed(image()).shape


def test_shared_weights_and_layers_that_never_run() -> None:
    model = Net()
    model.alike[1].weight = model.alike[0].weight
    model.idle = nn.Conv2d(32, 32, 3)
    plan = planned(0.7, model=model)
    assert plan.latency is not None
    by_name = {layer.name: layer for layer in plan.layers}
    assert by_name["alike.0"].ranks == by_name["alike.1"].ranks
    assert not by_name["idle"].decompose
    assert time_left(plan, model) == pytest.approx(plan.latency.measured)


def test_a_model_that_is_a_layer() -> None:
    model = nn.Conv2d(32, 32, 3, padding=1)
    plan = plan_decomposition(model, budget=budget(0.7), example_inputs=torch.randn(1, 32, 8, 8))
    assert plan.layers[0].decompose


def test_ranks_are_multiples_for_the_device_unless_a_config_says_otherwise() -> None:
    ranks = [rank for layer in planned(0.5).layers for rank in layer.ranks or ()]
    assert not any(rank % 4 for rank in ranks)
    assert any(rank % 16 for rank in ranks)
    config = DecompositionConfig(method="auto", rule="any", rank_multiple=16)
    plan = plan_decomposition(Net(), config, budget=budget(0.7), example_inputs=image())
    assert all(rank % 16 == 0 for layer in plan.layers for rank in layer.ranks or ())


def test_progress_says_what_is_timed() -> None:
    seen: list[tuple[int, int, str]] = []
    plan_decomposition(Net(), budget=budget(), example_inputs=image(), progress=lambda *at: seen.append(at))
    timed = [name for _, _, name in seen if name.startswith("timing ")]
    assert timed == [f"timing {name}" for name in ("stem", "alike.0", "alike.1", "wide", "head")]


def test_compiled_layers_and_models(monkeypatch: pytest.MonkeyPatch) -> None:
    class Compiling(Simulated):
        compiled = 0

        def compile(self, model: nn.Module) -> nn.Module:
            self.compiled += 1
            return model

    device = Compiling()
    plan = planned(0.6, device, compiled=True)
    assert plan.latency is not None
    assert "float32, compiled" in plan.latency.device
    assert device.compiled > 2 * LAYERS


# The table.


def test_layers_alike_are_timed_once(comparisons: list[str]) -> None:
    planned(0.8, model=Net(alike=1))
    few = sorted({what for what in comparisons if what.startswith("layer")})
    comparisons.clear()
    planned(0.8, model=Net(alike=4), refresh=True)
    assert sorted({what for what in comparisons if what.startswith("layer")}) == few
    comparisons.clear()
    planned(0.8, model=Net(alike=4))
    assert not [what for what in comparisons if what.startswith("layer")]


def test_a_later_plan_times_whole_models_alone(cache: Path, comparisons: list[str]) -> None:
    model = Net()
    first = planned(model=model)
    assert len(tables(cache)) == 1
    cold = len(comparisons)
    comparisons.clear()
    again = planned(model=model)
    assert again == first
    assert set(comparisons) == {"the whole model", "the decomposed model"}
    assert len(comparisons) < cold / 4
    comparisons.clear()
    assert planned(model=model, refresh=True) == first
    assert len(comparisons) == cold


@pytest.mark.parametrize("changed", ["threads", "dtype", "version", "batch"])
def test_times_of_another_setting_are_not_used(changed: str, cache: Path, comparisons: list[str]) -> None:
    class Other(Simulated):
        def devices(self) -> list[DeviceInfo]:
            versions = {"torch": "0.1"} if changed == "version" else {}
            return [dataclasses.replace(info, versions={**info.versions, **versions}) for info in super().devices()]

        def settings(self, device: torch.device) -> dict[str, str]:
            return super().settings(device) | ({"threads": "64"} if changed == "threads" else {})

    planned(0.8)
    comparisons.clear()
    dtype = torch.float64 if changed == "dtype" else None
    inputs = image(3 if changed == "batch" else 2)
    plan_decomposition(Net(), budget=budget(0.8, Other(), dtype=dtype), example_inputs=inputs)
    assert [what for what in comparisons if what.startswith("layer")]
    assert len(tables(cache)) == (1 if changed == "batch" else 2)


def _edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def edit(path: Path) -> None:
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return edit


def _rehashed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    return _edited(lambda content: (change(content), content.update(sha256=content_hash(content))))


def _table(refresh: bool = False) -> LatencyTable:
    return LatencyTable({"device": "one", "torch": "2.7"}, refresh=refresh)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), "no valid JSON, perhaps half written"),
        (lambda path: path.write_bytes(b""), "no valid JSON"),
        (lambda path: path.write_bytes(b"\xff\xfe\x00"), "expected UTF-8"),
        (lambda path: path.write_text("[1, 2]"), "no table of latencies"),
        (_edited(lambda content: content.pop("times")), "no table of latencies"),
        (_edited(lambda content: content.update(version=99)), "expected version 1, found 99"),
        (_edited(lambda content: content["setting"].update(torch="0.1")), "of another device or setting"),
        (_edited(lambda content: content["times"].clear()), "its hash is not that of its content"),
        (_edited(lambda content: content["times"].update({"a layer": [1.0, 0.1, True]})), "its hash is not"),
        (
            _rehashed(lambda content: content["times"].update({"a layer": [1.0, -0.1, True]})),
            "something else than times",
        ),
        (_rehashed(lambda content: content["times"].update({"a layer": {"share": 1.0}})), "something else than times"),
        (_rehashed(lambda content: content.update(times=[])), "something else than times"),
    ],
)
def test_a_table_that_is_none_is_ignored_and_replaced(damage: Callable[[Path], object], why: str) -> None:
    table = _table()
    table.add("a layer", LayerTime(1.0, 0.5, True))
    table.save()
    whole = table.place.read_bytes()
    damage(table.place)
    with pytest.warns(AmctWarning, match=re.escape(table.place.name) + ".*is ignored.*" + why):
        again = _table()
    assert again.get("a layer") is None
    again.add("a layer", LayerTime(1.0, 0.5, True))
    again.save()
    assert again.place.read_bytes() == whole


def test_a_plan_goes_on_without_a_table_that_is_none(cache: Path, comparisons: list[str]) -> None:
    model = Net()
    first = planned(0.8, model=model)
    (path,) = tables(cache)
    path.write_text("{")
    comparisons.clear()
    with pytest.warns(AmctWarning, match="is ignored"):
        assert planned(0.8, model=model) == first
    assert [what for what in comparisons if what.startswith("layer")]


def test_a_cache_that_cannot_be_written_to_costs_only_time(cache: Path) -> None:
    cache.parent.write_text("a file where a folder should be")
    with pytest.warns(AmctWarning, match="the times of layers cannot be kept for later calls"):
        assert planned().latency is not None


def test_what_several_write_at_once_is_all_kept() -> None:
    def write(number: int) -> None:
        table = _table()
        for entry in range(5):
            table.add(f"{number} {entry}", LayerTime(1.0, 0.5, True))
            table.save()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    table = _table()
    assert all(table.get(f"{number} {entry}") for number in range(4) for entry in range(5))


def test_refreshing_forgets_nothing_that_is_not_measured_again() -> None:
    for what, share, refresh in (("one", 0.5, False), ("two", 0.5, False), ("one", 0.6, True)):
        table = _table(refresh)
        table.add(what, LayerTime(1.0, share, True))
        table.save()
    found = _table()
    assert [found.get(what).share for what in ("one", "two")] == [0.6, 0.5]  # type: ignore[union-attr]


def test_an_interrupt_keeps_what_was_timed_before(
    cache: Path, comparisons: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(0.8)
    needed = len(comparisons)
    tables(cache)[0].unlink()
    real, left = stopwatch.compare, itertools.count()

    def interrupted(*args: Any, **settings: Any) -> Any:
        if next(left) == needed // 2:
            raise KeyboardInterrupt
        return real(*args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(stopwatch, "compare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            planned(0.8)
    comparisons.clear()
    planned(0.8)
    assert len(comparisons) <= needed - needed // 2 + 3


# A busy machine.


def test_nothing_is_chosen_by_the_times_of_a_busy_machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = itertools.count()

    def starved() -> CpuCounters:
        moment = next(moments)
        return CpuCounters(moment, moment, {1: 0.58 * moment})

    monkeypatch.setattr(timing, "read_counters", starved)
    monkeypatch.setattr(stopwatch, "compare", timing.compare)
    model = Net()
    unchanged = snapshot(model)
    message = "too busy.* of 3 times of the whole model on cpu none .* got 42% of the CPU .* 80% are needed. Stop other"
    with pytest.raises(DeviceError, match=message):
        planned(model=model)
    unchanged()
    assert not tables(cache)


def test_a_machine_that_is_busy_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Net()
    first = planned(model=model)
    shares = itertools.chain([0.5, 0.5, 1.0, 0.7, 0.1], itertools.repeat(0.9))

    def compare_meanwhile(*calls: Any, **settings: Any) -> Comparison:
        share = next(shares)
        found = dataclasses.replace(_compare_once(*calls, **settings), cpu_share=share)
        return found if share >= LEAST_SHARE else found.doubted("busy")

    monkeypatch.setattr(stopwatch, "compare", compare_meanwhile)
    again = planned(model=model, refresh=True)
    assert [layer.ranks for layer in again.layers] == [layer.ranks for layer in first.layers]
    assert again.latency is not None
    assert again.latency.cpu_share == 0.9


def test_a_layer_that_takes_longer_than_the_model_is_not_trusted(cache: Path) -> None:
    class Disturbed(Simulated):
        def seconds(self, each: list[float]) -> float:
            return sum(each) * (100 if len(each) < LAYERS else 1)

    with pytest.raises(DeviceError, match="layer 'stem' .* it alone seems to take longer than the whole model"):
        planned(0.6, Disturbed())
    assert not tables(cache)


# The proof.


class OtherInTheModel(Simulated):
    """Layers that take so many times as long in the model as alone."""

    def __init__(self, factor: float, besides: float = 0.0) -> None:
        self.factor, self.besides = factor, besides

    def seconds(self, each: list[float]) -> float:
        return self.besides + self.factor * sum(each) if len(each) >= LAYERS else sum(each)


def test_the_times_of_layers_are_rescaled_by_that_of_the_model() -> None:
    # Half of the model's time is in what lies between the layers, which their own times do not show.
    plan = planned(0.7, OtherInTheModel(0.6, besides=1e-3))
    assert plan.latency is not None
    assert plan.latency.rounds > 1
    assert 0.6 < plan.latency.measured <= 0.7 * 1.02
    assert f"in {plan.latency.rounds} rounds" in plan.budget


class Curved(Simulated):
    """A model whose time is a power of that of its layers."""

    def __init__(self, power: float) -> None:
        self.power, self.whole = power, 0.0

    def seconds(self, each: list[float]) -> float:
        if len(each) < LAYERS:
            return sum(each)
        self.whole = self.whole or sum(each)  # the original is timed first
        return self.whole * float((sum(each) / self.whole) ** self.power)


@pytest.mark.parametrize("power", [0.6, 2.5])
def test_times_that_do_not_add_up_at_all_are_met_within_a_few_rounds(power: float) -> None:
    plan = planned(0.7, Curved(power))
    assert plan.latency is not None
    assert plan.latency.rounds <= 4
    assert 0.55 < plan.latency.measured <= 0.7 * 1.02


def _let_models_take(share: Callable[[int, int], float], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have whole models measure a share by number of the proof and of weights split; the latter, as they come."""
    split: list[int] = []

    def time_model(self: Any, splits: Any) -> Any:
        split.append(len(splits))
        found = share(len(split), len(splits))
        return stopwatch.Measured(found, found - 0.01, found + 0.01, found + 0.01 < 1, 1.0)

    monkeypatch.setattr(stopwatch.DeviceStopwatch, "time_model", time_model)
    return split


def test_it_is_chosen_again_three_times_at_most_and_a_budget_that_is_not_kept_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    split = _let_models_take(lambda number, _: [0.85, 0.84, 0.83, 0.835, 0.8][number - 1], monkeypatch)
    with pytest.warns(AmctWarning, match=r"latency=0.8 is not reached: the decomposed model takes 83\.0% of the time"):
        plan = planned(0.8)
    assert len(split) == 4
    assert plan.latency is not None
    assert (plan.latency.measured, plan.latency.rounds) == (0.83, 4)


def test_layers_go_back_until_the_model_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    split = _let_models_take(lambda _, count: 0.95 if count == 1 else 1.2, monkeypatch)
    with pytest.warns(AmctWarning, match="latency=0.45 is not reached: .* takes 95.0% of the time"):
        plan = planned(0.45)
    assert len(split) > 1
    assert split == sorted(split, reverse=True)
    assert sum(layer.decompose for layer in plan.layers) == split[-1] == 1
    assert plan.latency is not None
    assert (plan.latency.measured, plan.latency.rounds) == (0.95, len(split))


def test_with_layers_put_back_a_budget_may_be_reached_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _let_models_take(lambda _, count: 0.4 if count == 1 else 1.2, monkeypatch)
    plan = planned(0.45)  # without a warning
    assert plan.latency is not None
    assert plan.latency.measured == 0.4


def test_a_model_that_is_never_faster_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _let_models_take(lambda number, count: 1.2, monkeypatch)
    with pytest.warns(
        AmctWarning, match="nothing is decomposed, as it does not pay: no decomposed model is measurably"
    ):
        plan = planned(0.5)
    assert not any(layer.decompose for layer in plan.layers)
    assert plan.latency is None
    assert "nothing is decomposed" in str(plan)


def test_where_no_split_is_faster_nothing_is_decomposed() -> None:
    class ByTheLayer(Simulated):
        """Every layer takes a millisecond, however large."""

        def seconds(self, each: list[float]) -> float:
            return 1e-3 * len(each)

    model = Net()
    unchanged = snapshot(model)
    with pytest.warns(AmctWarning, match="does not pay: no split of a layer is measurably faster on simulated"):
        plan = planned(0.6, ByTheLayer(), model)
    assert not any(layer.decompose for layer in plan.layers)
    plan.apply(model)
    unchanged()


@pytest.mark.parametrize("share", [0.01, 0.1])
def test_what_cannot_be_reached_says_what_can(share: float) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"latency={share:g} cannot be reached: the least is latency=0\.\d+, with every layer split",
    ) as error:
        planned(share)
    least = float(re.search(r"latency=(0\.\d+), with", str(error.value))[1])  # type: ignore[index]
    plan = planned(least + 0.01)
    assert plan.latency is not None
    assert plan.latency.measured <= (least + 0.01) * 1.02


def test_a_budget_that_only_the_proof_shows_to_be_reachable_is_reached() -> None:
    # Alone the layers take four times as long in all as what they can save shows in the model.
    plan = planned(0.45, OtherInTheModel(1.0, besides=-1e-4))
    assert plan.latency is not None
    assert plan.latency.measured <= 0.45 * 1.02


# Bad input.


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"latency": 0.5, "macs": 0.5}, ConfigError, "exactly one of .* found macs=0.5, latency=0.5"),
        ({"latency": 0}, ConfigError, "latency must be a number above 0 and up to 1, found 0"),
        ({"latency": 1.5}, ConfigError, "latency must be .* found 1.5"),
        ({"latency": math.nan}, ConfigError, "latency must be .* found nan"),
        ({"latency": "0.5"}, ConfigTypeError, "latency must be .* found '0.5'"),
        ({"latency": 0.5, "dtype": "float16"}, ConfigTypeError, "dtype must be a torch.dtype, found 'float16'"),
        ({"latency": 0.5, "compiled": 1}, ConfigTypeError, "compiled must be True or False, found 1"),
        ({"latency": 0.5, "refresh": None}, ConfigTypeError, "refresh must be True or False"),
        ({"latency": 0.5, "index": -1}, ConfigError, "index must be a whole number from 0 on, found -1"),
        ({"latency": 0.5, "index": "0"}, ConfigTypeError, "index must be"),
        ({"macs": 0.5, "backend": "cpu"}, ConfigError, "backend says how to time, which only a budget of latency does"),
        ({"damage": 0.5, "refresh": True}, ConfigError, "refresh says how to time"),
        ({"parameters": 0.5, "dtype": torch.float16}, ConfigError, "dtype says how to time"),
    ],
)
def test_wrong_settings(given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Budget(**given)


@pytest.mark.parametrize(
    ("given", "inputs", "error", "message"),
    [
        ({}, None, ConfigError, "budget: latency=0.6 needs example_inputs, on which the model is timed"),
        ({"backend": "npux"}, image(), BackendUnavailable, "there is no backend 'npux'"),
        ({"backend": 3}, image(), ConfigTypeError, "backend must be a name or a Backend, found 3"),
        ({"index": 5}, image(), ConfigError, "has 1 devices, numbered from 0: found index=5"),
        ({"dtype": torch.int8}, image(), ConfigError, r"does not compute convolutions in int8: .*dtype=…"),
        ({}, "image.png", InputsError, "example_inputs must be a tensor"),
        ({}, torch.randn(2, 5, 8, 8), InputsError, "the model fails on example_inputs"),
    ],
)
def test_what_cannot_be_timed_is_said_before_anything_is(
    given: dict[str, Any], inputs: Any, error: type[Exception], message: str, comparisons: list[str], cache: Path
) -> None:
    model = Net()
    unchanged = snapshot(model)
    with pytest.raises(error, match=message):
        plan_decomposition(model, budget=Budget(latency=0.6, **given), example_inputs=inputs)
    unchanged()
    assert not comparisons
    assert not tables(cache)


def test_a_model_without_layers_to_split(comparisons: list[str]) -> None:
    for model in (nn.Sequential(nn.Conv2d(3, 3, 3, groups=3)), nn.ReLU()):
        with pytest.raises(ConfigError, match=r"latency=0.6 cannot be reached: none of [01] layers may be decomposed"):
            plan_decomposition(model, budget=budget(), example_inputs=image())
    config = DecompositionConfig(method="auto", rule="any", layers={"re:": False})
    with pytest.raises(ConfigError, match="none of 5 layers may be decomposed; 'stem': left out by the rule 're:'"):
        plan_decomposition(Net(), config, budget=budget(), example_inputs=image())
    assert not comparisons


def test_a_budget_shows_what_was_given() -> None:
    assert repr(Budget(macs=0.5)) == "Budget(macs=0.5)"
    given = Budget(latency=0.6, backend=Simulated(), dtype=torch.float16, compiled=True)
    assert repr(given) == "Budget(latency=0.6, backend='cpu', dtype=torch.float16, compiled=True)"
    assert str(given) == "latency=0.6"


# Files and processes.


def test_a_plan_is_saved_and_applied_where_there_is_no_such_device(tmp_path: Path) -> None:
    model = Net()
    plan = planned(model=model)
    plan.save(tmp_path / "plan.pt")
    loaded = load_plan(tmp_path / "plan.pt")
    assert loaded == plan
    assert loaded.latency == plan.latency
    assert str(loaded) == str(plan)
    one, _ = plan.apply(copy.deepcopy(model))
    other, _ = loaded.apply(copy.deepcopy(model))
    assert torch.equal(one.eval()(image()), other.eval()(image()))


def chosen(index: int) -> str:
    """For `run_in_processes`: the plan, where only the first process has a clock."""
    if index:
        stopwatch.DeviceStopwatch._compare = None  # type: ignore[assignment,method-assign]
    timing.read_counters = lambda: CpuCounters(0, 0)
    torch.manual_seed(5)
    return planned(refresh=True).text(width=1000)


@pytest.mark.slow
def test_the_first_of_several_processes_measures_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first, second = (answer["value"] for answer in run_in_processes("tests.test_latency_budget", "chosen"))
    assert first == second
    assert "of the time measured" in first


@pytest.mark.slow
def test_on_the_processor_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, which it may well be, the answer is that nothing can be said."""
    monkeypatch.undo()
    layers = [nn.Conv2d(3, 128, 3, padding=1), nn.ReLU(), nn.Conv2d(128, 128, 3, padding=1), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Conv2d(128, 128, 3, padding=1)).eval()
    try:
        plan = plan_decomposition(model, budget=Budget(latency=0.7), example_inputs=torch.randn(1, 3, 28, 28))
    except DeviceError as error:
        assert "too busy" in str(error)  # noqa: PT017
        return
    assert plan.latency is not None
    assert plan.latency.measured <= 0.75
