"""A model as it is evaluated: without dropout and gradients, and as it was before afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vaekit.models import VAE


@contextmanager
def evaluation_mode(model: VAE) -> Iterator[None]:
    """Put a model into evaluation mode, without gradients; give each of its parts its own mode back, whatever happens.

    Examples
    --------
    >>> import vaekit
    >>> model = vaekit.GaussianVAE(5, vaekit.likelihoods.Bernoulli())
    >>> with evaluation_mode(model):
    ...     model.training, torch.is_grad_enabled()
    (False, False)
    >>> model.training, torch.is_grad_enabled()
    (True, True)
    """
    modes = [(module, module.training) for module in model.modules()]  # a frozen part of a model may stay in its own
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
