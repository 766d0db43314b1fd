r"""Decompose a pretrained classifier and train it back to its accuracy, on a CPU, CUDA or an Ascend NPU.

    python tools/finetune.py --output run                              # the shipped digits network
    python tools/finetune.py --output run --resume                     # continues after the last complete epoch
    python tools/finetune.py --output run --backend npu --autocast bfloat16 --distill \
        --model mine:pretrained --data mine:datasets
    python tools/finetune.py --output run --decompose-info decompose_info.json --weights decomposed_weights.pth
    torchrun --nproc-per-node 2 tools/finetune.py --output run         # one process per device

The function named by --model returns the pretrained torch.nn.Module before decomposition; that named by --data returns
two data sets, for training and for testing, with items (input, label). Their modules may be in the current folder.

The folder of --output has checkpoint/, which amct_pytorch.checkpoint.load_decomposed reads, curves.csv and curves.png;
checkpoint and curves.csv are rewritten after each epoch. On a CPU a run that was killed and resumed ends with the same
weights, bit for bit, as an uninterrupted one.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from amct_pytorch._report.units import name_of, settings_line
from amct_pytorch.backend import Backend, get_backend
from amct_pytorch.checkpoint import has_checkpoint, load_decomposed, load_training_state, save_decomposed
from amct_pytorch.errors import (
    AmctError,
    CheckpointError,
    ConfigError,
    LayerError,
    MissingExtra,
)
from amct_pytorch.finetune import others_frozen
from amct_pytorch.tensor_decompose import (
    DecompositionConfig,
    EnergyRank,
    EvbmfRank,
    RatioRank,
    decompose_network,
    plan_decomposition,
)

from curves import draw, write_csv
from process_group import Processes, digest, processes
from sources import datasets, pretrained
from training import Diverged, Settings, Trainer

_HALF = ("float16", "bfloat16")  # types of mixed precision


def configuration(arguments: argparse.Namespace) -> DecompositionConfig:
    """The choice of ranks and layers."""
    rank: Any = EvbmfRank()
    if arguments.energy is not None:
        rank = EnergyRank(arguments.energy)
    if arguments.ratio is not None:
        rank = RatioRank(arguments.ratio)
    return DecompositionConfig(
        rank=rank, rank_multiple=arguments.rank_multiple, layers=dict.fromkeys(arguments.keep, False)
    )


def decomposition_of(arguments: argparse.Namespace) -> str:
    """The origin of layers and ranks as text, different for any two decompositions."""
    if not arguments.decompose_info:
        return repr(configuration(arguments))
    files = [arguments.decompose_info, arguments.weights]
    return " and ".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files)


def decomposed(original: nn.Module, arguments: argparse.Namespace, leads: bool) -> tuple[nn.Module, str | None]:
    """A decomposed copy of the model, and the plan's table; None for an offline decomposition."""
    net = copy.deepcopy(original)
    if not arguments.decompose_info:
        plan = plan_decomposition(net, configuration(arguments))
        if leads:
            print(plan, flush=True)
        return plan.apply(net)[0], str(plan)
    net, _ = decompose_network(net, arguments.decompose_info)
    weights = loaded_weights(arguments.weights)
    try:
        net.load_state_dict(weights)
    except (RuntimeError, TypeError) as error:
        raise LayerError(
            f"{arguments.weights} does not fit the model as {arguments.decompose_info} decomposes it: {error}"
        ) from error
    return net, None


def loaded_weights(path: Path) -> dict[str, Any]:
    """A state dict, saved by torch or in safetensors.

    Raises
    ------
    CheckpointError
        The file is not a state dict.
    MissingExtra
        safetensors is not installed.
    """
    try:
        if path.suffix != ".safetensors":
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        from safetensors.torch import load_file

        return dict(load_file(path))
    except ImportError as error:
        raise MissingExtra(f"{path} needs safetensors: pip install safetensors") from error
    except Exception as error:  # for a file of another kind torch raises various types
        raise CheckpointError(f"{path}: cannot be loaded as weights ({type(error).__name__}: {error})") from error


def settings_of(arguments: argparse.Namespace, count: int) -> Settings:
    """The settings that a resumed run must share with the killed one."""
    own = ("processes", "decomposition")
    given = {name: getattr(arguments, name) for name in Settings.__dataclass_fields__ if name not in own}
    return Settings(**given, processes=count, decomposition=decomposition_of(arguments))


