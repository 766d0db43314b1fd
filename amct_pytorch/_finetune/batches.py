"""The batches of a training run: the share of a process, in the order of an epoch."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import DataLoader, DistributedSampler, RandomSampler, Sampler, SequentialSampler

from .._run.inputs import batch_size_of, checked_inputs
from ..errors import InputsError
from .processes import Processes

FAILING = "data: the DataLoader fails"
"""How an error of the user's data begins."""


def checked_loader(loader: object) -> DataLoader[Any]:
    """The training data, if they can be gone through epoch after epoch.

    Parameters
    ----------
    loader
        What the user passed.

    Raises
    ------
    InputsError
        It is no `DataLoader`, has no length, or no batch.
    """
    if not isinstance(loader, DataLoader):
        raise InputsError(f"data: expected a torch.utils.data.DataLoader, found {type(loader).__name__}")
    try:
        steps = len(loader)
    except TypeError as error:
        raise InputsError(
            "the DataLoader has no length, which the schedule needs: give its data set a length"
        ) from error
    if not steps:
        raise InputsError("the DataLoader has no batch: its data set is empty, or smaller than one batch (drop_last)")
    return loader


def batches_of_epoch(loader: DataLoader[Any], seed: int, epoch: int, processes: Processes) -> DataLoader[Any]:
    """A loader of the share of this process of the data, in an order that follows from seed and epoch.

    A loader with a sampler of the user's own is used as it is: its order is the user's.

    Parameters
    ----------
    loader
        The batches of all processes.
    seed
        Of the run.
    epoch
        Number of the epoch, from 1.
    processes
        The processes that share the data.

    Raises
    ------
    InputsError
        There are several processes, and the loader has a sampler that cannot be divided among them.
    """
    if isinstance(loader.sampler, DistributedSampler):
        loader.sampler.set_epoch(epoch)
        return loader
    order = type(loader.sampler)
    if order not in (RandomSampler, SequentialSampler) or loader.batch_size is None:
        if processes.count > 1:
            raise InputsError(
                f"the DataLoader has a {type(loader.sampler if loader.batch_size else loader.batch_sampler).__name__}, "
                f"which does not divide the data among {processes.count} processes: give it a DistributedSampler"
            )
        return loader
    sampler: Sampler[int]
    if processes.count > 1:
        shards: DistributedSampler[Any] = DistributedSampler(
            loader.dataset, processes.count, processes.index, shuffle=order is RandomSampler, seed=seed
        )
        shards.set_epoch(epoch)
        sampler = shards
    elif order is RandomSampler:
        sampler = RandomSampler(loader.dataset, generator=torch.Generator().manual_seed(seed + epoch))  # type: ignore[arg-type]
    else:
        sampler = loader.sampler  # type: ignore[assignment]  # one of indices, as batch_size is given
    return DataLoader(
        loader.dataset,
        loader.batch_size,
        sampler=sampler,
        generator=torch.Generator().manual_seed(seed + epoch),  # from which the workers' seeds are drawn
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        # From pinned memory a device copies while the host goes on.
        pin_memory=loader.pin_memory or processes.device.type != "cpu",
        drop_last=loader.drop_last,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
    )


def split_batch(batch: Any, *, with_targets: bool) -> tuple[Any, Any, int]:
    """Inputs, targets, and number of samples of a batch.

    Parameters
    ----------
    batch
        What the loader gave: (inputs, targets), or without targets the inputs alone.
    with_targets
        Whether a loss needs targets.

    Raises
    ------
    InputsError
        The batch is no such pair, or the inputs are neither a tensor, nor a tuple, nor a mapping.
    """
    inputs, targets = batch, None
    if with_targets:
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise InputsError(f"expected batches (inputs, targets), found {type(batch).__name__}: see collate_fn")
        inputs, targets = batch
    inputs = checked_inputs(inputs, "the inputs of a batch")
    return inputs, targets, batch_size_of(inputs) or 1
