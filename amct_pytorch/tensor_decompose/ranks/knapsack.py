"""One of several options for each layer, of least total damage within a total cost. Pure: numbers in, numbers out.

The multiple-choice knapsack problem (H. Kellerer, U. Pferschy, D. Pisinger, "Knapsack Problems", 2004, chapter 11),
solved by branch and bound with HiGHS (Q. Huangfu, J. A. J. Hall, "Parallelizing the dual revised simplex method",
2018), which comes with SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# How far from the best the total damage may be, relative to it: far below what the damages are known to.
_GAP = 1e-3
# Branches after which the best choice found so far is taken. Not seconds, so that every run chooses alike.
_MOST_BRANCHES = 5000
# What the solver holds constraints to, relative to the limit.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Option:
    """What a layer may become.

    Attributes
    ----------
    cost
        In the unit of the budget, zero or more.
    damage
        Expected harm to the outputs, zero or more; damages of layers add up.
    """

    cost: float
    damage: float


def undominated(options: Sequence[Option]) -> list[int]:
    """Indices of the options that no other one beats in cost and damage, the cheapest first; of equals the first."""
    kept: list[int] = []
    for index in sorted(range(len(options)), key=lambda index: (options[index].cost, options[index].damage, index)):
        if not kept or options[index].damage < options[kept[-1]].damage:
            kept.append(index)
    return kept


def least_damage(layers: Sequence[Sequence[Option]], limit: float) -> list[int] | None:
    """The option of each layer, so that the total damage is least and the total cost is at most the limit.

    Parameters
    ----------
    layers
        The options of each layer, at least one.
    limit
        Of the total cost.

    Returns
    -------
    list of int or None
        An index into the options of each layer, exact to a thousandth of the least total damage; None where even the
        cheapest options cost more than the limit.
    """
    kept = [[index for index in undominated(options) if options[index].cost <= limit] for options in layers]
    if not all(kept):
        return None
    cheapest = [indices[0] for indices in kept]
    if _total(layers, cheapest, "cost") > limit:
        return None
    best = [indices[-1] for indices in kept]
    if _total(layers, best, "cost") <= limit:
        return best
    allowed = limit
    while True:
        chosen = _solved([[layers[layer][index] for index in kept[layer]] for layer in range(len(layers))], allowed)
        if chosen is None:
            return cheapest
        found = [kept[layer][position] for layer, position in enumerate(chosen)]
        excess = _total(layers, found, "cost") / limit - 1
        if excess <= 0:
            return found
        allowed -= 2 * max(excess, _TOLERANCE / 10) * limit


def least_cost(layers: Sequence[Sequence[Option]], limit: float) -> list[int] | None:
    """As `least_damage`, with cost and damage in each other's place."""
    return least_damage([[Option(option.damage, option.cost) for option in options] for options in layers], limit)


def _total(layers: Sequence[Sequence[Option]], chosen: Sequence[int], what: str) -> float:
    return math.fsum(getattr(options[index], what) for options, index in zip(layers, chosen, strict=True))


def _solved(layers: Sequence[Sequence[Option]], limit: float) -> list[int] | None:
    from scipy.optimize import Bounds, LinearConstraint, milp  # slow to import, and needed only here
    from scipy.sparse import csr_matrix

    sizes = [len(options) for options in layers]
    count = sum(sizes)
    damages = np.array([option.damage for options in layers for option in options])
    costs = np.array([option.cost for options in layers for option in options])
    layer_of = np.repeat(np.arange(len(layers)), sizes)
    one_each = csr_matrix((np.ones(count), (layer_of, np.arange(count))))
    solution = milp(
        damages / damages.max(),
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        constraints=[
            LinearConstraint(one_each, 1, 1),
            LinearConstraint(csr_matrix(costs / limit), -np.inf, 1),
        ],
        options={"disp": False, "mip_rel_gap": _GAP, "node_limit": _MOST_BRANCHES},
    )
    if solution.x is None:
        return None
    return [int(part.argmax()) for part in np.split(solution.x, np.cumsum(sizes)[:-1])]
