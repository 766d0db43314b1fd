"""Print the Python that ``atc`` runs, the python3 on the PATH, and what it lacks: python3 check_python.py.

Needs only Python 3.8 or later. The packages are those that the manuals of CANN 8.5 and 9.0 ask for; CANN 9.1 lifts the
limits on the versions of protobuf and NumPy.
"""

from __future__ import annotations

import importlib.metadata
import platform
import sys

PACKAGES = (
    *("protobuf", "numpy", "attrs", "cython", "decorator", "sympy", "cffi", "pyyaml", "pathlib2", "psutil", "scipy"),
    *("requests", "absl-py"),
)
"""Names, for pip, of what atc imports."""


def shortcomings(python: tuple[int, int], versions: dict[str, str | None]) -> list[str]:
    """What is not as CANN 8.5 and 9.0 want it, in words.

    Parameters
    ----------
    python
        Version of Python.
    versions
        Version of each of `PACKAGES`; None where it is not installed.
    """
    found = []
    missing = [name for name in PACKAGES if versions[name] is None]
    if missing:
        found.append(f"missing: python3 -m pip install {' '.join(missing)}")
    protobuf, numpy = versions["protobuf"], versions["numpy"]
    if protobuf and not f"{protobuf}.".startswith("3.20."):
        found.append(f"CANN 8.5 and 9.0 want protobuf 3.20, found {protobuf}; CANN 9.1 takes others")
    if numpy and int(numpy.partition(".")[0]) >= 2 and python < (3, 13):
        found.append(f"CANN 8.5 wants NumPy below 2 under Python {python[0]}.{python[1]}, found {numpy}")
    return found


def main() -> None:
    """Print one line on this Python, and one on each shortcoming."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    installed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    print(f"atc runs {sys.executable}, Python {platform.python_version()}, with {installed or 'none of its packages'}")
    for line in shortcomings((sys.version_info[0], sys.version_info[1]), versions):
        print(f"  {line}")


if __name__ == "__main__":
    main()
