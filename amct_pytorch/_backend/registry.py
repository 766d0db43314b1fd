"""The registry of the installed backends, found by their entry points."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from ..errors import BackendUnavailable, quoted, warn_user
from .contract import Backend

GROUP = "amct_pytorch.backends"
"""The entry-point group of backends."""


@dataclass(frozen=True)
class BackendStatus:
    """Whether an installed backend can be used.

    Attributes
    ----------
    name
        Name of the backend, for `get_backend`.
    source
        Its class, as "module:class" in the entry point.
    reason
        Why it is unavailable; None if it is available.
    """

    name: str
    source: str
    reason: str | None

    @property
    def available(self) -> bool:
        """Whether the backend can be used here."""
        return self.reason is None

    def __str__(self) -> str:
        found = "available" if self.available else f"unavailable: {self.reason}"
        return f"{self.name}: {found} ({self.source})"


class Registry:
    """The backends behind a set of entry points. Each is loaded at its first use, once.

    Parameters
    ----------
    found
        Entry points whose names are those of the backends.
    """

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
                    f"backend {quoted(name)} is installed {len(points)} times: {_origin(used)} is used, "
                    f"{' and '.join(map(_origin, others))} is not: uninstall one of them. {self._installed()}"
                )

    def get(self, name: str) -> Backend:
        """The available backend with this name.

        Parameters
        ----------
        name
            Name of an entry point.

        Raises
        ------
        BackendUnavailable
            No such backend is installed, or it cannot be used; the message says why, and what is installed.
        """
        if name not in self._points:
            raise BackendUnavailable(f"there is no backend {quoted(name)}. {self._installed()}")
        backend = self._load(name)
        reason = backend if isinstance(backend, str) else _reason(backend)
        if reason is not None:
            raise BackendUnavailable(f"backend {quoted(name)} is not available: {reason}. {self._installed()}")
        return cast(Backend, backend)

    def statuses(self) -> list[BackendStatus]:
        """The status of every backend, sorted by name. Loads them all."""
        statuses = []
        for name, point in self._points.items():
            backend = self._load(name)
            reason = backend if isinstance(backend, str) else _reason(backend)
            statuses.append(BackendStatus(name, point.value, reason))
        return statuses

    def _load(self, name: str) -> Backend | str:
        """The backend, or why it cannot be loaded."""
        if name not in self._loaded:
            try:
                self._loaded[name] = _backend_of(self._points[name])
            except Exception as error:  # a plugin may fail in any way
                reason = f"it cannot be loaded from {_origin(self._points[name])}: {type(error).__name__}: {error}"
                warn_user(f"backend {quoted(name)} is broken: {reason}. {self._installed()}")
                self._loaded[name] = reason
        return self._loaded[name]

    def _installed(self) -> str:
        return f"Installed backends: {', '.join(self._points) or 'none'}"


@functools.cache
def _registry() -> Registry:
    return Registry(entry_points(group=GROUP))


def refresh_backends() -> None:
    """Discard the loaded backends, so that the next call looks for installed backends and devices again."""
    _registry.cache_clear()


def get_backend(name: str) -> Backend:
    """The available backend with this name.

    Parameters
    ----------
    name
        "cpu", "cuda", "npu", or the name of another installed backend.

    Raises
    ------
    BackendUnavailable
        No such backend is installed, or it cannot be used; the message says why, and what is installed.
    """
    return _registry().get(name)


def list_backends() -> list[BackendStatus]:
    """The status of every installed backend, sorted by name. Loads them all."""
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
        raise ValueError(
            f"the entry point is called {quoted(point.name)}, but the class calls itself {quoted(backend.name)}"
        )
    return backend


def _reason(backend: Backend) -> str | None:
    """Why a backend is unavailable, including that `Backend.unavailable_reason` itself fails."""
    try:
        return backend.unavailable_reason()
    except Exception as error:
        return f"asked whether it is available, it fails with {type(error).__name__}: {error}"


def _origin(point: EntryPoint) -> str:
    package = f" of {point.dist.name} {point.dist.version}" if point.dist else ""
    return f"{quoted(point.value)}{package}"
