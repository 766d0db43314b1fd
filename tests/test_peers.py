"""The comparison with other packages: what fails is a row, MACs are equal, and the published bar is well written."""

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

import peers
from adapters import PEERS, Peer, aimet, data_aware_tucker, measured
from adapters.task import OutOfReach, Task, largest_within
from judging import Case
from peers import figure, interpreters, speed_up, table
from peers import measured as measured_apart
from real_networks import REAL_NETWORKS, edit_distance, text_of

TOOLS = Path(__file__).resolve().parent.parent / "tools"
FIGURES = {"score": 97.5, "original": 99.0, "error": 0.04, "macs": 0.5, "parameters": 0.4, "seconds": 2.0, "gib": 0.25}


def dense_case(*_: object) -> Case:
    images = torch.eye(8)
    return Case(
        lambda: nn.Sequential(nn.Linear(8, 8)).requires_grad_(False).eval(),
        [images],
        [images],
        lambda found, expected: 100.0 * bool(found.norm() > 0),
        "any",
    )


def answered(
    adapter: Callable[[Task], nn.Module] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, object]:
    """What the process of a peer would write; None for one that is not there."""
    monkeypatch.setitem(PEERS, "fake", Peer("a fake", "not_there:decompose" if adapter is None else "fake:decompose"))
    if adapter is not None:
        module = ModuleType("adapters.fake")
        module.decompose = adapter
        monkeypatch.setitem(sys.modules, "adapters.fake", module)
    monkeypatch.setattr(measured, "case", dense_case)
    request = {"peer": "fake", "network": "dense", "share": 0.5, "images": 8}
    request |= {"to_judge": 8, "seed": 0, "timed": False}
    monkeypatch.setattr(sys, "argv", ["measured", json.dumps(request), str(tmp_path / "answer.json")])
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    measured.main()
    return json.loads((tmp_path / "answer.json").read_text())


def test_a_missing_peer_is_a_row_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = answered(None, tmp_path, monkeypatch)
    assert found == {"failed": "ModuleNotFoundError: No module named 'adapters.not_there'"}
    drawn = table("digits", {("fake", 0.5): [found], ("ours", 0.5): [FIGURES]})
    assert [row[0] for row in drawn.rows] == ["a fake, 0.5", "ours, chosen, refit, 0.5"]
    assert any("No module named" in note for note in drawn.notes)
    assert "99.00 %" in drawn.title


def test_a_peer_that_fails_on_the_network_is_a_row_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(task: Task) -> nn.Module:
        raise AssertionError("dilation must be 1")

    assert answered(fail, tmp_path, monkeypatch) == {"failed": "AssertionError: dilation must be 1"}


def test_what_a_peer_makes_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def halve(task: Task) -> nn.Module:
        first, last = nn.Linear(8, 2, bias=False), nn.Linear(2, 8)
        with torch.no_grad():
            for weight in (first.weight, last.weight, last.bias):
                weight.zero_()
        return nn.Sequential(nn.Sequential(first, last))

    found = answered(halve, tmp_path, monkeypatch)
    assert found["macs"] == 0.5
    assert found["parameters"] == pytest.approx((2 * 16 + 8) / (64 + 8))
    assert found["error"] == 1
    assert (found["score"], found["original"]) == (0, 100)


