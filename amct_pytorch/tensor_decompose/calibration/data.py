"""Calibration: the unlabelled inputs that factors are fitted to, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from torch import Tensor, nn
from torch.utils.data import Dataset

from ..._run.arguments import check_choice, check_flag, check_whole
from ...errors import ConfigError, ConfigTypeError, quoted

LayerMode = Literal["whiten", "refit", "reconstruct"]
"""How the factors of a layer are fitted."""

Mode = Literal["whiten", "refit", "reconstruct", "refine"]


def mode_of_layers(mode: Mode) -> LayerMode:
    """How a mode fits the factors of each layer, before all of them are refined together, if they are."""
    return "reconstruct" if mode == "refine" else mode


@dataclass(frozen=True)
class Calibration:
    """Unlabelled inputs that the factors are to be fitted to, so that the responses to them change least.

    The modes, each more expensive and better than the one before it:

    ``"whiten"``
        The split is the best for the inputs that each layer sees, in place of the best for every conceivable
        input. One pass over the batches, then the network as decomposed runs on the first 16 inputs of the fit
        again: each output channel is scaled to what the original answers, which makes up for what earlier
        layers leave out.
    ``"refit"``
        As whiten; then, with the first convolution as it is, the last one and its bias are fitted to the
        layer's responses by least squares. One pass, and the first inputs again.
    ``"reconstruct"``
        As refit, layer after layer in the order in which they run: each sees the inputs that the network
        decomposed so far gives it, and is fitted to the responses of the original, so later layers make up
        for earlier ones. One pass with the original, then one for each layer, up to that layer.
    ``"refine"``
        As reconstruct; then the factors and corrected biases of all layers move together towards the outputs of
        the original, by 48 small steps of gradient descent on a batch each, in turns; a step costs about four
        runs of the model, and the memory that training on the batch would take, with eight numbers for each
        one of the factors. What this comes to is kept if the outputs for the batches held out are closer to the
        original's, and the plan gives their error before and after. Where the model gives no gradients for the
        layers, or no batch is held out, the factors are those of reconstruct, and a warning says so.

    However large the feature maps and however many the batches, a layer is fitted to the same number of positions of
    its response, spread evenly over all of them: 2 for each unknown of the first stage in whiten, else 12 for each
    value of the layer's patch, or all that there are.

    Biases are corrected along with the factors, and a layer without gets one: the mean of what a low rank leaves
    out is to be made up for, in front of a batch normalisation too. The second of every eight batches, four at
    most, is held out of the fit, and the plan's errors are measured on those.

    Parameters
    ----------
    batches
        Any iterable of inputs, for example a DataLoader; a few hundred images are enough. A tensor is given
        to the model as its only argument, a mapping as keywords; of a tuple or list as many of its leading
        items as the model's forward requires, so the labels of (input, label) are ignored. Tensors are moved
        to the model's device. For ``"reconstruct"`` and ``"refine"`` it must give the same batches each time it
        is iterated: the random generators are in the same state at the beginning of each pass, so a DataLoader
        that shuffles does.
        An input that is the same as an earlier one does not count again in the fit, and a warning says so, except
        with ``forward``, which may make another of it each time.
    forward
        Called as ``forward(model, batch)`` where that does not fit; returns the outputs to compare.
    max_batches
        No more batches than this are taken.
    mode
        ``"whiten"``, ``"refit"``, ``"reconstruct"`` or ``"refine"``.
    add_bias
        Whether a layer without a bias gets one. With False it stays without: accuracy is lower, but AMCT can
        rebuild the network from the information file, and one that is meant to have no biases has none.
    memory
        Bytes that the moments of whole patches may take, 24·(in·kh·kw)² for a layer: in ``"refit"`` of all
        layers together, in ``"reconstruct"`` and ``"refine"`` of one. The largest layers that do not fit in are
        fitted as in ``"whiten"``, and the plan says so. In those two the responses of the original at the
        sampled positions may take as much again, 48·in·kh·kw·out for a layer; beyond that fewer positions are
        sampled.

    Raises
    ------
    ConfigError
        An argument has the wrong type or value.
    """

    batches: Iterable[Any] = field(repr=False)
    forward: Callable[[nn.Module, Any], object] | None = field(default=None, kw_only=True)
    max_batches: int | None = field(default=None, kw_only=True)
    mode: Mode = field(default="whiten", kw_only=True)
    add_bias: bool = field(default=True, kw_only=True)
    memory: int = field(default=2 * 2**30, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.batches, Tensor):
            raise ConfigTypeError(
                "Calibration: batches must be an iterable of batches, found one tensor "
                f"{tuple(self.batches.shape)}: give a list, such as images.split(32)"
            )
        if isinstance(self.batches, str | bytes | Mapping) or not isinstance(self.batches, Iterable):
            # A DataLoader is an Iterable; one whose __getitem__ alone makes it iterable is not worth a rule.
            remedy = ": give DataLoader(dataset, batch_size=32)" if isinstance(self.batches, Dataset) else ""
            raise ConfigTypeError(
                f"Calibration: batches must be an iterable of inputs, found {type(self.batches).__name__}{remedy}"
            )
        if self.forward is not None and not callable(self.forward):
            raise ConfigTypeError(
                f"Calibration: forward must be a function of (model, batch), found {quoted(self.forward)}"
            )
        if self.max_batches is not None:
            check_whole("Calibration: max_batches", self.max_batches)
        check_whole("Calibration: memory", self.memory, least=0)
        check_flag("Calibration: add_bias", self.add_bias)
        check_choice("Calibration: mode", self.mode, get_args(Mode))
        if mode_of_layers(self.mode) == "reconstruct" and isinstance(self.batches, Iterator):
            raise ConfigError(
                f"Calibration: mode={self.mode!r} goes over the batches once for every layer, but "
                f"{type(self.batches).__name__} can be gone through once only: give a list or a DataLoader, "
                "or take mode='refit', which needs one pass"
            )
