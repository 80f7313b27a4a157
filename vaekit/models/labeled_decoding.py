"""Decoding of labeled observations at their label only, if the decoder depends on a category that is summed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vaekit.batch import Batch
from vaekit.graph.sampling import GraphSample
from vaekit.models.vae_networks import VAENetworks


def log_likelihood(networks: VAENetworks, sample: GraphSample, batch: Batch) -> Tensor:
    """Return log p(x given z), ``[*sample, batch]``, at the sampled values.

    A sum over K categories decodes an unlabeled observation K times, and a labeled one once: the other categories have
    weight 0, and their log-likelihood is set to 0.
    """
    name, label = networks.label_latent, batch.observed_label
    if name is None or label is None or sample.joint or _is_capturing(batch.x):
        return networks.log_likelihood(sample.values, batch)
    weight = sample.samples[name].weight
    dim = -weight.dim()  # of the states of the category among the dimensions [*sample, batch]
    values = {seen: sample.values[seen] for seen in networks.seen_by_decoder}
    ranks = {seen: networks.latents[seen].event_dim for seen in values}
    depends = any(_num_states(value, dim - ranks[seen]) > 1 for seen, value in values.items())
    known = (label >= 0).nonzero().flatten() if depends and not sample.samples[name].equal_weights else label[:0]
    if not len(known):
        return networks.log_likelihood(sample.values, batch)
    states = weight.reshape(len(weight), -1).expand(-1, len(label))[:, known].argmax(0)
    chosen = {seen: _at_states(value, known, states, dim, ranks[seen]) for seen, value in values.items()}
    labeled = networks.log_likelihood(chosen, batch.rows(known))
    shape = torch.broadcast_shapes(labeled.shape[:-1], (len(weight), *[1] * (-dim - 2)))
    is_state = torch.arange(len(weight), device=states.device)[:, None] == states
    labeled = torch.where(is_state.reshape(len(weight), *[1] * (-dim - 2), len(known)), labeled, 0)
    result = labeled.new_zeros(*shape, len(label)).index_copy(-1, known, labeled.expand(*shape, -1))
    other = (label < 0).nonzero().flatten()
    if not len(other):
        return result
    unlabeled = networks.log_likelihood(_rows(values, other, ranks), batch.rows(other))
    return result.index_copy(-1, other, unlabeled.expand(*shape, -1))


def _is_capturing(x: Tensor) -> bool:
    """Return whether a CUDA graph is recorded, whose shapes cannot depend on the number of labels."""
    return x.device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _num_states(value: Tensor, dim: int) -> int:
    """Return the size of a sample dimension, counted from the right; 1 if the value does not have it."""
    return value.shape[dim] if value.dim() >= -dim else 1


def _rows(values: Mapping[str, Tensor], rows: Tensor, ranks: Mapping[str, int]) -> dict[str, Tensor]:
    """Return some observations of values ``[*sample, batch, *event]`` with ``ranks`` event dimensions."""
    return {name: value.index_select(-1 - ranks[name], rows) for name, value in values.items()}


def _at_states(value: Tensor, rows: Tensor, states: Tensor, dim: int, rank: int) -> Tensor:
    """Return some observations, each at its state, which is the index in dimension ``dim`` of ``[*sample, batch]``."""
    value = value.index_select(-1 - rank, rows)
    if _num_states(value, dim - rank) == 1:
        return value
    index = states.reshape(*states.shape, *[1] * rank)
    shape = list(value.shape)
    shape[dim - rank] = 1
    return value.gather(dim - rank, index.expand(shape))
