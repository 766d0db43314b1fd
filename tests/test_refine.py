"""The factors of all layers refined together: better outputs or none of it, and nothing else changes."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from amct_pytorch.errors import AmctWarning, InputsError
from amct_pytorch.tensor_decompose import (
    Calibration,
    DecompositionConfig,
    DecompositionPlan,
    FixedRank,
    load_plan,
    plan_decomposition,
)

from .models import image, snapshot

LOW = DecompositionConfig(rank=FixedRank(4), rule="any")

pytestmark = pytest.mark.filterwarnings("ignore:too few calibration data")


class Small(nn.Module):
    """Two convolutions to decompose, one behind the other, and some classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 24, 3, padding=1)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv1(x)).relu()
        return self.head(self.conv2(x).relu_().mean((2, 3)))


def network() -> Small:
    torch.manual_seed(5)
    return Small().eval()


def batches(count: int = 4) -> list[Tensor]:
    return list(image(2 * count, 8, 8, 8).split(2))


def planned(model: nn.Module, mode: str = "refine", inputs: Any = None, **options: Any) -> DecompositionPlan:
    calibration = Calibration(batches() if inputs is None else inputs, mode=mode, **options)  # type: ignore[arg-type]
    return plan_decomposition(model, LOW, calibration=calibration)


def same_factors(one: DecompositionPlan, other: DecompositionPlan) -> bool:
    return all(
        torch.equal(a, b)
        for layer, its in zip(one.layers, other.layers, strict=True)
        for a, b in zip(layer.factors, its.factors, strict=True)
    )


def output_error(plan: DecompositionPlan) -> float:
    assert plan.outcome is not None
    assert plan.outcome.output_error is not None
    return plan.outcome.output_error


def test_the_outputs_for_batches_held_out_are_better_than_after_reconstruct_and_the_plan_says_by_how_much() -> None:
    before, after = planned(network(), "reconstruct"), planned(network())
    assert output_error(after) < output_error(before)
    figures = f"output error {output_error(before):.3g} before, {output_error(after):.3g} after refining"
    for layer in after.layers:
        if layer.decompose:
            assert layer.fit.mode == "refine"
            assert layer.fit.note == figures
    assert figures in after.text(width=400)


def test_what_serves_only_the_batches_that_it_was_refined_on_is_not_kept() -> None:
    inputs = batches()
    inputs[1] = -20 * inputs[1] + 7  # the one held out
    before, after = planned(network(), "reconstruct", inputs), planned(network(), inputs=inputs)
    assert output_error(after) <= output_error(before)
    if "not kept" in after.layers[1].fit.note:
        assert same_factors(before, after)


def test_the_same_call_gives_the_same_plan_and_leaves_model_gradients_and_generators_as_they_were() -> None:
    model = network()
    model.conv1.weight.requires_grad_(False)
    model.train()
    check = snapshot(model)
    generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one, other = planned(model), planned(model)
    finally:
        torch.set_num_threads(threads)
    assert one == other
    assert same_factors(one, other)
    check()
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == generators
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    decomposed, _ = one.apply(model)
    assert not any(parameter.requires_grad for parameter in decomposed.conv1[0].parameters())
    assert all(parameter.requires_grad for parameter in decomposed.conv2.parameters())


def test_a_saved_plan_holds_the_refined_factors_and_their_figures(tmp_path: Any) -> None:
    plan = planned(network())
    plan.save(tmp_path / "plan.pt")
    loaded = load_plan(tmp_path / "plan.pt")
    assert loaded == plan
    assert same_factors(loaded, plan)


class Around(nn.Module):
    """A network with something done to its inputs and outputs."""

    def __init__(self, before: Callable[[Tensor], Tensor] = lambda x: x, after: Callable[[Tensor], Any] = lambda x: x):
        super().__init__()
        self.inner, self.before, self.after = network(), before, after

    def forward(self, x: Tensor) -> Any:
        return self.after(self.inner(self.before(x)))


