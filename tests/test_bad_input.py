"""Mistakes of users: each raises a clear error and changes nothing."""

from __future__ import annotations

import contextlib
import copy
import socket
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode

import amct_pytorch.errors as errors
from amct_pytorch.benchmark import benchmark
from amct_pytorch.errors import AmctError, AmctWarning, ConfigError, InputsError, ModelError
from amct_pytorch.tensor_decompose import (
    Budget,
    DecompositionConfig,
    EnergyRank,
    EvbmfRank,
    FixedRank,
    RatioRank,
    auto_decomposition,
    decompose_network,
    plan_decomposition,
)
from amct_pytorch.validate import validate

from .models import TwoConvs, conv, image, snapshot


@pytest.mark.parametrize("model", [None, "net.pth", {"weight": torch.ones(1)}, TwoConvs, image()])
def test_what_is_no_module_is_refused(model: object) -> None:
    for function in (auto_decomposition, plan_decomposition, lambda given: decompose_network(given, "info.json")):
        with pytest.raises(ModelError, match=r"model must be a torch\.nn\.Module, found "):
            function(model)


@contextlib.contextmanager
def _process_group() -> Iterator[None]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=0, world_size=1)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def test_wrapped_models_are_refused_with_what_to_do() -> None:
    from torch.distributed.fsdp import fully_shard

    compiled_inside = nn.Sequential(TwoConvs())
    compiled_inside[0].compile()
    with _process_group():
        sharded = nn.Sequential(conv())
        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        fully_shard(sharded, mesh=mesh)
        for model, message in (
            (nn.DataParallel(TwoConvs()), "the model is wrapped in DataParallel: decompose model.module"),
            (nn.parallel.DistributedDataParallel(TwoConvs()), "is wrapped in DistributedDataParallel: decompose"),
            (nn.Sequential(nn.parallel.DistributedDataParallel(conv())), "its submodule '0' is wrapped in Distributed"),
            (sharded, "is wrapped in FSDPModule: decompose the model before sharding it"),
            (torch.compile(TwoConvs()), "is wrapped in OptimizedModule: .* before compiling it"),
            (compiled_inside, "its submodule '0' was compiled in place"),
            (torch.jit.script(TwoConvs()), "is a ScriptModule: decompose the Python model"),
            (torch.jit.trace(TwoConvs().eval(), image()), "is a ScriptModule"),
        ):
            check = snapshot(model)
            for function in (auto_decomposition, plan_decomposition):
                with pytest.raises(ModelError, match=message):
                    function(model)
            check()


def test_an_inner_data_parallel_is_decomposed() -> None:
    model = nn.ModuleDict({"features": nn.DataParallel(nn.Sequential(conv()))})
    assert list(auto_decomposition(model)[1]) == ["features.module.0"]


