"""Messages of the library as the command line prints them: they name the options that the user gave."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import amct_pytorch
from amct_pytorch._finetune.distillation import Distillation
from amct_pytorch.ascend import export_ascend
from amct_pytorch.benchmark import benchmark
from amct_pytorch.cli.bench import bench
from amct_pytorch.cli.exit_codes import ExitCode
from amct_pytorch.cli.export import export
from amct_pytorch.cli.finetune import finetune
from amct_pytorch.cli.option_names import in_options, options_of
from amct_pytorch.cli.plan import plan
from amct_pytorch.cli.run import run
from amct_pytorch.cli.search import search
from amct_pytorch.export import export_onnx
from amct_pytorch.tensor_decompose import (
    Budget,
    Calibration,
    DecompositionConfig,
    plan_decomposition,
    search_decomposition,
)
from tests.command_line import NETWORK, SHAPE, USER, Command, command

__all__ = ["command"]  # a fixture

_LIBRARY = Path(amct_pytorch.__file__).parent
_ERRORS = re.compile(r"(Error|Unavailable|Failed|Diverged|Extra|NotFound|error|warn_user)$")
_OPTIONS = {
    name: option for verb in (plan, run, search, bench, export, finetune) for name, option in options_of(verb).items()
}
_FUNCTIONS = (
    Budget,
    Calibration,
    DecompositionConfig,
    plan_decomposition,
    search_decomposition,
    benchmark,
    export_onnx,
)
# Of these the command line has none: it does what they ask for by itself.
_NOT_NAMED = {"model", "progress", "distributed", "forward", "path", "directory", "original", "decomposed"}
_PARAMETERS = {
    name for function in (*_FUNCTIONS, export_ascend, Distillation) for name in inspect.signature(function).parameters
} - _NOT_NAMED


def _text(node: ast.expr) -> str:
    """A string with X in place of what is filled in; empty for what is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) if isinstance(value, ast.Constant) else "X" for value in node.values)
    return _text(node.left) + _text(node.right) if isinstance(node, ast.BinOp) else ""


def _messages() -> Iterator[tuple[str, str]]:
    """Every message of an error or a warning of the library, with its place."""
    for path in sorted(_LIBRARY.rglob("*.py")):
        if "cli" in path.parts or path.stem.endswith("_testing"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_error = isinstance(node, ast.Call) and node.args and _ERRORS.search(ast.unparse(node.func))
            if is_error and (text := _text(node.args[0])):
                yield f"{path.relative_to(_LIBRARY)}:{node.lineno}", text


def test_no_message_of_the_library_names_a_parameter_that_is_an_option() -> None:
    messages = list(_messages())
    assert len(messages) > 200
    names = "|".join(_PARAMETERS)
    long = "|".join(name for name in _PARAMETERS if "_" in name)
    left = re.compile(rf"(?<![\w.-])(?:(?:{names})=|(?:{long})\b|(?:Budget|DecompositionConfig)\()")
    named = [(place, shown) for place, text in messages if left.search(shown := in_options(text, _OPTIONS))]
    assert named == []
    assert sum(in_options(text, _OPTIONS) != text for _, text in messages) > 50  # it is not the test that is blind


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            "rank_multiple must be a whole number from 1 on, found 0",
            "--rank-multiple must be a whole number from 1 on, found 0",
        ),
        ("budget: macs=0.5 needs example_inputs, on which", "--macs 0.5 needs --input, on which"),
        ("choose among float32 with Budget(latency=0.6, dtype=…)", "choose among float32 with --latency 0.6 --dtype"),
        (
            "leave it out with DecompositionConfig(layers={'a.b(c)': False}), or",
            "leave it out with --layers a.b(c)=keep, or",
        ),
        ("give layers={name: False}", "give --layers NAME=keep"),
        ("layers['body']: method: no method", "--layers body: method: no method"),
        ("such as dynamic_batch=[1, 8]", "such as --dynamic-batch 1,8"),
        ("Calibration: batches gave none", "--calibration: batches gave none"),
        ("Calibration: mode='refit' needs", "--calibration: --mode refit needs"),
        ("Calibration: memory must be", "--memory must be"),
        ("found 'macs=0.5' in the model's layers' list", "found 'macs=0.5' in the model's layers' list"),
        ("/data/macs=3/x.json: cannot be read", "/data/macs=3/x.json: cannot be read"),
        (
            "the model fails on example_inputs (X): ValueError: mode=3",
            "the model fails on --input (X): ValueError: mode=3",
        ),
        ("give all of them the same, or distributed=False", "give all of them the same"),
        ("give logits_of=…, or logits=0", "give --logits-weight 0"),
        ("leave require_gain=False out, or profile=True", "leave --no-require-gain out, or --profile"),
    ],
)
def test_a_message_in_options(message: str, shown: str) -> None:
    assert in_options(message, _OPTIONS) == shown


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("plan", "--input", "1x4x8x8", "--macs", 0.5), "the model fails on --input ((1, 4, 8, 8) torch.float32"),
        (("plan", "--macs", 0, *SHAPE), "--macs must be a number above 0 and up to 1, found 0"),
        (("plan", "--macs", 50, *SHAPE), "--macs must be a number above 0 and up to 1, found 50"),
        (("plan", "--macs", 0.5, "--rank", 8, *SHAPE), "--macs 0.5 chooses the ranks of all layers: leave out --rank"),
        (("plan", "--rank-multiple", 0), "--rank-multiple must be a whole number from 1 on"),
        (("plan", "--rank", 0), "--rank: the rank must be a whole number"),
        (("plan", "--rank", 5000), "--rank asks for rank 5000"),
        (("plan", "--calibration", f"{USER}:batches", "--mode", "x"), "--mode must be one of 'whiten'"),
        (("search", *SHAPE, "--eval", f"{USER}:agreement", "--drop", -1), "--drop must be a finite number, 0 or more"),
        (("search", *SHAPE, "--eval", f"{USER}:batches", "--drop", 1), "--eval fails on the model as it is"),
        (("validate", *SHAPE, "--index", 7), "numbered from 0: found --index 7"),
        (("bench", *SHAPE, "--batch-sizes", 0), "--batch-sizes must hold whole numbers from 1 on, found 0"),
    ],
)
def test_errors_name_options(command: Command, given: tuple[object, ...], message: str) -> None:
    verb, *options = given
    ended = command(verb, NETWORK, *options)
    assert (ended.code, ended.out) == (ExitCode.USAGE, "")
    assert message in ended.err
    assert ended.err.count("\n") == 1


def test_the_log_names_options(command: Command) -> None:
    ended = command("validate", NETWORK, *SHAPE, "--factory-args", '{"width": 32}')
    assert "--method auto with --rule any can split 3 layers" in ended.err


def test_warnings_name_options(command: Command) -> None:
    given = ("--eval", f"{USER}:agreement", "--drop", 0, "--samples", 24, "--evaluations", 2)
    ended = command("search", NETWORK, *SHAPE, *given)
    assert "warning: --drop 0 is below the standard error" in ended.err
