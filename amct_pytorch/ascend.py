"""A directory with all files to deploy a model to an Ascend NPU, and to check there that its outputs are the same."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from ._deploy import ascend_compare, ascend_python
from ._deploy.ascend_chips import Target, checked_targets, largest_number_of_sizes
from ._deploy.ascend_files import FLOAT32_CONVOLUTIONS, Network, atc_script, run_script
from ._deploy.ascend_readme import readme
from ._deploy.ascend_tools import Conversion, Timing, convert, time_compiled
from ._deploy.atc_file import AtcCheck, fit_for_atc
from ._deploy.dynamic_sizes import Dynamic, checked_batches, checked_image_sizes, image_size_of
from ._deploy.export_report import ExportReport
from ._deploy.onnx_file import on_host, outputs_of, require_extra, write_onnx
from ._report.json_file import JsonReport
from ._report.table import Table
from ._run.arguments import setting_error
from ._run.inputs import batch_size_of, tensors_of
from ._storage.folders import new_folder
from ._storage.paths import access_errors, folder_to_write
from .errors import ConfigError, ConfigTypeError, ExportAccessError, quoted

PRECISIONS = ("fp16", "origin", "mixed_float16", "mixed_bfloat16", "cube_fp16in_fp32out")
"""Values of ATC's option ``--precision_mode_v2``; origin keeps the types of the ONNX file."""

PRECISIONS_950 = ("mixed_hif8", "cube_hif8")
"""Further values on Ascend 950."""

_REPORT = "report.json"


