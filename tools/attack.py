"""Attack the library with hostile files, kills, interrupts, threads and processes: nothing may be wrong in silence.

    python tools/attack.py                        # some minutes
    python tools/attack.py --count 100            # the whole of it, most of an hour
    python tools/attack.py files --count 2000     # one kind

Every attempt must end with the right result, or with an `AmctError` that leaves everything as it was. The table has for
each kind how many attempts ended so, how many did not ("wrong"), left files behind ("litter"), or ended with an
exception that is none of the library's ("bare"); the exit status is 1 if any did. Attempts are random, and repeatable
by --seed, except for the moment at which a process is killed or interrupted.

files
    Bytes and values changed in information files, plans, settings, manifests and weights; pickles with code, tensors
    that declare 10¹² values, compressed archives; files exchanged between checkpoints.
kills
    SIGKILL at random moments while a file or a folder is written: the old content or the new is there, complete, and
    the next process that writes there leaves nothing else.
interrupts
    Ctrl-C at random moments, and at lines of the library chosen at random: model, file, random generators and settings
    of the process are as before, or all is done.
threads
    One model planned in many threads by every mode, and many models at once: the same plans, the models unchanged.
processes
    Process groups of two, of which one is absent, stopped, killed, or called with other settings: the others end with
    an `AmctError` in the time that ``distributed`` sets, and no file is written.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from amct_pytorch._report.table import Column, Table
from amct_pytorch._report.text import as_text

from attacks.files import attack_files
from attacks.interrupts import attack_interrupts
from attacks.kills import attack_kills
from attacks.processes import attack_processes
from attacks.tally import Tally
from attacks.threads import attack_threads

_ATTACKS: dict[str, Callable[[Path, int, random.Random], Iterator[Tally]]] = {
    "files": attack_files,
    "kills": attack_kills,
    "interrupts": attack_interrupts,
    "threads": attack_threads,
    "processes": attack_processes,
}


def main() -> int:
    """Run the attacks that the command line names, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="kind", help=f"of {', '.join(_ATTACKS)}; all of them by default")
    parser.add_argument("--count", type=int, default=10, help="attempts of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(_ATTACKS):
        parser.error(f"there is no attack {', '.join(sorted(unknown))}: choose of {', '.join(_ATTACKS)}")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    tallies, begin = [], time.monotonic()
    for kind in options.kinds or _ATTACKS:
        with tempfile.TemporaryDirectory() as folder:
            for tally in _ATTACKS[kind](Path(folder).resolve(), options.count, random.Random(options.seed)):
                done = f"{tally.right} of {tally.tried} right, {time.monotonic() - begin:.0f} s"
                print(f"{tally.kind}: {done}", file=sys.stderr, flush=True)
                tallies.append(tally)
    print(as_text([_table(tallies)], width=100))
    failed = [f"{tally.kind}: {example}" for tally in tallies for example in tally.examples]
    print("\n".join(failed))
    return 1 if any(tally.right < tally.tried for tally in tallies) else 0


def _table(tallies: list[Tally]) -> Table:
    counts = ("tried", "right", "wrong", "litter", "bare")
    columns = (Column("attack"), *(Column(name, "number") for name in counts))
    rows = tuple((tally.kind, *(str(getattr(tally, name)) for name in counts)) for tally in tallies)
    return Table(columns=columns, rows=rows)


if __name__ == "__main__":
    sys.exit(main())