def test_fake_weights_are_kept_with_the_reason() -> None:
    with FakeTensorMode():
        model = nn.Sequential(conv())
    (layer,) = plan_decomposition(model).layers
    assert not layer.decompose
    assert layer.reason == "its weight is a FakeTensor, not a plain tensor"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DecompositionConfig(rank=32), r"rank must be a rank policy such as .*, found 32"),
        (lambda: DecompositionConfig(rank=EvbmfRank), "rank must be a rank policy"),
        (lambda: DecompositionConfig(method=3), "method must be a name, found 3"),
        (lambda: DecompositionConfig(rank_multiple=0), "rank_multiple must be a whole number from 1 on, found 0"),
        (lambda: DecompositionConfig(rank_multiple=True), "rank_multiple"),
        (lambda: DecompositionConfig(rank_multiple=16.0), "rank_multiple"),
        (lambda: DecompositionConfig(require_gain="no"), "require_gain must be True or False, found 'no'"),
        (lambda: DecompositionConfig(layers=["conv1"]), "layers must map names to rules"),
        (lambda: DecompositionConfig(layers={"conv1": True}), r"layers\['conv1'\] must be False or a mapping"),
        (
            lambda: DecompositionConfig(layers={"conv1": {"ranks": 3}}),
            r"some of method, rule, rank, .*found {'ranks': 3}",
        ),
        (lambda: DecompositionConfig(layers={"conv1": {"rank": 3}}), r"layers\['conv1'\]: rank must be a rank policy"),
        (lambda: DecompositionConfig(layers={3: False}), "a key must be a layer's name or a pattern, found 3"),
        (lambda: DecompositionConfig(layers={"re:(": False}), r"'re:\(' is no regular expression"),
        (lambda: EnergyRank(0), "EnergyRank: share must be a number above 0 and up to 1, found 0"),
        (lambda: EnergyRank(95), "found 95"),
        (lambda: EnergyRank(float("nan")), "found nan"),
        (lambda: RatioRank("0.5"), "RatioRank: ratio must be"),
        (lambda: FixedRank(0), "FixedRank: the rank must be a whole number from 1 on, found 0"),
        (lambda: FixedRank({"conv1": 2.5}), "the rank of 'conv1' must be a whole number from 1 on, found 2.5"),
        (lambda: FixedRank({"re:[": 3}), "is no regular expression"),
    ],
)
def test_wrong_settings_are_refused_when_made(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rank": 0.5}, "config must be a DecompositionConfig"),
        (DecompositionConfig(method="separabel"), "method is named 'separabel'; did you mean 'separable'?"),
        (DecompositionConfig(layers={"conv3": False}), "the model has no Conv2d named 'conv3'; did you mean 'conv2'"),
        (DecompositionConfig(rank=FixedRank({"head": 3})), "FixedRank: the model has no Conv2d named 'head'"),
        (DecompositionConfig(layers={"conv1": {"rank": FixedRank({"convl": 3})}}), "'convl'; did you mean"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(config: DecompositionConfig, message: str) -> None:
    model = TwoConvs()
    check = snapshot(model)
    with pytest.raises(ConfigError, match=message):
        auto_decomposition(model, config=config)
    check()


def test_the_name_of_a_block_is_answered_with_the_pattern_for_it() -> None:
    model = nn.ModuleDict({"layer1": nn.Sequential(conv(), conv()), "layer2": nn.Sequential(conv())})
    with pytest.raises(ConfigError, match="inside that module, use 're:\\^layer1\\[.\\]'"):
        plan_decomposition(model, DecompositionConfig(layers={"layer1": False}))
    plan = plan_decomposition(model, DecompositionConfig(layers={"re:^layer1[.]": False}))
    assert [layer.decompose for layer in plan.layers] == [False, False, True]


def test_a_pattern_that_matches_nothing_is_a_warning() -> None:
    with pytest.warns(AmctWarning, match="the pattern 're:up' matches no Conv2d"):
        plan_decomposition(TwoConvs(), DecompositionConfig(layers={"re:up": False}))


def test_two_rules_for_one_layer_under_two_names_are_refused() -> None:
    model = TwoConvs()
    model.alias = model.conv1
    with pytest.raises(ConfigError, match="'conv1' and 'alias' are one layer"):
        plan_decomposition(model, DecompositionConfig(rank=FixedRank({"conv1": 16, "alias": 32})))
    plan = plan_decomposition(model, DecompositionConfig(layers={"alias": False}))
    assert [layer.decompose for layer in plan.layers] == [False, False, True]


def test_progress_of_another_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="progress must be True, False or a function"):
        plan_decomposition(TwoConvs(), progress="bar")  # type: ignore[arg-type]


def test_a_model_that_contains_itself_is_refused() -> None:
    model = nn.Sequential(conv())
    model[0].add_module("parent", model)
    with pytest.raises(ModelError, match="contains itself"):
        plan_decomposition(model)


def test_every_error_is_an_amct_error_and_a_builtin() -> None:
    builtin = {
        "ModelError": TypeError,
        "LayerError": ValueError,
        "InputsError": ValueError,
        "ConfigError": ValueError,
        "ConfigTypeError": TypeError,
        "BudgetError": ValueError,
        "InfoFileError": ValueError,
        "InfoFileAccessError": OSError,
        "InfoFileNotFound": FileNotFoundError,
        "PlanFileError": ValueError,
        "PlanFileAccessError": OSError,
        "JournalError": ValueError,
        "JournalAccessError": OSError,
        "CheckpointError": ValueError,
        "CheckpointInfoError": errors.InfoFileError,
        "CheckpointAccessError": OSError,
        "MissingExtra": ImportError,
        "BackendUnavailable": RuntimeError,
        "DeviceError": RuntimeError,
        "ProcessFailed": RuntimeError,
        "ExportError": RuntimeError,
        "ExportAccessError": OSError,
        "ReportAccessError": OSError,
        "TrainingDiverged": ArithmeticError,
    }
    kinds = {
        kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AmctError)
    }
    assert errors.RankFailed is errors.ProcessFailed  # its former name
    assert kinds.keys() == {"AmctError", *builtin}
    assert all(issubclass(kinds[name], builtin[name]) for name in builtin)


