"""The contract of a device backend, and the data that it exchanges with the library."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar, cast

import torch
from torch import nn

from ..errors import BackendUnavailable, ConfigError, quoted
from .kernels import Kernel


@dataclass(frozen=True)
class DeviceInfo:
    """One device, described by its driver.

    Attributes
    ----------
    backend
        Name of the backend.
    index
        Number of the device among the devices of this backend, from 0.
    name
        The driver's name for it: "NVIDIA H100 80GB HBM3", "Ascend910B3".
    family
        The kind of device, where settings depend on it: "sm_90", "Atlas A2".
    total_memory
        Memory of the device in bytes.
    cache
        Size of its last-level cache in bytes; 0 if unknown.
    dtypes
        Floating-point types in which it computes convolutions.
    emulated
        The subset of ``dtypes`` that the hardware has no instructions for: correct results, but slow.
    versions
        Version of the driver and of each library, by name.
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
        Largest max|y − r| / max|r|, which exposes an error in a few places, such as image borders.
    """

    norm: float
    worst: float


@dataclass
class PeakMemory:
    """Peak memory of a block, filled in when the block ends.

    Attributes
    ----------
    bytes
        The most memory allocated at any moment of the block, minus the memory allocated when it began.
    """

    bytes: int = 0


class Backend(abc.ABC):
    """A kind of device: which devices are present, and how to synchronise, time and set up computation on them.

    A backend keeps no state of a run, so one object serves the whole process.
    """

    name: ClassVar[str]
    """Name of the backend and of its entry point, and the type of its `torch.device`."""

    channels_last: ClassVar[bool] = True
    """Whether tensors on the device may have the channels_last memory format."""

    records_kernels: ClassVar[bool] = False
    """Whether `kernels` works."""

    @abc.abstractmethod
    def unavailable_reason(self) -> str | None:
        """Why no such device can be used here and what to do about it, or None if one can. Never raises."""

    def is_available(self) -> bool:
        """Whether such a device can be used here. Never raises."""
        return self.unavailable_reason() is None

    @abc.abstractmethod
    def devices(self) -> Sequence[DeviceInfo]:
        """The devices present, in the order of their index. Called only if the backend is available."""

    def device(self, index: int = 0) -> torch.device:
        """The `torch.device` with this index; its type is the backend's name.

        Parameters
        ----------
        index
            Number of the device, from 0.

        Raises
        ------
        BackendUnavailable, ConfigError
            See `check_index`.
        """
        self.check_index(index)
        return torch.device(self.name, index)

    def check_index(self, index: int) -> None:
        """Check that a device with this index is present.

        Parameters
        ----------
        index
            Number of the device, from 0.

        Raises
        ------
        BackendUnavailable
            No such device can be used here; the message says why.
        ConfigError
            The index is out of range, or not a whole number.
        """
        reason = self.unavailable_reason()
        if reason is not None:
            raise BackendUnavailable(f"backend {quoted(self.name)} is not available: {reason}")
        count = len(self.devices())
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
            raise ConfigError(
                f"backend {quoted(self.name)} has {count} devices, numbered from 0: found index={quoted(index)}"
            )

    @abc.abstractmethod
    def synchronize(self, device: torch.device) -> None:
        """Wait until the device has finished all queued work.

        Parameters
        ----------
        device
            A device of this backend, from `device`.
        """

    @abc.abstractmethod
    def time(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> float:
        """Measure the mean time of a call on the device, over consecutive calls.

        The device is idle before the first call, and the last call has finished before the clock stops.

        Parameters
        ----------
        fn
            Queues work on the device; need not wait for it.
        device
            The device that works.
        calls
            Number of consecutive calls.

        Returns
        -------
        float
            Seconds per call.
        """

    @abc.abstractmethod
    def peak_memory(self, device: torch.device) -> AbstractContextManager[PeakMemory]:
        """Measure the peak memory of the device during a block.

        Parameters
        ----------
        device
            The device whose memory is measured.
        """

    @abc.abstractmethod
    def exact_numerics(self, device: torch.device) -> AbstractContextManager[None]:
        """Compute in the full precision of every dtype (no TF32, no HF32) during a block.

        The settings of the process are restored when the block ends, also after an exception.

        Parameters
        ----------
        device
            The device that computes.
        """

    @abc.abstractmethod
    def rank_multiple(self, dtype: torch.dtype) -> int:
        """Number of channels in a block of the device's matrix unit: it computes whole blocks only.

        Parameters
        ----------
        dtype
            Type of weights and activations.

        Returns
        -------
        int
            1 or more. Rounding a rank up to a multiple of it costs no time.
        """

    @abc.abstractmethod
    def tolerance(self, dtype: torch.dtype, device: torch.device) -> Tolerance:
        """How far a decomposed layer may be from its float64 reference under `exact_numerics`.

        The answer is the same inside and outside of `exact_numerics`.

        Parameters
        ----------
        dtype
            Type of weights and activations, one of the ``dtypes`` of the device.
        device
            The device that computes.
        """

    @abc.abstractmethod
    def settings(self, device: torch.device) -> dict[str, str]:
        """The current settings of the process that change results or speed on the device, value by name.

        Parameters
        ----------
        device
            The device that the settings apply to.
        """

    def saturates(self, device: torch.device) -> bool:
        """Whether float16 overflows to its largest number instead of infinity, which a GradScaler cannot see.

        Parameters
        ----------
        device
            The device that computes.
        """
        return False

    @contextlib.contextmanager
    def prepared(self, device: torch.device) -> Iterator[None]:
        """Apply the settings for moving models to the device and measuring them; restored when the block ends.

        Parameters
        ----------
        device
            The device to be used.
        """
        yield

    @contextlib.contextmanager
    def fallbacks(self) -> Iterator[list[str]]:
        """Record the operators that fall back to the CPU because the device lacks them.

        The list is filled when the block ends. A device may report each operator only once per process.
        """
        yield []

    def cautions(self, device: torch.device, *, compiled: bool = False) -> Sequence[str]:
        """What a reader of measurements on a device must know, each as a sentence for the report.

        Parameters
        ----------
        device
            The device that was measured.
        compiled
            Whether the models were compiled for it.
        """
        return ()

    def kernels(self, fn: Callable[[], object], *, device: torch.device, calls: int = 1) -> Sequence[Kernel]:
        """Record the kernels that the device runs in consecutive calls.

        The profiler slows the host down, so the gaps between kernels say nothing; their durations do.

        Parameters
        ----------
        fn
            Queues work on the device; called once more beforehand, to warm up.
        device
            The device that works.
        calls
            Number of calls to record.

        Raises
        ------
        ConfigError
            The backend has no profiler.
        DeviceError
            The profiler failed, or recorded nothing.
        """
        raise ConfigError(f"backend {quoted(self.name)} records no kernels")

    def compile(self, model: nn.Module) -> Callable[..., object]:
        """Compile a model for the device.

        Parameters
        ----------
        model
            A model or layer on the device.

        Returns
        -------
        callable
            Takes the model's arguments. Compilation happens, and may fail, in the first call.
        """
        return cast(Callable[..., object], torch.compile(model))

    def is_out_of_memory(self, error: BaseException) -> bool:
        """Whether an exception means that the device ran out of memory.

        Parameters
        ----------
        error
            Raised by torch, or by the device's own library.
        """
        return isinstance(error, torch.OutOfMemoryError)

    def release_memory(self, device: torch.device) -> None:  # noqa: B027  # not every device caches memory
        """Return cached, unused memory to the device.

        Parameters
        ----------
        device
            The device whose allocator is to be emptied.
        """