def check_settings(found: dict[str, Any], expected: Settings, place: Path) -> None:
    """Check that a checkpoint was written by a run with the same settings.

    Raises
    ------
    CheckpointError
        A setting differs.
    """
    asked = vars(expected)
    other = [f"{key}: {found.get(key)!r}, not {value!r}" for key, value in asked.items() if found.get(key) != value]
    if other:
        raise CheckpointError(
            f"{place} is of another configuration than the requested one ({'; '.join(other)}): "
            "resume with the options that it was begun with, or give another --output"
        )


def run(arguments: argparse.Namespace, backend: Backend, group: Processes) -> None:
    """The work of one process."""
    place = arguments.output / "checkpoint"
    resumes = has_checkpoint(place)
    if resumes and not arguments.resume:
        raise ConfigError(f"{place}: there is a checkpoint already: give --resume to go on, or another --output")
    settings = settings_of(arguments, group.count)
    train, test = datasets(arguments.data)
    original = pretrained(arguments.model)
    if not backend.channels_last:
        original.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # documented, not typed
    original.to(group.device)
    group.share_values(original)
    state: dict[str, Any] = {}
    plan: str | None
    if resumes:
        state = load_training_state(place)
        check_settings(state["settings"], settings, place)
        net, _ = load_decomposed(copy.deepcopy(original), place)
        table = place / "plan.txt"
        plan = table.read_text(encoding="utf-8").rstrip("\n") if table.is_file() else None
    else:
        net, plan = decomposed(original, arguments, group.leads)
    # Before any process writes, and before any waits for gradients that the others do not have.
    group.agree("the decomposed model", (len(state.get("rows", ())), digest(net.state_dict())))
    with contextlib.ExitStack() as stack:
        if arguments.freeze_others:
            stack.enter_context(others_frozen(net))
        show = group.leads and _can_draw_a_bar()
        trainer = Trainer(original, net, train, test, settings, group, workers=arguments.workers, show=show)

        def keep() -> None:
            if group.leads:
                _print_row(trainer.rows[-1], group.count)
                save_decomposed(net, place, plan=plan, training_state=trainer.state())
                write_csv(trainer.rows, arguments.output)

        if state:
            trainer.load_state(state)
            if group.leads:
                print(f"resumed {place} after epoch {trainer.epoch} of {settings.epochs}", flush=True)
        else:
            trainer.begin()
            if group.leads:
                print(f"\noriginal   accuracy {trainer.rows[0]['original']:6.2f} %")
            keep()
        try:
            trainer.run(keep)
        except Diverged as error:
            raise Diverged(f"{error}; {place} holds epoch {trainer.epoch}") from error
    print(f"process {group.index}: weights {digest(net.state_dict())}", flush=True)
    if group.leads:
        write_csv(trainer.rows, arguments.output)
        try:
            draw({arguments.output.name: trainer.rows}, arguments.output / "curves.png")
        except MissingExtra as error:
            print(f"{error}; the training is complete, and its figures are in {arguments.output / 'curves.csv'}")


def _print_row(row: dict[str, float], count: int) -> None:
    losses = "  ".join(f"{name} {row[name]:.4f}" for name in ("loss", "task", "logits", "responses") if name in row)
    same = f"  the same in {count} processes" if count > 1 else ""
    when = f"epoch {row['epoch']:<4}" if row["epoch"] else "decomposed"
    print(f"{when} accuracy {row['accuracy']:6.2f} %  {losses}{same}".rstrip(), flush=True)


def _can_draw_a_bar() -> bool:
    if not sys.stderr.isatty():
        return False
    try:
        import tqdm  # noqa: F401  # only to find out
    except ImportError:
        print("a progress bar needs tqdm: pip install tqdm")
        return False
    return True


