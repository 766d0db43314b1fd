"""What share of the CPU time that this process could use it got: on a busy machine, times say little.

A thread that is ready to run, but waits because others have the CPU, takes longer for its work. Linux counts that wait
for each thread, in the second number of /proc/self/task/*/schedstat; a thread that sleeps, idles in a pool or waits for
a device is not ready and counts nothing, one that spins at a barrier runs. The wait includes the time in which a CPU
quota (cgroup cpu.max) holds a container's threads back. What the hypervisor of a virtual machine takes away is in no
thread's count, but in that of the machine (/proc/stat, "steal").

Elsewhere (macOS, Windows) only the CPU time of the process is known. Compared with the wall time it shows what a
process got that computes all the time; of one that also waits for a device it shows nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

LEAST_SHARE = 0.8
"""Below it, times are not to be trusted: they may be more than 1 / 0.8 = 1.25 times too long, as much as a speed-up
that matters. A quiet machine gives 0.9 and more, so it leaves room for the usual interruptions; one other program
that computes on the same core leaves 0.5."""

# The folder that Linux shows its counters in.
_PROC = Path("/proc")

_NANOSECOND = 1e-9


@dataclass(frozen=True)
class CpuCounters:
    """Counters of the process and of its machine at one moment, in seconds.

    Attributes
    ----------
    wall
        Time, from any beginning.
    used
        CPU time of all threads of the process.
    waits
        Time that each thread has been ready to run without a CPU, by the thread's number; None where the system does
        not report it.
    machine
        Time that all CPUs of the machine have worked, including ``stolen``.
    stolen
        Time that the hypervisor gave to others while a CPU of this virtual machine had work; 0 where not reported.
    """

    wall: float
    used: float
    waits: Mapping[int, float] | None = None
    machine: float = 0.0
    stolen: float = 0.0


def read_counters() -> CpuCounters:
    """The counters now."""
    machine, stolen = _machine()
    return CpuCounters(time.perf_counter(), time.process_time(), _waits(), machine, stolen)


def cpu_share(begin: CpuCounters, end: CpuCounters, *, computes_throughout: bool) -> float | None:
    """Share of the CPU time that the process could use between two moments that it got.

    Of several threads, the one that waited longest counts, since the others wait for it at the end of every parallel
    operation. What was measured meanwhile took at most 1 / share of its time on a quiet machine, if the threads wait at
    the same time.

    Parameters
    ----------
    begin, end
        The counters at the two moments.
    computes_throughout
        Whether a thread of the process computes all the time, and never waits for another device.

    Returns
    -------
    float or None
        From 0 to 1; None if it cannot be known here.
    """
    wall = end.wall - begin.wall
    if wall <= 0:
        return None
    if begin.waits is not None and end.waits is not None:
        waits = [waited - begin.waits.get(thread, 0.0) for thread, waited in end.waits.items()]
        got = 1 - max(waits, default=0.0) / wall
    elif computes_throughout:
        got = (end.used - begin.used) / wall
    else:
        return None
    machine = end.machine - begin.machine
    stolen = (end.stolen - begin.stolen) / machine if machine > 0 else 0.0
    return min(max(got, 0.0), 1.0) * min(max(1 - stolen, 0.0), 1.0)


def _waits() -> dict[int, float] | None:
    waits, ran = {}, 0
    with contextlib.suppress(OSError):
        for folder in (_PROC / "self/task").iterdir():
            with contextlib.suppress(OSError, ValueError):  # a thread may have ended meanwhile
                run, wait, _ = map(int, (folder / "schedstat").read_text(encoding="ascii").split())
                waits[int(folder.name)] = wait * _NANOSECOND
                ran += run
    return waits if ran else None  # a kernel that does not count shows zeros


def _machine() -> tuple[float, float]:
    """CPU time that all CPUs of the machine worked, and that was stolen from them, in seconds; zeros if unknown."""
    try:
        with (_PROC / "stat").open(encoding="ascii") as lines:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, lines.readline().split()[1:9])
        tick = 1 / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return 0.0, 0.0
    return (user + nice + system + irq + softirq + steal) * tick, steal * tick
