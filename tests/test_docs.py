"""The documents: every block of Python runs or says why not, both languages agree, and the errors are the real ones."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from amct_pytorch import errors
from amct_pytorch.checkpoint import save_decomposed
from amct_pytorch.export import export_onnx
from amct_pytorch.tensor_decompose import DecomposedLinear, auto_decomposition, decompose_network
from amct_pytorch.tensor_decompose.methods import Method

from .documents import PAGES, ROOT, Block, blocks_of, python_of, text
from .models import chains, image


class Net(nn.Module):
    """Called Net in the documents: a classifier of images of any size, with layers of those names."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, stride=8), nn.ReLU(), nn.Conv2d(64, 64, 3))
        self.head = nn.Sequential(nn.ReLU(), nn.Conv2d(64, 128, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.stem(x))


def _run(page: str, blocks: list[Block]) -> dict[str, Any]:
    torch.manual_seed(0)
    torch.save(Net().state_dict(), "net.pth")
    names: dict[str, Any] = {"Net": Net, "__name__": "docs"}
    for block in blocks:
        exec(compile(block.code, page, "exec"), names)
    return names


# Pages that calibrate, search, export or measure.
_LONG = {"ascend.md", "calibration.md", "choosing.md", "deployment.md", "devices.md", "quantising.md", "recipes.md"}
_RUN = [page for page in PAGES if any(not block.mark for block in python_of(page))]


@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] * (page in _LONG)) for page in _RUN])
def test_the_python_of_a_page_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _run(page, [block for block in python_of(page) if not block.mark])


_NEED_PACKAGES = [page for page in PAGES if any(block.needs for block in python_of(page))]
_WITH_OWN_TEST = {"calibration.md", "deployment.md", "recipes.md"}


def _run_all(page: str) -> dict[str, Any]:
    return _run(page, [block for block in python_of(page) if block.runs_with_its_page])


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(set(_NEED_PACKAGES) - _WITH_OWN_TEST))
def test_the_python_that_needs_packages_runs(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in {package for block in python_of(page) for package in block.needs}:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    _run_all(page)


@pytest.mark.slow
def test_an_onnx_file_is_decomposed_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx2torch")
    monkeypatch.chdir(tmp_path)
    # onnx2torch does not take all that torch exports at opset 18, such as the end of Net.
    net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
    export_onnx(net, image(1, 3, 64, 64), "model.onnx")
    names = _run("recipes.md", [block for block in python_of("recipes.md") if block.needs])
    assert names["changes"]
    assert Path("small.onnx").stat().st_size < Path("model.onnx").stat().st_size


@pytest.mark.slow
def test_a_network_of_transformers_is_loaded_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128], depths=[1, 1], layer_type="basic", num_labels=5
    )
    net, changes = auto_decomposition(transformers.ResNetForImageClassification(config).eval())
    monkeypatch.chdir(tmp_path)
    net.save_pretrained("pretrained")
    save_decomposed(net, "transformer")
    names = _run("deployment.md", [block for block in python_of("deployment.md") if block.needs])
    assert names["changes"] == changes
    assert torch.equal(names["net"].eval()(image(1, 3, 32, 32)).logits, net(image(1, 3, 32, 32)).logits)
    # What the section is there for.
    assert not chains(transformers.ResNetForImageClassification.from_pretrained("pretrained"))


@pytest.mark.slow
def test_a_transformer_is_decomposed_as_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=128, patch_size=32
    )
    monkeypatch.chdir(tmp_path)
    transformers.ViTForImageClassification(config).save_pretrained("pretrained")
    names = _run("calibration.md", [block for block in python_of("calibration.md") if block.needs])
    linear = [name for name, module in names["net"].named_modules() if isinstance(module, DecomposedLinear)]
    assert len(linear) == 6
    assert linear == list(names["changes"])
    assert Path("decompose_info.json").is_file()


