"""Distributed training beyond Lightning: separate noise per rank, and baselines that stay equal on all ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from torch import distributed, nn

from vaekit.estimators.running_moments import RunningMoments
from vaekit.exceptions import CheckpointError


def seed_rank(rank: int, world_size: int) -> None:
    """Seed each rank differently, derived from the common seed; a single process keeps its RNG state.

    With equal seeds, the observations of all ranks would have the same noise.
    """
    if world_size > 1:
        seeds = torch.randint(2**62, (world_size,))
        torch.manual_seed(int(seeds[rank]))


@contextlib.contextmanager
def fork_rng_for_batch(index: int, device: torch.device) -> Iterator[None]:
    """Seed with the index of a mini-batch, and restore the RNG state afterwards."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(index)
        yield


def sync_baselines(module: nn.Module, trainer: pl.Trainer) -> None:
    """Average the running moments of costs over all ranks, which had equal ones before the step.

    The moments are linear in the costs of a step, so that each rank then has the moments of all costs.
    """
    if trainer.world_size == 1:
        return
    buffers = [buffer for part in module.modules() if isinstance(part, RunningMoments) for buffer in part.buffers()]
    if buffers:
        means: Any = trainer.strategy.reduce(torch.stack(buffers), reduce_op="mean")
        for buffer, mean in zip(buffers, means.unbind(), strict=True):
            buffer.copy_(mean)


def gather(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the states of all ranks, in their order; all ranks must call this function."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


def get_rank_rng_state(checkpoint: Mapping[str, Any], rank: int, world_size: int) -> Mapping[str, Any] | None:
    """Return the RNG state of a rank in a checkpoint, or None if the checkpoint contains none.

    Raises
    ------
    CheckpointError
        If the checkpoint has another world size, so that the mini-batches would differ.
    """
    if checkpoint.get("random_state") is None:
        return None
    states = [checkpoint["random_state"], *checkpoint.get("random_states_of_others", [])]
    if len(states) != world_size:
        raise CheckpointError(
            f"the run of this checkpoint used {len(states)} devices and cannot be resumed with {world_size}, because "
            f"the steps would differ. Set trainer.devices and num_nodes to {len(states)} devices, or load the weights "
            "with vaekit.load and start a new run."
        )
    return states[rank]
