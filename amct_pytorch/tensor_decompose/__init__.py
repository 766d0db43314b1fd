"""Tensor decomposition of the layers of pretrained PyTorch models.

Online: decompose, then fine-tune:

    model, changes = auto_decomposition(model)

Offline: decompose, save file and weights; elsewhere rebuild, load, fine-tune:

    model, changes = auto_decomposition(model, "decompose_info.json")
    torch.save(model.state_dict(), "decomposed.pth")

    model, changes = decompose_network(model, "decompose_info.json")
    model.load_state_dict(torch.load("decomposed.pth"))

With a look before it is carried out:

    plan = plan_decomposition(model, DecompositionConfig(rank=EnergyRank(0.9)))
    print(plan)
    model, changes = plan.apply(model)

Without fine-tuning, with factors fitted to some unlabelled inputs:

    calibration = Calibration(images.split(32), mode="reconstruct")
    model, changes = auto_decomposition(model, calibration=calibration)

As cheap as it gets within half a point of accuracy:

    found = search_decomposition(model, accuracy_in_percent, drop=0.5, calibration=calibration, example_inputs=image)
    model, changes = found.plan.apply(model)
"""

from .api import auto_decomposition, decompose_network, plan_decomposition
from .calibration.data import Calibration
from .config import DecompositionConfig
from .config_file import load_config, save_config
from .model.chain import DecomposedConv1d, DecomposedConv2d, DecomposedConv3d, DecomposedLayer, DecomposedLinear
from .plan.layer_plan import LayerPlan
from .plan.plan import DecompositionPlan, load_plan
from .plan.spectra import LayerSpectrum, RankSpectrum, SpectraReport, layer_spectra
from .ranks.budget import Budget
from .ranks.policies import EnergyRank, EvbmfRank, FixedRank, RatioRank
from .search.result import Evaluation, SearchResult
from .search.search import search_decomposition

__all__ = [
    "Budget",
    "Calibration",
    "DecomposedConv1d",
    "DecomposedConv2d",
    "DecomposedConv3d",
    "DecomposedLayer",
    "DecomposedLinear",
    "DecompositionConfig",
    "DecompositionPlan",
    "EnergyRank",
    "Evaluation",
    "EvbmfRank",
    "FixedRank",
    "LayerPlan",
    "LayerSpectrum",
    "RankSpectrum",
    "RatioRank",
    "SearchResult",
    "SpectraReport",
    "auto_decomposition",
    "decompose_network",
    "layer_spectra",
    "load_config",
    "load_plan",
    "plan_decomposition",
    "save_config",
    "search_decomposition",
]
