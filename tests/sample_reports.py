"""One report of each kind, with numbers that nothing was run for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from amct_pytorch._measure.timing import Comparison, SpeedUp, Timing
from amct_pytorch._report.report import Report
from amct_pytorch.ascend import AscendReport
from amct_pytorch.backend import DeviceInfo, Tolerance
from amct_pytorch.benchmark import BenchmarkReport, BenchmarkRun, LayerBenchmark
from amct_pytorch.export import ExportCheck, ExportReport, TensorInfo
from amct_pytorch.report import RunRecord, ScoreReport
from amct_pytorch.tensor_decompose import (
    DecompositionPlan,
    Evaluation,
    LayerPlan,
    LayerSpectrum,
    RankSpectrum,
    SearchResult,
    SpectraReport,
)
from amct_pytorch.tensor_decompose.model.spec import LayerSpec
from amct_pytorch.validate import DtypeValidation, LayerValidation, ValidationReport

DEVICE = DeviceInfo(
    "cpu", 0, "A processor", "x86_64", 8 * 2**30, 2**20, (torch.float32,), (), {"torch": "2.7.0", "oneDNN": "3.5"}
)


def spec(in_channels: int, out_channels: int) -> LayerSpec:
    return LayerSpec(in_channels, out_channels, (3, 3), padding=(1, 1), bias=True)


def layer_plan(name: str, *, macs: int = 40_000, rank: int = 16) -> LayerPlan:
    """A layer that is decomposed."""
    return LayerPlan(
        (name,),
        spec(64, 64),
        True,
        "for the budget",
        "separable",
        "SCFK",
        (rank,),
        parameters=36_928,
        parameters_after=6_208,
        macs=macs,
        macs_after=macs // 4,
        error=1 / 3.2,
    )


def kept(name: str, reason: str) -> LayerPlan:
    return LayerPlan(
        (name,), spec(3, 64), False, reason, parameters=1_792, parameters_after=1_792, macs=900, macs_after=900
    )


def plan(layers: Sequence[LayerPlan]) -> DecompositionPlan:
    return DecompositionPlan(tuple(layers), 120_000, 60_000, budget="Budget macs=0.5: 48.7% of the MACs.")


def comparison(*, share: float = 0.97) -> Comparison:
    """Times; below a share of 0.8 of the CPU with the verdict withheld."""
    before, after = (Timing(time, 0.9 * time, 1.1 * time, 3, (time,) * 25) for time in (0.0123456789, 0.006123456789))
    found = Comparison(before, after, SpeedUp(2.02, 1.97, 2.06, "faster"), share)
    return found if share >= 0.8 else found.doubted(f"the process got {share:.0%} of the CPU time that it could use")


def benchmark(names: Sequence[str], *, share: float = 0.97) -> BenchmarkReport:
    layers = [
        LayerBenchmark(name, "64→64, 3×3", "3×1, 1×3", (16,), 1, 36_928, 6_208, 40_000, 10_000, comparison())
        for name in names
    ]
    absent = LayerBenchmark("unused", "64→64, 3×3", "3×1, 1×3", (16,), 0, 36_928, 6_208, 0, 0, None)
    settings = {"threads": "2"}
    run = BenchmarkRun(
        torch.float32,
        8,
        False,
        settings,
        (*layers, absent),
        comparison(share=share),
        120_000,
        60_000,
        2**20,
        2**19,
        (),
        ("a note.",),
    )
    return BenchmarkReport(DEVICE, (run,))


def validation(names: Sequence[str], verdict: str = "right") -> ValidationReport:
    layers = [LayerValidation(name, "3×1, 1×3", (16,), 1, 2.5e-7, 4e-7, 0.128, verdict) for name in names]
    layers.append(LayerValidation("unused", "3×1, 1×3", (16,), 0, math.nan, math.nan, math.nan, "did not run"))
    run = DtypeValidation(
        torch.float32, Tolerance(4e-6, 1e-5), {"threads": "2"}, tuple(layers), 0.173, 0.9978, ("aten::grid_sampler_3d",)
    )
    return ValidationReport(DEVICE, (run,))


def search(found: DecompositionPlan) -> SearchResult:
    evaluations = (
        Evaluation(1.0, 1.0, 99.75, True, 0.5, False),
        Evaluation(0.25, 0.248, 97.125, False, 4.0, False),
        Evaluation(0.5, 0.487, 99.5, True, 4.0, True),
    )
    return SearchResult(found, "macs", 0.5, evaluations, "the time is up", 0.55)


def spectra(names: Sequence[str]) -> SpectraReport:
    values = tuple(round(0.8**number, 4) for number in range(24))
    ranks = (RankSpectrum(16, 192, 0.1875, tuple(range(1, 25)), values),)
    return SpectraReport(tuple(LayerSpectrum(name, "separable", ranks) for name in names))


def export() -> ExportReport:
    checks = (ExportCheck(((8, 3, 16, 16),), 1.5e-6, 2e-7, 3e-7), ExportCheck(((1, 3, 16, 16),), 0.5, 0.1, 0.25))
    tensors = [TensorInfo(name, "tensor(float)", ("batch", size)) for name, size in (("x", 3), ("y", 10))]
    return ExportReport(
        "out/model.onnx", 18, 340_000, (tensors[0],), (tensors[1],), checks, {"onnx": "1.18"}, "torch.export"
    )


def ascend() -> AscendReport:
    return AscendReport("out/ascend", "fp16", export(), None, (), ())


def every_kind(*names: str) -> list[Report]:
    """A report of each kind, of layers of these names."""
    made = plan([kept("stem", "its kernel is below 3"), kept("head", "its kernel is below 3"), *map(layer_plan, names)])
    return [
        made,
        search(made),
        spectra(names),
        benchmark(names),
        validation(names),
        export(),
        ascend(),
        ScoreReport("top-1 accuracy", "%", 99.75, 99.5, samples=450),
        RunRecord(
            "amct-decompose search --drop 0.5", "2026-01-31T12:00:00+00:00", 12.5, "A processor", {"Python": "3.11"}
        ),
    ]