@pytest.mark.parametrize("size", [2.0**126, 3e38])
def test_weights_as_large_as_the_type_has_them_are_split_without_a_warning(size: float) -> None:
    model = nn.Sequential(conv())
    nn.init.constant_(model[0].weight, size)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        auto_decomposition(model)
    first, last = (stage.weight.detach().double() for stage in model[0])
    composed = torch.einsum("orb,ria->oiab", last[:, :, 0], first[..., 0])
    torch.testing.assert_close(composed, torch.full_like(composed, size))


@pytest.mark.parametrize("compare", [validate, benchmark])
@pytest.mark.parametrize("inputs", [torch.zeros(0, 64, 8, 8), (torch.zeros(0, 64, 8, 8), torch.zeros(0))])
def test_inputs_without_a_sample_compare_nothing_and_are_refused(
    compare: Callable[..., object], inputs: object
) -> None:
    original = nn.Sequential(conv())
    decomposed, _ = auto_decomposition(copy.deepcopy(original))
    with pytest.raises(InputsError, match=r"the inputs \(\(0, 64, 8, 8\) .*\) hold no sample: give at least one"):
        compare(original, decomposed, inputs)


def test_a_latency_is_not_budgeted_on_inputs_without_a_sample() -> None:
    with pytest.raises(InputsError, match=r"the inputs \(\(0, 64, 8, 8\) .*\) hold no sample: give at least one"):
        plan_decomposition(nn.Sequential(conv()), budget=Budget(latency=0.5), example_inputs=torch.zeros(0, 64, 8, 8))


class Chosen:
    """A rank policy of a user's, that chooses what it is told, or fails."""

    def __init__(self, choice: object) -> None:
        self.choice = choice

    def for_layer(self, names: tuple[str, ...]) -> Chosen:
        return self

    def choose(self, kernel: object, singulars: object) -> Any:
        if isinstance(self.choice, Exception):
            raise self.choice
        return self.choice


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (8, "must return a rank from 1 to 192 and where it comes from, in words, found 8"),
        (None, "found None"),
        ((8.5, "half"), r"found \(8.5, 'half'\)"),
        (("8", "text"), r"found \('8', 'text'\)"),
        ((True, "flag"), "must choose a rank from 1 to 192, found True"),
        ((193, "too high"), "must choose a rank from 1 to 192, found 193"),
        (ZeroDivisionError("division by zero"), "fails: ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_rank_policy_of_a_users_returns_is_checked(choice: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"layer '0': .*{message}.* \\(separable\\)"):
        plan_decomposition(nn.Sequential(conv()), DecompositionConfig(rank=Chosen(choice)))


def test_a_rank_policy_may_choose_by_numpy(tmp_path: Path) -> None:
    policy = Chosen((np.int64(8), "of an array"))
    auto_decomposition(nn.Sequential(conv()), tmp_path / "info.json", config=DecompositionConfig(rank=policy))
    model, _ = decompose_network(nn.Sequential(conv()), tmp_path / "info.json")
    assert len(model[0][0].weight) == 8
