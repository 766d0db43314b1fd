"""`--calibration`: batches from a folder of images or tensors, or from a function of the user's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import ConfigError, InputsError, MissingExtra, quoted, shown
from ..tensor_decompose import Calibration
from .inputs import check_values, read_tensors
from .named_function import is_named, named_function
from .options import CalibrationOptions
from .settings import given_in, sizes_of

_IMAGES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
# Options that Calibration takes under the same name.
_OF_CALIBRATION = ("mode", "max_batches", "add_bias", "memory")
# Options that images alone take.
_OF_IMAGES = ("batch", "image_size", "mean", "std")
_TENSORS = frozenset({".npy", ".npz", ".pt"})
# Pillow's names for images of so many channels.
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def calibration_of(options: CalibrationOptions, inputs: Any) -> Calibration | None:
    """The calibration that options give; None for none.

    Parameters
    ----------
    options
        The options.
    inputs
        Those of ``--input``: a tensor (N, C, H, W) gives size and channels of images.

    Raises
    ------
    ConfigError
        The source is neither folder nor function, or an option is wrong or without a source.
    InputsError
        The folder has no such files, the first cannot be read, or the function fails.
    MissingExtra
        Images need Pillow.
    """
    given = given_in(options)
    if options.calibration is None:
        if given:
            raise ConfigError(f"--{given[0].replace('_', '-')} is of a calibration: give --calibration too")
        return None
    keywords = {name: getattr(options, name) for name in given if name in _OF_CALIBRATION}
    return Calibration(_batches(options.calibration, options, inputs), **keywords)


class TensorFiles:
    """Batches that lie in files, one in each; read as they are needed.

    Parameters
    ----------
    paths
        The files, see `read_tensors`.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths

    def __len__(self) -> int:
        return len(self._paths)

    def __iter__(self) -> Iterator[Any]:
        for path in self._paths:
            batch = read_tensors(path, shown(path))
            check_values(batch, shown(path))
            yield batch


class ImageFiles:
    """Batches of images that lie in files; read as they are needed.

    An image is resized until it covers the size, cut to its middle, scaled to values from 0 to 1, and normalised.

    Parameters
    ----------
    paths
        The files.
    batch
        Images in a batch.
    size
        Height and width in pixels.
    mean, std
        By channel; the number of them is that of the channels.
    """

    def __init__(
        self, paths: Sequence[Path], batch: int, size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
    ) -> None:
        self._paths, self._batch, self._size = paths, batch, size
        self._mean, self._std = (torch.tensor(values).reshape(-1, 1, 1) for values in (mean, std))

    def __len__(self) -> int:
        return -(-len(self._paths) // self._batch)

    def __iter__(self) -> Iterator[Tensor]:
        for start in range(0, len(self._paths), self._batch):
            yield torch.stack([self._read(path) for path in self._paths[start : start + self._batch]])

    def _read(self, path: Path) -> Tensor:
        from PIL import Image, ImageOps

        height, width = self._size
        try:
            with Image.open(path) as image:
                mode = _MODES[len(self._mean)]
                fitted = ImageOps.fit(image.convert(mode), (width, height), Image.Resampling.BILINEAR)
        except OSError as error:  # of Pillow too, where a file is no image
            raise InputsError(f"{shown(path)}: cannot be read as an image: {shown(error)}") from error
        values = torch.from_numpy(np.array(fitted)).reshape(height, width, -1).permute(2, 0, 1)
        return (values / 255 - self._mean) / self._std


def _batches(source: str, options: CalibrationOptions, inputs: Any) -> Any:
    if is_named(source):
        _check_of_images(options, "a function")
        return _returned(source)
    folder = Path(source)
    if not folder.is_dir():
        raise ConfigError(f"--calibration: expected a folder, or module:function, found {quoted(source)}")
    images, tensors = _files(folder, _IMAGES), _files(folder, _TENSORS)
    if bool(images) == bool(tensors):
        found = "both" if images else "neither"
        raise InputsError(
            f"--calibration {shown(source)}: expected a folder of images ({', '.join(sorted(_IMAGES))}) or of tensors "
            f"({', '.join(sorted(_TENSORS))}), found {found}"
        )
    if tensors:
        _check_of_images(options, "a folder of tensors")
    batches = _image_files(images, options, inputs) if images else TensorFiles(tensors)
    next(iter(batches))  # what is wrong with all of them shows before any work
    return batches


def _returned(source: str) -> Any:
    """What the user's function returns."""
    function = named_function(source, "--calibration")
    with _failures_named(source):
        batches = function()
    if not isinstance(batches, Iterable) or isinstance(batches, Tensor | str | bytes | Mapping):
        return batches  # which the library refuses, and says why
    watched = _Watched(batches, source)
    return iter(watched) if isinstance(batches, Iterator) else watched


class _Watched:
    """Batches of the user's, whose errors name where they are from.

    Parameters
    ----------
    batches
        The batches.
    source
        The function that returned them.
    """

    def __init__(self, batches: Iterable[Any], source: str) -> None:
        self._batches, self._source = batches, source

    def __len__(self) -> int:
        return len(self._batches)  # type: ignore[arg-type]  # a TypeError says that they have none

    def __iter__(self) -> Iterator[Any]:
        with _failures_named(self._source):
            yield from self._batches


@contextlib.contextmanager
def _failures_named(source: str) -> Iterator[None]:
    try:
        yield
    except (Exception, SystemExit) as error:  # of whatever type: it is the user's code that runs
        raise InputsError(f"--calibration: {shown(source)} fails: {type(error).__name__}: {error}") from error


def _check_of_images(options: CalibrationOptions, source: str) -> None:
    """Check that no option of images is given where there are none."""
    given = [name for name in given_in(options) if name in _OF_IMAGES]
    if given:
        raise ConfigError(f"--{given[0].replace('_', '-')} is of a folder of images, found {source}: leave it out")


def _files(folder: Path, suffixes: frozenset[str]) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.suffix.lower() in suffixes and not path.name.startswith(".")
    )


def _image_files(paths: Sequence[Path], options: CalibrationOptions, inputs: Any) -> ImageFiles:
    try:
        import PIL.Image  # noqa: F401  # asked for before any work
    except ImportError as error:
        raise MissingExtra("images need a package: pip install pillow") from error
    shape = tuple(inputs.shape) if isinstance(inputs, Tensor) and inputs.dim() == 4 else None
    size = _size_of(options.image_size, shape)
    channels = shape[1] if shape else 3
    mean = _numbers(options.mean, "--mean", [0.0] * channels)
    std = _numbers(options.std, "--std", [1.0] * len(mean))
    if len(mean) != len(std) or len(mean) not in _MODES or not all(std):
        raise ConfigError(
            f"--mean, --std: expected a number for each of 1, 3 or 4 channels, those of --std not 0, found {mean} and "
            f"{std}"
        )
    if options.batch < 1:
        raise ConfigError(f"--batch: expected a whole number from 1 on, found {options.batch}")
    return ImageFiles(paths, options.batch, size, mean, std)


def _size_of(text: str | None, shape: tuple[int, ...] | None) -> tuple[int, int]:
    sizes = sizes_of(text, "--image-size")
    if sizes is not None:
        return sizes[0]
    if shape is None:
        raise ConfigError("--calibration: images need a size: give --image-size 224x224, or --input 1x3x224x224")
    return shape[2], shape[3]


def _numbers(text: str | None, option: str, default: list[float]) -> list[float]:
    if text is None:
        return default
    try:
        return [float(number) for number in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{option}: expected numbers such as 0.485,0.456,0.406, found {quoted(text)}") from error
