"""From a plan to a decomposed model: model and information file change together, or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from torch import nn

from ..._run.interrupts import interrupts_deferred
from ..._run.process_group import ProcessGroup
from ..._storage.atomic import write_file
from ..._storage.drafts import sync_folder
from ..._storage.paths import file_to_write
from ...errors import InfoFileAccessError, LayerError, quoted
from ..info_file.schema import dump, entries_of_chains
from ..model.layers import Layer, Survey, slots
from ..model.replace import Replacement, bias_for, build_chain, parameters_like, replaced
from ..model.spec import LayerModule
from .fingerprint import fingerprint
from .layer_plan import LayerPlan
from .log import log_applied


def checked_path(path: str | os.PathLike[str] | None, processes: ProcessGroup) -> Path | None:
    """Where the information file is to be written, in the process that will write it; None in others, and for nowhere.

    Raises
    ------
    ConfigTypeError, InfoFileAccessError
        It is no path, or cannot be written to.
    """
    if path is None or processes.index != 0:
        return None
    return file_to_write(path, "decompose_info_path", InfoFileAccessError)


def apply_plan(
    plans: Sequence[LayerPlan], found: Survey, place: Path | None, processes: ProcessGroup
) -> tuple[nn.Module, dict[str, list[str]]]:
    """Decompose a model in place as planned; see `DecompositionPlan.apply`.

    Parameters
    ----------
    plans
        What is planned for every layer.
    found
        What the model is now.
    place
        Where to write the information file, from `checked_path`; None for nowhere.
    processes
        Those that apply the plan together.
    """
    replacements = _replacements(plans, found)
    text = "" if place is None else _info_file(plans, found)
    with contextlib.ExitStack() as to_the_end:
        with replaced(found.model, replacements) as result:
            # Every process agrees before the first file is written, and none stays changed if that fails.
            processes.gather(None)
            # With an interrupt between the rename of the file and the end of this block, the new file would describe a
            # model that is put back as it was. Before, while it waits for other processes, it can be interrupted.
            to_the_end.enter_context(interrupts_deferred())
            if place is not None:
                write_file(place, text, InfoFileAccessError, sync_name=False)
            processes.gather(None)
        if place is not None:
            sync_folder(place.parent)
    log_applied(plans, place)
    return result


def _info_file(plans: Sequence[LayerPlan], found: Survey) -> str:
    """The text of the information file: what is planned, and what is decomposed already."""
    planned = [entry for layer in plans if layer.decompose for entry in layer.entries]
    entries = {entry.name: entry for entry in [*planned, *entries_of_chains(found.chains)]}
    return dump([entries[name] for name in ["", *slots(found.model)] if name in entries])


def _replacements(plans: Sequence[LayerPlan], found: Survey) -> list[Replacement]:
    layer_of = {layer.names: layer for layer in found.layers}
    shared: dict[tuple[int, int], list[nn.Parameter]] = {}
    replacements = []
    for planned in plans:
        if not planned.decompose:
            continue
        module = layer_as_planned(planned, layer_of)
        key = (id(planned.factors), id(module.weight))
        if key not in shared:
            shared[key] = parameters_like(module.weight, planned.factors)
        bias = None
        if planned.bias is not None:
            bias_key = (id(planned.bias), id(module.bias))
            if bias_key not in shared:
                shared[bias_key] = [bias_for(module, planned.bias)]
            (bias,) = shared[bias_key]
        replacements.append(Replacement(planned.names, module, build_chain(module, planned.split, shared[key], bias)))
    return replacements


def layer_as_planned(planned: LayerPlan, layer_of: Mapping[tuple[str, ...], Layer]) -> LayerModule:
    """The layer of a model that a plan decomposes.

    Parameters
    ----------
    planned
        What the plan says of it.
    layer_of
        The layers of the model, by their names.

    Raises
    ------
    LayerError
        It is not the layer that the plan was made from.
    """
    layer = layer_of.get(planned.names)
    if layer is None or layer.why_not is not None or layer.spec != planned.spec:
        raise LayerError(
            f"layer {quoted(planned.name)}: the plan expects a {planned.split.layer.kind} {planned.spec}, found "
            f"{'none of that name' if layer is None else layer.why_not or layer.module}: "
            "apply the plan to the model it was made from, once, or make a new plan"
        )
    module = cast(LayerModule, layer.module)
    _check_unchanged(planned, module)
    return module


def _check_unchanged(planned: LayerPlan, module: LayerModule) -> None:
    with_bias = planned.bias is not None
    if module.weight.is_meta or fingerprint(module, with_bias) != planned.fingerprint:
        what = "weight or bias has" if with_bias else "weight has"
        raise LayerError(f"layer {quoted(planned.name)}: its {what} changed since the plan was made: make a new plan")
