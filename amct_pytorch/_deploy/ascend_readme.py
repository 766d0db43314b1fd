"""The README of a directory for an Ascend device."""

from __future__ import annotations

from collections.abc import Sequence

from .ascend_chips import FINDING, Target
from .ascend_files import Network


def readme(targets: Sequence[Target], networks: Sequence[Network], precision: str, size: Sequence[str]) -> str:
    """The README of the directory: the commands to run on the device.

    Parameters
    ----------
    targets
        The chips that the directory has scripts for; the commands are shown for the first.
    networks
        The ONNX files.
    precision
        Default of ATC's ``--precision_mode_v2``.
    size
        Options of ais_bench that set the size of the inputs; empty for fixed sizes.
    """
    first = targets[0]
    om = f"{{}}_{first.soc_version}_{precision}.om"
    others = "".join(f"\n- `bash atc_{target.soc_version}.sh` for {target.family}" for target in targets)
    names = "".join(f"\n- {family}: {way}" for family, way in FINDING.items())
    options = "".join(f" {option}" for option in size)
    times = "\n".join(
        f"python3 -m ais_bench --model {om.format(network.name)} --loop 100 --warmup_count 10{options}"
        for network in networks
    )
    return f"""# On the device

Two commands, in this directory, for {first.soc_version}:

```sh
bash atc_{first.soc_version}.sh
bash run.sh {om.format("model")}
```

The first compiles with `atc`; the second runs the compiled model with `ais_bench` on the inputs in `inputs/` and
compares its outputs with those of PyTorch in `outputs/`. It needs Python 3, NumPy, and the wheels `aclruntime` and
`ais_bench` of Ascend's tools. `compare.py` accepts an output if its relative error ‖y − r‖ / ‖r‖ is at most 0.01, a
rule of thumb for half precision; `--tolerance` sets another limit.

What is said here of Ascend's software was read in CANN's documentation and published sources [read] or told by others
[3rd]. No card has run these scripts yet: if `atc` refuses an option, take it out of `common.sh` or of the script.

The scripts for the chips:
{others}

Files are NumPy's .npy, float32 where the values are floating-point: `inputs/0_NAME.npy` and so on in the order of the
model's inputs, `outputs/model/0_NAME.npy` likewise.

## Before

The scripts source CANN's `set_env.sh` if that was not done: from `/usr/local/Ascend/cann` (from CANN 8.5 on) or
`/usr/local/Ascend/ascend-toolkit` (before), or from `Ascend` in the home folder. Compiling needs the *ops* package of
the chip too. On a host without a card they add `<cann>/<arch>-linux/devlib` to LD_LIBRARY_PATH [read].

The name of a chip [read]:
{names}

`atc` runs the `python3` on the PATH. For CANN 8.5 and 9.0 that one needs protobuf 3.20 (for 8.5 also NumPy below 2 if
Python is below 3.13), attrs, cython, decorator, sympy, cffi, pyyaml, pathlib2, psutil, scipy, requests and absl-py;
CANN 9.1 lifts both limits [read]. `python3 check_python.py` says what is missing; the scripts run it before compiling,
and again if `atc` fails.

`ais_bench` and `aclruntime` have no wheels for Python 3.12 and later [3rd]: install them in an environment of Python
3.11 or earlier, and use that one by `PYTHON=/path/to/its/bin/python3 bash run.sh …`. An .om need not be run in the
environment that has exported or compiled it. Without them, ONNX Runtime runs the .onnx files on the card by its
CANNExecutionProvider, of the package onnxruntime-cann [read].

## If atc fails

The script then lets `atc --mode=3` check the file, and leaves its report as `check_model.json` [read]. The files were
checked by the rules of ATC's ONNX parser before they were written (see `report.json`), but for its opset 18 only, and
not for what the compiler behind the parser takes.

## Parity

To rule out half precision, compile in the types of the file, and compare again:

```sh
PRECISION=origin bash atc_{first.soc_version}.sh
bash run.sh model_{first.soc_version}_origin.om
```

With `PRECISION=origin` the script adds `--op_precision_mode=float32.ini`, without which convolutions run in HF32, whose
mantissa has no more bits than that of half precision [read]. ATC documents that file's setting for Atlas A2 and A3 only
[read], so on Ascend 950 it is left out, and convolutions may run in HF32.

## Speed

To measure its speed, source CANN's `set_env.sh`, and see `median` of `NPU_compute_time` in the output of

```sh
{times}
```

CANN ships no tuning knowledge for 3×1 and 1×3 convolutions on Ascend 950PR [read]: tune the decomposed model with AOE
before you judge its speed.
"""
