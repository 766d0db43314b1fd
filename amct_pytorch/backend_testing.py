"""The checks that every backend must pass, for its package's tests.

The package of a backend runs them with pytest, by a test file with one class:

    from amct_pytorch.backend_testing import BackendConformance

    class TestMyBackend(BackendConformance):
        backend = MyBackend

If the device is absent, all but the first check are skipped, with the reason.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
import unittest
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from ._report.units import name_of
from .backend import Backend, DeviceInfo, Tolerance
from .errors import ConfigError
from .tensor_decompose import DecompositionConfig, FixedRank, auto_decomposition
from .validate import validate

_MIB = 2**20  # bytes

# Together: both orders of the split, all padding modes, strides on either axis, rectangular kernels, a bias or none.
_CONVS: list[dict[str, Any]] = [
    {"in_channels": 64, "out_channels": 96, "kernel_size": 3, "padding": 1},
    {"in_channels": 96, "out_channels": 64, "kernel_size": 3, "padding": 1, "bias": False},
    {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "stride": 2},
    {"in_channels": 64, "out_channels": 64, "kernel_size": (5, 3), "stride": (1, 2), "padding": (2, 1)},
    {"in_channels": 64, "out_channels": 96, "kernel_size": (3, 5), "stride": (2, 1), "padding": (0, 2)},
    {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": "same"},
    {"in_channels": 96, "out_channels": 64, "kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1, "padding_mode": "replicate"},
    {"in_channels": 64, "out_channels": 96, "kernel_size": 3, "padding": 1, "padding_mode": "circular"},
]

# Tolerance of gradients relative to that of responses: they have the rounding errors of forward and backward pass.
_BACKWARD_FACTOR = 4


class BackendConformance:
    """The checks of one backend; each method that begins with ``test_`` is one.

    Attributes
    ----------
    backend
        The class of the backend, or a function that creates one.
    index
        Number of the device that the checks run on.
    """

    backend: ClassVar[Callable[[], Backend]]
    index: ClassVar[int] = 0

    def test_availability_is_stated_in_words(self) -> None:
        """A backend reports without an exception whether it is available, and if it is not, why."""
        backend = type(self).backend()
        available, reason = backend.is_available(), backend.unavailable_reason()
        _check(isinstance(backend.name, str) and backend.name, f"name must be a string, found {backend.name!r}")
        _check(isinstance(available, bool), f"is_available() must be True or False, found {available!r}")
        if available:
            _check(reason is None, f"an available backend has no unavailable_reason(), found {reason!r}")
        else:
            _check(isinstance(reason, str) and reason, f"unavailable_reason() must be a text, found {reason!r}")

    def test_devices_describe_themselves(self) -> None:
        """Every device has a name, a family, memory and types; an index out of range is refused."""
        backend = self._available()
        infos = list(backend.devices())
        _check(infos, "an available backend has at least one device")
        for index, info in enumerate(infos):
            device = backend.device(index)
            _check(isinstance(info, DeviceInfo), f"devices() must hold DeviceInfo, found {info!r}")
            _check((info.backend, info.index) == (backend.name, index), f"device {index} calls itself {info!r}")
            _check(bool(info.name and info.family), f"device {index} has no name or no family: {info!r}")
            _check(info.total_memory >= 0 and info.cache >= 0, f"device {index}: sizes must not be negative: {info!r}")
            _check(torch.float32 in info.dtypes, f"device {index} must compute float32, found {info.dtypes}")
            _check(set(info.emulated) <= set(info.dtypes), f"device {index}: emulated types are among its types")
            _check(all(isinstance(text, str) for text in info.versions.values()), f"versions must be strings: {info!r}")
            _check(torch.empty(1, device=device).device == device, f"tensors created on {device} must report it")
        for index in (-1, len(infos)):
            try:
                backend.device(index)
            except ConfigError:
                continue
            raise AssertionError(f"device({index}) must raise ConfigError where there are {len(infos)} devices")

    def test_every_type_has_a_rank_multiple_and_a_tolerance(self) -> None:
        """Rank multiples are at least 1; tolerances are too tight for a wrong result, and always the same."""
        backend, device = self._placed()
        for dtype in backend.devices()[self.index].dtypes:
            multiple, tolerance = backend.rank_multiple(dtype), backend.tolerance(dtype, device)
            _check(isinstance(multiple, int) and multiple >= 1, f"rank_multiple({dtype}) is {multiple!r}")
            _check(isinstance(tolerance, Tolerance), f"tolerance({dtype}) must be a Tolerance, found {tolerance!r}")
            # An error of a tenth is wrong in every type.
            fits = 0 < tolerance.norm <= tolerance.worst <= 0.1
            _check(fits, f"tolerance({dtype}): expected 0 < norm <= worst <= 0.1, found {tolerance!r}")
            with backend.exact_numerics(device):
                inside = backend.tolerance(dtype, device)
            for when, found in (("inside", inside), ("after", backend.tolerance(dtype, device))):
                same = found == tolerance
                _check(same, f"tolerance({dtype}) is {tolerance!r}, but {when} of exact_numerics() it is {found!r}")
        _check(backend.rank_multiple(torch.int8) >= 1, "rank_multiple(torch.int8) must work, for later quantisation")

    def test_settings_are_words(self) -> None:
        """Settings can be printed and saved with a measurement."""
        backend = self._available()
        settings = backend.settings(backend.device(self.index))
        strings = all(isinstance(text, str) for pair in settings.items() for text in pair)
        _check(strings, f"settings() must be strings by strings, found {settings!r}")

    def test_time_grows_with_the_work(self) -> None:
        """A convolution of 16 times the pixels takes longer."""
        backend, device = self._placed()
        small, large = (_work(device, side) for side in (28, 112))
        times = [[backend.time(fn, device=device, calls=3) for fn in (small, large)] for _ in range(5)][1:]
        short, long = (statistics.median(column) for column in zip(*times, strict=True))
        _check(0 < short < long, f"{short:.2e} s for a small convolution, {long:.2e} s for one of 16 times the work")

    def test_time_waits_for_the_device(self) -> None:
        """time() measures the work itself, not its launch: it agrees with the time until the host has the result."""
        backend, device = self._placed()
        fn, calls = _work(device, 112), 5

        def until_on_host() -> float:
            backend.synchronize(device)
            start = time.perf_counter()
            for _ in range(calls):
                result = fn()
            result[0, 0, 0, 0].cpu()
            return (time.perf_counter() - start) / calls

        pairs = [(backend.time(fn, device=device, calls=calls), until_on_host()) for _ in range(6)][1:]
        said, true = (statistics.median(column) for column in zip(*pairs, strict=True))
        found = f"time() says {said:.2e} s, but the result takes {true:.2e} s"
        _check(said > true / 2, f"{found}: it must synchronise")
        _check(said < true * 3, f"{found}: it must be in seconds a call")

    def test_synchronize_waits_for_the_device(self) -> None:
        """After synchronize(), the host can read a result immediately."""
        backend, device = self._placed()
        fn, calls = _work(device, 112), 5
        waits = []
        for _ in range(6):
            start = time.perf_counter()
            for _ in range(calls):
                result = fn()
            backend.synchronize(device)
            synchronised = time.perf_counter()
            result[0, 0, 0, 0].cpu()
            waits.append((synchronised - start, time.perf_counter() - synchronised))
        work, wait = (statistics.median(column) for column in zip(*waits[1:], strict=True))
        _check(wait < work / 2, f"after {work:.2e} s and synchronize(), the result took another {wait:.2e} s")

    def test_peak_memory_sees_an_allocation(self) -> None:
        """Memory allocated and freed during the block counts; memory allocated before does not."""
        backend, device = self._placed()
        before = torch.ones(16 * _MIB, dtype=torch.uint8, device=device)
        with backend.peak_memory(device) as peak:
            torch.ones(64 * _MIB, dtype=torch.uint8, device=device)
        _check(64 * _MIB <= peak.bytes < 80 * _MIB, f"64 MiB were allocated, found {peak.bytes / _MIB:.1f} MiB")
        with backend.peak_memory(device) as peak:
            pass
        _check(peak.bytes < _MIB, f"nothing was allocated, found {peak.bytes / _MIB:.1f} MiB")
        del before

    def test_exact_numerics_gives_the_settings_back(self) -> None:
        """After the block, after an exception in it, and when it is nested."""
        backend, device = self._placed()
        self._check_restores(lambda: backend.exact_numerics(device), "exact_numerics")

    def test_prepared_gives_the_settings_back(self) -> None:
        """After the block, after an exception in it, and when it is nested."""
        backend, device = self._placed()
        self._check_restores(lambda: backend.prepared(device), "prepared")

    def test_models_move_there_and_back(self) -> None:
        """A state dict moved to the device and back is the same, bit for bit."""
        backend, device = self._placed()
        for dtype in backend.devices()[self.index].dtypes:
            with backend.prepared(device):
                model = nn.Sequential(_conv(0, dtype), nn.BatchNorm2d(96, dtype=dtype))
                moved = copy.deepcopy(model).to(device)
                _check(all(p.device == device for p in moved.parameters()), f"a model moved to {device} must be there")
                state = moved.to("cpu").state_dict()
            same = all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
            _check(same, f"a model in {name_of(dtype)} moved to {device} and back has other values")

    def test_decomposed_convolutions_are_right(self) -> None:
        """Responses and gradients are within tolerance of float64 on the host, in every type."""
        backend, device = self._placed()
        with backend.prepared(device), backend.exact_numerics(device):
            for dtype in backend.devices()[self.index].dtypes:
                for number in range(len(_CONVS)):
                    chain, _ = auto_decomposition(_conv(number, dtype), config=_config())
                    _check_chain(chain, number, backend, device, dtype)

    def test_convolutions_run_on_the_device_itself(self) -> None:
        """No operator of a decomposed layer falls back to the CPU."""
        backend, device = self._placed()
        chain, _ = auto_decomposition(_conv(0, torch.float32), config=_config())
        with backend.prepared(device):
            chain = chain.to(device)
            with backend.fallbacks() as names:
                chain(torch.ones(1, 64, 8, 8, device=device)).sum().backward()
        _check(names == [], f"run on the CPU, as the device lacks them: {names}")

    def test_out_of_memory_is_recognised(self) -> None:
        """A failed allocation of a petabyte counts as out of memory, another error does not."""
        backend, device = self._placed()
        try:
            torch.empty(2**50, dtype=torch.uint8, device=device)
        except Exception as error:
            _check(backend.is_out_of_memory(error), f"is_out_of_memory() must be True of {error!r}")
        else:
            raise AssertionError(f"{device} allocated a petabyte")
        _check(not backend.is_out_of_memory(RuntimeError("size mismatch")), "a size mismatch is not out of memory")
        backend.release_memory(device)

    def test_a_decomposed_network_validates(self) -> None:
        """`validate` finds no wrong layer of a decomposed network."""
        backend, _ = self._placed()
        network = nn.Sequential(_conv(0, torch.float32), nn.BatchNorm2d(96), nn.ReLU(), _conv(1, torch.float32)).eval()
        decomposed, _ = auto_decomposition(copy.deepcopy(network), config=_config())
        draw = torch.Generator().manual_seed(0)
        image = torch.randn(2, 64, 12, 12, generator=draw)
        dtypes = backend.devices()[self.index].dtypes
        report = validate(network, decomposed, image, backend, index=self.index, dtypes=dtypes)
        _check(report.ok, f"the device is wrong:\n{report}")

    def _available(self) -> Backend:
        backend = type(self).backend()
        reason = backend.unavailable_reason()
        if reason is not None:
            raise unittest.SkipTest(f"backend {backend.name!r} is not available: {reason}")
        return backend

    def _placed(self) -> tuple[Backend, torch.device]:
        backend = self._available()
        return backend, backend.device(self.index)

    def _check_restores(self, context: Callable[[], AbstractContextManager[None]], called: str) -> None:
        backend, device = self._placed()
        with context():  # the backend may probe the device, once
            pass
        before = _settings(backend, device)
        with context():
            inside = _settings(backend, device)
            with context():
                pass
            _check_same(inside, _settings(backend, device), f"{called}(), nested, does not restore")
        _check_same(before, _settings(backend, device), f"{called}() does not restore")
        try:
            with context():
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            pass
        _check_same(before, _settings(backend, device), f"{called}() after an exception does not restore")


def _check(holds: object, message: str) -> None:
    # Not by assert: pytest rewrites those of tests only, and Python skips them under -O.
    if not holds:
        raise AssertionError(message)


def _check_same(before: dict[str, object], after: dict[str, object], what: str) -> None:
    changed = [f"{key}: {before.get(key)} → {value}" for key, value in after.items() if value != before.get(key)]
    _check(not changed, f"{what} {', '.join(changed)}")


def _settings(backend: Backend, device: torch.device) -> dict[str, object]:
    """The settings that the backend names, and those of torch that apply to every device."""
    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
        "cudnn.deterministic": torch.backends.cudnn.deterministic,
        "cudnn.enabled": torch.backends.cudnn.enabled,
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "default dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        **backend.settings(device),
    }


def _work(device: torch.device, side: int) -> Callable[[], Tensor]:
    """A function that convolves an image of this height and width on the device."""
    image = torch.ones(1, 64, side, side, device=device)
    weight = torch.full((64, 64, 3, 3), 0.01, device=device)
    return lambda: nn.functional.conv2d(image, weight, padding=1)


def _conv(number: int, dtype: torch.dtype) -> nn.Conv2d:
    """One of the convolutions, with weights independent of the state of the global generator."""
    conv = cast(nn.Conv2d, nn.utils.skip_init(nn.Conv2d, **_CONVS[number]))
    draw = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in conv.parameters():
            parameter.normal_(0, 1 / math.sqrt(conv.weight[0].numel()), generator=draw)
    return conv.to(dtype)


def _config() -> DecompositionConfig:
    return DecompositionConfig(rank=FixedRank(32))


def _check_chain(chain: nn.Module, number: int, backend: Backend, device: torch.device, dtype: torch.dtype) -> None:
    """Compare responses and gradients of a chain on the device with those in float64 on the host."""
    draw = torch.Generator().manual_seed(100 + number)
    image = torch.randn(2, _CONVS[number]["in_channels"], 12, 13, generator=draw).to(dtype)
    exact = copy.deepcopy(chain).double()
    chain = chain.to(device)
    cotangent = torch.randn(exact(image.double()).shape, generator=draw).to(dtype)
    expected = _responses(exact, image.double(), cotangent.double())
    found = _responses(chain, image.to(device), cotangent.to(device))
    tolerance = backend.tolerance(dtype, device)
    for (what, reference), (_, response) in zip(expected, found, strict=True):
        factor = 1 if what == "response" else _BACKWARD_FACTOR
        difference = response.cpu().double() - reference
        norm = float(difference.norm() / reference.norm())
        worst = float(difference.abs().max() / reference.abs().max())
        most, most_worst = factor * tolerance.norm, factor * tolerance.worst
        within = norm <= most and worst <= most_worst  # False for NaN
        _check(
            within,
            f"{what} of the split of Conv2d({_CONVS[number]}) in {name_of(dtype)} on {device}: relative error "
            f"{norm:.1e}, {worst:.1e} at one place; expected at most {most:.1e}, {most_worst:.1e}",
        )


def _responses(chain: nn.Module, image: Tensor, cotangent: Tensor) -> Iterator[tuple[str, Tensor]]:
    image = image.detach().requires_grad_()
    response = chain(image)
    response.backward(cotangent)
    yield "response", response.detach()
    yield "gradient of the input", cast(Tensor, image.grad)
    for name, parameter in chain.named_parameters():
        yield f"gradient of {name}", cast(Tensor, parameter.grad)
