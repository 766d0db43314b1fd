"""Searching for the cheapest plan within a drop of the score."""

from __future__ import annotations

import gc
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from amct_pytorch.errors import (
    AmctWarning,
    BudgetError,
    ConfigError,
    ConfigTypeError,
    InputsError,
    JournalAccessError,
    JournalError,
    ModelError,
)
from amct_pytorch.tensor_decompose import (
    Budget,
    Calibration,
    DecompositionConfig,
    RatioRank,
    SearchResult,
    plan_decomposition,
    search_decomposition,
)
from amct_pytorch.tensor_decompose.search import run
from amct_pytorch.tensor_decompose.search import search as searching
from amct_pytorch.tensor_decompose.search.bisection import Tried, next_share
from amct_pytorch.tensor_decompose.search.noise import score_range, standard_error_of_difference

from .models import snapshot
from .processes import run_in_processes

FINE = DecompositionConfig(method="channel", rule="any", rank_multiple=1)
"""Every rank of every layer, so that next to every budget can be used up."""

STEP = 64 / 3168
"""Share of the parameters by which the costs of two plans for the network below differ at least."""

INPUTS = torch.randn(256, 32, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    """A network that is planned for in a moment."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class Sized:
    """An evaluation whose score is 1 for models of a share of the parameters or more, and falls below; it counts."""

    def __init__(self, least: float = 0.25) -> None:
        self.least = least * parameters(network())
        self.calls = 0

    def __call__(self, model: nn.Module) -> float:
        self.calls += 1
        return min(1.0, parameters(model) / self.least)


def search(evaluate: Any, model: nn.Module | None = None, **settings: Any) -> SearchResult:
    given = {"drop": 0.0, "minimise": "parameters", "config": FINE, "evaluations": 7, **settings}
    return search_decomposition(network() if model is None else model, evaluate, **given)


def shares(found: SearchResult) -> list[float]:
    return [one.share for one in found.evaluations]


def splits(found: SearchResult) -> list[tuple[str, Any, Any]]:
    return [(layer.name, layer.method, layer.ranks) for layer in found.plan.layers if layer.decompose]


def same_plan(one: SearchResult, other: SearchResult) -> bool:
    factors = [[factor for layer in found.plan.layers for factor in layer.factors] for found in (one, other)]
    return splits(one) == splits(other) and all(map(torch.equal, *factors))


# What to try next.


@settings(max_examples=30)
@given(st.floats(0.02, 0.95), st.floats(0.02, 0.9))
def test_the_bisection_comes_within_two_percent_of_the_least_accepted(threshold: float, least: float) -> None:
    tried: list[Tried] = []
    while (share := next_share(tried, least)) is not None and len(tried) < 40:
        assert least <= share <= 1
        assert share not in [one.share for one in tried]
        tried.append(Tried(share, share, share >= threshold))
    best = min([1.0, *(one.share for one in tried if one.accepted)])
    assert best <= max(threshold, least) * 1.0205
    assert sum(one.share >= threshold / 1.02 for one in tried) <= 10


def test_below_a_rejection_by_chance_there_is_a_second_look() -> None:
    tried: list[Tried] = []
    while (share := next_share(tried, 0.01)) is not None and len(tried) < 14:
        tried.append(Tried(share, share, share >= 0.15 and share != 0.3162))
    assert tried[1].share == 0.3162
    assert min(one.share for one in tried if one.accepted) < 0.16


def test_the_second_look_is_a_short_one() -> None:
    tried: list[Tried] = []
    while (share := next_share(tried, 0.01)) is not None:
        tried.append(Tried(share, share, share >= 0.15))
    assert len(tried) <= 11


@pytest.mark.parametrize("cost", [0.3, 1.0])
@pytest.mark.parametrize("accepted", [True, False])
def test_plans_that_miss_their_budgets_or_stay_far_below_end_the_search(cost: float, accepted: bool) -> None:
    tried: list[Tried] = []
    while (share := next_share(tried, 0.01)) is not None:
        tried.append(Tried(share, cost if share >= 0.3 else 0.3, accepted))
        assert len(tried) < 300
    assert len({one.share for one in tried}) == len(tried)


# What is found.


def test_the_cheapest_plan_within_the_drop_is_found() -> None:
    evaluate = Sized(0.6)
    found = search(evaluate)
    assert 0.6 <= found.chosen.cost < 0.6 + 2 * STEP
    assert found.chosen.score == 1
    assert evaluate.calls == len({one.cost for one in found.evaluations}) <= 7
    model, changes = found.plan.apply(network())
    assert changes
    assert parameters(model) / parameters(network()) == pytest.approx(found.chosen.cost)
    assert found.original == found.evaluations[0]
    assert found.curve[-1] == (1.0, 1.0)
    assert found.curve == tuple(sorted(found.curve))


def test_a_larger_drop_allows_a_cheaper_plan() -> None:
    found = search(Sized(0.6), drop=0.2)
    assert 0.48 <= found.chosen.cost < 0.48 + 2 * STEP
    assert found.chosen.score >= 0.8


def test_macs_are_counted_on_the_example_inputs() -> None:
    model = network()
    found = search(Sized(0.0001), model, minimise="macs", example_inputs=INPUTS, evaluations=4)
    before, after = (sum(getattr(layer, key) for layer in found.plan.layers) for key in ("macs", "macs_after"))
    assert found.chosen.cost == after / before < 0.5


def test_latency_is_planned_for_with_the_settings_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def budget_of(minimise: str, share: float, timing: dict[str, Any]) -> Budget:
        asked.append({"minimise": minimise, **timing})
        return Budget(parameters=share)

    monkeypatch.setattr(searching, "budget_of", budget_of)
    monkeypatch.setattr(run, "cost_of", lambda plan, minimise: plan.parameters_after / plan.parameters)
    given = {"backend": "npu", "index": 1, "dtype": torch.float16, "compiled": True}
    found = search(Sized(0.6), minimise="latency", example_inputs=INPUTS, **given)
    assert 0.6 <= found.chosen.cost < 0.6 + 2 * STEP
    assert all(one == {"minimise": "latency", **given} for one in asked)
    assert "latency left" in str(found)


def test_settings_of_the_measurement_that_are_not_given_are_left_to_the_budget() -> None:
    assert searching.budget_of("macs", 0.5, {"backend": None, "compiled": False}) == Budget(macs=0.5)


def test_where_nothing_cheaper_will_do_the_plan_keeps_every_layer() -> None:
    with pytest.warns(
        AmctWarning, match=r"no plan within drop=0 was found in \d+ evaluations: the plan keeps every layer"
    ):
        found = search(Sized(1.0), evaluations=4)
    assert not splits(found)
    assert found.chosen is found.original
    assert found.plan.apply(network())[1] == {}
    assert "every layer is kept" in found.text(200)


def test_a_difference_that_rounding_alone_has_made_larger_than_the_drop_is_within_it() -> None:
    assert 0.8 - 0.7 > 0.1
    found = search(lambda model: 0.8 if parameters(model) == parameters(network()) else 0.7, drop=0.1, evaluations=2)
    assert found.chosen.score == 0.7


def test_budgets_that_lead_to_the_same_plan_are_evaluated_once() -> None:
    coarse = DecompositionConfig(method="channel", rule="any", rank_multiple=12, layers={"0": False, "2": False})
    evaluate = Sized(0.99)
    with pytest.warns(AmctWarning, match="keeps every layer"):
        found = search(evaluate, config=coarse)
    assert evaluate.calls < len(found.evaluations)


def test_the_score_may_be_anything_that_is_a_number() -> None:
    for one in (1, np.float32(1), np.int64(1), np.array([1.0]), torch.tensor(1.0), torch.ones(1, 1), Fraction(1)):
        assert search(lambda model, one=one: one, evaluations=2).original.score == 1


def test_calibrated_plans_are_searched_through() -> None:
    found = search(Sized(), calibration=Calibration([INPUTS, INPUTS + 1]), evaluations=3)
    assert any(layer.fit is not None for layer in found.plan.layers)


def counted(forwards: list[nn.Module]) -> Callable[[nn.Module, torch.Tensor], torch.Tensor]:
    """A forward for calibration that notes the model it is called with."""

    def forward(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
        forwards.append(model)
        output: torch.Tensor = model(batch)
        return output

    return forward


MIXED = DecompositionConfig(method="auto", rule="any", rank_multiple=3)


def convolutions() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(4, 12, 3, bias=False), nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Flatten())


def searched(model: nn.Module, score: Callable[[nn.Module], float], **settings: Any) -> SearchResult:
    given = {"minimise": "parameters", "config": MIXED, "evaluations": 4, "drop": 0.0}
    return search_decomposition(model, score, **given, **settings)


def assert_planned_as_alone(found: SearchResult, model: nn.Module, calibration: Calibration | None) -> None:
    alone = plan_decomposition(model, MIXED, budget=Budget(parameters=found.chosen.share), calibration=calibration)
    assert [layer.ranks for layer in found.plan.layers] == [layer.ranks for layer in alone.layers]
    for layer, other in zip(found.plan.layers, alone.layers, strict=True):
        assert (layer.method, layer.reason, layer.error) == (other.method, other.reason, other.error)
        assert all(map(torch.equal, layer.factors, other.factors))
        assert (layer.bias is None) == (other.bias is None)
        assert layer.bias is None or torch.equal(layer.bias, other.bias)
    assert found.plan.outcome == alone.outcome
    assert any(layer.decompose for layer in found.plan.layers)


@pytest.mark.parametrize("mode", [None, "whiten", "refit", "reconstruct"])
def test_plans_of_a_search_are_to_the_last_bit_those_made_alone(mode: Any) -> None:
    images = torch.randn(64, 4, 7, 7, generator=torch.Generator().manual_seed(2))
    calibration = None if mode is None else Calibration(images.split(8), mode=mode)
    model = convolutions()
    whole = parameters(model)
    found = searched(model, lambda one: min(1.0, parameters(one) / (0.3 * whole)), calibration=calibration)
    assert_planned_as_alone(found, model, calibration)


def test_the_original_sees_the_batches_once_for_all_plans_of_a_search() -> None:
    images = torch.randn(64, 4, 7, 7, generator=torch.Generator().manual_seed(2))

    def forwards(evaluations: int) -> int:
        seen: list[nn.Module] = []
        calibration = Calibration(images.split(8), forward=counted(seen), mode="refit")
        given = {"minimise": "parameters", "config": MIXED, "drop": 0.0}
        search_decomposition(convolutions(), lambda one: 1.0, calibration=calibration, evaluations=evaluations, **given)  # type: ignore[arg-type]
        return len(seen)

    one, two = forwards(2), forwards(3)
    # The first plan takes the pass over seven batches, and the runs that show how far each layer moves the outputs.
    assert two - one < one - 7


def test_a_model_that_is_changed_during_a_search_is_planned_for_as_it_is_then() -> None:
    images = torch.randn(64, 4, 7, 7, generator=torch.Generator().manual_seed(2))
    calibration = Calibration(images.split(8), mode="refit")
    model = convolutions()
    whole, calls = parameters(model), 0

    def score(one: nn.Module) -> float:
        nonlocal calls
        calls += 1
        if calls == 2:
            with torch.no_grad():
                model[2].weight.mul_(torch.linspace(0.1, 2, 12)[:, None, None, None])  # type: ignore[operator, union-attr]
        return min(1.0, parameters(one) / (0.4 * whole))

    found = searched(model, score, calibration=calibration)
    assert found.chosen is not found.evaluations[1]
    assert_planned_as_alone(found, model, calibration)


def test_a_search_keeps_nothing() -> None:
    images = torch.randn(64, 4, 7, 7, generator=torch.Generator().manual_seed(2))
    model = convolutions()
    found = searched(model, lambda one: 1.0, calibration=Calibration(images.split(8), mode="refit"))
    kept = weakref.ref(model)
    del model
    gc.collect()
    assert kept() is None
    assert found.plan.layers


# What is left as it was.


class Careless:
    """An evaluation that leaves traces wherever it can."""

    def __init__(self) -> None:
        self.seen: list[bool] = []
        self.drawn: list[tuple[float, float, float]] = []

    def __call__(self, model: nn.Module) -> float:
        self.seen += [module.training for module in model.modules()]
        self.drawn.append((float(torch.rand(1)), random.random(), float(np.random.rand())))
        model.train()
        torch.set_grad_enabled(False)
        for parameter in model.parameters():
            parameter.data.zero_()
        del model[2]
        return 1.0


def test_the_model_and_the_random_generators_are_left_alone_whatever_the_evaluation_does() -> None:
    model = network().train()
    model[2].eval()
    check = snapshot(model)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    evaluate = Careless()
    found = search(evaluate, model, evaluations=3)
    check()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index]
    assert torch.is_grad_enabled()
    assert not any(evaluate.seen)
    assert len(set(evaluate.drawn)) == 1
    found.plan.apply(model)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = network()
    model.lock = (number for number in [1])
    with pytest.raises(ModelError, match=r"cannot be copied .*: copy.deepcopy\(model\) must work"):
        search(Sized(), model)


# Bad input.


@pytest.mark.parametrize(
    ("returned", "error", "message"),
    [
        (None, ConfigTypeError, "evaluate must return a number, found None"),
        (True, ConfigTypeError, "evaluate must return a number, found True"),
        (torch.tensor(True), ConfigTypeError, "found True"),
        ("0.9", ConfigTypeError, "found '0.9'"),
        (1j, ConfigTypeError, "found 1j"),
        (torch.ones(2), ConfigTypeError, r"found tensor\(\[1., 1.\]\)"),
        (math.nan, ConfigError, "evaluate must return a finite number, found nan for the model as it is"),
        (math.inf, ConfigError, "found inf"),
        (torch.tensor(math.nan), ConfigError, "found nan"),
        (10**400, ConfigError, "finite"),
    ],
)
def test_a_score_that_is_none_is_refused(returned: object, error: type[Exception], message: str) -> None:
    model = network()
    check = snapshot(model)
    with pytest.raises(error, match=message):
        search(lambda model: returned, model)
    check()


def test_an_evaluation_that_fails_names_the_model_and_keeps_the_journal(tmp_path: Path, whole: SearchResult) -> None:
    good = Sized()

    def fails(model: nn.Module) -> float:
        if good.calls == 3:
            raise ZeroDivisionError("no samples")
        return good(model)

    message = r"evaluate fails on the model at parameters=0\.\d+: ZeroDivisionError: no samples"
    with pytest.raises(InputsError, match=message) as raised:
        search(fails, journal=tmp_path / "search.jsonl")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert len((tmp_path / "search.jsonl").read_text().splitlines()) == 4
    again = Sized()
    found = search(again, journal=tmp_path / "search.jsonl")
    assert shares(found) == shares(whole)
    assert same_plan(found, whole)
    assert again.calls + 3 == len({one.cost for one in found.evaluations})


def test_an_interrupt_keeps_the_journal(tmp_path: Path) -> None:
    good = Sized()

    def interrupted(model: nn.Module) -> float:
        if good.calls == 2:
            raise KeyboardInterrupt
        return good(model)

    with pytest.raises(KeyboardInterrupt):
        search(interrupted, journal=tmp_path / "search.jsonl")
    assert len((tmp_path / "search.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"evaluate": 0.9},
            ConfigTypeError,
            "evaluate must be a function of a model that returns its score, found 0.9",
        ),
        ({"drop": "0.5"}, ConfigTypeError, "drop must be a finite number, 0 or more, found '0.5'"),
        ({"drop": -0.1}, ConfigError, "drop must be a finite number, 0 or more, found -0.1"),
        ({"drop": math.nan}, ConfigError, "drop must be a finite number"),
        ({"drop": math.inf}, ConfigError, "drop must be a finite number"),
        ({"drop": True}, ConfigTypeError, "drop must be a finite number"),
        ({"minimise": "time"}, ConfigError, "minimise must be one of 'macs', 'parameters', 'latency', found 'time'"),
        ({"minimise": 3}, ConfigTypeError, "minimise must be one of"),
        ({"minimise": "macs"}, ConfigError, "minimise='macs' needs example_inputs, on which MACs are counted"),
        ({"minimise": "latency"}, ConfigError, "minimise='latency' needs example_inputs, on which the model is timed"),
        ({"config": "auto"}, ConfigTypeError, "config must be a DecompositionConfig"),
        ({"config": DecompositionConfig(rank=RatioRank(0.5))}, ConfigError, "leave out rank=… and rules with a rank"),
        ({"config": DecompositionConfig(layers={"3": False})}, ConfigError, "no .* named '3'"),
        ({"calibration": [INPUTS]}, ConfigTypeError, "calibration must be a Calibration, found list"),
        ({"calibration": Calibration(iter([INPUTS]))}, ConfigError, "gone through once only: give a list"),
        ({"samples": 0}, ConfigError, "samples must be a whole number from 1 on"),
        ({"samples": 4.0}, ConfigTypeError, "samples must be a whole number from 1 on"),
        ({"minutes": 0}, ConfigError, "minutes must be a finite number, above 0, found 0"),
        ({"minutes": "5"}, ConfigTypeError, "minutes must be a finite number"),
        ({"evaluations": 1}, ConfigError, "evaluations must be a whole number from 2 on, found 1"),
        ({"evaluations": 2.5}, ConfigTypeError, "evaluations must be a whole number"),
        ({"journal": 3}, ConfigTypeError, "journal must be the path of a file, found 3"),
        ({"journal": ""}, ConfigError, "journal must be the path of a file"),
        ({"progress": "yes"}, ConfigTypeError, "progress must be True, False or a function"),
        ({"distributed": "no"}, ConfigTypeError, "distributed must be True, False"),
        ({"model": "network"}, ModelError, "model must be a torch.nn.Module"),
    ],
)
def test_settings_that_are_wrong_are_refused_before_anything_is_evaluated(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    evaluate = Sized()
    with pytest.raises(error, match=message):
        search(**{"evaluate": evaluate, **settings})
    assert evaluate.calls == 0


@pytest.mark.parametrize("minimise", ["parameters", "macs"])
def test_a_model_without_layers_is_refused_before_it_is_evaluated(minimise: str, tmp_path: Path) -> None:
    evaluate = Sized()
    with pytest.raises(ConfigError, match="there is nothing to search for: The model has no"):
        search(
            evaluate,
            nn.ReLU(),
            minimise=minimise,
            example_inputs=INPUTS,
            journal=tmp_path / "new" / "search.jsonl",
        )
    assert evaluate.calls == 0
    assert not list(tmp_path.iterdir())


def test_a_model_of_which_nothing_can_be_decomposed_is_refused_before_it_is_evaluated() -> None:
    evaluate = Sized()
    with pytest.raises(BudgetError, match=r"budget: parameters=0.1 cannot be reached: the least is parameters=1") as it:
        search(evaluate, config=DecompositionConfig("auto", rule="any", layers={"re:.": False}))
    assert it.value.least == 1
    assert evaluate.calls == 0


def test_budgets_that_cannot_be_met_are_not_evaluated() -> None:
    with pytest.raises(BudgetError) as raised:
        plan_decomposition(network(), FINE, budget=Budget(parameters=0.01))
    least = raised.value.least
    found = search(Sized(0.0001), evaluations=10)
    assert min(shares(found)) > least
    assert found.chosen.cost < 1.03 * least


# The journal.


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A journal of three evaluations."""
    path = tmp_path / "new" / "search.jsonl"
    search(Sized(), journal=path, evaluations=3)
    return path


@pytest.fixture(scope="module")
def whole() -> SearchResult:
    """What the search of the journal above finds when it is not interrupted."""
    return search(Sized())


def test_a_search_that_goes_on_repeats_nothing_and_finds_the_same(begun: Path, whole: SearchResult) -> None:
    evaluate = Sized()
    found = search(evaluate, journal=begun)
    assert shares(found) == shares(whole)
    assert same_plan(found, whole)
    assert [one.from_journal for one in found.evaluations[:4]] == [True, True, True, False]
    assert found.plan.apply(network())[1]
    again = Sized()
    assert same_plan(search(again, journal=begun), whole)
    assert again.calls == 0


def test_the_plan_is_made_anew_where_it_is_no_longer_beside_the_journal(begun: Path) -> None:
    plan = begun.with_name("search.jsonl.plan")
    first = search(Sized(), journal=begun, evaluations=3)
    assert splits(first)
    plan.write_bytes(plan.read_bytes()[:1000])
    assert same_plan(search(Sized(), journal=begun, evaluations=3), first)
    plan.unlink()
    assert same_plan(search(Sized(), journal=begun, evaluations=3), first)


def test_another_drop_uses_the_evaluations_that_there_are(begun: Path) -> None:
    evaluate = Sized()
    found = search(evaluate, journal=begun, drop=0.2)
    assert 0.2 <= found.chosen.cost < 0.2 + 2 * STEP
    assert evaluate.calls <= 4


@pytest.mark.parametrize("cut", [1, 20, -2])
def test_a_line_that_was_not_written_to_its_end_is_repeated(begun: Path, cut: int) -> None:
    lines = begun.read_bytes().splitlines(keepends=True)
    begun.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
    evaluate = Sized()
    with pytest.warns(AmctWarning, match="the last line was not written to its end"):
        found = search(evaluate, journal=begun, evaluations=3)
    assert evaluate.calls == 1
    assert found.evaluations[1].from_journal
    assert [json.loads(line)["share"] for line in begun.read_bytes().splitlines()[1:]] == shares(found)


@pytest.mark.parametrize("cut", [0, 1, 200])
def test_a_journal_that_was_hardly_begun_is_begun_again(begun: Path, cut: int) -> None:
    begun.write_bytes(begun.read_bytes()[:cut])
    evaluate = Sized()
    search(evaluate, journal=begun, evaluations=3)
    assert evaluate.calls == 3
    assert len(begun.read_bytes().splitlines()) == 4


def _edited(number: int, old: str, new: str) -> Callable[[list[str]], None]:
    def edit(lines: list[str]) -> None:
        assert old in lines[number]
        lines[number] = lines[number].replace(old, new)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_edited(2, '"score": ', '"score": 1'), "line 3: its hash is not that of its content: the journal is damaged"),
        (_edited(1, "{", ""), "line 2 is no valid JSON"),
        (_edited(3, '"share"', '"part"'), "line 4: its hash"),
        (_edited(0, "search_journal", "search"), "expected a journal as search_decomposition writes it"),
        (_edited(0, '"version": 1', '"version": 2'), "expected version 1, found 2: it was written by another release"),
        (_edited(0, "parameters", "macs"), "line 1: its hash"),
        (lambda lines: lines.insert(0, "hello\n"), "expected a journal as search_decomposition writes it"),
        (lambda lines: lines.insert(2, "\n"), "line 3 is no valid JSON"),
        (lambda lines: lines.insert(2, "[]\n"), "line 3: its hash"),
    ],
)
def test_a_journal_that_is_damaged_is_refused_and_left_alone(
    begun: Path, edit: Callable[[list[str]], None], message: str
) -> None:
    lines = begun.read_text().splitlines(keepends=True)
    edit(lines)
    begun.write_text("".join(lines))
    content, evaluate = begun.read_bytes(), Sized()
    with pytest.raises(JournalError, match=re.escape(str(begun)) + ".*" + message):
        search(evaluate, journal=begun)
    assert begun.read_bytes() == content
    assert evaluate.calls == 0


