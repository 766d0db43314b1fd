"""Run a function of a test module in several processes of one torch.distributed group."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parent.parent

_PROGRAM = """
import importlib, json, os, sys, traceback
import torch
torch.set_num_threads(1)
module, name, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
torch.distributed.init_process_group("gloo")
answer = {}
try:
    answer["value"] = getattr(importlib.import_module(module), name)(torch.distributed.get_rank(), *arguments)
except BaseException as error:
    answer["error"] = [type(error).__name__, str(error), traceback.format_exc()]
print("\\n" + json.dumps(answer), flush=True)
os._exit(0)
"""


def run_in_processes(module: str, name: str, *arguments: object, count: int = 2) -> list[dict[str, Any]]:
    """The answer of every process: {"value": result of the function} or {"error": [class, message, traceback]}.

    The function is called as name(index, *arguments), and its result goes through JSON. A killed process has neither.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(count),
        "PYTHONPATH": str(_ROOT),
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _PROGRAM, module, name, json.dumps(arguments)],
            env={**environment, "RANK": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]
    answers = []
    for process in processes:
        output, errors = process.communicate(timeout=100)
        lines = output.strip().splitlines()
        assert lines or process.returncode, errors
        answers.append(json.loads(lines[-1]) if lines else {})
    return answers
