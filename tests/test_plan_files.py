"""Files of plans and settings: written on one machine, then checked, read and applied on another."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amct_pytorch._storage.json_text import content_hash
from amct_pytorch._storage.weights import tensor_hash
from amct_pytorch.errors import (
    ConfigError,
    ConfigTypeError,
    LayerError,
    PlanFileAccessError,
    PlanFileError,
)
from amct_pytorch.tensor_decompose import (
    Calibration,
    DecompositionConfig,
    EnergyRank,
    EvbmfRank,
    FixedRank,
    RatioRank,
    load_config,
    load_plan,
    plan_decomposition,
    save_config,
)

from .models import TwoConvs, chains, image, snapshot


@pytest.mark.parametrize("mode", [None, "whiten", "refit", "reconstruct"])
def test_a_plan_read_from_its_file_is_the_same_and_does_the_same(mode: Any, tmp_path: Path) -> None:
    model = TwoConvs().eval()
    model.conv1.bias = None  # gets one by calibration
    calibration = None if mode is None else Calibration(image(48, 3, 16, 16).split(12), mode=mode)
    plan = plan_decomposition(model, calibration=calibration, example_inputs=image())
    plan.save(tmp_path / "new" / "plan.pt")
    loaded = load_plan(tmp_path / "new" / "plan.pt")
    assert loaded == plan
    assert str(loaded) == str(plan)
    assert str(loaded.explain()) == str(plan.explain())
    one, changes = plan.apply(copy.deepcopy(model), tmp_path / "one.json")
    other, again = loaded.apply(copy.deepcopy(model), tmp_path / "other.json")
    assert changes == again
    assert torch.equal(one(image()), other(image()))
    assert (tmp_path / "one.json").read_text() == (tmp_path / "other.json").read_text()


@pytest.mark.slow
def test_a_plan_is_applied_in_another_process(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1))
    torch.save(model.state_dict(), tmp_path / "model.pth")
    plan = plan_decomposition(model)
    plan.save(tmp_path / "plan.pt")
    expected, _ = plan.apply(model)
    program = (
        "import torch; from torch import nn; from amct_pytorch.tensor_decompose import load_plan\n"
        "net = nn.Sequential(nn.Conv2d(64, 64, 3, padding=1)); net.load_state_dict(torch.load('model.pth'))\n"
        "net, _ = load_plan('plan.pt').apply(net); torch.save(net.state_dict(), 'decomposed.pth')"
    )
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    found = torch.load(tmp_path / "decomposed.pth")
    assert all(torch.equal(value, found[key]) for key, value in expected.state_dict().items())


def test_layers_that_share_a_weight_share_it_after_a_plan_from_a_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3))
    model[1].weight = model[0].weight
    plan_decomposition(model).save(tmp_path / "plan.pt")
    net, _ = load_plan(tmp_path / "plan.pt").apply(model)
    assert net[0][0].weight is net[1][0].weight
    assert net[0][1].weight is net[1][1].weight


def test_a_plan_of_another_model_changes_nothing(tmp_path: Path) -> None:
    plan_decomposition(TwoConvs()).save(tmp_path / "plan.pt")
    plan = load_plan(tmp_path / "plan.pt")
    for model, message in (
        (TwoConvs(), "'conv1': its weight has changed since the plan was made"),
        (nn.Sequential(nn.Conv2d(64, 64, 3)), "'conv1': the plan expects a Conv2d 64→64, 3×3, found none of that name"),
    ):
        check = snapshot(model)
        with pytest.raises(LayerError, match=message):
            plan.apply(model, tmp_path / "info.json")
        check()
        assert not (tmp_path / "info.json").exists()


def _damaged(path: Path, damage: Callable[[dict[str, Any]], object]) -> None:
    content = torch.load(path)
    damage(content)
    torch.save(content, path)


def _layer(content: dict[str, Any]) -> dict[str, Any]:
    layer: dict[str, Any] = content["layers"][1]
    return layer


def _huge(tensor: torch.Tensor) -> Callable[[dict[str, Any]], object]:
    """Puts a tensor that declares far more values than it has bytes in the place of one."""
    return lambda content: content["tensors"].update({"0": tensor})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c.update(format="other"), "expected a plan as DecompositionPlan.save writes it"),
        (lambda c: c.update(version=5), "expected version 1 to 4, found 5: it was written by another release"),
        (lambda c: c.update(version=True), "expected version 1 to 4, found True"),
        (lambda c: c.update(version=torch.ones(2)), "expected version 1 to 4, found tensor"),
        (lambda c: c.update(version=1), "expected a plan with layers and tensors: the file is damaged"),
        (lambda c: c.pop("sha256"), "expected a plan with layers and tensors: the file is damaged"),
        (lambda c: c.update(more=1), "expected a plan with layers and tensors: the file is damaged"),
        (lambda c: c.update(sha256="0"), "its hash is not that of its content: it is damaged, or was changed"),
        (lambda c: c["tensors"]["0"][0, 0].add_(1), "its hash is not that of its content"),
        (lambda c: _layer(c).update(factors=_layer(c)["factors"][::-1]), "factors: expected the shapes"),
        (lambda c: _layer(c).update(parameters=-1), "its hash is not that of its content"),
        (lambda c: c["plan"].update(parameters=True), "parameters: expected a whole number, found True"),
        (lambda c: c["tensors"].update({"9": 3}), "its hash is not that of its content"),
        (_huge(torch.zeros(1).expand(64, 64, 10**9)), "expected the tensor '0', finite, in float32 or float64"),
        (_huge(torch.empty(10**12, device="meta")), "expected the tensor '0', finite, in float32 or float64"),
        (
            _huge(torch.sparse_coo_tensor(size=(10**12,), check_invariants=False)),
            "expected the tensor '0', finite, in float32 or float64",
        ),
        (lambda c: c.update(layers={}), "expected a plan with layers and tensors"),
        (lambda c: c.update(plan=[]), r"expected an object, found \[\]"),
        (lambda c: c["plan"].pop("parameters"), "expected the keys parameters, .* parameters is missing or unknown"),
        (lambda c: c["plan"].update(parameters=1.5), "parameters: expected a whole number, found 1.5"),
        (lambda c: c["layers"].append(3), "layer 3: expected an object, found int"),
        (lambda c: _layer(c).update(names=[]), "layer 1: expected a name at least"),
        (lambda c: _layer(c).update(decompose="yes"), "layer 1, decompose: expected true or false, found 'yes'"),
        (lambda c: _layer(c).update(method="tucker9"), "no decomposition method is named 'tucker9'.*register"),
        (lambda c: _layer(c).update(ranks=[0]), r"\('conv1'\), ranks: expected ranks of \[192\] at most, found \[0\]"),
        (lambda c: _layer(c).update(ranks=[16, 16]), r"ranks: expected ranks of \[192\] at most, found \[16, 16\]"),
        (lambda c: _layer(c).update(ranks=[48]), "factors: expected the shapes"),
        (lambda c: _layer(c).update(ranks=None), "expected spec, method and ranks"),
        (lambda c: _layer(c)["spec"].update(stride=[1]), "spec: expected the geometry of a layer"),
        (lambda c: _layer(c)["spec"].update(in_channels=-1), "spec: expected the geometry of a layer"),
        (lambda c: _layer(c).update(factors=["7", "8"]), "expected the tensor '7', finite, in float32 or float64"),
        (lambda c: c["tensors"]["0"].fill_(float("nan")), "expected the tensor '0', finite"),
        (lambda c: c["tensors"].update({"0": c["tensors"]["0"].half()}), "expected the tensor '0', finite, in float32"),
    ],
)
def test_a_damaged_plan_is_refused_by_place_expectation_and_finding(
    damage: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "plan.pt"
    plan_decomposition(TwoConvs()).save(path)
    _damaged(path, damage)
    with pytest.raises(PlanFileError, match=message):
        load_plan(path)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_plans_of_earlier_versions_are_read(version: int, tmp_path: Path) -> None:
    plan = plan_decomposition(TwoConvs())
    plan.save(tmp_path / "plan.pt")

    def as_then(content: dict[str, Any]) -> None:
        content["version"] = version
        del content["plan"]["settings"], content["sha256"]
        if version < 3:
            del content["plan"]["latency"]
        if version > 1:
            hashes = {name: tensor_hash(tensor) for name, tensor in content["tensors"].items()}
            content["sha256"] = content_hash({**content, "tensors": hashes})

    _damaged(tmp_path / "plan.pt", as_then)
    loaded = load_plan(tmp_path / "plan.pt")
    assert loaded == plan
    assert str(loaded).startswith("2 of 3 Conv2d are decomposed.\nParameters of the model: ")


def test_a_byte_changed_in_a_factor_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "plan.pt"
    plan = plan_decomposition(TwoConvs())
    plan.save(path)
    content, factor = bytearray(path.read_bytes()), plan.layers[1].factors[0].numpy().tobytes()
    content[content.index(factor) + len(factor) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(PlanFileError, match="plan.pt: its hash is not that of its content"):
        load_plan(path)


_TWO_GIGABYTES = b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."  # a pickle that calls bytearray(2**31 - 1)


def _rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int) -> None:
    """Write the records of an archive again, each changed."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