def test_an_interpreter_that_dies_or_is_missing_is_a_reason(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho out of luck >&2\nexit 3\n")
    python.chmod(0o755)
    assert measured_apart(str(python), {}, minutes=1) == {"failed": "ended with status 3: out of luck"}
    assert "does not start" in measured_apart(str(tmp_path / "nobody"), {}, minutes=1)["failed"]


def test_an_interpreter_that_hangs_is_stopped(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\nexec sleep 60\n")
    python.chmod(0o755)
    assert measured_apart(str(python), {}, minutes=0.002) == {"failed": "not ready after 0.002 minutes"}


def test_results_in_the_file_are_taken_and_failures_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def answer(python: str, request: dict[str, object], minutes: float) -> dict[str, object]:
        asked.append(request["peer"])
        return {"failed": "not installed"} if request["peer"] == "aimet" else FIGURES

    monkeypatch.setattr(peers, "measured", answer)
    arguments = ["peers", "--untimed", "--peers", "ours", "aimet", "--results", str(tmp_path / "known.json")]
    monkeypatch.setattr(sys, "argv", arguments)
    for _ in range(2):
        peers.main()
    assert asked == ["ours", "aimet", "aimet"]
    assert "AIMET spatial SVD, 0.5: not installed" in capsys.readouterr().out


def test_draws_of_images_have_a_median_and_a_range(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def answer(python: str, request: dict[str, Any], minutes: float) -> dict[str, object]:
        asked.append((request["seed"], request["timed"]))
        timed = {"eager": {"ratio": 1.5, "doubt": None, "cpu_share": 1.0}, "onnxruntime": {"failed": "no onnx"}}
        return {**FIGURES, "error": 0.01 * (1 + request["seed"] ** 2), **(timed if request["timed"] else {})}

    monkeypatch.setattr(peers, "measured", answer)
    arguments = ["peers", "--peers", "ours", "--results", str(tmp_path / "known.json"), "--seeds", "0", "1", "2"]
    for more in (["--untimed"], [], []):
        monkeypatch.setattr(sys, "argv", arguments + more)
        peers.main()
    # Times are measured once, where they are missing, and on the first draw alone.
    assert asked == [(0, False), (1, False), (2, False), (0, True)]
    last = capsys.readouterr().out.rpartition("decomposed by")[2]
    assert "0.0200 [0.0100, 0.0500]" in last
    assert "1.50×" in last


def test_random_weights_are_said_to_be_for_times_alone() -> None:
    assert "random weights" in table("VGG-16", {("ours", 0.5): [FIGURES]}).title


def test_interpreters_are_given_by_peer() -> None:
    found = interpreters(["aimet=/opt/aimet/bin/python"])
    assert found["aimet"] == "/opt/aimet/bin/python"
    assert found["ours"] == sys.executable
    with pytest.raises(SystemExit, match="expected PEER=PATH"):
        interpreters(["nobody=/bin/python"])


def test_times_that_load_spoils_are_marked() -> None:
    assert speed_up({"ratio": 1.5, "doubt": None}) == "1.50×"
    assert speed_up({"ratio": 1.5, "doubt": "the process got 28% of the CPU time that it could use"}) == "1.50×?"
    assert speed_up({"failed": "ExportError"}) == "–"


def test_the_picture_has_a_line_for_each_peer_that_got_there() -> None:
    results = {
        ("ours", 0.5): [{**FIGURES, "error": error} for error in (0.03, 0.04, 0.08)],
        ("ours", 0.3): [{**FIGURES, "macs": 0.3, "error": 0.1}, {"failed": "no"}],
        ("aimet", 0.5): [{"failed": "no"}],
    }
    (line,) = figure("digits", results).series
    assert line.name == PEERS["ours"].title
    assert line.points == ((0.3, 0.1), (0.5, 0.04))


def test_the_largest_share_within_the_macs_is_found() -> None:
    assert largest_within(lambda share: share**2, 0.5) == pytest.approx(0.5**0.5, abs=1e-3)
    with pytest.raises(OutOfReach, match="leaves 70%"):
        largest_within(lambda share: 0.7 + 0.3 * share, 0.5)


def test_aimet_is_asked_for_the_share_that_its_way_of_counting_needs() -> None:
    def asked(share: float) -> float:
        network = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(2), nn.Linear(8, 2)).eval()  # 128 and 4 * 16
        return aimet.share_of_its_macs(Task(network, [torch.ones(1, 4, 2, 4)], share))

    # The dense layer counts once, 16: to take away 48 of 192 is to take away 48 of 144.
    assert asked(0.75) == pytest.approx(1 - 48 / 144)
    with pytest.raises(OutOfReach, match="dense layers"):
        asked(0.2)


class Attending(nn.Module):
    """A dense layer, and a product of activations, which no peer can make cheaper."""

    def __init__(self) -> None:
        super().__init__()
        self.dense: nn.Module = nn.Linear(16, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dense(x)
        return x @ x.transpose(1, 2)


def test_macs_are_those_of_the_layers_whatever_stands_in_for_them() -> None:
    network, task = Attending().eval(), Task(Attending().eval(), [torch.ones(1, 4, 16)], 0.5)
    assert task.macs(network) == 1
    network.dense = nn.Sequential(nn.Linear(16, 4, bias=False), nn.Linear(4, 16))
    assert task.macs(network) == 0.5


def test_the_published_bar_uses_what_the_data_allows() -> None:
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 3, generator=draw)
    inputs = [torch.einsum("oc,nchw->nohw", mixing, torch.randn(4, 3, 9, 9, generator=draw)) for _ in range(2)]
    network = nn.Sequential(nn.Conv2d(12, 12, 3, padding=1)).requires_grad_(False).eval()
    network[0].weight[:] = torch.einsum("oc,cihw->oihw", mixing, network[0].weight[:3])
    task = Task(network, inputs, 0.5)
    expected = task.outputs(network)
    decomposed = data_aware_tucker.decompose(task)
    assert task.macs(decomposed) <= 0.5
    assert [type(layer) for layer in decomposed[0]] == [nn.Conv2d] * 3
    # Inputs and outputs have three dimensions of twelve, of which only those of the outputs show in the weight.
    assert (task.outputs(decomposed) - expected).norm() / expected.norm() < 1e-2


def test_character_error_counts_edits() -> None:
    assert [edit_distance(found, "lines") for found in ("lines", "line", "limes", "xlines", "")] == [0, 1, 1, 1, 5]
    scores = torch.eye(4)[[0, 1, 1, 0, 1, 2, 3, 3]]
    assert text_of(scores, ["", "a", "b", " "]) == "aab"


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL_NETWORKS)
def test_pretrained_networks_do_their_work_on_drawn_images(name: str) -> None:
    if not all(map(find_spec, ["onnx2torch", "ddddocr", "rapidocr_onnxruntime", "PIL"])):
        pytest.skip("the extra real is not installed")
    real = REAL_NETWORKS[name]
    network, drawn = real.load(), real.draw(6, 0)
    assert torch.equal(drawn.inputs, real.draw(6, 0).inputs)
    with torch.no_grad():
        found = torch.cat([network(one) for one in drawn.inputs.split(1)])
    assert real.score(found, found, drawn.truth) > 95


@pytest.mark.slow
def test_the_comparison_runs_with_what_is_installed_and_ours_loses_least(tmp_path: Path) -> None:
    results = tmp_path / "peers.json"
    names = ["amct", "ours-plain", "ours", "tltorch", "msmodelslim", "tucker-als", "aimet"]
    command = [sys.executable, str(TOOLS / "peers.py"), "--untimed", "--results", str(results), "--peers", *names]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {json.loads(key)["peer"]: result for key, result in json.loads(results.read_text()).items()}
    assert list(found) == names
    assert all(PEERS[peer].title in done.stdout for peer in names)
    errors = {peer: result["error"] for peer, result in found.items() if "failed" not in result}
    assert {"amct", "ours-plain", "ours", "tucker-als"} <= errors.keys()
    assert all(result["macs"] <= 0.5005 for result in found.values() if "failed" not in result)
    assert min(errors, key=errors.__getitem__) == "ours"