def test_the_contract_of_a_method_on_its_page_is_that_of_the_class() -> None:
    rows = re.findall(r"^\| `(\w+)\((.*?)\)` \|", text("writing-a-method.md"), flags=re.MULTILINE)
    assert Method.__abstractmethods__ <= {name for name, _ in rows}
    for name, parameters in rows:
        assert ["self", *parameters.split(", ")] == list(inspect.signature(getattr(Method, name)).parameters)


@pytest.mark.slow
def test_the_methods_of_the_page_pass_the_conformance_kit(tmp_path: Path) -> None:
    code = "".join(block.code for block in python_of("writing-a-method.md"))
    file = tmp_path / "test_methods_of_the_page.py"
    file.write_text(f"from tests.test_docs import Net\n{code}", encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        str(ROOT / "pyproject.toml"),
        str(file),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "passed" in done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_what_is_not_run_says_why_and_imports_what_exists(page: str) -> None:
    for block in python_of(page):
        assert not block.mark or block.needs or not block.runs_with_its_page, (
            f"{block.mark!r} is no mark that a test knows"
        )
        for node in ast.walk(ast.parse(block.code)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("amct_"):
                module = importlib.import_module(node.module or "")
                assert all(hasattr(module, item.name) for item in node.names), ast.unparse(node)


def _without_comments(block: Block) -> list[str]:
    return [re.sub(r"\s*#.*", "", line) for line in block.code.splitlines()]


@pytest.mark.parametrize("page", PAGES)
def test_both_languages_of_a_page_have_the_same_code_and_figures(page: str) -> None:
    chinese = page.replace(".md", ".zh.md")
    for language in ("python", "sh", "json", "toml"):
        one, other = (
            [block for block in blocks_of(text(name)) if block.language == language] for name in (page, chinese)
        )
        assert [(block.mark, _without_comments(block)) for block in one] == [
            (block.mark, _without_comments(block)) for block in other
        ]
    assert _figures(page) == _figures(chinese)


def _figures(page: str) -> list[str]:
    return sorted(re.findall(r"\d+(?:[.,]\d+)*", re.sub("<!--.*?-->", "", text(page))))


@pytest.mark.parametrize("page", PAGES)
def test_tools_and_files_that_a_page_names_exist(page: str) -> None:
    for path in re.findall(r"\b((?:tools|examples/digits|ci)/\w+\.\w+)", text(page)):
        assert (ROOT / path).is_file(), path


@pytest.mark.parametrize("function", [auto_decomposition, decompose_network])
def test_the_page_of_a_function_has_its_parameters_in_order(function: Callable[..., Any]) -> None:
    rows = re.findall(r"^\| `(\w+)` \| in \|", text(f"{function.__name__}.md"), flags=re.MULTILINE)
    assert rows == list(inspect.signature(function).parameters)


def test_the_information_file_on_its_page_is_what_the_library_writes(tmp_path: Path) -> None:
    net = nn.Sequential()
    net.cnn = nn.Sequential(*(nn.ReLU() for _ in range(5)), nn.Conv2d(64, 128, 3))
    auto_decomposition(net, tmp_path / "decompose_info.json")
    (shown,) = (block.code for block in blocks_of(text("decompose_network.md")) if block.language == "json")
    assert json.loads(shown) == json.loads((tmp_path / "decompose_info.json").read_text(encoding="utf-8"))


def _classes() -> dict[str, type]:
    """By name every class of errors.py, without former names."""
    return {
        name: value
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, Exception) and value.__name__ == name
    }


def test_the_first_page_has_every_extra() -> None:
    tomllib = pytest.importorskip("tomllib")  # comes with Python 3.11
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for page in ("index.md", "index.zh.md"):
        assert project["optional-dependencies"].keys() <= set(re.findall(r"`(\w+)`", text(page)))


_REFERENCE = {  # pages by public module
    "tensor_decompose": "tensor_decompose",
    "tensor_decompose.methods": "methods",
    "validate": "measuring",
    "benchmark": "measuring",
    "export": "deploying",
    "ascend": "deploying",
    "checkpoint": "deploying",
    "finetune": "finetune",
    "report": "report",
    "backend": "backend",
    "errors": "errors",
}


@pytest.mark.parametrize("module", _REFERENCE)
def test_the_reference_has_every_public_name(module: str) -> None:
    page = text(f"api/{_REFERENCE[module]}.md")
    shows_all = f"::: amct_pytorch.{module}\n" in page and "members:" not in page
    assert shows_all or set(importlib.import_module(f"amct_pytorch.{module}").__all__) <= set(re.findall(r"\w+", page))


def test_the_page_of_the_command_line_has_every_verb_file_and_exit_code() -> None:
    typer = pytest.importorskip("typer")
    from amct_pytorch._finetune import run
    from amct_pytorch.cli import output_folder
    from amct_pytorch.cli.app import app
    from amct_pytorch.cli.exit_codes import MEANINGS

    page = text("command-line.md")
    verbs = typer.main.get_command(app).commands
    assert set(verbs) == set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE))
    files = {value for name, value in vars(output_folder).items() if name.isupper() and isinstance(value, str)}
    for name in files | {run.CHECKPOINT, run.CURVES}:
        assert f"`{name}`" in page
    for code, meaning in MEANINGS.items():
        assert f"| {code.value} | {meaning} |" in page


