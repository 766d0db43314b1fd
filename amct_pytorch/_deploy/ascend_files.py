"""The text of the scripts and of the README for an Ascend device, following the documentation of CANN's ATC."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError, quoted
from .dynamic_sizes import Dynamic

# Patterns of the names that npu-smi prints, and the family of each. A bare Ascend910B is an older, unsupported chip.
_FAMILIES = (
    (r"Ascend910B\d(C|-\d)?", "Atlas A2"),
    (r"Ascend910_93\d\d", "Atlas A3"),
    (r"Ascend950[A-Za-z0-9_]*", "Ascend 950"),
)


@dataclass(frozen=True)
class Target:
    """A chip to compile for.

    Attributes
    ----------
    soc_version
        Name of the chip, the value of ATC's option ``--soc_version``.
    family
        "Atlas A2", "Atlas A3" or "Ascend 950".
    """

    soc_version: str
    family: str


@dataclass(frozen=True)
class Network:
    """An ONNX file in the directory.

    Attributes
    ----------
    name
        Name of the file without its suffix.
    shapes
        Shapes of its inputs by name, in the order of the inputs; -1 for a dynamic size.
    """

    name: str
    shapes: dict[str, list[int]]


def target_of(soc_version: object) -> Target:
    """The chip with this name.

    Parameters
    ----------
    soc_version
        A name that ``npu-smi info`` prints, which may be without the "Ascend" in front: "Ascend910B3", "910B3".

    Raises
    ------
    ConfigError
        No supported chip has this name.
    """
    if isinstance(soc_version, str):
        name = f"Ascend{soc_version.removeprefix('Ascend')}"
        for pattern, family in _FAMILIES:
            if re.fullmatch(pattern, name):
                return Target(name, family)
    raise ConfigError(
        f"soc_versions: expected names such as Ascend910B3 (Atlas A2), Ascend910_9391 (Atlas A3) or Ascend950PR_9599 "
        f"(Ascend 950), found {quoted(soc_version)}: run `npu-smi info` on the device to see its name"
    )


def atc_script(target: Target, networks: Sequence[Network], precision: str, dynamic: Dynamic) -> str:
    """A shell script that compiles the networks for a chip.

    Parameters
    ----------
    target
        The chip.
    networks
        The ONNX files to compile.
    precision
        Default of ATC's ``--precision_mode_v2``; the script's environment variable PRECISION overrides it.
    dynamic
        The sizes to compile for.
    """
    commands = "\n".join(_atc_command(target, network, dynamic) for network in networks)
    files = " and ".join(f"{network.name}.onnx" for network in networks)
    return f"""#!/usr/bin/env bash
# Compiles {files} for {target.soc_version} ({target.family}). First: source CANN's set_env.sh.
# PRECISION=origin keeps the types of the file, for parity. Further options go to atc as they are.
set -euo pipefail
cd "$(dirname "$0")"
precision="${{PRECISION:-{precision}}}"
{commands}
"""


def _atc_command(target: Target, network: Network, dynamic: Dynamic) -> str:
    shapes = ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in network.shapes.items())
    images = [shape for shape in network.shapes.values() if len(shape) == 4]
    options = [
        "--mode=0",
        "--framework=5",
        f"--model={network.name}.onnx",
        f'--output="{network.name}_{target.soc_version}_$precision"',
        f"--soc_version={target.soc_version}",
        f"--input_format={'NCHW' if images else 'ND'}",
        f'--input_shape="{shapes}"',
        '--precision_mode_v2="$precision"',
    ]
    if dynamic.batches:
        options.append(f'--dynamic_batch_size="{",".join(map(str, sorted(dynamic.batches)))}"')
    if dynamic.image_sizes:
        sizes = (",".join(map(str, size)) for size in sorted(dynamic.image_sizes))
        options.append(f'--dynamic_image_size="{";".join(sizes)}"')
    if any(0 < shape[1] <= 4 for shape in images):
        options.append("--enable_small_channel=1")
    return " \\\n  ".join(["atc", *options, '"$@"'])


def run_script(inputs: Sequence[str], size: Sequence[str]) -> str:
    """A shell script that runs a compiled network on the inputs and compares its outputs with PyTorch's.

    Parameters
    ----------
    inputs
        Files of the inputs, in order.
    size
        Options of ais_bench that set the size of the inputs; empty for fixed sizes.
    """
    options = "".join(f" {option}" for option in size)
    return f"""#!/usr/bin/env bash
# Runs a compiled model on the inputs of the parity check, and compares its outputs with those of PyTorch:
#   bash run.sh NAME.om [options of compare.py]
set -euo pipefail
cd "$(dirname "$0")"
name="$(basename "${{1:?expected the name of an .om file}}" .om)"
shift
rm -rf "results/$name"
mkdir -p "results/$name"
python3 -m ais_bench --model "$name.om" --input {",".join(inputs)}{options} \\
  --output results --output_dirname "$name" --outfmt NPY
python3 compare.py "results/$name" "outputs/${{name%%_*}}" "$@"
"""


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
    options = "".join(f" {option}" for option in size)
    times = "\n".join(
        f"python3 -m ais_bench --model {om.format(network.name)} --loop 100 --warmup_count 10{options}"
        for network in networks
    )
    return f"""# On the device

Three commands, in this directory, for {first.soc_version}:

```sh
source /usr/local/Ascend/ascend-toolkit/set_env.sh
bash atc_{first.soc_version}.sh
bash run.sh {om.format("model")}
```

The first sets up CANN, where it is installed; the second compiles with `atc`; the third runs the compiled model with
`ais_bench` on the inputs in `inputs/` and compares its outputs with those of PyTorch in `outputs/`. It needs Python 3,
NumPy, and the wheels `aclruntime` and `ais_bench` of Ascend's tools. `compare.py` accepts an output if its relative
error ‖y − r‖ / ‖r‖ is at most 0.01, a rule of thumb for half precision; `--tolerance` sets another limit.

The scripts for the chips:
{others}

Files are NumPy's .npy, float32 where the values are floating-point: `inputs/0_NAME.npy` and so on in the order of the
model's inputs, `outputs/model/0_NAME.npy` likewise.

To rule out half precision, compile in the types of the file, and compare again:

```sh
PRECISION=origin bash atc_{first.soc_version}.sh
bash run.sh model_{first.soc_version}_origin.om
```

Convolutions may still run in HF32, whose mantissa has no more bits than that of half precision.

To measure its speed, see `median` of `NPU_compute_time` in the output of

```sh
{times}
```

The scripts follow CANN's documentation, and no card has run them yet: if `atc` refuses an option, take it out of the
script.
"""
