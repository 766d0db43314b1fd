"""The verbs of the command line: what they print, what they write, and that the parts fit together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amct_pytorch.tensor_decompose import load_plan
from tests.cli_user import Network
from tests.command_line import NETWORK, SHAPE, USER, Command, command

__all__ = ["command"]  # a fixture

PIPELINE = ("decompose_info.json", "plan.pt", "run.json", "spectra.json", "weights.pth")


@pytest.fixture
def decomposed(command: Command, tmp_path: Path) -> Path:
    """The folder of a decomposition."""
    folder = tmp_path / "decomposed"
    assert command("run", NETWORK, "-o", folder, "-q").code == 0
    return folder


def test_plan_prints_every_layer_and_changes_nothing(command: Command) -> None:
    ended = command("plan", NETWORK)
    assert ended.code == 0
    assert "body" in ended.out
    assert "1 of 2 Conv2d are decomposed" in ended.out
    assert ended.err == ""


def test_plan_as_json_is_one_object_also_if_the_factory_prints(command: Command) -> None:
    ended = command("plan", f"{USER}:talkative", "--json")
    assert [layer["names"] for layer in ended.json["layers"]] == [["stem"], ["body"]]
    assert "loading the model" in ended.err


def test_plan_takes_a_budget_and_rules(command: Command) -> None:
    ended = command("plan", NETWORK, *SHAPE, "--macs", 0.6, "--layers", "stem=keep", "--json")
    layers = {layer["names"][0]: layer for layer in ended.json["layers"]}
    assert layers["stem"]["reason"] == "left out by the rule 'stem'"
    assert layers["body"]["decompose"]
    assert "head" in layers  # with a budget every method and rule is in use, as in Python


@pytest.mark.parametrize(
    ("options", "method", "ranks"),
    [
        (("--rank", "32"), "separable", [32]),
        (("--rank", "ratio:0.5"), "separable", [96]),
        (("--method", "tucker2", "--rank", "24x40"), "tucker2", [24, 40]),
        (("--layers", "body=method:channel,rank:16"), "channel", [16]),
        (("--layers", "re:^bo=rank:evbmf,rank-multiple:8"), "separable", [32]),
    ],
)
def test_ranks_are_given_in_words(command: Command, options: tuple[str, ...], method: str, ranks: list[int]) -> None:
    [body] = [
        layer for layer in command("plan", NETWORK, *options, "--json").json["layers"] if layer["names"] == ["body"]
    ]
    assert (body["method"], body["ranks"]) == (method, ranks)


def test_run_writes_what_rebuild_validate_and_export_read(command: Command, tmp_path: Path, decomposed: Path) -> None:
    assert sorted(path.name for path in decomposed.iterdir()) == sorted(PIPELINE)
    written = torch.load(decomposed / "weights.pth", weights_only=True)
    assert set(written) >= {"body.0.weight", "body.1.weight", "body.1.bias"}
    record = json.loads((decomposed / "run.json").read_text())
    assert record["command"].startswith("amct-decompose run ")
    assert record["versions"]["torch"] == torch.__version__

    rebuilt = command("rebuild", NETWORK, *SHAPE, "--decomposed", decomposed, "-o", tmp_path / "again", "--json")
    assert (rebuilt.code, rebuilt.json["layers"], rebuilt.json["finite"]) == (0, {"body": ["body.0", "body.1"]}, True)
    again = torch.load(tmp_path / "again" / "weights.pth", weights_only=True)
    assert again.keys() == written.keys()
    assert all(torch.equal(again[name], written[name]) for name in written)

    checked = command("validate", NETWORK, *SHAPE, "--decomposed", decomposed, "-o", decomposed)
    assert checked.code == 0
    assert "right" in checked.out
    assert json.loads((decomposed / "validation.json").read_text())["format"] == "amct_pytorch.validation"
    assert json.loads((decomposed / "run.json").read_text()) == record  # of the decomposition still


def test_run_applies_a_plan_that_was_saved(command: Command, tmp_path: Path) -> None:
    assert command("plan", NETWORK, "--rank", 16, "-o", tmp_path / "planned").code == 0
    saved = tmp_path / "planned" / "plan.pt"
    assert command("run", NETWORK, "--plan", saved, "-o", tmp_path / "applied", "--json").code == 0
    assert [layer.ranks for layer in load_plan(tmp_path / "applied" / "plan.pt").layers] == [None, (16,)]
    ended = command("run", NETWORK, "--plan", saved, "--rank", 8, "-o", tmp_path / "other")
    assert ended.code == 2
    assert "leave out --rank" in ended.err


def test_run_scores_the_model_before_and_after(command: Command, tmp_path: Path) -> None:
    options = ("--eval", f"{USER}:agreement", "--calibration", f"{USER}:batches", "--mode", "refit")
    ended = command("run", NETWORK, *options, "-o", tmp_path / "out", "--json")
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert ended.json["scores"] == scores
    assert scores["metric"] == "agreement"
    assert scores["before"] == 1
    assert 0 <= scores["after"] <= 1


def test_weights_are_loaded_and_written_in_either_format(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    weights = {name: torch.full_like(value, 0.5) for name, value in Network().state_dict().items()}
    torch.save({"model": weights}, tmp_path / "checkpoint.pth")
    given = (NETWORK, "--weights", tmp_path / "checkpoint.pth", "--weights-key", "model")
    assert command("run", *given, "-o", tmp_path / "out", "--safetensors").code == 0
    from safetensors.torch import load_file

    assert (load_file(tmp_path / "out" / "weights.safetensors")["head.weight"] == 0.5).all()
    again = command("rebuild", NETWORK, "--decomposed", tmp_path / "out", "-o", tmp_path / "again")
    assert again.code == 0
    assert (torch.load(tmp_path / "again" / "weights.pth", weights_only=True)["head.weight"] == 0.5).all()


def test_search_writes_what_it_found_and_goes_on_where_it_was(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out"
    given = ("search", NETWORK, *SHAPE, "--eval", f"{USER}:agreement", "--drop", 0.5, "--evaluations", 3, "-o", out)
    first = command(*given, "--json")
    assert first.code == 0
    present = {path.name for path in out.iterdir()}
    assert present >= {*PIPELINE, "search.json", "search.jsonl", "scores.json"}
    assert command(*given).code == 2  # it is complete
    for name in present - {"search.jsonl", "search.jsonl.plan"}:  # as if it had been interrupted
        (out / name).unlink()
    assert all(one["from_journal"] for one in command(*given, "--json").json["evaluations"])
    anew = command(*given, "--force", "--json").json["evaluations"]
    assert not any(one["from_journal"] for one in anew)


def test_validate_and_bench_decompose_by_default(command: Command) -> None:
    assert command("validate", NETWORK, *SHAPE, "--json").json["runs"][0]["layers"][0]["name"] == "body"


def test_validate_ends_with_1_where_a_layer_is_wrong(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    from amct_pytorch.backend import Tolerance, get_backend

    monkeypatch.setattr(type(get_backend("cpu")), "tolerance", lambda *_: Tolerance(0.0, 0.0))
    ended = command("validate", NETWORK, *SHAPE)
    assert ended.code == 1
    assert "wrong" in ended.out


@pytest.mark.slow  # a benchmark takes seconds
def test_bench_measures_the_decomposed_model(command: Command, tmp_path: Path, decomposed: Path) -> None:
    ended = command(
        "bench", NETWORK, *SHAPE, "--decomposed", decomposed / "decompose_info.json", "--batch-sizes", "1,2", "--json"
    )
    assert [run["batch_size"] for run in ended.json["runs"]] == [1, 2]


@pytest.mark.slow  # so does torch's exporter
def test_export_writes_onnx_and_a_folder_for_ascend(command: Command, tmp_path: Path, decomposed: Path) -> None:
    given = ("export", NETWORK, *SHAPE, "--decomposed", decomposed)
    assert command(*given, "-o", decomposed, "--dynamic-batch", "1,2").code == 0
    assert (decomposed / "model.onnx").is_file()
    assert (decomposed / "export.json").is_file()
    out = tmp_path / "ascend"
    assert command(*given, "-o", out, "--ascend", "Ascend910B3", "--original").code == 0
    assert (out / "ascend" / "atc_Ascend910B3.sh").is_file()
    assert (out / "ascend" / "original.onnx").is_file()


def test_devices_lists_the_cpu_and_why_others_cannot_be_used(command: Command) -> None:
    found = command("devices", "--json").json
    assert {"cpu", "cuda", "npu"} <= {status["name"] for status in found["backends"]}
    assert found["devices"][0]["backend"] == "cpu"
    assert "cpu" in command("devices").out


def test_inputs_come_from_files_with_and_without_names(command: Command, tmp_path: Path) -> None:
    images = torch.ones(1, 3, 8, 8)
    np.save(tmp_path / "images.npy", images.numpy())
    np.savez(tmp_path / "images.npz", images.numpy())
    np.savez(tmp_path / "named.npz", images=images.numpy())
    torch.save({"images": images}, tmp_path / "images.pt")
    for given in ("images.npy", "images.npz", "named.npz", "images.pt"):
        assert command("plan", NETWORK, "--input", tmp_path / given, "--macs", 0.9, "-q").code == 0
    assert command("plan", NETWORK, "--input", "images=1x3x8x8:float32", "--macs", 0.9, "-q").code == 0


def test_calibration_takes_a_folder_of_tensors(command: Command, tmp_path: Path) -> None:
    for number, batch in enumerate(torch.randn(2, 4, 3, 8, 8)):
        np.save(tmp_path / f"{number}.npy", batch.numpy())
    ended = command("plan", NETWORK, "--calibration", tmp_path, "--max-batches", 1, "--json")
    assert ended.json["layers"][1]["fit"] is not None


def test_calibration_takes_a_folder_of_images(tmp_path: Path) -> None:
    image_module = pytest.importorskip("PIL.Image")
    from amct_pytorch.cli.calibration_source import calibration_of
    from amct_pytorch.cli.options import CalibrationOptions

    (tmp_path / "class").mkdir()
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, 4:12, 0] = 255  # the middle is red
    for place in ("a.png", "class/b.png", "class/c.png"):
        image_module.fromarray(pixels).save(tmp_path / place)
    options = CalibrationOptions(str(tmp_path), batch=2, image_size="4x4", mean="0.5,0,0", std="0.5,1,1")
    found = calibration_of(options, None)
    assert found is not None
    shapes = [tuple(batch.shape) for batch in found.batches]
    assert shapes == [tuple(batch.shape) for batch in found.batches] == [(2, 3, 4, 4), (1, 3, 4, 4)]
    first = next(iter(found.batches))
    assert torch.equal(first[0, 0, 1:3, 1:3], torch.ones(2, 2))
    assert not first[0, 1:].any()
