"""The shell commands of the documents: the program that each names must take it, so that none is out of date."""

from __future__ import annotations

import argparse
import ast
import functools
import re
import runpy
import shlex
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from .documents import DOCS, ROOT, blocks_of

_DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))]
_SCRIPTS = sorted(path for folder in ("tools", "examples/digits") for path in (ROOT / folder).glob("*.py"))
_CODE_IN_A_SENTENCE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_LEFT_OUT = re.compile(r"…|\b[A-Z]+\b(?= --help)")  # of a command in a sentence: the rest, or the verb


def _amct_decompose(words: list[str]) -> None:
    typer = pytest.importorskip("typer")
    from amct_pytorch.cli.app import app

    verb, *arguments = words
    command = typer.main.get_command(app).commands[verb]
    if arguments:
        command.make_context(verb, arguments)


class _Parsed(Exception):  # it ends a script where it would begin its work
    pass


def _python(words: list[str]) -> None:
    script, *arguments = words
    if not script.startswith(("tools/", "examples/")):
        return

    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *_: Any) -> None:
        original(parser, arguments)
        raise _Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.syspath_prepend(str((ROOT / script).parent))
        with pytest.raises(_Parsed):
            runpy.run_path(str(ROOT / script), run_name="__main__")


def _pip(words: list[str]) -> None:
    tomllib = pytest.importorskip("tomllib")  # comes with Python 3.11
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for word in words:
        if found := re.fullmatch(r"(?:\.|amct_pytorch)\[([\w,]+)\]", word):
            assert set(found[1].split(",")) <= set(extras)
        assert not word.startswith("ci/") or (ROOT / word).is_file()


def _paths(words: list[str]) -> None:
    assert all((ROOT / word).is_file() for word in words if word.startswith(("ci/", "tests/")))


def _torchrun(words: list[str]) -> None:
    assert words[:4] == ["--nproc-per-node", "2", "-m", "amct_pytorch"]
    _amct_decompose(words[4:])


_READERS: dict[str, Callable[[list[str]], None]] = {
    "amct-decompose": _amct_decompose,
    "bash": _paths,
    "pip": _pip,
    "pytest": _paths,
    "python": _python,
    "torchrun": _torchrun,
}


def _commands(markdown: str) -> list[list[str]]:
    """The words of each command in the blocks for a shell, and of those in sentences that are not cut short."""
    lines = [
        line
        for block in blocks_of(markdown)
        if block.language in ("bash", "sh", "text")
        for line in block.code.replace("\\\n", "").splitlines()
    ]
    sentences = re.sub(r"^ *```.*?^ *```$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    lines += [" ".join(code.split()) for code in _CODE_IN_A_SENTENCE.findall(sentences) if not _LEFT_OUT.search(code)]
    return [_words(command) for line in lines for command in line.split(" && ")]


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command, comments=True)
    except ValueError:  # not for a shell
        return []
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        del words[0]
    return words


@functools.cache  # most are in several documents
def _read(program: str, *words: str) -> None:
    _READERS[program](list(words))


def _read_all(commands: list[list[str]], programs: Collection[str] = _READERS) -> int:
    commands = [words for words in commands if len(words) > 1 and words[0] in programs]
    for words in commands:
        _read(*words)
    return len(commands)


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_document_are_read_by_their_programs(document: Path) -> None:
    _read_all(_commands(document.read_text(encoding="utf-8")), _READERS.keys() - {"python"})


@pytest.mark.slow
def test_the_commands_of_the_documents_are_read_by_the_scripts_that_they_run() -> None:
    for document in _DOCUMENTS:
        _read_all(_commands(document.read_text(encoding="utf-8")), {"python"})


@pytest.mark.slow
def test_an_option_that_a_script_has_not_is_noticed() -> None:
    with pytest.raises(SystemExit):
        _read_all([_words("python tools/speed.py --larger")])


@pytest.mark.slow
@pytest.mark.parametrize("script", _SCRIPTS, ids=lambda path: path.name)
def test_the_commands_of_a_scripts_docstring_are_read_by_it(script: Path) -> None:
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    lines = docstring.replace("\\\n", "").splitlines()
    _read_all([_words(line) for line in lines if line.strip().startswith(f"python {script.relative_to(ROOT)}")])


def test_a_command_with_an_option_that_there_is_not_is_noticed() -> None:
    for command in ("pip install -e '.[nothing]'", "bash ci/nothing.sh"):
        with pytest.raises(AssertionError):
            _read_all([_words(command)])
    typer = pytest.importorskip("typer")
    with pytest.raises(typer.BadParameter.__mro__[2]):  # UsageError, which typer does not name
        _read_all([_words("amct-decompose plan net.py:build --nothing")])
    assert _read_all(_commands((DOCS / "command-line.md").read_text(encoding="utf-8"))) > 15
