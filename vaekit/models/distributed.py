"""What processes that train one model together need besides Lightning: noise of their own, baselines in step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, distributed, nn

from vaekit.estimators.running_moments import RunningMoments
from vaekit.exceptions import CheckpointError


def seed_rank(rank: int, processes: int) -> None:
    """Let each process draw numbers of its own from here on, which follow from the seed that all of them were given.

    With the same numbers, the rows of one process would have the noise of those of the others. In a single process the
    generator stays as it is.
    """
    if processes > 1:
        seeds = torch.randint(2**62, (processes,))
        torch.manual_seed(int(seeds[rank]))


@contextlib.contextmanager
def fork_rng_for_batch(number: int, device: torch.device) -> Iterator[None]:
    """Draw what follows from the number of a batch alone, and set the generator back afterwards.

    A held-out bound is then the same whichever process works out a batch, and from epoch to epoch it moves with the
    weights and not with the noise.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(number)
        yield


def sync_baselines(module: nn.Module, mean: Callable[[Tensor], Any]) -> None:
    """Average the running means and deviations of costs over processes that had them in common before a step.

    These are linear in a step's costs, so that each process then has what the costs of all of them make.

    Parameters
    ----------
    module
        Its running means are written to.
    mean
        Returns the mean of a tensor over the processes; all of them call it.
    """
    found = [buffer for part in module.modules() if isinstance(part, RunningMoments) for buffer in part.buffers()]
    if found:
        for buffer, value in zip(found, mean(torch.stack(found)).unbind(), strict=True):
            buffer.copy_(value)


def gather(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the state of each process, in the order of their ranks; where there are several, all must call it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return [state]
    states: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(states, state)
    return states


def get_rank_rng_state(checkpoint: Mapping[str, Any], rank: int, processes: int) -> Mapping[str, Any] | None:
    """Return the random state that a checkpoint has for a process; None if it has none at all.

    Raises
    ------
    CheckpointError
        If it was written by another number of processes: a step would be made of other rows.
    """
    if checkpoint.get("random_state") is None:
        return None
    states = [checkpoint["random_state"], *checkpoint.get("random_states_of_others", [])]
    if len(states) != processes:
        raise CheckpointError(
            f"the checkpoint's training ran on {len(states)} device{'s' * (len(states) > 1)} and cannot go on with "
            f"{processes}, which would make other steps: set trainer.devices (and num_nodes) as they were, or start "
            "from the trained weights with vaekit.load and a new training"
        )
    return states[rank]
