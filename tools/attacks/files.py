"""Hostile files: each ends in an error that names it, or means exactly what it says.

Files are changed in their bytes, in single values, and by hand: code in pickles, tensors that declare 10¹² values,
compressed archives, files exchanged between checkpoints. Where a changed file is loaded without an error, the result is
compared with that of the file unchanged, and if it differs, with an independent reading of what the file says.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amct_pytorch.checkpoint import load_decomposed, load_training_state, save_decomposed
from amct_pytorch.errors import AmctError
from amct_pytorch.tensor_decompose import (
    DecomposedConv2d,
    DecompositionConfig,
    EnergyRank,
    RatioRank,
    auto_decomposition,
    decompose_network,
    load_config,
    load_plan,
    plan_decomposition,
    save_config,
)
from amct_pytorch.tensor_decompose.methods import method_names

from .mutations import damaged_bytes, damaged_tree
from .tally import Failure, Tally
from .victim import Net, bits, calibration, differences, new_net, state_of, world

_SECONDS = 5.0  # of computing that any file may take; the good ones take a tenth of a second
_MEMORY = 2**29  # bytes that loading any file may add to the largest that the process has taken
_MESSAGE = 3000  # characters of an error at most
_HUGE = 10**12


@dataclass(frozen=True)
class Target:
    """A kind of file.

    Attributes
    ----------
    name
        For the table.
    file
        The file to be changed.
    load
        Reads it into a network, and returns what that is then, or another result to compare.
    says
        What the file says, by an independent reading, in the form of that result. Any error of it means that the file
        says nothing, so it should not have been loaded.
    hand_made
        Makes contents of the file by hand, with a word for each.
    """

    name: str
    file: Path
    load: Callable[[Net], object]
    says: Callable[[bytes], object]
    hand_made: Callable[[bytes], Iterator[tuple[bytes, str]]]
    values: Callable[[bytes, random.Random], tuple[bytes, str]]


class Canary:
    """A pickle of this runs code: it makes a file."""

    place = ""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path(self.place),))


def attack_files(folder: Path, count: int, draw: random.Random) -> Iterator[Tally]:
    """Try hostile files of every kind.

    Parameters
    ----------
    folder
        An empty one to work in.
    count
        Number of random changes of each kind of file, half of them to bytes, half to values.
    draw
        Chooses the changes.
    """
    (folder / "secret").write_text("not to be opened")
    Canary.place = str(folder / "ran")
    opened: list[str] = []
    sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
    for target in _targets(folder):
        tally = Tally(f"file: {target.name}")
        content = target.file.read_bytes()
        changes = [*target.hand_made(content), *(_change(target, content, number, draw) for number in range(count))]
        expected = target.load(new_net(1))
        for changed, how in changes:
            target.file.write_bytes(changed)
            tally.count(how, list(_failures(target, changed, expected, opened)))
            target.file.write_bytes(content)
        yield tally
    yield _exchanged(folder)


def _change(target: Target, content: bytes, number: int, draw: random.Random) -> tuple[bytes, str]:
    return damaged_bytes(content, draw) if number % 2 else target.values(content, draw)


def _failures(target: Target, content: bytes, expected: object, opened: list[str]) -> Iterator[Failure]:
    """What goes wrong as a changed file is loaded."""
    net = new_net(1)
    before, around, memory, begin = state_of(net), world(), _peak_memory(), time.process_time()
    opened.clear()
    try:
        result = target.load(net)
    except AmctError as error:
        text = str(error)
        if not any(place in text for place in (str(target.file), str(target.file.parent), "layer '")):
            yield "wrong", f"the error names no place: {text[:200]}"
        if len(text) > _MESSAGE or not text.isprintable():
            yield "wrong", f"an error of {len(text)} characters, {text[:200]!r}"
        if changed := differences(before, state_of(net)):
            yield "wrong", f"changed {changed} of the model before an error"
    except Exception as error:
        yield "bare", f"{type(error).__name__}: {str(error)[:200]}"
    else:
        if result != expected:
            try:
                said = target.says(content)
            except Exception as error:
                yield "wrong", f"was loaded, although it says nothing ({type(error).__name__}: {str(error)[:100]})"
            else:
                if result != said:
                    yield "wrong", "was loaded as something else than it says"
    if (taken := time.process_time() - begin) > _SECONDS:
        yield "wrong", f"took {taken:.1f} s"
    if (added := _peak_memory() - memory) > _MEMORY:
        yield "wrong", f"took {added / 2**20:.0f} MiB"
    if changed := differences(around, world()):
        yield "wrong", f"changed {changed} of the process"
    if any("secret" in name for name in opened):
        yield "wrong", "opened another file"
    if Path(Canary.place).exists():
        Path(Canary.place).unlink()
        yield "wrong", "ran code of the file"


def _peak_memory() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _targets(folder: Path) -> list[Target]:
    """One target for each kind of file, with its good file in place."""
    return [
        *_information_files(folder),
        _plan(folder),
        _config(folder),
        *_checkpoints(folder),
    ]


# Information files


def _information_files(folder: Path) -> Iterator[Target]:
    settings: dict[str, dict[str, Any]] = {"1": {}, "2": {"calibration": calibration()}}
    if others := [name for name in method_names() if name != "separable"]:
        settings["3"] = {"config": DecompositionConfig(method=others[0], rule="any", rank=RatioRank(0.25))}
    for version, options in settings.items():
        file = folder / f"info{version}.json"
        auto_decomposition(new_net(), file, **options)
        yield Target(
            f"information file, version {version}",
            file,
            functools.partial(_rebuilt, file),
            _said_by_information_file,
            lambda content: iter([(b"[" * 100_000, "deep"), (b"[1" + b"0" * 10_000 + b"]", "long number")]),
            _changed_json,
        )


def _rebuilt(file: Path, net: nn.Module) -> object:
    return _structure(decompose_network(net, file)[0])


def _structure(net: nn.Module) -> object:
    """Shapes and biases of the layers that stand in for others, by name."""
    return {
        name: [(tuple(stage.weight.size()), stage.bias is not None) for stage in chain]  # type: ignore[operator]
        for name, chain in net.named_modules(remove_duplicate=False)
        if isinstance(chain, DecomposedConv2d)
    }


def _said_by_information_file(content: bytes) -> object:
    net = new_net(1)
    found = {}
    for entry in _strict_json(content):
        name = entry["ori_layer_info"]["name"]
        bias = net.get_submodule(name).bias is not None or entry.get("added_bias", False)
        shapes = [tuple(node["weight_shape"]) for node in entry["decom_nodes"].values()]
        found[name] = [(shape, bias and shape is shapes[-1]) for shape in shapes]
    names = [name for name, _ in net.named_modules(remove_duplicate=False)]
    return {name: found[name] for name in sorted(found, key=names.index)}


def _strict_json(content: bytes) -> Any:
    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return dict(pairs)

    return json.loads(content, object_pairs_hook=once)


def _changed_json(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    if draw.random() < 0.1:  # a key twice
        text = content.decode()
        pair = draw.choice(list(re.finditer(r'"\w+": ("\w*"|\d+|\{\}|true|false)', text))).group()
        at = draw.choice([found.end() for found in re.finditer(r"\{", text)])
        return f"{text[:at]}{pair},{text[at:]}".encode(), f"{pair} put in at {at}"
    tree, how = damaged_tree(json.loads(content), draw)
    return json.dumps(tree, indent=2, ensure_ascii=draw.random() < 0.7).encode(errors="surrogatepass"), how


# Plans


def _plan(folder: Path) -> Target:
    file = folder / "plan.pt"
    plan_decomposition(new_net(1), calibration=calibration()).save(file)

    def load(net: Net) -> object:
        plan = load_plan(file)
        return bits(plan.apply(net)[0].state_dict()), str(plan)

    def hand_made(content: bytes) -> Iterator[tuple[bytes, str]]:
        good = torch.load(io.BytesIO(content))
        for changed, how in _hostile_tensors():
            document = copy.deepcopy(good)
            document["tensors"] = dict.fromkeys(document["tensors"], changed)
            yield _saved(document), how
        yield from _hostile_archives(content, good)

    def values(content: bytes, draw: random.Random) -> tuple[bytes, str]:
        document = torch.load(io.BytesIO(content))
        part = draw.choice(["plan", "layers", "layers", "layers", "tensors", "all"])
        makers = [functools.partial(copy.copy, made) for made, _ in _hostile_tensors()]
        if part == "all":
            document, how = damaged_tree(document, draw, makers)
        else:
            document[part], how = damaged_tree(document[part], draw, makers)
        return _saved(document), f"{part}: {how}"

    return Target("plan", file, load, _says_nothing, hand_made, values)


def _saved(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def _hostile_tensors() -> Iterator[tuple[Any, str]]:
    yield torch.zeros(1).expand(_HUGE), "a tensor that declares 10¹² values"
    yield torch.zeros(1).expand(64, 64, _HUGE // 4096), "one of three dimensions"
    yield torch.empty(_HUGE, device="meta"), "one of 10¹² without values"
    yield torch.sparse_coo_tensor(torch.tensor([[_HUGE - 1]]), torch.ones(1), (_HUGE,)), "a sparse one of 10¹²"
    yield torch.full((64, 32, 1, 3), torch.nan), "one of NaN"
    yield torch.zeros(64, 32, 1, 3, dtype=torch.complex64), "a complex one"
    yield torch.zeros(64, 32, 1, 3, dtype=torch.int8), "one of whole numbers"
    yield nn.Parameter(torch.zeros(64, 32, 1, 3)), "a parameter"
    yield torch.zeros(()), "a scalar"


def _hostile_archives(content: bytes, good: Any) -> Iterator[tuple[bytes, str]]:
    """Files in torch's format that would run code, or take up far more memory than they have bytes."""
    for protocol in (2, 4):
        yield pickle.dumps(Canary(), protocol), f"a pickle that runs code, protocol {protocol}"
    yield _saved({**good, "format": Canary()}), "an archive that runs code"
    old = io.BytesIO()
    torch.save(good, old, _use_new_zipfile_serialization=False)
    yield old.getvalue(), "the format of torch before 1.6"
    yield _with_pickle(content, b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."), "2 GiB of zeros"
    yield _with_pickle(content, b"\x80\x02" + b"]" * 100_000 + b"."), "a pickle of a long stack"
    yield _with_pickle(content, b"\x80\x02" + b"(" * 100_000 + b"t."), "a pickle of marks"
    yield _inflated(content), "an archive of 1 GiB of zeros, compressed"


def _with_pickle(content: bytes, pickled: bytes) -> bytes:
    return _rewritten(content, lambda name, data: pickled if name.endswith("/data.pkl") else data)


def _rewritten(content: bytes, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(file, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
    return file.getvalue()


def _inflated(content: bytes) -> bytes:
    """An archive whose first tensor is 1 GiB of zeros, compressed to a thousandth."""
    zeros = bytes(2**30)
    changed = [False]

    def change(name: str, data: bytes) -> bytes:
        if "/data/" in name and not changed[0]:
            changed[0] = True
            return zeros
        return data

    return _rewritten(content, change, zipfile.ZIP_DEFLATED)


# Settings


def _config(folder: Path) -> Target:
    file = folder / "config.json"
    layers = {"stem": False, "re:^sec": {"rank": RatioRank(0.25), "rank_multiple": 8}, "first": {"rule": "any"}}
    save_config(DecompositionConfig(rank=EnergyRank(0.9), layers=layers), file)  # type: ignore[arg-type]
    again = folder / "again.json"

    def load(net: Net) -> object:
        save_config(load_config(file), again)
        return _strict_json(again.read_bytes())

    def says(content: bytes) -> object:
        return {**_strict_json(_saved_default(folder)), **_strict_json(content)}

    return Target("settings", file, load, says, lambda content: iter([(b"[" * 100_000, "deep")]), _changed_json)


def _saved_default(folder: Path) -> bytes:
    save_config(DecompositionConfig(), folder / "default.json")
    return (folder / "default.json").read_bytes()


# Checkpoints


def _checkpoints(folder: Path) -> Iterator[Target]:
    for format_ in ("safetensors", "torch"):
        place = folder / f"checkpoint of {format_}"
        _save_checkpoint(place, format_)
        weights = next(place.glob("weights.*"))
        manifest = place / "manifest.json"

        yield Target(
            f"manifest, {format_}", manifest, functools.partial(_loaded, place), _says_nothing, _no_more, _changed_json
        )
        yield Target(
            f"weights in {format_}, manifest intact",
            weights,
            functools.partial(_loaded, place),
            _says_nothing,
            _no_more,
            damaged_bytes,
        )
        yield Target(
            f"weights in {format_}, manifest made to fit",
            weights,
            functools.partial(_load_sealed, place),
            functools.partial(_said_by_weights, weights),
            _hostile_weights if format_ == "torch" else _no_more,
            damaged_bytes,
        )
        yield Target(
            f"manifest of {format_}, with a hash that fits",
            manifest,
            functools.partial(_load_by_manifest, place),
            functools.partial(_said_by_manifest, weights),
            _no_more,
            _changed_json,
        )
    place = folder / "checkpoint of torch"
    state = place / "training.pt"

    def load_state(net: Net) -> object:
        with _sealed(place):
            return bits({"momentum": load_training_state(place)["momentum"]})

    yield Target(
        "training state, manifest made to fit",
        state,
        load_state,
        lambda content: bits({"momentum": torch.load(io.BytesIO(content), weights_only=True)["momentum"]}),
        lambda content: _hostile_archives(content, {"momentum": torch.ones(3)}),
        damaged_bytes,
    )


def _loaded(place: Path, net: nn.Module) -> object:
    return bits(load_decomposed(net, place)[0].state_dict())


def _load_sealed(place: Path, net: nn.Module) -> object:
    with _sealed(place):
        return _loaded(place, net)


def _load_by_manifest(place: Path, net: nn.Module) -> object:
    """What is loaded when the manifest, whatever it says, has a hash that fits."""
    manifest = place / "manifest.json"
    with contextlib.suppress(ValueError, TypeError, RecursionError):  # it is no object, and stays as it is
        document = json.loads(manifest.read_bytes())
        manifest.write_text(json.dumps({**document, "sha256": _hash_of(document)}))
    return _loaded(place, net)


def _said_by_manifest(weights: Path, content: bytes) -> object:
    return _said_by_weights(weights, weights.read_bytes(), json.loads(content)["tied"])


def _says_nothing(content: bytes) -> object:
    raise ValueError("it has a hash, so nothing can be changed")


def _no_more(content: bytes) -> Iterator[tuple[bytes, str]]:
    return iter(())


def _save_checkpoint(place: Path, format_: str, seed: int = 0) -> None:
    """Write a checkpoint in one of the two formats of weights."""
    import importlib.util

    net, _ = auto_decomposition(new_net(seed))
    find = importlib.util.find_spec
    if format_ == "torch":
        importlib.util.find_spec = lambda name, package=None: None if name == "safetensors" else find(name, package)
    try:
        save_decomposed(net, place, training_state={"momentum": torch.ones(3)})
    finally:
        importlib.util.find_spec = find


@contextlib.contextmanager
def _sealed(place: Path) -> Iterator[None]:
    """A manifest with the hashes of the files that are there, and its own: whoever changes a file may do so."""
    manifest = place / "manifest.json"
    before = manifest.read_bytes()
    document = json.loads(before)
    for name in document["files"]:
        content = (place / name).read_bytes()
        document["files"][name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps({**document, "sha256": _hash_of(document)}))
    try:
        yield
    finally:
        manifest.write_bytes(before)


def _hash_of(document: dict[str, Any]) -> str:
    rest = {key: value for key, value in document.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _said_by_weights(file: Path, content: bytes, tied: dict[str, str] | None = None) -> object:
    """The values of a file of weights, read without the library, under all of their names."""
    if file.suffix == ".safetensors":
        from safetensors.torch import load

        stored = load(content)
    else:
        stored = torch.load(io.BytesIO(content), weights_only=True)
    if tied is None:
        tied = json.loads((file.parent / "manifest.json").read_text())["tied"]
    every = {**stored, **{name: stored[first] for name, first in tied.items()}}
    reference, _ = auto_decomposition(new_net())
    # A layer has one weight under all of its names, and the last one that is loaded counts.
    reference.load_state_dict(every)
    return bits(reference.state_dict())


def _hostile_weights(content: bytes) -> Iterator[tuple[bytes, str]]:
    good = torch.load(io.BytesIO(content))
    for name in list(good)[:2]:
        for changed, how in _hostile_tensors():
            yield _saved({**good, name: changed}), f"{name}: {how}"
    yield from _hostile_archives(content, good)


def _exchanged(folder: Path) -> Tally:
    """Files of one checkpoint in another."""
    tally = Tally("file: exchanged between checkpoints")
    one, other, mixed = folder / "one", folder / "other", folder / "mixed"
    _save_checkpoint(one, "safetensors", 1)
    _save_checkpoint(other, "safetensors", 2)
    names = sorted(os.listdir(one))  # noqa: PTH208
    good: list[object] = [bits(load_decomposed(new_net(), place)[0].state_dict()) for place in (one, other)]
    for chosen in range(2 ** len(names)):
        shutil.rmtree(mixed, ignore_errors=True)
        shutil.copytree(one, mixed)
        from_other = [name for bit, name in enumerate(names) if chosen >> bit & 1]
        for name in from_other:
            shutil.copy(other / name, mixed / name)
        tally.count(", ".join(from_other), list(_failures_of_mixture(mixed, good)))
    return tally


def _failures_of_mixture(mixed: Path, good: list[object]) -> Iterator[Failure]:
    net = new_net()
    before = state_of(net)
    try:
        result = bits(load_decomposed(net, mixed)[0].state_dict())
    except AmctError as error:
        if str(mixed) not in str(error):
            yield "wrong", f"the error names no place: {error}"
        if changed := differences(before, state_of(net)):
            yield "wrong", f"changed {changed} of the model before an error"
    except Exception as error:
        yield "bare", repr(error)
    else:
        if result not in good:  # a file that is the same in both says nothing of which of them it is from
            yield "wrong", "a mixture was loaded"
