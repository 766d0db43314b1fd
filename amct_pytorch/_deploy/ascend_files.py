"""The text of the scripts for an Ascend device, following the documentation of CANN's ATC."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from .ascend_chips import Target
from .dynamic_sizes import Dynamic

FLOAT32_CONVOLUTIONS = """[ByOpType]
Conv2D=enable_float_32_execution
"""
"""A file for ATC's option ``--op_precision_mode``, on Atlas A2 and A3: float32 convolutions without HF32."""


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
    commands = "\n".join(_command(target, network, dynamic) for network in networks)
    files = " and ".join(f"{network.name}.onnx" for network in networks)
    return f"""#!/usr/bin/env bash
# Compiles {files} for {target.soc_version} ({target.family}).
# PRECISION=origin keeps the types of the file, for parity. Further options go to atc as they are.
set -euo pipefail
cd "$(dirname "$0")"
source ./common.sh
precision="${{PRECISION:-{precision}}}"
prepare_atc
{commands}
"""


def _command(target: Target, network: Network, dynamic: Dynamic) -> str:
    shapes = ";".join(f"{name}:{','.join(map(str, shape))}" for name, shape in network.shapes.items())
    images = [shape for shape in network.shapes.values() if len(shape) == 4]
    options = [f"--input_format={'NCHW' if images else 'ND'}", f"--input_shape={shapes}"]
    if dynamic.batches:
        options.append(f"--dynamic_batch_size={','.join(map(str, sorted(dynamic.batches)))}")
    if dynamic.image_sizes:
        sizes = (",".join(map(str, size)) for size in sorted(dynamic.image_sizes))
        options.append(f"--dynamic_image_size={';'.join(sizes)}")
    if any(0 < shape[1] <= 4 for shape in images):
        options.append("--enable_small_channel=1")
    return " \\\n  ".join([f"compile {network.name} {target.soc_version}", *map(shlex.quote, options), '"$@"'])


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
# PYTHON=/path/to/python3 takes another Python than the one on the PATH.
set -euo pipefail
cd "$(dirname "$0")"
source ./common.sh
name="$(basename "${{1:?expected the name of an .om file}}" .om)"
shift
check_ais_bench
rm -rf "results/$name"
mkdir -p "results/$name"
"$python" -m ais_bench --model "$name.om" --input {",".join(inputs)}{options} \\
  --output results --output_dirname "$name" --outfmt NPY
"$python" compare.py "results/$name" "outputs/${{name%%_*}}" "$@"
"""
