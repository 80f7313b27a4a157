"""Terms of a cost: evaluated at the samples of a graph, checked, and aligned to its sample dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vaekit.exceptions import EstimatorError
from vaekit.graph.dependencies import NodeFunction
from vaekit.graph.sampling import GraphSample

_UNSIGNED = (torch.uint8, torch.uint16, torch.uint32, torch.uint64)


class CostTerm(NamedTuple):
    """An evaluated term of the cost, ``[*sample, *batch]``.

    Sample dimensions that it does not depend on have size 1 or, on the left, are absent.
    """

    value: Tensor
    names: tuple[str, ...]  # nodes that it depends on directly
    optional: tuple[str, ...] = ()  # the nodes among them that it may ignore


def evaluate_term(function: NodeFunction, graph_sample: GraphSample, name: str = "cost") -> CostTerm:
    """Evaluate a cost function at the samples, and convert the result to a floating-point tensor."""
    values = graph_sample.values
    value: Any = function.function(**{node: values[node] for node in function.inputs})
    tensor = as_floating_point(value, graph_sample.samples[graph_sample.nodes[0].name].weight, name)
    if isinstance(value, int | float | np.number) and not function.inputs:
        # only a number that depends on no node is known to be the same for every entry of the batch
        tensor = tensor.expand(graph_sample.batch)
    return CostTerm(tensor, function.inputs, function.optional)


def as_floating_point(value: Any, like: Tensor, name: str) -> Tensor:
    """Return a cost as a floating-point tensor on the device of ``like``, in at least float32 and without rounding.

    The cost may be a tensor, a NumPy array, a number or a list of numbers. It must be real, and not unsigned.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise EstimatorError(f"{describe_cost(name)} is complex (dtype={value.dtype}). Return a real cost.")
        if value.is_floating_point():
            return value.float() if value.dtype.itemsize < 4 else value
        _reject_unsigned(value.dtype in _UNSIGNED, name, value.dtype)
        return value.to(torch.float64 if value.dtype in (torch.int32, torch.int64) else like.dtype)
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # ragged lists; tensors with a gradient or on a GPU
        raise EstimatorError(
            f"{describe_cost(name)} is a {type(value).__name__} that is not an array: {error}"
        ) from error
    if array.dtype.kind not in "biuf" or np.ma.is_masked(value):
        raise EstimatorError(
            f"{describe_cost(name)} is a {type(value).__name__} (dtype {array.dtype}), not real numbers. "
            "Return a tensor, an array or a number per sample."
        )
    _reject_unsigned(array.dtype.kind == "u", name, array.dtype)
    # lossless, for integers too; torch requires the native byte order and rejects negative strides
    dtype = min(np.promote_types(array.dtype, np.float32), np.dtype(np.float64))
    return torch.from_numpy(np.array(array, dtype=dtype, order="C")).to(like.device)


def _reject_unsigned(is_unsigned: bool, name: str, dtype: Any) -> None:
    if is_unsigned:
        raise EstimatorError(
            f"{describe_cost(name)} has the unsigned type {dtype}: its differences wrap around below 0. "
            "Convert to a floating-point type before the arithmetic."
        )


def align(graph_sample: GraphSample, terms: Mapping[str, CostTerm]) -> dict[str, CostTerm]:
    """Return the terms in shape ``[S_n, ..., S_1, *batch]``, with size 1 for absent sample dimensions.

    A term may have size 1 in a batch dimension only if all nodes that it names have: the whole batch shares their
    samples. Otherwise it is a sum over the batch, and broadcasting it would multiply the cost. Other shapes are errors.
    """
    samples, batch = graph_sample.samples, graph_sample.batch
    shapes = [sample.weight.shape for sample in samples.values()]
    rank = max(map(len, shapes))
    padded_shapes = [[1] * (rank - len(shape)) + list(shape) for shape in (*shapes, batch)]
    full = [next((size for size in sizes if size != 1), 1) for sizes in zip(*padded_shapes, strict=True)]
    aligned = {}
    for name, term in terms.items():
        label, shape = describe_cost(name), list(term.value.shape)
        padded = [1] * (rank - len(shape)) + shape
        if not (len(batch) <= len(shape) <= rank and all(s in (1, f) for s, f in zip(padded, full, strict=True))):
            raise EstimatorError(
                f"{label} has shape {shape}, expected {full} (sample dimensions, 1 if unused, then the batch "
                f"{list(batch)}). Sum over event dimensions only."
            )
        summed = [dim - rank for dim in range(rank - len(batch), rank) if padded[dim] == 1 < full[dim]]
        sizes = [samples[node].q.batch_shape[dim] for dim in summed for node in term.names]
        if summed and (not sizes or max(sizes) > 1):
            raise EstimatorError(
                f"{label} has shape {shape}, one value for all entries of the batch {list(batch)}: it seems to be "
                "summed or averaged over the batch. Return one value per entry. A term of shared nodes or of no node "
                "must name only those among its parameters, or return a Python number."
            )
        aligned[name] = term._replace(value=term.value.reshape(padded))
        for node in term.names:
            weight = samples[node].weight
            if padded[rank - weight.dim()] == 1 < len(weight) and node not in term.optional:
                raise EstimatorError(
                    f"node {node!r} has {len(weight)} samples, but {label} that depends on it has one value for all "
                    "of them. Keep the sample dimensions, they are averaged here, or drop an unused parameter."
                )
    return aligned


def describe_cost(name: str) -> str:
    """Return the name of a cost term for an error message."""
    return "the cost" if name == "cost" else f"cost term {name!r}"
