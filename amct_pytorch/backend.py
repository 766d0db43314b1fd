"""What a device backend is, and the registry that finds the installed ones.

A backend is one class in any package, named by one entry point::

    [project.entry-points."amct_pytorch.backends"]
    npu = "amct_backends.npu:NpuBackend"

`amct_pytorch.backend_testing` holds the checks that each must pass.
"""

from __future__ import annotations

import abc
import contextlib
import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import ClassVar, cast

import torch
from torch import nn

from .errors import BackendUnavailable, ConfigError, warn_user

GROUP = "amct_pytorch.backends"
"""The entry-point group of backends."""


@dataclass(frozen=True)
class DeviceInfo:
    """One device, as it describes itself.

    Attributes
    ----------
    backend
        Name of the backend.
    index
        Number of the device among those of the backend.
    name
        What its driver calls it: "NVIDIA H100 80GB HBM3", "Ascend910B3".
    family
        The kind of device, where settings differ by it: "sm_90", "Atlas A2".
    total_memory
        Bytes.
    cache
        Bytes of its last-level cache; 0 where that is not known.
    dtypes
        Floating-point types that it computes convolutions in.
    emulated
        Those of the dtypes for which it has no instructions of its own: right, but slow.
    versions
        Of driver and libraries, by name.
    """

    backend: str
    index: int
    name: str
    family: str
    total_memory: int
    cache: int
    dtypes: tuple[torch.dtype, ...]
    emulated: tuple[torch.dtype, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tolerance:
    """How far a response y may be from its float64 reference r.

    Attributes
    ----------
    norm
        Largest ‖y − r‖ / ‖r‖ in the Frobenius norm.
    worst
        Largest max|y − r| / max|r|, which shows a fault at few places, as at edges.
    """

    norm: float
    worst: float


@dataclass
class PeakMemory:
    """Filled in when the block that was watched ends.

    Attributes
    ----------
    bytes
        The most that was allocated at once, over what was allocated at the beginning.
    """

    bytes: int = 0


class Backend(abc.ABC):
    """A kind of device: what there is of it, how to wait for it, time it, and make it compute exactly.

    Nothing here keeps state of a run, so one object serves the whole process.
    """

    name: ClassVar[str]
    """Name of the backend, of its entry point, and type of its `torch.device`."""

    channels_last: ClassVar[bool] = True
    """Whether tensors may be in the channels_last memory format on the device."""

    @abc.abstractmethod
    def unavailable_reason(self) -> str | None:
        """Why there is no such device here and what to do about it, or None where there is one. Never raises."""

    def is_available(self) -> bool:
        """Whether there is such a device here. Never raises."""
        return self.unavailable_reason() is None

    @abc.abstractmethod
    def devices(self) -> Sequence[DeviceInfo]:
        """The devices that there are; called only where the backend is available."""

    def device(self, index: int = 0) -> torch.device:
        """The device of this number, that of the backend's name by default.

        Raises
        ------
        BackendUnavailable, ConfigError
            See `check_index`.
        """
        self.check_index(index)
        return torch.device(self.name, index)

    def check_index(self, index: int) -> None:
        """Check that there is a device of this number.

        Raises
        ------
        BackendUnavailable
            There is no such device here; the message says why.
        ConfigError
            The index is out of range.
        """
        reason = self.unavailable_reason()
        if reason is not None:
            raise BackendUnavailable(f"backend {self.name!r} is not available: {reason}")
        count = len(self.devices())
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            raise ConfigError(f"backend {self.name!r} has {count} devices, numbered from 0: found index {index!r}")

    @abc.abstractmethod
    def synchronize(self, device: torch.device) -> None:
        """Wait until the device has done all it was given."""

    @abc.abstractmethod
    def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
        """Seconds a call takes on the device, the mean over a number of calls one after another.

        The device is idle before the first, and the last is done before the clock stops.
        """

    @abc.abstractmethod
    def peak_memory(self, device: torch.device) -> AbstractContextManager[PeakMemory]:
        """Watch the memory of the device during a block."""

    @abc.abstractmethod
    def exact_numerics(self, device: torch.device) -> AbstractContextManager[None]:
        """Compute in the full precision of every dtype (no TF32, no HF32) during a block.

        The settings of the process are as before when it ends, by an exception too.
        """

    @abc.abstractmethod
    def rank_multiple(self, dtype: torch.dtype) -> int:
        """Channels that the device computes for the price of one: ranks are worth raising to a multiple of this."""

    @abc.abstractmethod
    def tolerance(self, dtype: torch.dtype, device: torch.device) -> Tolerance:
        """How far a decomposed layer may be from its float64 reference under `exact_numerics`.

        The answer does not depend on whether it is asked inside of `exact_numerics`.
        """

    @abc.abstractmethod
    def settings(self, device: torch.device) -> dict[str, str]:
        """Settings of the process now that change what the device computes, or how fast."""

    @contextlib.contextmanager
    def prepared(self, device: torch.device) -> Iterator[None]:
        """Settings that models are moved to the device and measured under; as before when the block ends."""
        yield

    @contextlib.contextmanager
    def fallbacks(self) -> Iterator[list[str]]:
        """Watch for operators that run on the CPU for lack of the device's own: their names, when the block ends.

        A device may report each operator only once per process.
        """
        yield []

    def compile(self, model: nn.Module) -> Callable[..., object]:
        """The model compiled for the device; whether it succeeds shows at the first call."""
        return cast(Callable[..., object], torch.compile(model))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an exception says that the memory of the device does not suffice."""
        return isinstance(error, torch.OutOfMemoryError)

    def release_memory(self, device: torch.device) -> None:  # noqa: B027  # not every device holds some
        """Give back memory of the device that is held ready for later."""


@dataclass(frozen=True)
class BackendStatus:
    """What is known of an installed backend.

    Attributes
    ----------
    name
        As for `get_backend`.
    source
        The class that it comes from, as the entry point says.
    reason
        Why it is unavailable; None where it is available.
    """

    name: str
    source: str
    reason: str | None

    @property
    def available(self) -> bool:
        """Whether it can be used here and now."""
        return self.reason is None

    def __str__(self) -> str:
        found = "available" if self.available else f"unavailable: {self.reason}"
        return f"{self.name}: {found} ({self.source})"


class Registry:
    """The backends behind a set of entry points; each is loaded when it is first asked for, and kept."""

    def __init__(self, found: Iterable[EntryPoint]) -> None:
        by_name: dict[str, dict[str, EntryPoint]] = defaultdict(dict)
        for point in found:
            by_name[point.name].setdefault(point.value, point)
        self._points = {name: next(iter(points.values())) for name, points in sorted(by_name.items())}
        self._loaded: dict[str, Backend | str] = {}
        for name, points in by_name.items():
            if len(points) > 1:
                used, *others = points.values()
                warn_user(
                    f"backend {name!r} is installed {len(points)} times: {_origin(used)} is used, "
                    f"{' and '.join(map(_origin, others))} is not: uninstall one of them. {self._installed()}"
                )

    def get(self, name: str) -> Backend:
        """The available backend of this name.

        Raises
        ------
        BackendUnavailable
            There is none, or it cannot be used; the message says why, and what is installed.
        """
        if name not in self._points:
            raise BackendUnavailable(f"there is no backend {name!r}. {self._installed()}")
        backend = self._load(name)
        reason = backend if isinstance(backend, str) else _reason(backend)
        if reason is not None:
            raise BackendUnavailable(f"backend {name!r} is not available: {reason}. {self._installed()}")
        return cast(Backend, backend)

    def statuses(self) -> list[BackendStatus]:
        """One for each backend, in the order of their names."""
        statuses = []
        for name, point in self._points.items():
            backend = self._load(name)
            reason = backend if isinstance(backend, str) else _reason(backend)
            statuses.append(BackendStatus(name, point.value, reason))
        return statuses

    def _load(self, name: str) -> Backend | str:
        """The backend, or the reason why it cannot be loaded."""
        if name not in self._loaded:
            try:
                self._loaded[name] = _backend_of(self._points[name])
            except Exception as error:  # a plugin may fail in any way
                reason = f"it cannot be loaded from {_origin(self._points[name])}: {type(error).__name__}: {error}"
                warn_user(f"backend {name!r} is broken: {reason}. {self._installed()}")
                self._loaded[name] = reason
        return self._loaded[name]

    def _installed(self) -> str:
        return f"Installed backends: {', '.join(self._points) or 'none'}"


@functools.cache
def _registry() -> Registry:
    return Registry(entry_points(group=GROUP))


def refresh_backends() -> None:
    """Forget the backends found so far: the next question looks again at what is installed, and at every device."""
    _registry.cache_clear()


def get_backend(name: str) -> Backend:
    """The backend of this name, available here.

    Raises
    ------
    BackendUnavailable
        There is none, or it cannot be used; the message says why, and what is installed.
    """
    return _registry().get(name)


def list_backends() -> list[BackendStatus]:
    """Every installed backend, the unavailable each with its reason. Loads them all."""
    return _registry().statuses()


def available_backends() -> list[str]:
    """Names of the backends that can be used here."""
    return [status.name for status in list_backends() if status.available]


def _backend_of(point: EntryPoint) -> Backend:
    kind = point.load()
    if not (isinstance(kind, type) and issubclass(kind, Backend)):
        raise TypeError(f"expected a subclass of amct_pytorch.backend.Backend, found {kind!r}")
    backend = kind()
    if backend.name != point.name:
        raise ValueError(f"the entry point is called {point.name!r}, but the class calls itself {backend.name!r}")
    return backend


def _reason(backend: Backend) -> str | None:
    """Why a backend is unavailable, also where its answer breaks the contract."""
    try:
        return backend.unavailable_reason()
    except Exception as error:
        return f"asked whether it is available, it fails with {type(error).__name__}: {error}"


def _origin(point: EntryPoint) -> str:
    package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"{point.value!r}{package}"