def parsed(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="for checkpoint and curves")
    parser.add_argument("--resume", action="store_true", help="continue from its checkpoint, if it has one")
    what = parser.add_argument_group("model and data")
    what.add_argument("--model", metavar="MODULE:FUNCTION", help="default: the shipped digits network")
    what.add_argument("--data", metavar="MODULE:FUNCTION", help="default: the digits")
    what.add_argument("--workers", type=_whole, default=0, metavar="N", help="processes that load data (default 0)")
    how = parser.add_argument_group("decomposition")
    ranks = how.add_mutually_exclusive_group()
    ranks.add_argument("--energy", type=float, metavar="SHARE", help="ranks by EnergyRank (default: EvbmfRank)")
    ranks.add_argument("--ratio", type=float, metavar="SHARE", help="ranks by RatioRank")
    how.add_argument("--rank-multiple", type=int, default=16, metavar="N", help="default 16")
    how.add_argument(
        "--keep", action="append", default=[], metavar="LAYER", help="do not decompose it; may be repeated"
    )
    how.add_argument("--decompose-info", type=Path, metavar="FILE", help="offline: the information file")
    how.add_argument("--weights", type=Path, metavar="FILE", help="offline: the weights, .pth or .safetensors")
    where = parser.add_argument_group("device")
    where.add_argument("--backend", default="cpu", help="cpu (the default), cuda, npu, or another that is installed")
    where.add_argument("--index", type=int, default=0, help="of the device; under torchrun LOCAL_RANK (default 0)")
    where.add_argument("--autocast", choices=_HALF, help="train in mixed precision; float16 scales the loss")
    where.add_argument(
        "--timeout",
        type=_positive,
        default=45.0,
        metavar="SECONDS",
        help="how long a process waits for the others (default 45)",
    )
    train = parser.add_argument_group("training")
    train.add_argument("--epochs", type=_whole, default=5, metavar="N", help="default 5")
    train.add_argument("--batch-size", type=_whole, default=64, metavar="N", help="of each process (default 64)")
    train.add_argument("--lr", type=_positive, default=5e-4, help="of AdamW at the start, cosine to 0 (default 5e-4)")
    train.add_argument("--weight-decay", type=float, default=1e-2, help="default 1e-2")
    train.add_argument("--clip", type=_positive, default=1.0, metavar="NORM", help="of gradients (default 1)")
    train.add_argument("--seed", type=_whole, default=0, metavar="N", help="of order and dropout (default 0)")
    train.add_argument("--freeze-others", action="store_true", help="train the decomposed layers only")
    train.add_argument("--distill", action="store_true", help="learn from the original's logits and responses too")
    train.add_argument("--temperature", type=_positive, default=4.0, help="of the distillation (default 4)")
    train.add_argument("--logits-weight", type=float, default=1.0, help="of the distillation's parts (default 1)")
    train.add_argument("--responses-weight", type=float, default=1.0, help="default 1")
    arguments = parser.parse_args(argv)
    if (arguments.decompose_info is None) != (arguments.weights is None):
        parser.error("--decompose-info and --weights go together: structure and weights of one decomposed model")
    if arguments.decompose_info and (arguments.energy or arguments.ratio or arguments.keep):
        parser.error("--decompose-info gives the ranks: leave out --energy, --ratio and --keep")
    if not arguments.epochs or not arguments.batch_size:
        parser.error("--epochs and --batch-size must be 1 or more")
    return arguments


def _whole(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, found {text}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text}")
    return value


def main() -> None:
    """Run; an error that the user can fix is reported in one line."""
    arguments = parsed()
    try:
        backend = get_backend(arguments.backend)
        with processes(backend, arguments.index, arguments.timeout) as group:
            info = backend.devices()[group.device.index or 0]
            if arguments.autocast and getattr(torch, arguments.autocast) not in info.dtypes:
                known = ", ".join(map(name_of, info.dtypes))
                raise ConfigError(f"--autocast {arguments.autocast}: {info.name} computes in {known}")
            if arguments.autocast == "float16" and backend.saturates(group.device):
                raise ConfigError(
                    f"--autocast float16: {info.name} is in saturation mode, in which overflow is not infinite, so "
                    "scaled gradients would be wrong unseen: unset INF_NAN_MODE_FORCE_DISABLE, or give bfloat16"
                )
            with backend.prepared(group.device):
                if group.leads:
                    print(f"{group.device} ({info.name}): {settings_line(backend.settings(group.device))}", flush=True)
                run(arguments, backend, group)
    except (AmctError, Diverged, OSError) as error:
        raise SystemExit(f"{type(error).__name__}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"interrupted: --resume goes on from the last epoch in {arguments.output}") from None


if __name__ == "__main__":
    main()
