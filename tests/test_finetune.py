"""Distillation, parameter groups and freezing: the parts of a fine-tuning loop."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from amct_pytorch.errors import ConfigError, InputsError, LayerError, ModelError
from amct_pytorch.finetune import Distillation, distillation_loss, others_frozen, parameter_groups, response_loss
from amct_pytorch.tensor_decompose import auto_decomposition

from .models import TwoConvs, chains, conv, image, snapshot

_seeds = st.integers(0, 2**31)


def _pair(build: Callable[[], nn.Module] = TwoConvs) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    original = build()
    return original, auto_decomposition(copy.deepcopy(original))[0]


@given(_seeds, st.floats(0.5, 8), st.sampled_from([(5, 7), (2, 3, 4, 4)]))
@settings(max_examples=25)
def test_the_distillation_loss_is_hintons(seed: int, temperature: float, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(shape, generator=draw, dtype=torch.float64).float() for _ in range(2))
    p, q = ((logits.double() / temperature).softmax(1) for logits in (teacher, student))
    expected = (p * (p.log() - q.log())).sum(1).mean() * temperature**2
    assert float(distillation_loss(student, teacher, temperature)) == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    assert float(distillation_loss(teacher, teacher, temperature)) == pytest.approx(0, abs=1e-5)
    # A constant added to all logits of a sample does not change the loss.
    assert torch.allclose(distillation_loss(student + 3, teacher, temperature), expected.float(), rtol=1e-3, atol=1e-4)


@given(_seeds, st.floats(1e-3, 1e3))
@settings(max_examples=25)
def test_the_response_loss_is_relative(seed: int, scale: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(2, 3, 4, 4, generator=draw) for _ in range(2))
    loss = response_loss(student, teacher)
    assert float(loss) == pytest.approx(float((student - teacher).norm() / teacher.norm()) ** 2, rel=1e-4)
    assert torch.allclose(response_loss(student * scale, teacher * scale), loss, rtol=1e-3)
    assert float(response_loss(teacher, teacher)) == 0
    assert math.isfinite(response_loss(student, torch.zeros_like(teacher)))


class _InPlace(nn.Module):
    """In-place activations, which overwrite responses, and a layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(), conv()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        x = self.conv1(x * scale).relu_()
        for _ in range(2):
            x = self.conv2(x).relu_()
        return self.dropout(x).mean((2, 3))


def test_the_loss_compares_logits_and_the_responses_of_every_call() -> None:
    original, net = _pair(_InPlace)
    x = torch.randn(2, 64, 8, 8)
    with Distillation(original, net, temperature=2, logits=0.5, responses=3) as distillation:
        net.eval()
        outputs = net(x, scale=0.7)
        loss = distillation.loss(outputs)
    assert distillation.terms == ["logits", "responses"]
    with torch.no_grad():
        errors, inputs = [], [x * 0.7, x * 0.7]
        for name in ("conv1", "conv2", "conv2"):
            answers = [getattr(model, name)(i) for model, i in zip((net, original), inputs, strict=True)]
            errors.append(response_loss(*answers))
            inputs = [answer.relu() for answer in answers]
        expected = distillation_loss(outputs, original.eval()(x, scale=0.7), 2)
    assert torch.allclose(distillation.parts["logits"], expected)
    assert torch.allclose(distillation.parts["responses"], torch.stack(errors).mean())
    assert torch.allclose(loss, 0.5 * expected + 3 * torch.stack(errors).mean())


def test_gradients_reach_the_decomposed_layers_and_not_the_original() -> None:
    original, net = _pair()
    net.train()
    with Distillation(original, net) as distillation:
        distillation.loss(net(image())).backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in original.parameters())
    for chain in chains(net).values():
        assert all(float(stage.weight.grad.abs().sum()) > 0 for stage in chain)  # type: ignore[union-attr]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_distillation_in_autocast_is_finite_and_near(dtype: torch.dtype) -> None:
    original, net = _pair()
    losses = []
    for enabled in (False, True):
        with Distillation(original, net) as distillation, torch.autocast("cpu", dtype, enabled=enabled):
            losses.append(distillation.loss(net(image())).item())
    assert losses[1] == pytest.approx(losses[0], rel=0.05)


