"""Running a model leaves it as it was, whatever its forward changes."""

from __future__ import annotations

import random
import threading
import time
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amct_pytorch._run.intercept import acting
from amct_pytorch.errors import InputsError
from amct_pytorch.tensor_decompose import Calibration, plan_decomposition

from .models import conv

INPUTS = torch.ones(1, 64, 4, 4)


class Holder(nn.Module):
    """Its forward changes the state of the model."""

    def __init__(self, change: Callable[[Any], object]) -> None:
        super().__init__()
        self.conv = conv()
        self.change = change
        self.calls = 0
        self.cache: Tensor | None = None
        self.outputs: list[Tensor] = []
        self.seen = {"sizes": [(1, 1)], "deep": {"deeper": [deque([1], maxlen=2)]}}
        self.names = {"a"}
        self.order = OrderedDict(first=1, second=2)
        self.counts = defaultdict(int, images=3)
        self.pair = ([1], [2])
        self.total = torch.zeros(3)
        self.caches = [torch.zeros(2), torch.tensor([torch.nan, 1.0])]
        self.histogram = np.zeros(4)
        self.draw = torch.Generator().manual_seed(4)
        self.python_draw = random.Random(4)
        self.numpy_draw = np.random.default_rng(4)
        self.lock = threading.Lock()  # which cannot be copied
        self.loop: list[Any] = [1]
        self.loop.append(self.loop)
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.change(self)
        return self.conv(x)


def _everything(value: Any, levels: int = 6) -> Any:
    """The state to compare: identities of objects, contents of containers, values of tensors."""
    if isinstance(value, nn.Module):
        return id(value)
    if isinstance(value, Tensor):
        return id(value), value.detach().numpy().tobytes(), tuple(value.shape)
    if isinstance(value, np.ndarray):
        return id(value), value.tobytes(), value.shape
    if isinstance(value, torch.Generator):
        return id(value), value.get_state().numpy().tobytes()
    if isinstance(value, random.Random):
        return id(value), value.getstate()
    if isinstance(value, np.random.Generator):
        return id(value), str(value.bit_generator.state)
    if isinstance(value, dict) and levels:
        return id(value), [(key, _everything(item, levels - 1)) for key, item in value.items()]
    if isinstance(value, set):
        return id(value), sorted(map(id, value))
    if isinstance(value, list | tuple | deque) and levels:
        return id(value), [_everything(item, levels - 1) for item in value]
    return id(value)


def _state(model: nn.Module) -> Any:
    return [_everything(vars(module)) for module in model.modules()]


def _delete(model: Any) -> None:
    del model.calls, model.seen


def _fill_dict(model: Any) -> None:
    model.seen["sizes"].append((2, 2))
    model.seen["new"] = 1


def _in_place(model: Any) -> None:
    model.total.add_(1)
    model.caches[0][1] = 5
    model.caches[1].zero_()
    model.histogram[1] += 1


def _swap(model: Any) -> None:
    model.total.data = torch.ones(7)
    model.histogram.resize(9, refcheck=False)


def _hook(model: Any) -> None:
    model.conv.register_forward_hook(lambda *_: None)
    model.extra = nn.ReLU()
    model.register_parameter("gain", nn.Parameter(torch.ones(1)))


def _draw(model: Any) -> None:
    torch.rand(1, generator=model.draw)
    model.python_draw.random()
    model.numpy_draw.random()


CHANGES: dict[str, Callable[[Any], object]] = {
    "a number": lambda model: setattr(model, "calls", model.calls + 1),
    "a tensor in place of None": lambda model: setattr(model, "cache", torch.ones(2)),
    "a new attribute": lambda model: setattr(model, "added", [1]),
    "an attribute deleted": _delete,
    "a list appended to": lambda model: model.outputs.append(1),
    "a dictionary filled": _fill_dict,
    "a deque far inside": lambda model: model.seen["deep"]["deeper"][0].extend([7, 8]),
    "a set": lambda model: model.names.symmetric_difference_update({"a", "b"}),
    "an order": lambda model: model.order.move_to_end("first"),
    "a default": lambda model: model.counts["others"],
    "a list in a tuple": lambda model: model.pair[0].clear(),
    "a list in itself": lambda model: model.loop.append(model.loop),
    "values in place": _in_place,
    "values exchanged": _swap,
    "generators": _draw,
    "a buffer": lambda model: model.steps.add_(1),
    "tables": _hook,
    "a submodule's attribute": lambda model: setattr(model.conv, "note", "ran"),
}