@pytest.mark.parametrize("content", [b"notes", b"notes\nmore notes\n", b'{"format": "other"}\n', b"\x00\xff\n", b"3\n"])
def test_another_file_is_not_taken_for_a_journal(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=r"notes.txt: expected a journal as search_decomposition writes it"):
        search(Sized(), journal=path)
    assert path.read_bytes() == content


def _changed(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        model[2].weight[0, 0] += 1
    return model


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": _changed(network())}, r"model, values of 2.weight: \(32, 32\) \w{8} there, .* in this call"),
        ({"model": network().append(nn.Linear(32, 8))}, "model, layer 5: none there, Linear 32→8 in this call"),
        ({"minimise": "macs", "example_inputs": INPUTS}, "settings, minimise: parameters there, macs in this call"),
        (
            {"config": DecompositionConfig("auto", rule="any")},
            "settings, config.method: 'channel' there, 'auto' in this",
        ),
        ({"config": None}, "settings, config: given there, none in this call"),
        ({"calibration": Calibration([INPUTS])}, "settings, calibration: none there, given in this call"),
        ({"example_inputs": INPUTS}, "settings, example_inputs"),
    ],
)
def test_a_journal_of_another_search_is_refused_and_what_differs_is_named(
    begun: Path, settings: dict[str, Any], message: str
) -> None:
    content = begun.read_bytes()
    with pytest.raises(JournalError, match=f"of another search: {message}"):
        search(Sized(), journal=begun, **settings)
    assert begun.read_bytes() == content


