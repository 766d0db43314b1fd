"""The options of the verbs, in groups that several of them share; each field is an option of its name.

None stands for an option that was not given: then the default of the Python function applies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

from .configuration import read_configuration
from .help_options import show_all, show_help


def option(panel: str, text: str, metavar: str | None = None, *names: str, **others: Any) -> Any:
    """An option that ``--help`` shows.

    Parameters
    ----------
    panel
        Heading that it stands under.
    text
        What it does, in a line.
    metavar
        What its value is called; None for a flag.
    names
        Of the option, where they do not follow from the field: a flag without a negation, a short form.
    others
        Further keywords of `typer.Option`.
    """
    return typer.Option(*names, help=text, metavar=metavar or "", rich_help_panel=panel, show_default=False, **others)


def seldom(panel: str, text: str, metavar: str | None = None, *names: str, **others: Any) -> Any:
    """An option that ``--help-all`` alone shows; see `option`."""
    return option(panel, text, metavar, *names, hidden=True, **others)


_MODEL, _PLAN, _BUDGET, _CALIBRATION = "Model and inputs", "Decomposition", "Budget", "Calibration"
_SEARCH, _DEVICE, _EXPORT, _OUTPUT, _GENERAL = "Search", "Device", "Export", "Output", "General"


@dataclass(frozen=True)
class ModelOptions:
    """The model before decomposition."""

    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="package.module:factory, or file.py:factory.",
            rich_help_panel=_MODEL,
        ),
    ]
    weights: Annotated[str | None, option(_MODEL, "Weights of the model: .pth or .safetensors.", "FILE")] = None
    factory_args: Annotated[str | None, option(_MODEL, 'Keywords of the factory: {"depth": 50}.', "JSON")] = None
    weights_key: Annotated[str | None, seldom(_MODEL, "Entry of FILE that holds the weights.", "NAME")] = None
    strict: Annotated[bool, seldom(_MODEL, "Whether FILE must hold the model's weights exactly (default).")] = True
    trust: Annotated[bool, seldom(_MODEL, "MODEL is a pickled module, whose code may run.", None, "--trust")] = False


@dataclass(frozen=True)
class InputOptions:
    """Inputs of the model."""

    input: Annotated[
        list[str] | None,
        option(
            _MODEL,
            "1x3x224x224, 1x128:int64, a .npy, .npz, .pt. Repeat.",
            "SHAPE|FILE",
            "--input",
            "-i",
        ),
    ] = None


@dataclass(frozen=True)
class MethodOptions:
    """How to decompose; see `DecompositionConfig`."""

    method: Annotated[str | None, option(_PLAN, "separable, channel, tucker2, auto, or one installed.", "NAME")] = None
    rule: Annotated[str | None, option(_PLAN, "Layers that AMCT splits, or any that can be split.", "amct|any")] = None
    layers: Annotated[
        list[str] | None,
        option(_PLAN, "head=keep, re:^layer4=method:tucker2,rank:64. Repeat.", "NAME=RULE"),
    ] = None
    rank_multiple: Annotated[int | None, seldom(_PLAN, "Ranks are multiples of this.", "N")] = None
    require_gain: Annotated[bool | None, seldom(_PLAN, "Keep layers that would gain nothing (default).")] = None


@dataclass(frozen=True)
class RankOptions:
    """Which ranks layers get, where they are not chosen together."""

    rank: Annotated[str | None, option(_PLAN, "evbmf, energy:0.95, ratio:0.25, 64, or 64x32.", "RANK")] = None


@dataclass(frozen=True)
class BudgetOptions:
    """How much of the model may be left; see `Budget`."""

    macs: Annotated[float | None, option(_BUDGET, "Multiply-accumulates left, such as 0.5.", "SHARE")] = None
    parameters: Annotated[float | None, option(_BUDGET, "Parameters left.", "SHARE")] = None
    latency: Annotated[float | None, option(_BUDGET, "Time left, as measured on the device.", "SHARE")] = None
    damage: Annotated[float | None, option(_BUDGET, "Expected relative error of the outputs.", "ERROR")] = None


@dataclass(frozen=True)
class TimingOptions:
    """Where and how a latency is measured; see `Budget`."""

    backend: Annotated[str | None, option(_DEVICE, "Times a latency: cpu, cuda, npu, or another.", "NAME")] = None
    dtype: Annotated[str | None, option(_DEVICE, "In which type: float32, float16, bfloat16.", "TYPE")] = None
    index: Annotated[int | None, seldom(_DEVICE, "Number of the device.", "N")] = None
    compiled: Annotated[bool, seldom(_DEVICE, "Time compiled models.", None, "--compiled")] = False


@dataclass(frozen=True)
class RefreshOptions:
    """Whether what was timed before is timed again; see `Budget`."""

    refresh: Annotated[bool, seldom(_DEVICE, "Time again what is in the cache.", None, "--refresh")] = False


@dataclass(frozen=True)
class CalibrationOptions:
    """Unlabelled inputs to fit the factors to; see `Calibration`."""

    calibration: Annotated[
        str | None, option(_CALIBRATION, "Folder of images (see --help-all) or tensors, module:function.", "SOURCE")
    ] = None
    mode: Annotated[str | None, option(_CALIBRATION, "whiten, refit, reconstruct, or refine.", "MODE")] = None
    max_batches: Annotated[int | None, option(_CALIBRATION, "No more batches than this.", "N")] = None
    batch: Annotated[int, seldom(_CALIBRATION, "Images in a batch (default 32).", "N")] = 32
    image_size: Annotated[str | None, seldom(_CALIBRATION, "Of images; by default --input's.", "HxW")] = None
    mean: Annotated[str | None, seldom(_CALIBRATION, "Subtracted from images, of values 0 to 1.", "R,G,B")] = None
    std: Annotated[str | None, seldom(_CALIBRATION, "Divides them then.", "R,G,B")] = None
    add_bias: Annotated[bool | None, seldom(_CALIBRATION, "Give layers without a bias one (default).")] = None
    memory: Annotated[int | None, seldom(_CALIBRATION, "Bytes that moments of inputs may take.", "N")] = None


@dataclass(frozen=True)
class ExplainOptions:
    """How much a plan says."""

    explain: Annotated[bool, option(_PLAN, "Say of every layer why, and whence its rank.", None, "--explain")] = False


@dataclass(frozen=True)
class SavedPlanOptions:
    """A plan that was made before."""

    plan: Annotated[str | None, option(_PLAN, "Apply a plan that was saved; then no other of these.", "FILE")] = None


@dataclass(frozen=True)
class ScoreOptions:
    """The score of the model at its task."""

    eval: Annotated[
        str | None, option(_MODEL, "module:function of the model; its score before and after.", "FUNCTION")
    ] = None


@dataclass(frozen=True)
class SearchOptions:
    """What is searched for, and how long; see `search_decomposition`."""

    eval: Annotated[str, option(_SEARCH, "module:function of the model that returns its score.", "FUNCTION")]
    drop: Annotated[float, option(_SEARCH, "How much the score may fall.", "SCORE")]
    minimise: Annotated[str, option(_SEARCH, "macs (default), parameters, or latency.", "COST")] = "macs"
    evaluations: Annotated[int, option(_SEARCH, "Calls of the function at most (default 10).", "N")] = 10
    minutes: Annotated[float | None, option(_SEARCH, "Time limit.", "N")] = None
    samples: Annotated[int | None, seldom(_SEARCH, "That the score is the mean over.", "N")] = None
    journal: Annotated[str | None, seldom(_SEARCH, "File to go on from; by default in FOLDER.", "FILE")] = None


@dataclass(frozen=True)
class DecomposedOptions:
    """A decomposed form of the model."""

    decomposed: Annotated[
        str | None, option(_MODEL, "Folder of run or search, or decompose_info.json.", "FOLDER|FILE")
    ] = None
    decomposed_weights: Annotated[
        str | None, option(_MODEL, "Weights of the decomposed model; by default in FOLDER.", "FILE")
    ] = None


@dataclass(frozen=True)
class DeviceOptions:
    """Where a model is run, and in which types."""

    backend: Annotated[str, option(_DEVICE, "cpu (default), cuda, npu, or another; see devices.", "NAME")] = "cpu"
    index: Annotated[int, option(_DEVICE, "Number of the device (default 0).", "N")] = 0
    dtypes: Annotated[str | None, option(_DEVICE, "Such as float32,float16; by default the model's.", "TYPE,…")] = None


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is timed; see `benchmark`."""

    batch_sizes: Annotated[str | None, option(_DEVICE, "Such as 1,8; by default that of --input.", "N,…")] = None
    compiled: Annotated[bool, option(_DEVICE, "Time compiled models too.", None, "--compiled")] = False
    profile: Annotated[bool, option(_DEVICE, "Record the device's kernels (cuda, npu).", None, "--profile")] = False