@pytest.mark.parametrize("ending", ["well", "an exception", "Ctrl-C"])
@pytest.mark.parametrize("change", list(CHANGES))
def test_what_a_forward_changes_is_put_back(change: str, ending: str) -> None:
    def forward(model: Any) -> None:
        CHANGES[change](model)
        if ending != "well":
            raise ValueError if ending == "an exception" else KeyboardInterrupt

    model = Holder(forward)
    before = _state(model)
    if ending == "well":
        plan_decomposition(model, example_inputs=INPUTS)
    else:
        with pytest.raises(InputsError if ending == "an exception" else KeyboardInterrupt):
            plan_decomposition(model, example_inputs=INPUTS)
    assert _state(model) == before
    assert model.training


def test_tensors_whose_values_cannot_be_compared_are_left_or_put_back() -> None:
    def change(model: Any) -> None:
        model.changed.mul_(3)

    model = Holder(change)
    model.unchanged = {
        "sparse": torch.eye(3).to_sparse(),
        "rows": torch.eye(3).to_sparse_csr(),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "without values": torch.ones(2, device="meta"),
        "without a shape": nn.parameter.UninitializedBuffer(),
    }
    unchanged = dict(model.unchanged)
    model.changed = torch.eye(3).to_sparse()
    plan_decomposition(model, example_inputs=INPUTS)
    assert all(value is unchanged[key] for key, value in model.unchanged.items())
    assert torch.equal(model.changed.to_dense(), torch.eye(3))


def test_calibration_leaves_the_same_attributes() -> None:
    model = Holder(_fill_dict)
    before = _state(model)
    plan_decomposition(model, calibration=Calibration([torch.randn(4, 64, 8, 8) for _ in range(3)]))
    assert _state(model) == before


def test_attributes_in_slots_are_put_back() -> None:
    class Slotted(Holder):
        __slots__ = ("empty", "filled")

    def change(model: Any) -> None:
        model.filled.append(1)
        model.filled, model.empty = [], 1

    model = Slotted(change)
    model.filled = filled = [0]
    plan_decomposition(model, example_inputs=INPUTS)
    assert model.filled is filled
    assert filled == [0]
    assert not hasattr(model, "empty")


def test_one_list_in_two_modules_is_put_back_once() -> None:
    shared: list[int] = []
    model = nn.Sequential(Holder(lambda own: own.shared.append(1)), nn.ReLU())
    model[0].shared = model[1].shared = shared
    plan_decomposition(model, example_inputs=INPUTS)
    assert shared == []
    assert model[0].shared is model[1].shared is shared


def test_a_subclass_of_a_container_is_put_back_past_what_it_overrides() -> None:
    class History(list):  # type: ignore[type-arg]
        def __setitem__(self, *_: object) -> None:
            raise AssertionError("no user's code is to run")

        clear = __iter__ = __len__ = __bool__ = __setitem__  # type: ignore[assignment]

    model = Holder(lambda own: own.history.append(1))
    model.history = History([0])
    plan_decomposition(model, example_inputs=INPUTS)
    assert list.__len__(model.history) == 1


class Counting(nn.Module):
    """A module that is compiled as a script."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.sizes = torch.jit.Attribute([1], list[int])
        self.register_buffer("steps", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.sizes.append(x.size(0))
        self.steps += 1
        return x * 2


def test_attributes_of_a_script_are_put_back() -> None:
    model = nn.Sequential(torch.jit.script(Counting()), conv())
    plan_decomposition(model, example_inputs=INPUTS)
    assert (model[0].calls, model[0].sizes, float(model[0].steps)) == (0, [1], 0.0)


@pytest.mark.slow
def test_ten_thousand_modules_take_no_time_to_speak_of() -> None:
    model = nn.Sequential(conv(), *(nn.ReLU() for _ in range(10_000)))
    begin = time.perf_counter()
    plan_decomposition(model)
    without = time.perf_counter() - begin
    begin = time.perf_counter()
    plan_decomposition(model, example_inputs=INPUTS)
    assert time.perf_counter() - begin < without + 15


def test_a_layer_gets_its_own_forward_back() -> None:
    layer = conv()

    def forward(x: Tensor) -> Tensor:
        return x

    layer.forward = forward
    with acting({layer: lambda x: -x}):
        assert float(layer(INPUTS).sum()) < 0
    assert layer.forward is forward
    with acting({(other := conv()): lambda x: x}):
        assert other(INPUTS) is INPUTS
    assert "forward" not in vars(other)
