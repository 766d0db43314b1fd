"""What users get wrong on the command line: one readable line, the right exit code, and nothing half done."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from amct_pytorch.cli import decomposition_files
from amct_pytorch.cli.exit_codes import MEANINGS, ExitCode, code_of
from amct_pytorch.errors import AmctError
from tests.cli_user import Network
from tests.command_line import NETWORK, SHAPE, USER, Command, command

__all__ = ["command"]  # a fixture


def _fails(command: Command, code: ExitCode, *arguments: object) -> str:
    """The line on stderr of a command that fails with this code."""
    ended = command(*arguments)
    assert ended.code == code, ended.err
    assert ended.out == ""
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("model", "code", "message"),
    [
        (f"{USER}:netwrok", ExitCode.USAGE, "has no 'netwrok': did you mean network"),
        (f"{USER}:not_callable", ExitCode.USAGE, "which is int"),
        (f"{USER}:broken", ExitCode.MODEL, "fails: RuntimeError: the disk of the weights is not mounted"),
        (f"{USER}:leaving", ExitCode.MODEL, "fails: SystemExit: 3"),
        (f"{USER}:no_module", ExitCode.MODEL, "expected a torch.nn.Module, found int"),
        (f"{USER}:a_class", ExitCode.MODEL, "expected a torch.nn.Module, found the class Network"),
        (f"{USER}:a_model", ExitCode.USAGE, "which is a model: name a function that returns it"),
        (USER, ExitCode.USAGE, "name the function that makes the model"),
        ("missing.py:network", ExitCode.USAGE, "missing.py cannot be imported: FileNotFoundError"),
        ("no_such_package:network", ExitCode.USAGE, "No module named 'no_such_package'"),
        ("resnet50", ExitCode.USAGE, "expected package.module:factory"),
        (f"{USER}:interrupted", ExitCode.INTERRUPTED, "interrupted; what is written is complete"),
    ],
)
def test_a_model_that_cannot_be_made(command: Command, model: object, code: ExitCode, message: str) -> None:
    assert message in _fails(command, code, "plan", model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--factory-args", "{"), "--factory-args: expected a JSON object"),
        (("--factory-args", '{"height": 3}'), "unexpected keyword argument 'height': it takes (width: 'int' = 64)"),
        (("--rank", "half"), "--rank: expected evbmf, energy:0.95, ratio:0.25, a rank such as 64, or 64x32"),
        (("--rank", "energy:2"), "--rank: share must be a number above 0 and up to 1, found 2.0"),
        (("--rule", "all"), "--rule must be one of 'amct', 'any', found 'all'"),
        (("--layers", "body"), "expected NAME=keep or NAME=KEY:VALUE"),
        (("--layers", "body=rnk:3"), "expected some of method, rule, rank, rank-multiple, require-gain, found 'rnk'"),
        (("--layers", "bodi=keep"), "--layers: the model has no Conv2d named 'bodi'"),
        (("--macs", "0.5"), "--input is missing: give inputs on which MACs are counted"),
        (("--macs", "half"), "Invalid value for '--macs'"),
        (("--macs", "0.5", "--damage", "0.1", *SHAPE), "--latency and --damage, found --macs 0.5, --damage 0.1"),
        (("--backend", "cpu"), "--backend says how to time, which only --latency does"),
        (("--latency", "0.5", "--dtype", "float13", *SHAPE), "--dtype: expected a type of torch"),
        (("--mode", "refit"), "--mode is of a calibration: give --calibration too"),
        (("--no-such-option",), "No such option: --no-such-option"),
        (("--input", "1,3,8,8"), "expected a shape such as 1x3x224x224"),
        (("--input", "1x0x8x8"), "expected sizes from 1 on"),
        (("--input", "1x3x"), "expected a shape such as 1x3x224x224"),
        (("--input", "1x3x8x8:int64:0"), "expected a type of whole numbers, such as int64, and a bound from 1 on"),
        (("--input", "1x3x8x8:float32:5"), "expected a type of whole numbers"),
        (("--input", "1x3x99999999x99999999"), "cannot be made"),
        (("--input", "99999999999999999999x3"), "cannot be made"),
        (("--input", "1x3x8x8:qint8"), "cannot be made"),
        (("--input", "missing.npy"), "there is no file 'missing.npy'"),
        (("--input", "a=1x3x8x8", "--input", "1x3x8x8"), "a name of its own for each of 2 or for none"),
        (("--input", "1x3x8x8:float13"), "expected a type of torch"),
        (("--input", "1x4x8x8", "--macs", "0.5"), "expected input[1, 4, 8, 8] to have 3 channels"),
        (("--calibration", "missing"), "expected a folder, or module:function, found 'missing'"),
        (("--calibration", f"{USER}:batches", "--batch", "3"), "--batch is of a folder of images, found a function"),
        (
            ("--calibration", f"{USER}:batches_that_end_early"),
            "cli_user.py:batches_that_end_early fails: OSError: the disk of the images is not mounted",
        ),
        (("--weights-key", "model"), "--weights-key is of a file of weights: give --weights too"),
        (("--no-strict",), "--no-strict is of a file of weights: give --weights too"),
    ],
)
def test_wrong_options(command: Command, options: tuple[str, ...], message: str) -> None:
    code = ExitCode.MODEL if "height" in message else ExitCode.USAGE
    assert message in _fails(command, code, "plan", NETWORK, *options)


def test_a_budget_that_cannot_be_met_has_a_code_of_its_own(command: Command) -> None:
    assert "the least is --macs " in _fails(command, ExitCode.BUDGET, "plan", NETWORK, *SHAPE, "--macs", 0.001)


def test_a_backend_that_is_not_there_has_a_code_of_its_own(command: Command) -> None:
    line = _fails(command, ExitCode.DEVICE, "validate", NETWORK, *SHAPE, "--backend", "tpu")
    assert "there is no backend 'tpu'" in line


@pytest.mark.parametrize("verb", ["validate", "bench"])
def test_verbs_that_run_the_model_need_inputs(command: Command, verb: str) -> None:
    assert "--input is missing" in _fails(command, ExitCode.USAGE, verb, NETWORK)


@pytest.mark.parametrize(
    ("verb", "option"), [("rebuild", "--decomposed"), ("export", "--decomposed"), ("run", "--output")]
)
def test_what_a_verb_cannot_do_without(command: Command, verb: str, option: str) -> None:
    assert f"{option} is missing" in _fails(command, ExitCode.USAGE, verb, NETWORK, *SHAPE)


def test_inputs_with_nan(command: Command, tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((1, 3, 8, 8), np.nan, np.float32))
    given = ("validate", NETWORK, "--input", tmp_path / "nan.npy")
    assert "values of shape (1, 3, 8, 8) hold NaN or infinity" in _fails(command, ExitCode.USAGE, *given)


@pytest.mark.parametrize("name", ["noise.npy", "noise.npz", "noise.pt"])
def test_inputs_that_cannot_be_read(command: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"noise")
    assert "cannot be read" in _fails(command, ExitCode.USAGE, "plan", NETWORK, "--input", tmp_path / name)


def test_a_calibration_folder_without_data(command: Command, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no images")
    line = _fails(command, ExitCode.USAGE, "plan", NETWORK, "--calibration", tmp_path)
    assert "expected a folder of images" in line
    assert "found neither" in line


def test_a_calibration_image_that_is_damaged(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "a.png").write_bytes(b"noise")
    line = _fails(command, ExitCode.USAGE, "plan", NETWORK, *SHAPE, "--calibration", tmp_path)
    assert "a.png: cannot be read as an image" in line


def test_images_without_a_size(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "a.png").write_bytes(b"noise")
    assert "--image-size 224x224" in _fails(command, ExitCode.USAGE, "plan", NETWORK, "--calibration", tmp_path)


def test_weights_of_another_model_are_listed(command: Command, tmp_path: Path) -> None:
    torch.save({f"blocks.{number}.weight": torch.zeros(1) for number in range(12)}, tmp_path / "w.pth")
    line = _fails(command, ExitCode.FILE, "plan", NETWORK, "--weights", tmp_path / "w.pth")
    assert "missing are stem.weight, stem.bias, body.weight" in line
    assert "unexpected are blocks.0.weight" in line
    assert "blocks.9.weight and 2 more" in line
    assert command("plan", NETWORK, "--weights", tmp_path / "w.pth", "--no-strict").code == 0


def test_weights_of_other_shapes(command: Command, tmp_path: Path) -> None:
    torch.save(Network(32).state_dict(), tmp_path / "w.pth")
    line = _fails(command, ExitCode.FILE, "plan", NETWORK, "--weights", tmp_path / "w.pth", "--no-strict")
    assert "stem.weight is (32, 3, 3, 3) instead of (64, 3, 3, 3)" in line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"a": torch.ones(1)}}, "as --weights-key: model"),
        ([1], "expected weights by name"),
        (Network(), "more than weights"),
    ],
)
def test_files_that_hold_something_else_than_weights(
    command: Command, tmp_path: Path, content: object, message: str
) -> None:
    torch.save(content, tmp_path / "w.pth")
    assert message in _fails(command, ExitCode.FILE, "plan", NETWORK, "--weights", tmp_path / "w.pth")


def test_a_pickled_module_runs_code_only_if_it_is_trusted(command: Command, tmp_path: Path) -> None:
    torch.save(Network(), tmp_path / "model.pt")
    assert "give --trust if you trust" in _fails(command, ExitCode.USAGE, "plan", tmp_path / "model.pt")
    assert command("plan", tmp_path / "model.pt", "--trust").code == 0
    (tmp_path / "noise.pt").write_bytes(b"noise")
    assert "cannot be loaded" in _fails(command, ExitCode.MODEL, "plan", tmp_path / "noise.pt", "--trust")


def test_a_folder_that_is_not_empty_is_left_alone(command: Command, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    given = ("run", NETWORK, "-o", tmp_path)
    assert "the folder is not empty, it holds 'thesis.tex'" in _fails(command, ExitCode.USAGE, *given)
    assert command(*given, "--force", "-q").code == 0
    assert (tmp_path / "thesis.tex").read_text() == "years of work"
    line = _fails(command, ExitCode.USAGE, *given)
    assert "holds 'decompose_info.json', 'plan.pt', 'spectra.json' and 1 more already" in line


def test_a_place_that_cannot_be_written_is_found_before_any_work(command: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    given = ("run", f"{USER}:broken", "-o")  # whose model would fail later
    assert "cannot be written" in _fails(command, ExitCode.FILE, *given, tmp_path / "file" / "out")
    assert "found a file" in _fails(command, ExitCode.FILE, *given, tmp_path / "file")


def test_a_failure_leaves_no_half_written_file(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    assert "No space left" in _fails(command, ExitCode.FILE, "run", NETWORK, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_interrupt_while_files_are_written_waits_for_them(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    def pressed(*arguments: object) -> None:
        signal.raise_signal(signal.SIGINT)
        save(*arguments)

    save = decomposition_files.save_weights
    monkeypatch.setattr(decomposition_files, "save_weights", pressed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run beside others may ignore it
    try:
        _fails(command, ExitCode.INTERRUPTED, "run", NETWORK, "-o", tmp_path / "out")
    finally:
        signal.signal(signal.SIGINT, before)
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"decompose_info.json", "weights.pth", "plan.pt", "spectra.json", "run.json"}


def test_an_error_of_the_program_says_how_to_see_its_traceback(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("amct_pytorch.cli.model_source.built", wrong)
    line = _fails(command, ExitCode.UNEXPECTED, "plan", NETWORK)
    assert line.startswith("error: unexpected ZeroDivisionError")
    assert "--debug" in line
    assert "Traceback" in command("plan", NETWORK, "--debug").err


def test_every_error_has_a_code_and_every_code_a_meaning() -> None:
    def below(kind: type[AmctError]) -> list[type[AmctError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in below(child))]

    for kind in below(AmctError):
        assert code_of(kind.__new__(kind)) in (
            ExitCode.USAGE,
            ExitCode.MODEL,
            ExitCode.BUDGET,
            ExitCode.DEVICE,
            ExitCode.FILE,
            ExitCode.EXTRA,
        )
    assert set(MEANINGS) == set(ExitCode) - {ExitCode.BROKEN_PIPE}  # which nobody sees


def test_a_file_holds_what_flags_hold_and_flags_win(command: Command, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text(
        'input = "2x3x8x8"\nrank-multiple = 8\nlayers = {stem = false, "re:^bo" = {method = "channel"}}\n'
        "[plan]\nmacs = 0.7\n[search]\ndrop = 1\n"
    )
    ended = command("plan", NETWORK, "--config", settings, "--json").json
    assert "macs=0.7" in ended["budget"]
    layers = {layer["names"][0]: layer for layer in ended["layers"]}
    assert layers["stem"]["reason"] == "left out by the rule 'stem'"
    assert layers["body"]["method"] == "channel"
    assert layers["body"]["ranks"][0] % 8 == 0
    assert "macs=0.8" in command("plan", NETWORK, "--config", settings, "--macs", 0.8, "--json").json["budget"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer = 3", "there is no option 'layer': did you mean layers"),
        ("[plan]\ndrop = 1", "[plan]: there is no option 'drop'"),
        ("= 3", "expected a TOML file"),
        ("config = 'other.toml'", "there is no option 'config'"),
        ("macs = 'half'", "Invalid value for '--macs'"),
    ],
)
def test_files_of_options_that_are_wrong(command: Command, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    assert message in _fails(command, ExitCode.USAGE, "plan", NETWORK, "--config", tmp_path / "settings.toml")


def test_a_file_of_options_that_is_not_there(command: Command) -> None:
    assert "missing.toml: cannot be read" in _fails(
        command, ExitCode.USAGE, "plan", NETWORK, "--config", "missing.toml"
    )


def test_log_and_verbosity(command: Command, tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    ended = command("run", NETWORK, "-o", tmp_path / "out", "-v", "--log", log)
    assert "1 of 2 layers are decomposed" in ended.err
    assert "1 of 2 layers are decomposed" in log.read_text()
    assert f"wrote {tmp_path / 'out'}" in ended.err
    assert ".tmp" not in ended.err
    assert not logging.getLogger("amct_pytorch").handlers
    quiet = command("run", NETWORK, "-o", tmp_path / "quiet", "-q")
    assert (quiet.out, quiet.err) == ("", "")
    assert "cannot be written" in _fails(command, ExitCode.FILE, "plan", NETWORK, "--log", tmp_path)


def test_warnings_are_lines(command: Command) -> None:
    ended = command("plan", NETWORK, "--layers", "stem=keep", "--layers", "body=keep")
    assert ended.code == 0
    assert "Traceback" not in ended.err