def test_docstrings_mark_code_as_markdown_does_as_the_reference_shows_them() -> None:
    described = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = (node for tree in _sources() for node in ast.walk(tree) if isinstance(node, described))
    docstrings = [ast.get_docstring(node) or "" for node in nodes]
    assert not [text for text in docstrings if re.search("::$", text, flags=re.MULTILINE)]


@functools.cache
def _sources() -> list[ast.Module]:
    files = [*(ROOT / "amct_pytorch").rglob("*.py"), *(ROOT / "backends").glob("*.py")]
    return [ast.parse(file.read_text(encoding="utf-8")) for file in files]


def _template(node: ast.AST) -> str | None:
    """A text in the sources, with … for what is filled in; None where the node is none."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else None


@functools.cache
def _templates() -> str:
    """Every text in the sources of the library, one after the other."""
    texts = (_template(node) for tree in _sources() for node in ast.walk(tree))
    return "\0".join(item for item in texts if item is not None)


@pytest.mark.parametrize("page", ["errors.md", "errors.zh.md"])
def test_the_page_of_errors_has_every_class_and_only_messages_that_the_library_has(page: str) -> None:
    classes = _classes()
    rows = re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| .* \|$", text(page), flags=re.MULTILINE)
    assert set(classes) == {name for name, _ in rows}
    for name, bases in rows:
        builtins = [base.__name__ for base in classes[name].__mro__ if base.__module__ == "builtins"]
        fitting = [base for base in builtins if base not in ("object", "BaseException", "Warning")]
        assert set(bases.split(", ")) == set(fitting[:-1] or fitting), name
    messages = re.findall(r"^\| “(.*?)” \|", text(page), flags=re.MULTILINE)
    assert len(messages) > 30
    for message in messages:
        assert message in _templates(), message


def _raised() -> dict[str, list[str]]:
    """The messages of the library by the class that they are raised as, with … for what is filled in."""
    found: dict[str, list[str]] = {}
    for tree in _sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                texts = [_template(item) for item in node.exc.args]
                found.setdefault(node.exc.func.id, []).extend(item for item in texts if item is not None)
    return found


def test_the_page_of_errors_has_a_message_of_every_class() -> None:
    messages = re.findall(r"^\| “(.*?)” \|", text("errors.md"), flags=re.MULTILINE)
    raised = _raised()
    # Those with a text of their own: some only pass on what another error says, or what the system does.
    for name in _classes().keys() & raised.keys():
        texts = [item for item in raised[name] if len(item) > 20]
        assert not texts or any(message in item for message in messages for item in texts), name