def test_a_journal_of_a_layer_with_another_stride_is_refused(tmp_path: Path) -> None:
    for stride in (1, 2):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Conv2d(32, 32, 3, stride=stride))
        given = {"config": None, "journal": tmp_path / "search.jsonl", "evaluations": 2}
        if stride == 1:
            search(lambda model: 1.0, model, **given)
        else:
            with pytest.raises(JournalError, match="model, layer 0: Conv2d 32→32, 3×3 there, .*stride"):
                search(lambda model: 1.0, model, **given)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "refit"}, "calibration.mode: 'whiten' there, 'refit' in this call"),
        ({"batches": [INPUTS + 1, INPUTS]}, "calibration.batches: beginning with"),
        ({"max_batches": 1}, "calibration.max_batches: None there, 1 in this call"),
    ],
)
def test_a_journal_with_another_calibration_is_refused(tmp_path: Path, settings: Any, message: str) -> None:
    given = {"batches": [INPUTS, INPUTS + 1]}
    path = tmp_path / "search.jsonl"
    search(Sized(), calibration=Calibration(**given), journal=path, evaluations=3)
    with pytest.raises(JournalError, match=f"of another search: settings, {message}"):
        search(Sized(), calibration=Calibration(**{**given, **settings}), journal=path)


def test_other_batches_behind_the_first_are_noticed_where_the_plan_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    search(Sized(), calibration=Calibration([INPUTS, INPUTS + 1, INPUTS + 2]), journal=path, evaluations=3)
    (tmp_path / "search.jsonl.plan").unlink()
    with pytest.warns(AmctWarning, match="is not to the last bit the one that the journal has the score of"):
        search(Sized(), calibration=Calibration([INPUTS, INPUTS + 1, -INPUTS]), journal=path, evaluations=3)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="permissions bind only other users of POSIX")