@dataclass(frozen=True)
class AscendReport(JsonReport):
    """What `export_ascend` wrote, and the results of Ascend's tools on this machine.

    Attributes
    ----------
    directory
        Path of the directory.
    precision
        The precision mode given to ATC, one of `PRECISIONS` or, for Ascend 950, of `PRECISIONS_950`.
    model, original
        The `ExportReport` of each ONNX file; None for the original if none was given.
    conversions
        A `Conversion` for every chip; empty if ``atc`` is not on the PATH.
    timings
        A `Timing` for every chip whose compilation succeeded; empty if ``ais_bench`` cannot be imported.
    parser
        An `AtcCheck` of each ONNX file: what was found, and rewritten, by the rules of ATC's parser.
    """

    json_format: ClassVar[str] = "amct_pytorch.ascend"

    directory: str
    precision: str
    model: ExportReport
    original: ExportReport | None
    conversions: tuple[Conversion, ...]
    timings: tuple[Timing, ...]
    parser: tuple[AtcCheck, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether onnxruntime agreed with PyTorch, and no tool that was run here failed."""
        return (
            all(report.ok for report in (self.model, self.original) if report)
            and not any(conversion.error for conversion in self.conversions)
            and not any(timing.error for timing in self.timings)
        )

    def tables(self) -> list[Table]:
        """The tables of the exported files, then a line for each tool run here, and where to find the next steps."""
        exported = [
            table for report in (self.model, self.original, *self.parser) if report for table in report.tables()
        ]
        lines = list(map(str, (*self.conversions, *self.timings)))
        if not self.conversions:
            lines.append("atc is not on the PATH: compile with the scripts where CANN is installed")
        elif not self.timings and any(not conversion.error for conversion in self.conversions):
            lines.append("ais_bench cannot be imported here: no times")
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
    replace: bool = False,
) -> AscendReport:
    """Write a directory for deploying a model to Ascend NPUs.

    It contains ``model.onnx`` (and ``original.onnx``) at opset 18, written and checked like by `export_onnx`, and
    checked by the rules of ATC's ONNX parser; a script ``atc_<SoC>.sh`` for every chip; the inputs and PyTorch's
    outputs in float32 as .npy files; ``run.sh`` and ``compare.py`` to check that the device computes the same; a README
    with the commands to run on the device; and this report as ``report.json``. If ``atc`` is on the PATH, the scripts
    are run; if ``ais_bench`` can be imported, the compiled models are timed. The directory is put into place only when
    it is complete.

    Where ATC has other operators than torch exports, the graph is rewritten: norms as sums, circular padding as slices.

    Parameters
    ----------
    model
        A decomposed model, or any other; on any device.
    inputs
        A tensor, a tuple of positional arguments, or a mapping of keyword arguments: the inputs of the parity check.
    directory
        A new or an empty directory; with ``replace``, also one of an earlier export.
    soc_versions
        Names of chips, with or without the "Ascend" in front: Ascend910B3 (Atlas A2), Ascend910_9391 (Atlas A3),
        Ascend950PR_9599 (Ascend 950).
    original
        The model before decomposition, to be compiled and timed as well.
    precision
        ATC's ``--precision_mode_v2``: fp16, origin (the types of the file, for parity), mixed_float16,
        mixed_bfloat16, or cube_fp16in_fp32out; for Ascend 950 alone also mixed_hif8 and cube_hif8.
    dynamic_batch
        Numbers of samples to compile for, including that of the inputs: 2 to 100 of them, or 256 for Ascend 950 alone.
    dynamic_image_size
        Image sizes (height, width), in pixels, to compile for, including that of the inputs; as many as above. ATC does
        not support both kinds of dynamic size at once.
    replace
        Replace a directory that an earlier `export_ascend` has written, with everything in it.

    Returns
    -------
    AscendReport
        Models, inputs and random generators are left as they were.

    Raises
    ------
    MissingExtra
        The extra ``export`` is not installed.
    ConfigError
        An argument has a wrong value; `ConfigTypeError` for a wrong type.
    ModelError
        A model is not a `torch.nn.Module`, was made by torch.jit, or has uninitialised parameters.
    InputsError
        The inputs contain NaN or infinity, or a model fails on them.
    DeviceError
        A model cannot be copied to the host.
    ExportError
        ONNX or ATC has no operator for something that a model does (the message names operator and layer), neither
        exporter can follow a model, or onnxruntime cannot run the file.
    ExportAccessError
        The directory is neither empty nor to be replaced, or cannot be written.
    """
    require_extra()
    place = _checked_directory(directory, replace=replace)
    targets = checked_targets(soc_versions)
    _check_precision(precision, targets)
    networks = {"model": on_host(model, inputs)}
    if original is not None:
        networks["original"] = on_host(original, inputs)
    most = largest_number_of_sizes(targets)
    dynamic = _checked_sizes(dynamic_batch, dynamic_image_size, networks["model"][1], most)
    with new_folder(place, ExportAccessError, replaces=replace) as draft:
        reports: dict[str, ExportReport] = {}
        parser: list[AtcCheck] = []

        def fit(file: Path) -> None:
            parser.append(fit_for_atc(file))

        for name, (network, given) in networks.items():
            file = draft / f"{name}.onnx"
            reports[name] = write_onnx(
                network, given, file, dynamic, adapt=lambda file: parser.append(fit_for_atc(file))
            )
            _save(draft / "outputs" / name, [info.name for info in reports[name].outputs], outputs_of(network, given))
        given = networks["model"][1]
        files = _save(draft / "inputs", [info.name for info in reports["model"].inputs], tensors_of(given))
        described = [Network(name, _atc_shapes(report)) for name, report in reports.items()]
        size = _size_options(given, dynamic)
        for target in targets:
            script = atc_script(target, described, precision, dynamic)
            _write_program(draft / f"atc_{target.soc_version}.sh", script)
        _write_program(draft / "run.sh", run_script([f"inputs/{file}" for file in files], size))
        shutil.copyfile(ascend_compare.__file__, draft / "compare.py")
        shutil.copyfile(ascend_python.__file__, draft / "check_python.py")
        shutil.copyfile(Path(ascend_python.__file__).with_name("ascend_common.sh"), draft / "common.sh")
        (draft / "float32.ini").write_text(FLOAT32_CONVOLUTIONS, encoding="utf-8", newline="\n")
        (draft / "README.md").write_text(readme(targets, described, precision, size), encoding="utf-8")
        conversions = convert(draft, [target.soc_version for target in targets], precision)
        compiled = [conversion.soc_version for conversion in conversions if not conversion.error]
        timings = time_compiled(draft, compiled, list(reports), precision, size)
        final = {name: dataclasses.replace(item, path=str(place / f"{name}.onnx")) for name, item in reports.items()}
        report = AscendReport(
            directory=str(place),
            precision=precision,
            model=final["model"],
            original=final.get("original"),
            conversions=tuple(conversions),
            timings=tuple(timings),
            parser=tuple(parser),
        )
        report.save(draft / _REPORT)
    return report


def _checked_directory(directory: str | os.PathLike[str], *, replace: bool) -> Path:
    place = folder_to_write(directory, "directory", ExportAccessError)
    with access_errors(directory, "written", ExportAccessError):
        if not place.exists() or (place.is_dir() and not any(place.iterdir())):
            return place
        ours = place.is_dir() and _is_ours(place)
        if ours and replace:
            return place
        found = "a directory of an earlier export" if ours else "a directory with other files in it"
        advice = ": replace=True writes a new one in its place" if ours else ""
        raise ExportAccessError(
            f"{directory}: expected a new or an empty directory, found {found if place.is_dir() else 'a file'}{advice}"
        )


def _is_ours(place: Path) -> bool:
    """Whether `export_ascend` has written a directory, by its report."""
    try:
        report = json.loads((place / _REPORT).read_bytes())
    except (FileNotFoundError, ValueError):
        return False
    return isinstance(report, dict) and report.get("format") == AscendReport.json_format


def _check_precision(precision: object, targets: Sequence[Target]) -> None:
    known = PRECISIONS + (PRECISIONS_950 if all(target.family == "Ascend 950" for target in targets) else ())
    if precision not in known:
        raise setting_error(
            f"precision must be one of {', '.join(known)}, which ATC knows as --precision_mode_v2, found "
            f"{quoted(precision)}; values of the older --precision_mode, which excludes it, are not among them",
            of_right_type=isinstance(precision, str),
        )


def _checked_sizes(batches: Any, image_sizes: Any, inputs: Any, most: int) -> Dynamic:
    """The sizes to compile for, checked by ATC's rules: either kind but not both, 2 to ``most`` sizes."""
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
        if sizes is not None and not 2 <= len(sizes) <= most:
            raise ConfigError(f"{called} needs 2 to {most} different sizes for ATC, found {len(sizes)}")
        if sizes is not None and now not in sizes:
            raise ConfigError(
                f"{called} must have the size of the inputs, on which the device is checked, among its own: "
                f"expected {now}, found {', '.join(map(str, sizes))}"
            )
    return dynamic


def _size_options(inputs: Any, dynamic: Dynamic) -> list[str]:
    """Options of ais_bench that set the size of the inputs."""
    if dynamic.batches:
        return ["--dymBatch", str(batch_size_of(inputs))]
    if dynamic.image_sizes:
        return ["--dymHW", ",".join(map(str, image_size_of(inputs) or ()))]
    return []


def _atc_shapes(report: ExportReport) -> dict[str, list[int]]:
    """The shape of each input by name, with -1 for a dynamic size."""
    return {info.name: [size if isinstance(size, int) else -1 for size in info.shape] for info in report.inputs}


def _save(folder: Path, names: Sequence[str], tensors: Sequence[Tensor]) -> list[str]:
    """Write tensors as files 0_NAME.npy, 1_NAME.npy, …, and return the names of the files."""
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
