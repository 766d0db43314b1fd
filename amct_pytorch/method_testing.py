"""The checks that every decomposition method must pass, for its own tests.

In the package of a method, a test file of one class, to be run by pytest:

    from amct_pytorch.method_testing import MethodConformance

    class TestMyMethod(MethodConformance):
        method = MyMethod

Each check goes over all geometries that the method accepts, in float64. They are all in this one file, long as it is,
so that whoever writes a method reads the contract from top to bottom.
"""

from __future__ import annotations

import copy
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .tensor_decompose import (
    Calibration,
    DecompositionConfig,
    auto_decomposition,
    decompose_network,
    plan_decomposition,
)
from .tensor_decompose.methods import Method, register_method
from .tensor_decompose.model.compose import composed_weight, relative_error
from .tensor_decompose.model.spec import LayerSpec, macs_of
from .tensor_decompose.ranks.policies import RatioRank
from .tensor_decompose.ranks.spectrum import Spectrum

GEOMETRIES: tuple[LayerSpec, ...] = (
    LayerSpec(4, 6, (3, 3), padding=(1, 1), bias=True),
    LayerSpec(6, 4, (3, 3), padding=(1, 1)),
    LayerSpec(4, 4, (3, 3), stride=(2, 2)),
    LayerSpec(4, 6, (5, 3), stride=(1, 2), padding=(2, 1), bias=True),
    LayerSpec(6, 4, (3, 5), stride=(2, 1), padding=(0, 2)),
    LayerSpec(4, 4, (2, 4), padding="valid"),
    LayerSpec(4, 6, (4, 2), padding="same", bias=True),
    LayerSpec(4, 6, (3, 3), stride=(3, 3), padding=(1, 1)),
    LayerSpec(4, 6, (3, 3), padding=(2, 2), dilation=(2, 2)),
    LayerSpec(6, 4, (3, 3), padding="same", dilation=(1, 2), bias=True),
    *(
        LayerSpec(4, 6, (3, 3), padding=(1, 1), padding_mode=mode, bias=True)
        for mode in ("reflect", "replicate", "circular")
    ),
    LayerSpec(2, 20, (3, 3), bias=True),
    LayerSpec(20, 2, (3, 3), padding=(1, 1)),
    LayerSpec(4, 6, (1, 1), bias=True),
    LayerSpec(4, 6, (1, 1), stride=(2, 2)),
    LayerSpec(4, 6, (1, 3), padding=(0, 1)),
    LayerSpec(4, 6, (3, 3), padding=(1, 1), groups=2, bias=True),
    LayerSpec(6, 6, (3, 3), groups=6),
    LayerSpec(4, 6, bias=True),
    LayerSpec(6, 4),
    LayerSpec(4, 6, (3,), padding=(1,), bias=True),
    LayerSpec(4, 6, (3,), stride=(2,), dilation=(2,)),
    LayerSpec(6, 4, (4,), padding="same", padding_mode="circular"),
    LayerSpec(4, 6, (1,)),
    LayerSpec(3, 4, (3, 3, 3), padding=(1, 1, 1), bias=True),
    LayerSpec(4, 3, (2, 3, 3), stride=(1, 2, 1)),
    LayerSpec(3, 4, (3, 3, 2), padding="same", dilation=(1, 2, 1)),
    LayerSpec(4, 3, (1, 3, 3), padding=(0, 1, 1), padding_mode="replicate", bias=True),
    LayerSpec(4, 4, (3, 1, 1), stride=(3, 1, 1)),
)
"""Both orders of channels, strides, paddings and their modes, dilation, odd and even kernels, groups, every kind."""

_SIZE = 9
# Positions in the calibration data, for every kind of layer.
_SAMPLES = 648
# Of float64 responses that are equal but for the order of summation.
_ROUNDING = 1e-9
# Root mean squares of the stages' weights may differ by this factor at most, or half precision loses the smaller ones.
_UNEVEN = 100
_MODES = ("whiten", "refit", "reconstruct")