def test_a_journal_that_cannot_be_written_is_refused_at_once(begun: Path) -> None:
    begun.chmod(0o400)
    with pytest.raises(JournalAccessError, match="cannot be written"):
        search(Sized(), journal=begun)


def test_a_disk_that_is_full_ends_the_search_with_what_was_written(
    begun: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    content = begun.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(JournalAccessError, match=r"search.jsonl: cannot be written: .*No space left on device"):
            search(Sized(), journal=begun)
    assert begun.read_bytes().startswith(content)
    search(Sized(), journal=begun, evaluations=3)


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(JournalAccessError, match="expected the path of a file to write, found a directory"):
        search(Sized(), journal=tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_two_processes_do_not_write_one_journal(begun: Path) -> None:
    program = f"import fcntl; file = open({str(begun)!r}, 'a'); fcntl.lockf(file, fcntl.LOCK_EX); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(JournalAccessError, match="another search is writing this journal"):
            search(Sized(), journal=begun)
        other.communicate("\n")
    search(Sized(), journal=begun, evaluations=3)


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.test_search import Sized, search
evaluate, last = Sized(), int(sys.argv[3])

def killed(model):
    if evaluate.calls == last:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(model)

search(killed, journal=sys.argv[2])
"""


@pytest.mark.slow
def test_a_search_killed_after_any_evaluation_goes_on_with_the_next(tmp_path: Path, whole: SearchResult) -> None:
    calls = len({one.cost for one in whole.evaluations})
    root = str(Path(__file__).resolve().parent.parent)
    for last in range(calls):
        path = tmp_path / f"{last}.jsonl"
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", _KILLED, root, str(path), str(last)], check=False)
        assert done.returncode == -signal.SIGKILL
        evaluate = Sized()
        found = search(evaluate, journal=path)
        assert evaluate.calls == calls - last
        assert shares(found) == shares(whole)
        assert same_plan(found, whole)


# Limits.


def test_no_evaluation_begins_that_would_end_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(run.time, "monotonic", lambda: now)
    evaluate = Sized()

    def slow(model: nn.Module) -> float:
        nonlocal now
        now += 60
        return evaluate(model)

    found = search(slow, minutes=5.5)
    assert evaluate.calls == 5
    assert "Stopped early: after 5 of 7 evaluations, as the time limit was near" in str(found)
    assert found.chosen.accepted
    assert found.plan.apply(network())[1]
    now = 0.0
    with pytest.warns(AmctWarning, match="no plan within drop=0 was found in 1 evaluation:"):
        found = search(slow, minutes=0.5)
    assert shares(found) == [1.0]


def test_more_evaluations_may_be_added_later(begun: Path) -> None:
    evaluate = Sized()
    found = search(evaluate, journal=begun, evaluations=5)
    assert evaluate.calls == 2
    assert len(found.evaluations) == 5
    assert len(search(evaluate, journal=begun, evaluations=2).evaluations) == 5
    assert evaluate.calls == 2


def test_progress_is_reported_after_each_evaluation() -> None:
    reports: list[tuple[int, int, str]] = []
    search(Sized(), evaluations=3, progress=lambda *report: reports.append(report))
    assert [report[:2] for report in reports] == [(1, 3), (2, 3), (3, 3)]
    assert reports[1][2].startswith("parameters=0.")


# Noise.


def test_the_standard_error_is_that_of_two_binomial_shares() -> None:
    error = standard_error_of_difference(0.9, 0.9, 10_000, 1.0)
    assert error == pytest.approx(math.sqrt(2 * 0.9 * 0.1 / 10_000), rel=1e-3)
    assert standard_error_of_difference(90.0, 90.0, 10_000, 100.0) == pytest.approx(100 * error)
    assert standard_error_of_difference(1.0, 1.0, 100, 1.0) > 0.01  # one of a hundred more may be wrong
    assert [score_range(score) for score in (0.0, 1.0, 1.5, 100.0)] == [1, 1, 100, 100]


def test_a_drop_below_the_noise_is_said_to_be_so() -> None:
    with pytest.warns(AmctWarning, match=r"drop=0.001 is below the standard error .* on 450 samples, 0.0\d+ at most"):
        found = search(Sized(), drop=0.001, samples=450, evaluations=3)
    assert found.standard_error is not None
    assert found.standard_error > 0.001
    assert "which plan is chosen is partly chance" in str(found)
    quiet = search(Sized(), drop=0.1, samples=450, evaluations=3)
    assert "partly chance" not in str(quiet)
    assert "Standard error of the difference of two scores: 0.0" in str(quiet)


@pytest.mark.parametrize("score", [-0.5, 101.0])
def test_samples_are_only_of_shares_and_percents(score: float) -> None:
    with pytest.raises(ConfigError, match="samples: expected evaluate=… to return the share of the samples"):
        search(lambda model: score, samples=100)


# The report.


@pytest.fixture(scope="module")
def found() -> SearchResult:
    return search(Sized(), drop=0.01, evaluations=5, samples=1000)


def test_it_prints_everything_that_was_tried(found: SearchResult) -> None:
    lines = found.text(80).splitlines()
    assert lines[0].split() == ["budget", "parameters", "left", "score", "change", "verdict", "seconds"]
    assert lines[2].startswith("original")
    assert sum(" chosen " in line for line in lines) == 1
    assert any(line.startswith("Chosen: ") for line in lines)


def test_it_is_saved_as_json_without_the_plan(found: SearchResult, tmp_path: Path) -> None:
    found.save(tmp_path / "search.json")
    content = json.loads((tmp_path / "search.json").read_text())
    assert content["format"] == "amct_pytorch.search"
    assert set(content) == {
        "format", "version", "minimise", "drop", "evaluations", "stopped", "standard_error",
    }  # fmt: skip
    assert [one["share"] for one in content["evaluations"]] == shares(found)


def test_it_is_drawn_with_the_plan_chosen(found: SearchResult, tmp_path: Path) -> None:
    (figure,) = found.figures()
    tried, chosen = figure.series
    assert len(tried.points) == 5
    assert chosen.points == ((100 * found.chosen.cost, found.chosen.score),)
    found.plot(tmp_path / "new" / "curve.svg")
    assert (tmp_path / "new" / "curve.svg").read_text().startswith("<?xml")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_example_finds_a_network_of_a_third_of_the_macs_within_half_a_point(tmp_path: Path) -> None:
    program = Path(__file__).resolve().parent.parent / "examples" / "digits" / "search.py"
    command = [sys.executable, "-W", "ignore", str(program), "--output", str(tmp_path)]
    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # fixes the order of summation, hence the accuracies
    done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    chosen = re.search(r"Chosen: ([\d.]+)% of the MACs, score ([\d.]+), which is (-[\d.]+)", done.stdout)
    assert chosen is not None, done.stdout
    left, score, change = map(float, chosen.groups())
    assert left < 100 / 3
    assert score > 99
    assert change >= -0.5
    assert "whole model" in done.stdout
    assert {item.name for item in tmp_path.iterdir()} == {
        "decompose_info.json",
        "macs.jsonl",
        "macs.jsonl.plan",
        "macs.png",
    }


# Several processes.


def _search_in_process(index: int, path: str) -> list[Any]:
    """Processes whose scores differ by rounding, as those of different cards may."""
    evaluate = Sized()
    found = search(lambda model: evaluate(model) - 1e-15 * index, journal=path)
    return [shares(found), evaluate.calls, splits(found), [one.score for one in found.evaluations]]


def _fail_in_one(index: int, path: str) -> None:
    search(Sized() if index == 0 else lambda model: math.nan, journal=path)


@pytest.mark.slow
def test_several_processes_search_together(tmp_path: Path) -> None:
    path = str(tmp_path / "search.jsonl")
    answers = run_in_processes(__name__, "_search_in_process", path)
    assert answers[0]["value"] == answers[1]["value"]
    again = run_in_processes(__name__, "_search_in_process", path)
    assert [one["value"][1] for one in again] == [0, 0]
    assert [one["value"][2] for one in again] == [one["value"][2] for one in answers]


@pytest.mark.slow
def test_an_evaluation_that_fails_in_one_process_fails_all(tmp_path: Path) -> None:
    first, second = run_in_processes(__name__, "_fail_in_one", str(tmp_path / "search.jsonl"))
    assert first["error"][0] == "ProcessFailed"
    assert second["error"][:2] == [
        "ConfigError",
        "evaluate must return a finite number, found nan for the model as it is: return the worst score that is "
        "possible where a model gives no usable outputs",
    ]


def test_an_object_in_the_place_of_another_is_another_model() -> None:
    from amct_pytorch.tensor_decompose.search.identity import state_of

    net = nn.Sequential(nn.Linear(2, 2))
    net.note = SimpleNamespace()
    before = state_of(net)
    assert before == state_of(net)
    address = id(net.note)
    del net.note
    others = []  # one of which gets its address, unless something holds it
    while len(others) < 1000 and (not others or id(others[-1]) != address):
        others.append(SimpleNamespace())
    net.note = others[-1]
    assert before != state_of(net)


def test_without_memory_nothing_is_kept_however_small() -> None:
    from amct_pytorch._run.reuse import Reuse

    reuse, results = Reuse(0), iter((1, 2))
    assert [reuse.once("number", lambda: next(results)) for _ in range(2)] == [1, 2]
    assert not reuse.keeps("number")


def test_a_score_of_another_model_than_the_one_given_is_noticed() -> None:
    with pytest.warns(AmctWarning, match="every plan has exactly the score of the original, 0.75: make sure"):
        search(lambda model: 0.75)
