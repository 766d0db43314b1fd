"""Measure how far an error of each layer's response moves the outputs, one layer after the other."""

from __future__ import annotations

from ..._run.process_group import ProcessGroup
from ..._run.progress import ProgressFunction
from ..methods.factoring import Factoring
from ..ranks.influence import PROPORTIONAL, Influence
from .evaluation import Candidates, judge
from .runs import Runs
from .trial_chains import chains_for


def influences(
    runs: Runs, factoring: Factoring, report: ProgressFunction, processes: ProcessGroup
) -> dict[int, Influence]:
    """The influence of every weight that is still to be chosen for.

    Each is split plainly at two ranks, a high and a low one, while all other layers are as they were.

    Parameters
    ----------
    runs
        Of the model; one batch held out is run on.
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
    found = {}
    probes = factoring.probes()
    for done, (index, (group, better, worse)) in enumerate(probes.items()):
        report(done, len(probes), group.name)
        candidates = Candidates(group.spec, chains_for(group, better), chains_for(group, worse))
        outcome, (errors,) = judge(runs, [candidates], processes, batches=1)
        outputs = (outcome.output_error, outcome.plain_output_error)
        measured = tuple(
            (error, output)
            for error, output in zip(errors or (), outputs, strict=False)
            if error and output  # None where nothing can be compared, and zero where nothing is lost
        )
        found[index] = Influence(measured) if measured else PROPORTIONAL
    return found