class MethodConformance:
    """Checks of one method; each that begins with ``test_`` is one.

    Attributes
    ----------
    method
        The class of the method, or a function that makes one.
    geometries
        The layers that it is tried on; those of kinds that it is not for, or that it calls impossible, are left out.
    """

    method: ClassVar[Callable[[], Method]]
    geometries: ClassVar[Sequence[LayerSpec]] = GEOMETRIES

    def test_it_says_in_words_what_it_does_not_split(self) -> None:
        """`impossible` and `unadvised` answer for every geometry of its kinds, and something is possible."""
        method = self._made()
        _check(isinstance(method.name, str) and method.name, f"name must be a word, found {method.name!r}")
        for layer in self._of_its_kinds():
            answer = method.impossible(layer)
            _check(_is_reason(answer), f"impossible({layer}) must be words or None, found {answer!r}")
            if answer is None:
                answer = method.unadvised(layer)
                _check(_is_reason(answer), f"unadvised({layer}) must be words or None, found {answer!r}")
                mode = method.mode(layer)
                _check(isinstance(mode, str) and mode, f"mode({layer}) must be a word, found {mode!r}")
        _check(any(self._accepted()), f"{method.name} accepts none of the geometries: give some in `geometries`")

    def test_stages_take_the_place_of_the_layer(self) -> None:
        """Channels and sizes fit from stage to stage, and only the last has a bias, where the layer has one."""
        method = self._made()
        for layer, ranks in self._splits():
            stages = method.stages(layer, ranks)
            where = f"stages of {layer} at {ranks}"
            _check(len(stages) == len(method.stage_names), f"{where}: expected one for each of {method.stage_names}")
            channels = [layer.in_channels, *(stage.out_channels for stage in stages)]
            fits = channels[:-1] == [stage.in_channels for stage in stages] and channels[-1] == layer.out_channels
            _check(fits, f"{where}: channels do not fit: {', '.join(map(str, stages))}")
            _check([stage.bias for stage in stages] == [False] * (len(stages) - 1) + [layer.bias], f"{where}: biases")
            for axis in range(layer.axes):
                kernels = [stage.kernel_size[axis] for stage in stages]
                own = max(kernels) == layer.kernel_size[axis] and sum(kernel > 1 for kernel in kernels) <= 1
                _check(own, f"{where}: expected one stage with the kernel of axis {axis}, found {kernels}")
            size = (_SIZE,) * layer.axes
            expected = layer.output_size(size)
            for stage in stages:
                size = stage.output_size(size)
            _check(size == expected, f"{where}: responses are {size} where the layer's are {expected}")

    def test_ranks_are_as_many_as_it_says(self) -> None:
        """As many full ranks for every geometry, one spectrum each, and more parameters at higher ranks."""
        method = self._made()
        counts = {len(method.full_ranks(layer)) for layer in self._accepted()}
        _check(len(counts) == 1, f"full_ranks() must give as many ranks for every layer, found {sorted(counts)}")
        for layer in self._accepted():
            full = method.full_ranks(layer)
            _check(all(isinstance(rank, int) and rank >= 1 for rank in full), f"full_ranks({layer}) is {full!r}")
            spectrum = method.spectrum(_weight(layer), layer)
            rows = tuple(part.rows for part in spectrum.unfoldings)
            _check(rows == full, f"the spectrum of {layer} has {rows} singular values where full_ranks() says {full}")
            sizes = [
                _parameters(method.stages(layer, [min(rank, most) for most in full]))
                for rank in range(1, max(full) + 1)
            ]
            _check(sizes == sorted(sizes), f"parameters of {layer} must grow with the ranks, found {sizes}")

    def test_full_ranks_reproduce_the_layer(self) -> None:
        """At full ranks a split computes what the layer does, at the edges too."""
        method = self._made()
        for layer in self._accepted():
            weight, bias, inputs = _weight(layer), _bias(layer), _inputs(layer)
            ranks = method.full_ranks(layer)
            weights = method.split(weight, layer, ranks)
            found = _response(method.stages(layer, ranks), weights, bias, inputs)
            error = relative_error(found, layer.forward(inputs, weight, bias))
            _check(error < _ROUNDING, f"{layer}: at full ranks {ranks} the response is off by {error:.1e}")

    def test_splits_are_the_best_of_their_ranks_or_near(self) -> None:
        """The error is what the spectrum says, or between its bounds where there are several ranks."""
        method = self._made()
        for layer, ranks in self._splits():
            weight = _weight(layer)
            spectrum = method.spectrum(weight, layer)
            error = self._error(layer, ranks, method.split(weight, layer, ranks))
            _check_bounds(f"{layer} at ranks {ranks}", error, spectrum.error(ranks), _least(spectrum, ranks))
            again = method.split(weight, layer, ranks, None, spectrum.keeping([0] * len(ranks)))
            same = self._error(layer, ranks, again)
            _check(math.isclose(error, same, abs_tol=_ROUNDING), f"{layer}: without singular vectors the error differs")

    def test_a_metric_is_what_the_error_is_measured_in(self) -> None:
        """With a metric the split is best in it; with white inputs it is the plain one."""
        method = self._made()
        for layer, ranks in self._splits():
            weight = _weight(layer)
            stages = method.stages(layer, ranks)
            seen = layer.in_channels * math.prod(stages[0].kernel_size)
            plain = method.split(weight, layer, ranks)
            white = method.split(weight, layer, ranks, 2 * torch.eye(seen, dtype=torch.float64))
            errors = [self._error(layer, ranks, weights) for weights in (plain, white)]
            alike = math.isclose(*errors, rel_tol=1e-6, abs_tol=_ROUNDING)
            _check(alike, f"{layer}: for white inputs the error is {errors[1]:.3e}, the plain split's {errors[0]:.3e}")
            metric = torch.linspace(0.1, 3, seen, dtype=torch.float64).diag()
            spectrum = method.spectrum(weight, layer, metric)
            weighted, plain_error = (
                self._error(layer, ranks, weights, metric)
                for weights in (method.split(weight, layer, ranks, metric, spectrum), plain)
            )
            _check_bounds(f"{layer} at {ranks} in a metric", weighted, spectrum.error(ranks), _least(spectrum, ranks))
            best = weighted <= plain_error * math.sqrt(len(ranks)) + _ROUNDING
            _check(best, f"{layer}: in the metric the error is {weighted:.3e}, the plain split's {plain_error:.3e}")

    def test_the_composed_kernel_is_the_chains_response(self) -> None:
        """What the chain computes is what a layer with its composed kernel does, for every padding mode."""
        method = self._made()
        for layer, ranks in self._splits():
            weights, bias, inputs = method.split(_weight(layer), layer, ranks), _bias(layer), _inputs(layer)
            stages = method.stages(layer, ranks)
            kernel = composed_weight(weights, stages, layer.groups)
            _check(tuple(kernel.shape) == layer.weight_shape, f"{layer}: the composed kernel is {tuple(kernel.shape)}")
            error = relative_error(_response(stages, weights, bias, inputs), layer.forward(inputs, kernel, bias))
            _check(error < _ROUNDING, f"{layer} at {ranks}: chain and composed kernel differ by {error:.1e}")

    def test_macs_are_those_that_run(self) -> None:
        """The multiply-accumulates counted are those that PyTorch counts as the chain runs."""
        method = self._made()
        for layer, ranks in self._splits():
            weights, stages = method.split(_weight(layer), layer, ranks), method.stages(layer, ranks)
            with FlopCounterMode(display=False) as counter:
                _response(stages, weights, _bias(layer), _inputs(layer))
            ran, counted = counter.get_total_flops() // 2, 2 * macs_of(stages, (_SIZE,) * layer.axes)  # two items
            _check(ran == counted, f"{layer} at {ranks}: counted {counted} MACs, {ran} ran")

    def test_weights_of_the_stages_are_of_similar_size(self) -> None:
        """Tiny and huge weights are spread over the stages, so that half precision can hold them."""
        method = self._made()
        for (layer, ranks), scale in itertools.product(self._splits(), (1e-4, 1.0, 1e4)):
            weights = method.split(scale * _weight(layer), layer, ranks)
            sizes = [float(weight.square().mean().sqrt()) for weight in weights]
            even = all(map(math.isfinite, sizes)) and max(sizes) <= _UNEVEN * max(1, scale, 1 / scale) ** 0.5 * min(
                sizes
            )
            _check(even, f"{layer} at {ranks}: root mean squares of the stages' weights are {sizes}")

    def test_zero_and_low_rank_weights_are_split(self) -> None:
        """A weight of zeros, and one of fewer terms than asked for, give finite factors and no error."""
        method = self._made()
        for layer, ranks in self._splits():
            alike = _weight(layer)[:1].expand(layer.weight_shape).contiguous()
            for weight in (torch.zeros(layer.weight_shape, dtype=torch.float64), alike):
                weights = method.split(weight, layer, ranks)
                finite = all(bool(part.isfinite().all()) for part in weights)
                _check(finite, f"{layer} at {ranks}: a weight of low rank gives factors that are not finite")

    def test_it_leaves_weights_and_generators_alone(self) -> None:
        """The weight given stays, nothing is drawn from the global generator, and the same comes out each time."""
        method = self._made()
        for layer, ranks in self._splits():
            weight, state = _weight(layer), torch.get_rng_state()
            method.spectrum(weight, layer)
            one, other = method.split(weight, layer, ranks), method.split(weight, layer, ranks)
            _check(torch.equal(weight, _weight(layer)), f"{layer}: the weight was changed")
            _check(torch.equal(state, torch.get_rng_state()), f"{layer}: the global generator was drawn from")
            _check(all(map(torch.equal, one, other)), f"{layer}: two splits of the same weight differ")

    def test_gradients_flow_into_every_stage(self) -> None:
        """A chain can be trained: every weight gets a gradient that is not zero."""
        method = self._made()
        for layer, ranks in self._splits():
            weights = [weight.clone().requires_grad_() for weight in method.split(_weight(layer), layer, ranks)]
            _response(method.stages(layer, ranks), weights, _bias(layer), _inputs(layer)).square().mean().backward()
            trained = all(weight.grad is not None and bool(weight.grad.abs().max() > 0) for weight in weights)
            _check(trained, f"{layer} at {ranks}: a stage gets no gradient")

    def test_ranks_are_read_back_from_the_shapes(self) -> None:
        """The shapes of the stages' weights, which a file holds, say the ranks."""
        method = self._made()
        for layer, ranks in self._splits():
            shapes = [stage.weight_shape for stage in method.stages(layer, ranks)]
            found = method.ranks_of(layer, shapes)
            _check(tuple(found) == tuple(ranks), f"{layer}: ranks_of({shapes}) is {found} where the ranks are {ranks}")

    def test_a_model_is_rebuilt_bit_for_bit(self) -> None:
        """Decomposed, written to a file, rebuilt and loaded, a model computes the same to the last bit."""
        for layer in self._accepted():
            model = _model(layer)
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "info.json"
                small, changes = auto_decomposition(copy.deepcopy(model), path, config=self._config())
                rebuilt, again = decompose_network(copy.deepcopy(model), path)
            names = self._made().stage_names
            _check(changes == again == {"0": [f"0.{i}" for i in range(len(names))]}, f"{layer}: changes are {changes}")
            rebuilt.load_state_dict(small.state_dict())
            inputs = _inputs(layer)
            _check(torch.equal(small(inputs), rebuilt(inputs)), f"{layer}: the rebuilt model computes something else")

    def test_calibration_keeps_more_than_the_plain_split(self) -> None:
        """In every mode the fitted factors are finite, and their responses on the data no worse than the plain ones."""
        for layer, mode in itertools.product(self._accepted(), _MODES):
            model, inputs = _model(layer), 3 * _inputs(layer, items=max(1, _SAMPLES // _SIZE**layer.axes)) + 1
            plain, _ = plan_decomposition(model, self._config()).apply(copy.deepcopy(model))
            calibration = Calibration([inputs], mode=mode)  # type: ignore[arg-type]  # one of the three
            plan = plan_decomposition(model, self._config(), calibration=calibration)
            fitted, _ = plan.apply(copy.deepcopy(model))
            with torch.no_grad():
                errors = [relative_error(net(inputs), model(inputs)) for net in (plain, fitted)]
            _check(math.isfinite(errors[1]), f"{layer}, {mode}: responses are not finite")
            # Whiten is best for what the first stage sees at any place, and its bias is fitted as well.
            limit = errors[0] * (1.1 if mode == "whiten" else 1) + 1e-6
            _check(errors[1] <= limit, f"{layer}, {mode}: error {errors[1]:.3e}, the plain split's {errors[0]:.3e}")

    def _made(self) -> Method:
        method = type(self).method()
        _check(isinstance(method, Method), f"expected an object of a subclass of Method, found {method!r}")
        return method

    def _accepted(self) -> list[LayerSpec]:
        method = self._made()
        return [layer for layer in self._of_its_kinds() if method.impossible(layer) is None]

    def _of_its_kinds(self) -> list[LayerSpec]:
        axes = self._made().axes
        return [layer for layer in self.geometries if layer.axes in axes]

    def _config(self) -> DecompositionConfig:
        register_method(self._made())
        return DecompositionConfig(
            method=self._made().name, rule="any", rank=RatioRank(0.5), rank_multiple=1, require_gain=False
        )

    def _splits(self) -> Iterator[tuple[LayerSpec, tuple[int, ...]]]:
        """Every accepted layer at low, middling and different ranks."""
        method = self._made()
        for layer in self._accepted():
            full = method.full_ranks(layer)
            found = [tuple(max(1, most // part) for most in full) for part in (4, 2)]
            found += [tuple(max(1, most // (2 + index)) for index, most in enumerate(full))]
            for ranks in dict.fromkeys(found):
                yield layer, ranks

    def _error(
        self, layer: LayerSpec, ranks: Sequence[int], weights: Sequence[Tensor], metric: Tensor | None = None
    ) -> float:
        """Relative error of the composed kernel, in the Frobenius norm or in a metric."""
        stages = self._made().stages(layer, ranks)
        kernels = composed_weight(weights, stages, layer.groups), _weight(layer)
        if metric is None:
            return relative_error(*kernels)
        seen = [metric @ _seen_by_first(kernel, layer, stages[0]) for kernel in kernels]
        return relative_error(seen[0], seen[1])


def _seen_by_first(kernel: Tensor, layer: LayerSpec, first: LayerSpec) -> Tensor:
    """The kernel (out, in, *kernel) as a matrix with what the first stage sees along its rows, (d, …)."""
    own = [2 + axis for axis in range(layer.axes) if first.kernel_size[axis] == layer.kernel_size[axis]]
    rest = [2 + axis for axis in range(layer.axes) if 2 + axis not in own]
    return kernel.permute(1, *own, 0, *rest).reshape(layer.in_channels * math.prod(first.kernel_size), -1)


def _check_bounds(where: str, error: float, most: float, least: float) -> None:
    _check(error <= most * (1 + 1e-6) + _ROUNDING, f"{where}: the error is {error:.3e}, the spectrum says {most:.3e}")
    _check(
        error >= least * (1 - 1e-6) - _ROUNDING, f"{where}: no split has an error below {least:.3e}, found {error:.3e}"
    )


def _least(spectrum: Spectrum, ranks: Sequence[int]) -> float:
    """The error that no split at these ranks can go below: each unfolding alone leaves as much out."""
    parts = spectrum.unfoldings
    return max(math.sqrt(part.left_out(rank)) for part, rank in zip(parts, ranks, strict=True))


def _weight(layer: LayerSpec) -> Tensor:
    return torch.randn(layer.weight_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _bias(layer: LayerSpec) -> Tensor | None:
    return torch.linspace(-1, 1, layer.out_channels, dtype=torch.float64) if layer.bias else None


def _inputs(layer: LayerSpec, items: int = 2) -> Tensor:
    shape = (items, layer.in_channels, *[_SIZE] * layer.axes)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def _model(layer: LayerSpec) -> nn.Sequential:
    module, bias = layer.build(), _bias(layer)
    module.weight = nn.Parameter(_weight(layer))
    module.register_parameter("bias", None if bias is None else nn.Parameter(bias))
    return nn.Sequential(module).eval()


def _response(stages: Sequence[LayerSpec], weights: Sequence[Tensor], bias: Tensor | None, inputs: Tensor) -> Tensor:
    """What a chain answers."""
    for stage, weight in zip(stages, weights, strict=True):
        inputs = stage.forward(inputs, weight, bias if stage is stages[-1] else None)
    return inputs


def _parameters(stages: Sequence[LayerSpec]) -> int:
    return sum(stage.parameters for stage in stages)


def _is_reason(answer: object) -> bool:
    return answer is None or (isinstance(answer, str) and bool(answer))


def _check(holds: object, message: str) -> None:
    """Raise an AssertionError that says what was expected, where Python runs without assertions too."""
    if not holds:
        raise AssertionError(message)
