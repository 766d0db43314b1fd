"""Stand-ins for CUDA's libraries, so that a CUDA build of torch runs on the CPU of a machine without them.

PyPI has only that build for x86-64, and it asks for gigabytes of libraries that a machine without a GPU never calls.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

# Libraries that torch loads from packages of NVIDIA, and the symbols of these.
_THEIRS = re.compile(r"lib(cu|nccl|nv)")
_SYMBOLS = re.compile(r"_*(cu|CU|nccl|nv)")

# Every function returns this: cudaErrorNoDevice.
_NO_DEVICE = 100


def libraries_for(torch: Path, folder: Path) -> Path:
    """A folder with a library for each one that torch asks for and that its wheel lacks.

    Parameters
    ----------
    torch
        The unpacked package torch.
    folder
        Where to make them.
    """
    objects = [*torch.glob("lib/*.so"), *torch.glob("_C*.so")]
    needed = {name for path in objects for name in re.findall(r"NEEDED.*\[(.+)\]", _output("readelf", "-d", path))}
    missing = {name for name in needed if _THEIRS.match(name) and not (torch / "lib" / name).exists()}
    undefined = {symbol for path in objects for symbol in _symbols("--undefined-only", path)}
    defined = {symbol for path in objects for symbol in _symbols("--defined-only", path)}
    functions = sorted(symbol for symbol in undefined - defined if _SYMBOLS.match(symbol))
    source = folder / "functions.c"
    source.write_text("".join(f"long {name}(void) {{ return {_NO_DEVICE}; }}\n" for name in functions))
    for name in missing:
        script = folder / f"{name}.map"
        first, *rest = sorted(_versions(name, objects)) or [name]
        script.write_text(f"{first} {{ global: *; }};\n" + "".join(f"{version} {{ }};\n" for version in rest))
        _output(
            "cc", "-w", "-shared", "-fPIC", "-o", folder / name, source, f"-Wl,-soname,{name}",
            f"-Wl,--version-script={script}",
        )  # fmt: skip
    return folder


def _symbols(which: str, path: Path) -> set[str]:
    lines = _output("nm", "--dynamic", which, path).splitlines()
    return {line.split()[-1].partition("@")[0] for line in lines if line.split()}


def _versions(library: str, objects: list[Path]) -> set[str]:
    """The versions of a library's symbols that these objects ask for."""
    found: set[str] = set()
    for path in objects:
        for part in _output("readelf", "-V", "-W", path).split("File: ")[1:]:
            if part.split()[0] == library:
                found |= set(re.findall(r"Name: (\S+)\s+Flags", part))
    return found


def _output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
