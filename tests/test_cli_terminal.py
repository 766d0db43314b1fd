"""The command line on terminals of all kinds, its help, and its names."""

from __future__ import annotations

import inspect
import io
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from amct_pytorch._run.standard_output import printing_to_stderr
from amct_pytorch.ascend import export_ascend
from amct_pytorch.benchmark import benchmark
from amct_pytorch.cli import streams
from amct_pytorch.cli.app import app, execute
from amct_pytorch.cli.exit_codes import ExitCode
from amct_pytorch.cli.option_names import RENAMED
from amct_pytorch.cli.options import GeneralOptions
from amct_pytorch.cli.progress import progress_bar
from amct_pytorch.export import export_onnx
from amct_pytorch.tensor_decompose import (
    Budget,
    Calibration,
    DecompositionConfig,
    plan_decomposition,
    search_decomposition,
)
from amct_pytorch.validate import validate
from tests.command_line import NETWORK, USER, Command, command

__all__ = ["command"]  # a fixture

PROGRAM = (sys.executable, "-m", "amct_pytorch")
VERBS: Mapping[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_a_verb_fits_a_screen(command: Command, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    lines = command(verb, "--help").out.splitlines()
    assert len(lines) <= 50
    assert max(map(len, lines)) <= 100
    everything = command(verb, "--help-all").out
    for option in VERBS[verb].params:
        assert max(option.opts, key=len) in everything


def test_the_help_says_what_the_exit_codes_mean(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    ended = command("--help")
    assert "Exit codes: 0 done; 1 done, but a check failed" in " ".join(ended.out.split())
    assert command().out.split() == ended.out.split()  # without arguments too


def test_the_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys\n"
        "from amct_pytorch.cli.app import execute\n"
        f"for verb in {list(VERBS)}: execute([verb, '--help'])\n"
        "sys.exit('torch' in sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)


# Arguments that are no options: what the command line does by itself, and objects whose own arguments are options.
_ELSEWHERE = {"progress", "distributed", "config", "budget"}


@pytest.mark.parametrize(
    ("verb", "function", "not_options"),
    [
        ("plan", plan_decomposition, {"model"}),
        ("plan", DecompositionConfig, set()),
        ("plan", Budget, set()),
        ("plan", Calibration, {"forward"}),
        ("run", plan_decomposition, {"model"}),
        ("run", DecompositionConfig, set()),
        ("run", Budget, set()),
        ("run", Calibration, {"forward"}),
        ("search", search_decomposition, {"model"}),
        ("search", DecompositionConfig, {"rank"}),
        ("search", Calibration, {"forward"}),
        ("validate", validate, {"original"}),
        ("bench", benchmark, {"original"}),
        ("export", export_onnx, {"model", "path"}),
        ("export", export_ascend, {"model", "directory"}),
    ],
)
def test_options_have_the_names_of_the_python_functions(
    verb: str, function: Callable[..., object], not_options: set[str]
) -> None:
    options = {option.name for option in VERBS[verb].params}
    names = set(inspect.signature(function).parameters) - not_options - _ELSEWHERE
    assert {RENAMED.get(name, name) for name in names} <= options


def test_a_narrow_terminal(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for arguments in (["--help"], ["plan", "--help"], ["plan", NETWORK], ["devices"]):
        ended = command(*arguments)
        assert ended.code == 0
        assert max(map(len, ended.out.splitlines())) <= 40


@pytest.mark.parametrize(
    "arguments", [("plan", NETWORK), ("plan", NETWORK, "--layers", "größe×=keep"), ("plan", "--help"), ("devices",)]
)
def test_an_encoding_without_our_symbols(monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    written = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(written, encoding="ascii", write_through=True))
    assert execute(arguments) in (ExitCode.OK, ExitCode.USAGE)
    assert written.getvalue()


def test_a_locale_without_our_symbols() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run([*PROGRAM, "plan", "--help"], env=environment, capture_output=True)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout.isascii()


def test_symbols_are_replaced_by_others(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    streams.prepare()
    print("3×1 → 1×3 ─── 5 ± 1 … 日", flush=True)
    assert written.getvalue() == b"3x1 -> 1x3 --- 5 +- 1 ... ?\n"


@pytest.mark.parametrize("arguments", [("devices",), ("devices", "--json"), ("--version",)])
def test_a_reader_that_goes_away_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert execute(arguments) == ExitCode.BROKEN_PIPE
    assert capsys.readouterr().err == ""


@pytest.mark.slow  # torch must be imported
@pytest.mark.skipif(sys.platform == "win32", reason="has another C library")
def test_json_is_all_that_is_printed_whoever_prints(tmp_path: Path) -> None:
    arguments = [*PROGRAM, "plan", f"{USER}:talkative_in_every_way", "--json"]
    ended = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout)["format"] == "amct_pytorch.plan_summary"
    assert "when the process ends" not in ended.stdout
    for by in ("by Python\n", "past sys.stdout", "by the system", "by C", "by a child", "when the process ends"):
        assert by in ended.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="has another C library")
def test_json_is_all_that_is_printed_in_this_process(capfd: pytest.CaptureFixture[str]) -> None:
    def written() -> None:
        os.write(1, b"by the system\n")

    assert execute(["plan", f"{USER}:talkative", "--json"]) == ExitCode.OK
    written()  # what it was is what it is again
    out, err = capfd.readouterr()
    assert out.endswith("}\nby the system\n")
    assert "loading the model" in err


def test_output_of_blocks_that_overlap_comes_back(capfd: pytest.CaptureFixture[str]) -> None:
    first, second = printing_to_stderr(), printing_to_stderr()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    os.write(1, b"meanwhile\n")
    second.__exit__(None, None, None)
    os.write(1, b"afterwards\n")
    assert capfd.readouterr() == ("afterwards\n", "meanwhile\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no such device")
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_an_output_that_cannot_be_written_has_a_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    with Path("/dev/full").open("w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert execute(["devices", *options]) == ExitCode.FILE
    assert capsys.readouterr().err == "error: the standard output cannot be written: No space left on device\n"


@pytest.mark.skipif(os.name == "nt", reason="has no such shell")
@pytest.mark.parametrize(("closed", "code"), [(">&-", 0), ("2>&-", 0), (">&- 2>&-", 0), ("2>&-", 2)])
def test_a_standard_stream_that_is_closed(closed: str, code: int) -> None:
    verb = "--help" if code == 0 else "serach"
    ended = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(PROGRAM)} {verb} {closed}"],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == code
    assert "Traceback" not in ended.stdout + ended.stderr


def test_a_reader_that_goes_away_while_a_verb_prints(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def talkative(options: object) -> None:
        print("step 1", flush=True)

    monkeypatch.setattr("amct_pytorch.cli.model_source.built", talkative)
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        assert execute(["plan", NETWORK]) == ExitCode.BROKEN_PIPE
    assert capsys.readouterr().err == ""


def test_a_pipe_of_the_users_own_that_breaks_is_an_error(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    def broken(options: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("amct_pytorch.cli.model_source.built", broken)
    ended = command("plan", NETWORK)
    assert (ended.code, ended.out) == (ExitCode.UNEXPECTED, "")
    assert "BrokenPipeError" in ended.err


@pytest.mark.slow  # torch must be imported
def test_an_interrupt_ends_it_with_a_line(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import sys, time\n\ndef network():\n    print('begun', file=sys.stderr, flush=True)\n    time.sleep(60)\n"
    )
    out = tmp_path / "out"
    arguments = [*PROGRAM, "run", f"{tmp_path}/slow.py:network", "-o", str(out)]
    # A shell starts jobs in the background with the signal ignored, and their children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stderr is not None
        assert process.stderr.readline() == "begun\n"
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == "error: interrupted; what is written is complete\n"
        assert process.wait() == 130
    assert not out.exists()


def test_a_bar_is_drawn_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with progress_bar("decompose", GeneralOptions()) as progress:
        assert progress is False
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("decompose", GeneralOptions(quiet=True)) as progress:
        assert progress is False
    with progress_bar("decompose", GeneralOptions()) as progress:
        assert callable(progress)
        progress(1, 2, "layer4.0.conv1")
    assert "layer4.0.conv1" in terminal.getvalue()


def test_the_version(command: Command) -> None:
    from amct_pytorch import __version__

    assert command("--version").out == f"amct-decompose {__version__}\n"


def test_a_verb_that_is_misspelt(command: Command) -> None:
    ended = command("serach")
    assert ended.code == 2
    assert "Did you mean 'search'" in ended.err


def test_completion_knows_verbs_and_options() -> None:
    environment = {
        **os.environ,
        "_AMCT_DECOMPOSE_COMPLETE": "complete_bash",
        "COMP_WORDS": "amct-decompose plan --ra",
        "COMP_CWORD": "2",
    }
    ended = subprocess.run(PROGRAM, env=environment, capture_output=True, text=True)
    assert "--rank" in ended.stdout


def test_what_to_install_where_typer_is_missing() -> None:
    code = "import sys; sys.modules['typer'] = None; import amct_pytorch.cli.app"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr == "error: the command line needs packages: pip install 'amct_pytorch[cli]'\n"
