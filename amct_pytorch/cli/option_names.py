"""Messages of the library in the words of the command line: its options in place of the parameters of functions.

The library writes a parameter as Python does: at the beginning of a message (``rank_multiple must be …``,
``calibration: …``), or with a value (``macs=0.5``, ``dtype=…``). What is quoted, and what other code says after the
name of its exception, stays as it is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping

from .groups import groups_of
from .options import GeneralOptions, MethodOptions, RankOptions

RENAMED = {
    "batches": "calibration",
    "evaluate": "eval",
    "example_inputs": "input",
    "inputs": "input",
    "language": "lang",
    "logits": "logits_weight",
    "replace": "force",
    "responses": "responses_weight",
    "soc_versions": "ascend",
}
"""Parameters of the Python functions that are options of other names."""

# What is given without the name of an option.
_ARGUMENTS = {"model", "folder"}

# Arguments that only Python has: what a message says of them is no remedy here.
_PYTHON_ALONE = "distributed|forward|logits_of"

# Objects of Python's whose parameters are options of their own.
_OBJECTS = "Budget|DecompositionConfig|Calibration"

_QUOTED = r"(?<!\w)'[^']*'(?!\w)|(?<!\w)\"[^\"]*\"(?!\w)"
_OTHERS_WORDS = re.compile(r"\b[A-Z]\w*(?:Error|Exception|Exit|Warning)\b: ")
_NO_REMEDY = re.compile(rf",? or [^,:;]*?\b(?:{_PYTHON_ALONE})=[^,:;]*|\b(?:{_PYTHON_ALONE})=[^,:;]*, or ")
_WRAPPED = re.compile(rf"\b(?:{_OBJECTS})\(((?:{_QUOTED}|[^()])*)\)")
_CONTAINER = re.compile(r"\A(?:budget|config): ")
_FIRST = re.compile(
    r"(?:Calibration: )?(?P<name>[a-z_]+)(?:\[(?P<mark>['\"])(?P<layer>.*?)(?P=mark)\])?"
    r"(?=:| must | needs | says | fails )"
)
_RANK_POLICY = re.compile(r"\bFixedRank\b")
_MENTION = re.compile(
    rf"(?P<quoted>{_QUOTED})"
    r"|(?<![\w/.\\-])(?P<name>[a-z_]+)="
    r"(?P<value>'[^']*'|\"[^\"]*\"|\[[^\]]*\]|\{(?P<layer>'[^']*'|\"[^\"]*\"|\w+): False\}|…|-?[\w+…]+(?:[.-]\w+)*)"
    r"|(?<![\w/.\\-])(?P<long>[a-z]+_[a-z_]+)(?![\w=])"
    r"|(?<=fails on )(?P<inputs>inputs)\b"
)


def options_of(verb: Callable[..., object]) -> dict[str, str]:
    """The options of a verb, and those on how to decompose, by the names of the parameters that they are for.

    Parameters
    ----------
    verb
        Takes groups of options.
    """
    # How to decompose is advice also where another verb finds that nothing was.
    groups = {*groups_of(verb).values(), MethodOptions, RankOptions} - {GeneralOptions}
    fields = {field.name for group in groups for field in dataclasses.fields(group)} - _ARGUMENTS
    own = {name: f"--{name.replace('_', '-')}" for name in fields}
    return {**{name: own[field] for name, field in RENAMED.items() if field in own}, **own}


def in_options(message: str, options: Mapping[str, str]) -> str:
    """A message of the library, in which parameters are called by their options.

    Parameters
    ----------
    message
        The message.
    options
        Those of the verb, from `options_of`.
    """
    others = _OTHERS_WORDS.search(message)
    own, rest = (message, "") if others is None else (message[: others.start()], message[others.start() :])
    own = _NO_REMEDY.sub("", own)
    own = _WRAPPED.sub(lambda found: found[1].replace(", ", " "), own)
    own = _beginning(_CONTAINER.sub("", own), options)
    if "rank" in options:
        own = _RANK_POLICY.sub(options["rank"], own)
    return _MENTION.sub(lambda found: _mention(found, options), own) + rest


def _beginning(message: str, options: Mapping[str, str]) -> str:
    found = _FIRST.match(message)
    if found and found["name"] in options:
        layer = f" {found['layer']}" if found["layer"] else ""
        return options[found["name"]] + layer + message[found.end() :]
    if message.startswith("Calibration: ") and "calibration" in options:
        return options["calibration"] + message.removeprefix("Calibration")
    return message


def _mention(found: re.Match[str], options: Mapping[str, str]) -> str:
    name = found["name"] or found["long"] or found["inputs"]
    if name is None or name not in options:
        return found[0]
    option, value = options[name], found["value"]
    if value in (None, "…", "True", "[…]"):
        return option
    if value == "False":
        return option.replace("--", "--no-", 1)
    if found["layer"]:
        layer = found["layer"].strip("'\"")
        return f"{option} {'NAME' if layer == 'name' else layer}=keep"
    return f"{option} {_plain(value)}"


def _plain(value: str) -> str:
    """A value of Python's as it is given to an option."""
    return re.sub(r"[\[\]'\"]|(?<=,) ", "", value)