@pytest.mark.parametrize(
    ("change", "compression"),
    [
        (lambda name, content: content, zipfile.ZIP_DEFLATED),
        (
            lambda name, content: (
                b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R." if "pkl" in name else content
            ),
            zipfile.ZIP_STORED,
        ),
    ],
    ids=["compressed", "two gigabytes by a number"],
)
def test_a_plan_that_would_take_more_memory_than_it_has_bytes_is_refused(
    change: Callable[[str, bytes], bytes], compression: int, tmp_path: Path
) -> None:
    plan_decomposition(TwoConvs()).save(tmp_path / "plan.pt")
    _rewritten(tmp_path / "plan.pt", change, compression)
    with pytest.raises(PlanFileError, match=r"plan.pt: cannot be loaded \(ValueError\)"):
        load_plan(tmp_path / "plan.pt")


@pytest.mark.parametrize("content", [b"", b"PK", b"{}", b"\x00" * 100])
def test_another_file_is_no_plan(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "plan.pt").write_bytes(content)
    with pytest.raises(PlanFileError, match=r"plan.pt: cannot be loaded"):
        load_plan(tmp_path / "plan.pt")


def test_a_pickle_that_runs_code_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"format": "amct_pytorch.plan", "version": 1, "plan": Attack()}, tmp_path / "plan.pt")
    with pytest.raises(PlanFileError, match="cannot be loaded"):
        load_plan(tmp_path / "plan.pt")
    assert not (tmp_path / "ran").exists()