@pytest.mark.parametrize(
    "after",
    [
        lambda x: {"logits": x, "labels": [x.argmax(1)], "name": "net"},
        lambda x: x.mul_(2).relu_(),
        lambda x: (x.double(), x),
    ],
    ids=["dict", "in place", "two precisions"],
)
def test_outputs_of_any_structure_are_refined(after: Callable[[Tensor], Any]) -> None:
    plan = planned(Around(after=after))
    assert any("after refining" in layer.fit.note for layer in plan.layers if layer.fit)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_every_dtype_is_refined_as_float32_is(dtype: torch.dtype) -> None:
    plan = planned(network().to(dtype), inputs=[batch.to(dtype) for batch in batches()])
    usual = planned(network())
    assert output_error(plan) == pytest.approx(output_error(usual), rel=0.05)
    assert all("after refining" in layer.fit.note for layer in plan.layers if layer.fit)
    kinds = {torch.bfloat16: torch.float32}
    assert all(factor.dtype == kinds.get(dtype, dtype) for layer in plan.layers for factor in layer.factors)


def test_a_layer_without_memory_for_its_moments_is_refined_from_what_whiten_gives_it() -> None:
    plan = planned(network(), memory=24 * (8 * 9) ** 2)
    assert [layer.fit.mode for layer in plan.layers if layer.fit] == ["refine", "whiten"]
    why, figures = plan.layers[1].fit.note.split("; ")
    assert why.startswith("refine would take 0.")
    assert figures == plan.layers[0].fit.note


def test_integer_inputs_are_refined_on() -> None:
    inputs = [(20 * batch).long() for batch in batches()]
    plan = planned(Around(before=lambda x: x.float() / 20), inputs=inputs)
    assert any("after refining" in layer.fit.note for layer in plan.layers if layer.fit)


class Closed(torch.autograd.Function):
    """A step without a backward."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.clone()


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (lambda x: x.detach(), "the outputs give no gradients for the layers"),
        (lambda x: x.argmax(1), "the outputs give no gradients for the layers"),
        (lambda x: torch.from_numpy(x.numpy() + 1), "the model gives no gradients: .*Can't call numpy"),
        (Closed.apply, "the model gives no gradients: .*backward"),
        (lambda x: x.relu_().mul_(2), "the model gives no gradients: .*inplace operation"),
    ],
    ids=["detached", "labels", "numpy", "no backward", "overwritten"],
)
def test_without_gradients_the_factors_are_those_of_reconstruct_and_a_warning_says_why(
    after: Callable[[Tensor], Any], why: str
) -> None:
    before = planned(Around(after=after), "reconstruct")
    with pytest.warns(AmctWarning, match=f"mode='refine' comes to no more than 'reconstruct': {why}"):
        plan = planned(Around(after=after))
    assert same_factors(before, plan)
    assert [layer.fit.mode for layer in plan.layers if layer.fit] == ["reconstruct"] * 2
    assert all("not refined: " in layer.fit.note for layer in plan.layers if layer.fit)


def test_one_batch_leaves_none_to_judge_by() -> None:
    with pytest.warns(AmctWarning, match="no batch was held out to judge it by: give two at least"):
        plan = planned(network(), inputs=batches(1))
    assert same_factors(plan, planned(network(), "reconstruct", batches(1)))


def test_layers_that_share_a_weight_or_a_bias_still_do() -> None:
    torch.manual_seed(0)
    first, second = (nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
    second.weight, second.bias = first.weight, first.bias
    model = nn.Sequential(first, nn.ReLU(), second, nn.Flatten(), nn.Linear(256, 4)).eval()
    inputs = list(image(8, 16, 4, 4).split(2))
    plan = planned(model, inputs=inputs)
    assert "after refining" in plan.layers[0].fit.note
    decomposed, _ = plan.apply(model)
    assert decomposed[0][0].weight is decomposed[2][0].weight
    assert decomposed[0][1].bias is decomposed[2][1].bias


def test_a_failure_between_the_steps_leaves_the_model_as_it_was() -> None:
    model = network()
    check = snapshot(model)

    def report(done: int, total: int, text: str) -> None:
        if text == "refining, step 3 of 48":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        plan_decomposition(model, LOW, calibration=Calibration(batches(), mode="refine"), progress=report)
    check()
    assert torch.is_grad_enabled()


def test_other_batches_in_a_later_pass_are_an_error_that_names_the_mode() -> None:
    class Drawn:
        def __iter__(self) -> Any:
            self.count = getattr(self, "count", 0) + 1
            return iter([batch + self.count for batch in batches()])

    with pytest.raises(InputsError, match="mode='refine' needs the same batches each time"):
        planned(network(), inputs=Drawn())
