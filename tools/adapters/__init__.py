"""What peers, and we, make of one and the same task, an adapter a peer; tools/peers.py compares them.

Adapters import their peer when they are called: one that is missing leaves the others.
"""

from __future__ import annotations

from typing import NamedTuple


class Peer(NamedTuple):
    """A peer, or one of our ways to decompose.

    Attributes
    ----------
    title
        In tables.
    adapter
        The function that decomposes, as "module:function" of this package.
    chooses_macs
        Whether it can be asked for a share of the MACs.
    """

    title: str
    adapter: str
    chooses_macs: bool = True


PEERS = {
    "amct": Peer("AMCT's rule", "ours:amct", chooses_macs=False),
    "amct-fitted": Peer("AMCT's rule, refit", "ours:amct_fitted", chooses_macs=False),
    "ours-plain": Peer("ours, chosen", "ours:chosen"),
    "ours": Peer("ours, chosen, refit", "ours:chosen_and_fitted"),
    "aimet": Peer("AIMET spatial SVD", "aimet:spatial_svd"),
    "tltorch": Peer("tensorly-torch Tucker", "tensorly_torch:tucker"),
    "tltorch-cp": Peer("tensorly-torch CP", "tensorly_torch:cp"),
    "msmodelslim": Peer("msModelSlim", "msmodelslim:plain"),
    "msmodelslim-data": Peer("msModelSlim, data-aware", "msmodelslim:data_aware"),
    "tucker-als": Peer("data-aware Tucker-2", "data_aware_tucker:decompose"),
}
"""By name, ours first."""
