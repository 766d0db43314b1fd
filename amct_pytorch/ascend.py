"""A directory that has everything to bring a model to an Ascend NPU, and to see there that it computes the same."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ._deploy import ascend_compare
from ._deploy.ascend_files import Network, Target, atc_script, readme, run_script, target_of
from ._deploy.ascend_tools import Conversion, Timing, convert, time_compiled
from ._deploy.dynamic_sizes import Dynamic, checked_batches, checked_image_sizes, image_size_of
from ._deploy.export_report import ExportReport
from ._deploy.onnx_file import on_host, outputs_of, require_extra, write_onnx
from ._report.json_file import save_json
from ._report.report import Report
from ._report.table import Table
from ._run.arguments import setting_error
from ._run.inputs import batch_size_of
from ._storage.folders import new_folder
from ._storage.paths import access_errors, folder_to_write
from .errors import ConfigError, ConfigTypeError, ExportAccessError

PRECISIONS = ("fp16", "origin", "mixed_float16", "mixed_bfloat16", "cube_fp16in_fp32out")
"""What ATC's ``--precision_mode_v2`` takes: origin keeps the types of the file."""


@dataclass(frozen=True)
class AscendReport(Report):
    """What `export_ascend` wrote, and what of it could be tried here.

    Attributes
    ----------
    directory
        The directory.
    precision
        As given to ATC.
    model, original
        What was exported; None for the original where none was given.
    conversions
        A `Conversion` for every chip; none where ``atc`` is not on the PATH.
    timings
        A `Timing` for every chip compiled for; none where ``ais_bench`` cannot be imported.
    """

    directory: str
    precision: str
    model: ExportReport
    original: ExportReport | None
    conversions: tuple[Conversion, ...]
    timings: tuple[Timing, ...]

    @property
    def ok(self) -> bool:
        """Whether onnxruntime agreed with PyTorch, and nothing that was run here failed."""
        return (
            all(report.ok for report in (self.model, self.original) if report)
            and not any(conversion.error for conversion in self.conversions)
            and not any(timing.error for timing in self.timings)
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, as it is in the directory too.

        Parameters
        ----------
        path
            Of the file; folders that are missing are made.

        Raises
        ------
        ConfigError
            The path is none.
        ReportAccessError
            The file cannot be written. After an error there is the old file or none.
        """
        save_json(self, "ascend", path)

    def tables(self) -> list[Table]:
        """The tables of what was exported, then a line for each thing that was run here, or is to be run there."""
        exported = [table for report in (self.model, self.original) if report for table in report.tables()]
        lines = list(map(str, (*self.conversions, *self.timings)))
        if not self.conversions:
            lines.append("atc is not on the PATH: compile with the scripts where CANN is installed")
        lines.append(f"What to run on the device is in {Path(self.directory) / 'README.md'}.")
        return exported + [Table(notes=(line,)) for line in lines]


def export_ascend(
    model: nn.Module,
    inputs: object,
    directory: str | os.PathLike[str],
    *,
    soc_versions: Sequence[str],
    original: nn.Module | None = None,
    precision: str = "fp16",
    dynamic_batch: Sequence[int] | None = None,
    dynamic_image_size: Sequence[tuple[int, int]] | None = None,
) -> AscendReport:
    """Make a directory for deploying a model to Ascend NPUs.

    It holds ``model.onnx`` (and ``original.onnx``) at opset 18 as `export_onnx` writes and checks them, a script
    ``atc_<SoC>.sh`` for every chip, the inputs and what PyTorch makes of them in float32 as .npy files, ``run.sh``
    and ``compare.py`` to see that the device computes the same, a README with the commands to run there, and this
    report as ``report.json``. Where ``atc`` is on the PATH the scripts are run, and where ``ais_bench`` can be
    imported the compiled models are timed. The directory is in place only when it is complete.

    Parameters
    ----------
    model
        A decomposed model, or any other; on any device.
    inputs
        A tensor, a tuple of arguments, or a mapping of keywords: the inputs of the parity check.
    directory
        One that does not exist, or is empty.
    soc_versions
        Chips as ``npu-smi info`` names them: Ascend910B3 (Atlas A2), Ascend910_9391 (Atlas A3),
        Ascend950PR_9599 (Ascend 950).
    original
        The model before decomposition, to compile and time beside it.
    precision
        ATC's ``--precision_mode_v2``: fp16, origin (the types of the file, for parity), mixed_float16,
        mixed_bfloat16, or cube_fp16in_fp32out.
    dynamic_batch
        The numbers of samples to compile for, two or more; that of the inputs among them.
    dynamic_image_size
        The (height, width) to compile for, two or more; that of the inputs among them. ATC does not take both.

    Returns
    -------
    AscendReport
        Models, inputs and random generators are as they were.

    Raises
    ------
    MissingExtra
        The extra ``export`` is not installed.
    ConfigError, ModelError
        A setting is wrong, or this is no model.
    InputsError, DeviceError
        A model fails on the inputs, these hold NaN, or it cannot be copied to the host.
    ExportError
        ONNX does not have what a model does; the message names operator and layer.
    ExportAccessError
        The directory cannot be written, or has something in it.
    """
    require_extra()
    place = _checked_directory(directory)
    targets = _checked_targets(soc_versions)
    _check_precision(precision)
    networks = {"model": on_host(model, inputs)}
    if original is not None:
        networks["original"] = on_host(original, inputs)
    dynamic = _checked_rungs(dynamic_batch, dynamic_image_size, networks["model"][1])
    with new_folder(place, ExportAccessError, replaces=False) as draft:
        reports: dict[str, ExportReport] = {}
        for name, (network, given) in networks.items():
            reports[name] = write_onnx(network, given, draft / f"{name}.onnx", dynamic)
            _save(draft / "outputs" / name, [info.name for info in reports[name].outputs], outputs_of(network, given))
        given = networks["model"][1]
        tensors = [leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor)]
        files = _save(draft / "inputs", [info.name for info in reports["model"].inputs], tensors)
        described = [Network(name, _atc_shapes(report)) for name, report in reports.items()]
        now = _rung_of(given, dynamic)
        for target in targets:
            script = atc_script(target, described, precision, dynamic)
            _write_program(draft / f"atc_{target.soc_version}.sh", script)
        _write_program(draft / "run.sh", run_script([f"inputs/{file}" for file in files], now))
        shutil.copyfile(ascend_compare.__file__, draft / "compare.py")
        (draft / "README.md").write_text(readme(targets, described, precision, now), encoding="utf-8")
        conversions = convert(draft, [target.soc_version for target in targets], precision)
        compiled = [conversion.soc_version for conversion in conversions if not conversion.error]
        timings = time_compiled(draft, compiled, list(reports), precision, now)
        final = {name: dataclasses.replace(item, path=str(place / f"{name}.onnx")) for name, item in reports.items()}
        report = AscendReport(
            str(place), precision, final["model"], final.get("original"), tuple(conversions), tuple(timings)
        )
        report.save(draft / "report.json")
    return report


def _checked_directory(directory: str | os.PathLike[str]) -> Path:
    place = folder_to_write(directory, "directory", ExportAccessError)
    with access_errors(directory, "written", ExportAccessError):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            found = "a directory with files in it" if place.is_dir() else "a file"
            raise ExportAccessError(f"{directory}: expected a new or an empty directory, found {found}")
    return place


def _checked_targets(soc_versions: Sequence[str]) -> list[Target]:
    are_names = (
        isinstance(soc_versions, Sequence)
        and not isinstance(soc_versions, str)
        and all(isinstance(name, str) for name in soc_versions)
    )
    if not are_names or not soc_versions:
        raise setting_error(
            f"soc_versions must be a list of names such as ['Ascend910B3'], found {soc_versions!r}",
            of_right_type=are_names,
        )
    return [target_of(name) for name in dict.fromkeys(soc_versions)]


def _check_precision(precision: object) -> None:
    if precision not in PRECISIONS:
        raise setting_error(
            f"precision must be one of {', '.join(PRECISIONS)}, which ATC knows as --precision_mode_v2, found "
            f"{precision!r}; values of the older --precision_mode, which excludes it, are not among them",
            of_right_type=isinstance(precision, str),
        )


def _checked_rungs(batches: Any, image_sizes: Any, inputs: Any) -> Dynamic:
    """The sizes to compile for, under ATC's rules: one kind of them, two sizes at least and a hundred at most."""
    if batches is not None and image_sizes is not None:
        raise ConfigError("ATC takes --dynamic_batch_size or --dynamic_image_size, not both: give one of the two")
    if isinstance(batches, bool) or isinstance(image_sizes, bool):
        raise ConfigTypeError("ATC compiles for given sizes only: give them as a list, such as dynamic_batch=[1, 8]")
    dynamic = Dynamic(
        None if batches is None else checked_batches(batches, inputs),
        None if image_sizes is None else checked_image_sizes(image_sizes, inputs),
    )
    for called, sizes, now in (
        ("dynamic_batch", dynamic.batches, batch_size_of(inputs)),
        ("dynamic_image_size", dynamic.image_sizes, image_size_of(inputs)),
    ):
        if sizes is not None and not 2 <= len(sizes) <= 100:
            raise ConfigError(f"{called} needs 2 to 100 different sizes for ATC, found {len(sizes)}")
        if sizes is not None and now not in sizes:
            raise ConfigError(
                f"{called} must have the size of the inputs, on which the device is checked, among its own: "
                f"expected {now}, found {', '.join(map(str, sizes))}"
            )
    return dynamic


def _rung_of(inputs: Any, dynamic: Dynamic) -> list[str]:
    """The options that tell ais_bench the size of the inputs."""
    if dynamic.batches:
        return ["--dymBatch", str(batch_size_of(inputs))]
    if dynamic.image_sizes:
        return ["--dymHW", ",".join(map(str, image_size_of(inputs) or ()))]
    return []


def _atc_shapes(report: ExportReport) -> dict[str, list[int]]:
    """The shape of each input, with -1 for what is left open."""
    return {info.name: [size if isinstance(size, int) else -1 for size in info.shape] for info in report.inputs}


def _save(folder: Path, names: Sequence[str], tensors: Sequence[Tensor]) -> list[str]:
    """Write tensors as files 0_NAME.npy and so on; gives the names of the files."""
    folder.mkdir(parents=True)
    files = []
    for number, (name, tensor) in enumerate(zip(names, tensors, strict=True)):
        files.append(f"{number}_{re.sub(r'[^A-Za-z0-9]', '-', name)}.npy")
        np.save(folder / files[-1], tensor.contiguous().numpy())
    return files


def _write_program(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8", newline="\n")
    mode = file.stat().st_mode
    file.chmod(mode | (mode & 0o444) >> 2)  # whoever may read it may run it