def test_learning_from_the_original_brings_the_responses_near() -> None:
    original, net = _pair()
    images = image(16, 3, 16, 16)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    losses = []
    with Distillation(original, net.train()) as distillation:
        for _ in range(12):
            loss = distillation.loss(net(images))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_nothing_is_left_behind_after_any_error() -> None:
    original, net = _pair()
    original.train()
    unchanged = [snapshot(original), snapshot(net)]
    generator = torch.get_rng_state()

    def run(error: BaseException | None) -> None:
        with Distillation(original, net.eval()) as distillation:
            assert not original.training
            distillation.loss(net(image()))
            if error:
                raise error

    net.eval()
    unchanged[1] = snapshot(net)
    run(None)
    for error in (ValueError(), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            run(error)
    with pytest.raises(RuntimeError), Distillation(original, net):
        net(image(1, 5, 8, 8))  # the model's own error
    for check in unchanged:
        check()
    assert torch.equal(torch.get_rng_state(), generator)


def test_evaluation_within_the_block_does_not_run_the_original() -> None:
    original, net = _pair()
    calls = []
    original.register_forward_hook(lambda *_: calls.append(1))
    with Distillation(original, net) as distillation:
        with torch.no_grad():
            net(image())
        assert calls == []
        with pytest.raises(InputsError, match="no forward pass of the decomposed model"):
            distillation.loss(torch.zeros(2, 10))
        distillation.loss(net(image()))
        with pytest.raises(InputsError, match="then loss"):
            distillation.loss(torch.zeros(2, 10))
    assert calls == [1]


class _Detector(TwoConvs):
    def forward(self, x: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {"scores": super().forward(x)}


def test_outputs_that_are_no_logits_are_refused_and_can_be_taken_apart() -> None:
    original, net = _pair(_Detector)
    with Distillation(original, net) as distillation:
        outputs = net(image())
        with pytest.raises(InputsError, match="expected logits .* found dict: give logits_of"):
            distillation.loss(outputs)
    with Distillation(original, net, logits_of=lambda found: found["scores"]) as distillation:
        assert distillation.loss(net(image())).item() > 0
    with Distillation(original, net, logits=0) as distillation:
        distillation.loss(net(image()))
        assert list(distillation.parts) == distillation.terms == ["responses"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature must be above 0"),
        ({"temperature": float("nan")}, "temperature must be a number"),
        ({"responses": -1}, "responses must be a number from 0"),
        ({"logits": "much"}, "logits must be a number from 0"),
        ({"logits": 0, "responses": 0}, "both 0"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, object], message: str) -> None:
    original, net = _pair()
    with pytest.raises(ConfigError, match=message):
        Distillation(original, net, **options)  # type: ignore[arg-type]


def test_models_that_do_not_belong_together_are_refused() -> None:
    original, net = _pair()
    with pytest.raises(ModelError, match="one and the same model"):
        Distillation(net, net)
    with pytest.raises(LayerError, match="wrong order"):
        Distillation(net, original)
    with pytest.raises(ModelError, match="DataParallel"):
        Distillation(original, nn.DataParallel(net))
    distillation = Distillation(original.to("meta"), net)
    unchanged = snapshot(net)
    with pytest.raises(ConfigError, match="the original is on meta, the decomposed model on cpu"), distillation:
        pass
    unchanged()


class _Fewer(_InPlace):
    calls = 2

    def forward(self, x: Tensor, *, scale: float = 1.0) -> Tensor:
        for _ in range(self.calls):
            x = self.conv2(x)
        return x.mean((2, 3))


@pytest.mark.parametrize(("calls", "message"), [(1, "'conv2': runs less often"), (3, "'conv2': runs more often")])
def test_layers_that_do_not_run_alike_are_refused(calls: int, message: str) -> None:
    original, net = _pair(_Fewer)
    net.calls = calls  # type: ignore[assignment]
    with pytest.raises(LayerError, match=message), Distillation(original, net) as distillation:
        distillation.loss(net(torch.randn(1, 64, 8, 8)))
    net.calls = original.calls = 0  # type: ignore[assignment]
    with pytest.raises(LayerError, match="no decomposed layer ran"), Distillation(original, net) as distillation:
        distillation.loss(net(torch.randn(1, 64, 8, 8)))


def test_parameter_groups_hold_every_trainable_parameter_once() -> None:
    _, net = _pair()
    net.again = net.conv1  # type: ignore[assignment]
    net.head.bias.requires_grad_(False)  # type: ignore[union-attr,operator]
    groups = parameter_groups(net, lr=1e-2)
    assert [group["name"] for group in groups] == ["decomposed", "others"]
    assert groups[0]["lr"] == 1e-2
    assert "lr" not in groups[1]
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = [sorted(names[id(parameter)] for parameter in group["params"]) for group in groups]
    convs = ["conv1.0.weight", "conv1.1.bias", "conv1.1.weight", "conv2.0.weight", "conv2.1.bias", "conv2.1.weight"]
    assert found == [convs, ["head.weight", "norm.bias", "norm.weight", "stem.bias", "stem.weight"]]
    optimizer = torch.optim.SGD(groups, lr=1e-3)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-2, 1e-3]


@pytest.mark.parametrize("function", [parameter_groups, lambda net: others_frozen(net).__enter__()])
def test_a_model_that_is_not_decomposed_is_refused(function: Callable[[nn.Module], object]) -> None:
    with pytest.raises(LayerError, match="no layer of the model is decomposed"):
        function(TwoConvs())
    with pytest.raises(ModelError, match="DataParallel"):
        function(nn.DataParallel(TwoConvs()))
    frozen = _pair()[1].requires_grad_(False)
    with pytest.raises(LayerError, match="requires a gradient"):
        parameter_groups(frozen)


def test_frozen_others_keep_weights_and_statistics() -> None:
    _, net = _pair()
    before = copy.deepcopy(net.state_dict())
    with others_frozen(net):
        (group,) = parameter_groups(net, lr=0.1)
        optimizer = torch.optim.SGD([group], weight_decay=0.1)
        for _ in range(2):
            net.train()
            net(image()).square().mean().backward()
            optimizer.step()
        assert net.norm.training  # as the user set it  # type: ignore[union-attr]
    changed = {key for key, value in net.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if key.startswith("conv")}


@pytest.mark.parametrize("error", [None, ValueError(), KeyboardInterrupt()], ids=repr)
def test_what_was_frozen_is_as_before(error: BaseException | None) -> None:
    _, net = _pair()
    net.train()
    net.stem.weight.requires_grad_(False)  # type: ignore[union-attr,operator]
    unchanged, flags = snapshot(net), [parameter.requires_grad for parameter in net.parameters()]
    try:
        with others_frozen(net):
            assert [parameter.requires_grad for parameter in net.parameters()] != flags
            net(image())
            if error:
                raise error
    except BaseException as found:
        if found is not error:
            raise
    unchanged()
    assert [parameter.requires_grad for parameter in net.parameters()] == flags
