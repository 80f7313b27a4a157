"""Random samples that depend on the observation only: the same in any order, batch, chunk and on any device.

The generators of torch return numbers by position, so that the sample of an observation depends on the observations
before it. Here the generator is seeded per observation, by a key of its content, its name and the user's seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from vaekit.batch import Batch

T = TypeVar("T", Tensor, dict[str, Tensor])
ATEN = torch.ops.aten
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # increment of SplitMix64
MAX_JOINT_NUMBERS = 256  # per observation: up to here, the numbers of all observations are computed together
COVARIATE_SCALE = 1000.0  # precision of covariates, whose last bits depend on the way they are stored


class _LayoutError(Exception):
    """A random operation whose layout is not ``[num_samples, observations, ...]``."""


def hash_names(names: Sequence[str]) -> np.ndarray:
    """Return stable 64-bit hashes of names, uint64 ``[len(names)]``."""
    from pandas.util import hash_array

    return hash_array(np.array(names, dtype=object), categorize=False)


def observation_keys(batch: Batch, seed: int, names: np.ndarray | None = None) -> np.ndarray:
    """Return keys of observations, uint64 ``[batch]``: equal for equal content, name and seed.

    Parameters
    ----------
    batch : Batch
        Observations; their content is ``x``.
    seed : int
        Seed of the user.
    names : array of uint64, shape (batch,), optional
        Hashes of the names of the observations. If None, the covariates distinguish observations of equal ``x``.
    """
    content = _hash_rows(batch.x.float().cpu().numpy().view(np.int32))
    if names is not None:
        content = _mix(content + names)
    elif batch.covariates is not None:
        content = _mix(content + _hash_rows((batch.covariates * COVARIATE_SCALE).round().long().cpu().numpy()))
    return _mix(content + _mix(np.array([seed % 2**64], dtype=np.uint64)))


def number_repeats(keys: np.ndarray, repeats: dict[int, int]) -> np.ndarray:
    """Return keys that also differ between observations of equal content, by their index among the equal ones.

    ``repeats`` stores the last index per key. Use this for sums over observations only: the index depends on the order.
    """
    index = np.empty_like(keys)
    for row, key in enumerate(keys.tolist()):
        index[row] = repeats[key] = repeats.get(key, -1) + 1
    return _mix(keys + _mix(index))


def draw_by_key(draw: Callable[[slice], T], keys: np.ndarray, num_samples: int, antithetic: bool = False) -> T:
    """Return random samples of observations that depend on their keys only.

    Parameters
    ----------
    draw : Callable
        Returns samples ``[num_samples, observations, ...]`` of a range of the observations.
    keys : array of uint64, shape (observations,)
        Keys of all observations.
    num_samples : int
        Number of samples per observation.
    antithetic : bool
        Whether the second half of an even number of samples mirrors the uniform numbers of the first half, where all
        observations are computed together. Then means over samples have a smaller variance.

    Notes
    -----
    Uniform, normal and Bernoulli numbers of all observations are computed together if there are few per observation.
    The other random operations of torch run per observation on the CPU. If an operation does not have the layout
    ``[num_samples, observations, ...]``, ``draw`` is called per observation. The RNG state of torch changes.
    """
    try:
        with _KeyedOperations(keys, num_samples, antithetic and num_samples % 2 == 0):
            return draw(slice(None))
    except _LayoutError:
        parts = []
        for row, seed in enumerate(_mix(keys).tolist()):
            torch.manual_seed(seed)
            parts.append(draw(slice(row, row + 1)))
        if isinstance(parts[0], dict):
            return {name: torch.cat([part[name] for part in parts], 1) for name in parts[0]}
        return torch.cat(parts, 1)


class _KeyedOperations(TorchDispatchMode):
    """Random operations of torch on ``[num_samples, observations, ...]``, seeded per observation."""

    def __init__(self, keys: np.ndarray, num_samples: int, antithetic: bool) -> None:
        super().__init__()
        self.antithetic = antithetic
        self.keys, self.leading = keys, (num_samples, len(keys))
        self.num_calls = 0

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        self.num_calls += 1
        shapes = [shape for shape in map(_shape, args) if shape is not None]
        if func is ATEN.multinomial.default or not shapes or any(shape[:2] != self.leading for shape in shapes):
            raise _LayoutError
        seeds = _mix(self.keys + _mix(np.array([self.num_calls], dtype=np.uint64)))
        device = kwargs.pop("device", None) or next((x.device for x in args if isinstance(x, Tensor)), None)
        result = _compute_jointly(func, args, kwargs, seeds, torch.broadcast_shapes(*shapes), device, self.antithetic)
        if result is None:
            result = _compute_separately(func, args, kwargs, seeds).to(device)
        return args[0].copy_(result) if func._schema.is_mutable else result


def _compute_jointly(
    func: Any,
    args: Any,
    kwargs: Any,
    seeds: np.ndarray,
    shape: tuple[int, ...],
    device: torch.device | None,
    antithetic: bool,
) -> Tensor | None:
    """Return the result of an operation from uniform numbers; None if it is large or not supported."""
    like = next((x for x in args if isinstance(x, Tensor)), None)
    dtype = kwargs.get("dtype") or (torch.get_default_dtype() if like is None else like.dtype)
    count = math.prod(shape) // len(seeds)
    is_supported = func in FROM_UNIFORM and kwargs.keys() <= {"dtype", "layout", "memory_format", "pin_memory"}
    if not is_supported or count > MAX_JOINT_NUMBERS or dtype not in (torch.float32, torch.float64):
        return None
    words = _mix(seeds[:, None] + GOLDEN * np.arange(count, dtype=np.uint64))
    numbers = ((words >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52  # in (0, 1)
    uniform = torch.from_numpy(numbers).view(len(seeds), shape[0], *shape[2:]).transpose(0, 1).to(device)
    if antithetic:
        half = uniform[: len(uniform) // 2]
        uniform = torch.cat([half, 1 - half])
    return FROM_UNIFORM[func](uniform, dtype, *args)


def _uniform(uniform: Tensor, dtype: torch.dtype, *unused: Any) -> Tensor:
    return ((uniform * 2**24).floor() / 2**24 if dtype == torch.float32 else uniform).to(dtype)  # below 1


def _normal(uniform: Tensor, dtype: torch.dtype, mean: Any, std: Any) -> Tensor:
    return mean + std * torch.special.ndtri(uniform).to(dtype)


FROM_UNIFORM: dict[Any, Callable[..., Tensor]] = {
    ATEN.rand.default: _uniform,
    ATEN.rand_like.default: _uniform,
    ATEN.randn.default: lambda uniform, dtype, *unused: _normal(uniform, dtype, 0.0, 1.0),
    ATEN.normal.Tensor_Tensor: _normal,
    ATEN.normal_.default: lambda uniform, dtype, like, mean=0.0, std=1.0: _normal(uniform, dtype, mean, std),
    ATEN.bernoulli.default: lambda uniform, dtype, probability: (uniform < probability).to(dtype),
}


def _compute_separately(func: Any, args: Any, kwargs: Any, seeds: np.ndarray) -> Tensor:
    """Return the result of an operation by the CPU generator of torch, seeded for each observation."""
    args = [x.cpu() if isinstance(x, Tensor) else x for x in args]
    parts = []
    for row, seed in enumerate(seeds.tolist()):
        torch.default_generator.manual_seed(seed)
        parts.append(func(*[_select_row(x, row) for x in args], **kwargs))
    return torch.cat(parts, 1)


def _select_row(value: Any, row: int) -> Any:
    """Return the part of an operation's argument that belongs to one observation."""
    if isinstance(value, Tensor) and value.dim():
        return value[:, row : row + 1]
    return [value[0], 1, *value[2:]] if isinstance(value, list | tuple) else value


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return the shape of an argument, or the one that it specifies; None for a number."""
    if isinstance(value, Tensor):
        return tuple(value.shape) or None
    return tuple(value) if isinstance(value, list | tuple) else None


def _hash_rows(values: np.ndarray) -> np.ndarray:
    """Return a hash of each row of integers, uint64 ``[rows]``, which ignores zeros."""
    weights = _mix(np.arange(values.shape[1], dtype=np.uint64)).view(np.int64)
    # the low bits of a small integer as a float are 0; einsum does not store the products
    return _mix(np.einsum("ij,j->i", values ^ (values >> 16), weights).view(np.uint64))


def _mix(values: np.ndarray) -> np.ndarray:
    """Return the output function of SplitMix64: a bijection of uint64 whose values look independent."""
    mixed = values + GOLDEN
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