def test_paths_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    plan = plan_decomposition(nn.Sequential())
    for path, error, message in (
        (3, ConfigTypeError, "path must be the path of a file, found 3"),
        ("", ConfigError, "path must be the path of a file, found ''"),
        (tmp_path, PlanFileAccessError, "directory"),
        (tmp_path / "file" / "plan", PlanFileAccessError, "file"),
    ):
        (tmp_path / "file").write_text("")
        for use in (plan.save, load_plan, load_config, lambda path: save_config(DecompositionConfig(), path)):
            with pytest.raises(error, match=message):
                use(path)  # type: ignore[operator]
    with pytest.raises(PlanFileAccessError, match="there is no such plan"):
        load_plan(tmp_path / "absent")


def test_an_earlier_plan_stays_when_a_new_one_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.pt"
    plan = plan_decomposition(TwoConvs())
    plan.save(path)
    before = path.read_bytes()
    monkeypatch.setattr(torch, "save", lambda *arguments: (_ for _ in ()).throw(RuntimeError("disk full")))
    with pytest.raises(PlanFileAccessError, match=r"plan.pt: cannot be written: disk full"):
        plan.save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "config",
    [
        DecompositionConfig(),
        DecompositionConfig(rank=EnergyRank(0.9), rank_multiple=32, require_gain=False, rule="any"),
        DecompositionConfig(
            rank=FixedRank({"conv1": 24, "re:^conv": 32}),
            layers={"stem": False, "re:2$": {"rank": RatioRank(0.1), "rank_multiple": 1}, "conv1": {"rule": "any"}},
        ),
    ],
)
def test_settings_read_from_their_file_are_the_same(config: DecompositionConfig, tmp_path: Path) -> None:
    save_config(config, tmp_path / "new" / "config.json")
    assert load_config(tmp_path / "new" / "config.json") == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "expected settings as save_config writes them, found another file"),
        ({"version": 9}, "expected version 1, found 9"),
        ({"version": True}, "expected version 1, found True"),
        ({"version": 1.0}, "expected version 1, found 1.0"),
        (
            {"rank": {"policy": ["EvbmfRank"]}},
            "rank: expected an object with a policy among EvbmfRank, .*, found {'pol",
        ),
        ({"ranks": 3}, "expected settings among .*, found ranks"),
        ({"rank_multiple": 0}, "rank_multiple must be a whole number from 1 on, found 0"),
        ({"rank": 3}, "rank: expected an object with a policy among EvbmfRank, .*, found 3"),
        ({"rank": {"policy": "EnergyRank"}}, "rank: expected the settings of EnergyRank"),
        ({"rank": {"policy": "EnergyRank", "share": 7}}, "EnergyRank: share must be a number above 0"),
        ({"layers": 3}, "layers must map names to rules, found 3"),
        ({"layers": {"a": {"rank": 3}}}, "rank: expected an object with a policy"),
    ],
)
def test_wrong_settings_in_a_file_are_refused_as_they_are_in_python(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    save_config(DecompositionConfig(), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(PlanFileError, match=message):
        load_config(path)


def test_a_file_that_is_no_json_is_no_settings(tmp_path: Path) -> None:
    for text in ("", "{", "[" * 100_000):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(PlanFileError, match="is no valid JSON"):
            load_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('"rank_multiple": 16', '"rank_multiple": 16, "rank_multiple": 8', "gives the key 'rank_multiple' twice"),
        ('"rank_multiple": 16', '"rank_multiple": NaN', "holds NaN, which is no JSON number"),
    ],
)
def test_settings_that_can_be_read_in_two_ways_are_refused(
    before: str, after: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    save_config(DecompositionConfig(), path)
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(PlanFileError, match=f"config.json: {message}"):
        load_config(path)


def test_a_rank_policy_of_ones_own_is_not_written(tmp_path: Path) -> None:
    class Mine(EvbmfRank):
        pass

    with pytest.raises(ConfigError, match="rank policy .*Mine.*: expected one of EvbmfRank, EnergyRank"):
        save_config(DecompositionConfig(layers={"a": {"rank": Mine()}}), tmp_path / "config.json")
    assert list(tmp_path.iterdir()) == []


def test_the_plan_of_a_decomposed_layer_says_all_that_the_chain_is() -> None:
    plan = plan_decomposition(model := TwoConvs())
    net, _ = plan.apply(model)
    assert [chain.split_as_it_is() for chain in chains(net).values()] == [
        layer.split for layer in plan.layers if layer.decompose
    ]
