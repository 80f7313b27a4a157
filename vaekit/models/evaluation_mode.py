"""Evaluation mode of a model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def evaluation_mode(model: torch.nn.Module) -> Iterator[None]:
    """Set a model to evaluation mode without gradients, and restore the mode of each module on exit.

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
    modes = [(module, module.training) for module in model.modules()]  # frozen modules may be in evaluation mode
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