@dataclass(frozen=True)
class ExportOptions:
    """What is exported; see `export_onnx` and `export_ascend`."""

    opset: Annotated[int, option(_EXPORT, "Version of the ONNX operators (default 18).", "N")] = 18
    dynamic_batch: Annotated[str | None, option(_EXPORT, "Numbers of samples to allow: 1,8.", "N,…")] = None
    dynamic_image_size: Annotated[str | None, option(_EXPORT, "Image sizes to allow: 224x224,320x320.", "HxW,…")] = None
    ascend: Annotated[
        list[str] | None, option(_EXPORT, "A folder for this Ascend chip: Ascend910B3. Repeat.", "CHIP")
    ] = None
    precision: Annotated[str | None, option(_EXPORT, "ATC's precision_mode_v2 (default fp16).", "MODE")] = None
    original: Annotated[bool, option(_EXPORT, "Put the original into the Ascend folder too.", None, "--original")] = (
        False
    )


@dataclass(frozen=True)
class OutputOptions:
    """Where files are written."""

    output: Annotated[str | None, option(_OUTPUT, "Folder for the results.", "FOLDER", "--output", "-o")] = None
    force: Annotated[bool, option(_OUTPUT, "Replace what is in it.", None, "--force")] = False


@dataclass(frozen=True)
class FormatOptions:
    """How weights are written."""

    safetensors: Annotated[bool, seldom(_OUTPUT, "Weights as .safetensors.", None, "--safetensors")] = False


@dataclass(frozen=True)
class GeneralOptions:
    """What every verb has."""

    config: Annotated[
        str | None,
        option(
            _GENERAL,
            "TOML file with options by name; those given as flags win.",
            "FILE",
            callback=read_configuration,
            is_eager=True,
        ),
    ] = None
    json: Annotated[bool, option(_GENERAL, "Print one JSON object, and nothing else.", None, "--json")] = False
    quiet: Annotated[bool, option(_GENERAL, "Print errors alone.", None, "--quiet", "-q")] = False
    verbose: Annotated[int, option(_GENERAL, "Log what is done; -vv more.", None, "--verbose", "-v", count=True)] = 0
    log: Annotated[str | None, seldom(_GENERAL, "File to log to as well.", "FILE")] = None
    debug: Annotated[bool, seldom(_GENERAL, "Print the traceback of an error.", None, "--debug")] = False
    help: Annotated[bool, option(_GENERAL, "Show this.", None, "--help", callback=show_help, is_eager=True)] = False
    help_all: Annotated[
        bool, option(_GENERAL, "Show seldom options too.", None, "--help-all", callback=show_all, is_eager=True)
    ] = False
