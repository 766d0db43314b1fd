"""The kernel profile of a benchmark as a table."""

from __future__ import annotations

from collections.abc import Sequence

from .._report.table import Column, Table
from .._report.units import in_ms, ratio_of
from .kernel_summary import LEAST_BUSY, KernelProfile, KernelSummary

# Most names of unrecognised kernels in a note; the JSON file has all.
_MOST_NAMES = 5

_COLUMNS = (
    Column("layer", "name"),
    Column("model", priority=6),
    Column("kernels", "number", priority=1),
    Column("device ms", "number", priority=4),
    Column("busy", "number", priority=5),
    Column("float32 in", priority=2),
    Column("time by kind of kernel", "prose", priority=3),
)


def kernel_table(profiles: Sequence[tuple[str, KernelProfile]]) -> Table:
    """A table with two rows for each profile.

    Parameters
    ----------
    profiles
        Name of a layer or of the whole model, and its profile.
    """
    rows = [
        (name, model, *_cells(summary))
        for name, profile in profiles
        for model, summary in (("original", profile.before), ("decomposed", profile.after))
    ]
    notes = ["Device: time in which it ran a kernel, under the profiler; busy: that over the time measured without it."]
    if any(profile.host_bound for _, profile in profiles):
        notes.append(
            f"Host-bound: the device is busy for less than {LEAST_BUSY:.0%} of the time, and waits for the host to "
            "queue its kernels in the rest, so the times are the host's as much as the device's. Larger batches and "
            "compiled=True ask less of the host."
        )
    notes += _unrecognised(profiles)
    return Table("Kernels", _COLUMNS, tuple(rows), tuple(notes))


def _cells(summary: KernelSummary) -> tuple[str, ...]:
    total = sum(summary.kinds.values())
    shares = ", ".join(f"{kind} {ratio_of(seconds, total):.0%}" for kind, seconds in summary.kinds.items())
    return (
        f"{summary.launches:.3g}",
        in_ms(summary.busy),
        f"{summary.busy_share:.0%}",
        ", ".join(summary.short_formats) or "–",
        shares,
    )


def _unrecognised(profiles: Sequence[tuple[str, KernelProfile]]) -> list[str]:
    """A note with the names of the kernels of kind "other"; none if there are none."""
    longest: dict[str, float] = {}
    for _, profile in profiles:
        for summary in (profile.before, profile.after):
            for name, seconds in summary.unrecognised.items():
                longest[name] = max(longest.get(name, 0.0), seconds)
    if not longest:
        return []
    names = sorted(longest, key=lambda name: -longest[name])
    text = "; ".join(f"{name} ({in_ms(longest[name])} ms)" for name in names[:_MOST_NAMES])
    more = f"; and {len(names) - _MOST_NAMES} more, see the JSON file" if len(names) > _MOST_NAMES else ""
    return [f"Kernels not recognised: {text}{more}."]
