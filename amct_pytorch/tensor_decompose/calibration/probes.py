"""Measure how far an error of each layer's response moves the outputs, one layer after the other."""

from __future__ import annotations

from ..._run.process_group import ProcessGroup
from ..._run.progress import ProgressFunction
from ..methods.factoring import Factoring
from ..ranks.error_curve import PROPORTIONAL, ErrorCurve
from .evaluation import Candidates, judge_each_alone
from .runs import Runs
from .trial_chains import chains_for

# Items of held-out batches that the model is run on for each layer: few, since it runs twice for every one of them.
_ITEMS = 8


def influences(
    runs: Runs, factoring: Factoring, report: ProgressFunction, processes: ProcessGroup
) -> dict[int, ErrorCurve]:
    """The influence of every weight that is still to be chosen for.

    Each is split plainly at two ranks, a high and a low one, while all other layers are as they were.

    Parameters
    ----------
    runs
        Of the model; batches held out are run on.
    factoring
        Of its weights, whose spectra are known.
    report
        Called with (done, total, layer name) as layers are measured.
    processes
        Those whose batches count, each with its own.

    Returns
    -------
    dict
        By number of the group; where the outputs cannot be compared, errors of responses count as they are.
    """
    probes = factoring.probes()
    names = [group.name for group, _, _ in probes.values()]
    tried = [
        Candidates(group.spec, chains_for(group, better), chains_for(group, worse))
        for group, better, worse in probes.values()
    ]
    measured = judge_each_alone(
        runs, tried, processes, _ITEMS, lambda number: report(number, len(names), names[number])
    )
    found = {}
    for index, pairs in zip(probes, measured, strict=True):
        above_zero = tuple((error, output) for error, output in pairs if error and output)
        found[index] = ErrorCurve(above_zero) if above_zero else PROPORTIONAL
    return found
