"""Extension of a model by batches: parameters of the new batches, and their priors from the known ones."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vaekit._core.components import from_config
from vaekit.models import VAE
from vaekit.models.parameter_groups import match_precision

PSEUDO_INPUTS = ".pseudo_inputs"  # of a VampPrior: they do not belong to new batches, so that the prior stays the same
BATCH_COLUMNS = "networks.likelihood.batch_columns"  # 1 for the covariates that are batches
SHIFTS = "networks.likelihood."  # natural logarithms
SHIFT_STD, COLUMN_STD = 0.5, 0.1  # without several known batches


class NewElements(NamedTuple):
    """Elements of a parameter that belong to new batches, and their normal prior.

    Attributes
    ----------
    mask : Tensor of bool
        True at the new elements; it has the shape of the parameter.
    mean : Tensor
        Prior means, the start of the training: the mean over the known batches.
    std : float
        Prior standard deviation, from the variance between the known batches.
    """

    mask: Tensor
    mean: Tensor
    std: float

    def penalty(self, value: Tensor) -> Tensor:
        """Return minus the log prior density of the new elements, up to a constant."""
        return (((value - self.mean) * self.mask) / self.std).square().sum() / 2


def extend_batches(model: VAE, num_known: int, num_added: int) -> tuple[VAE, dict[str, NewElements]]:
    """Return a copy of a model with more batches, and the new elements of its trainable parameters by name.

    A model without batches gets one for its training cells, whose elements are 0: it does not change their results.
    A count likelihood gets shifts of each gene in each batch, which are 0 in the known batches if the model did not
    have them before.

    Parameters
    ----------
    model : VAE
        The model, which does not change.
    num_known, num_added : int
        Number of the batches of its training data (0 without a batch column), and of the batches to add.
    """
    num_reference = 0 if num_known else 1
    arguments = {key: value for key, value in model.hparams.items() if key != "_class_path"}
    arguments["covariates"] = model.covariates + num_reference + num_added
    if model.networks.likelihood.has_composition:
        likelihood = arguments["likelihood"]
        arguments["likelihood"] = {**likelihood, "init_args": {**likelihood["init_args"], "gene_shift": True}}
    extended = from_config({"class_path": model.hparams["_class_path"], "init_args": arguments})
    state, own = extended.state_dict(), model.state_dict()
    trainable = {name for name, _ in extended.named_parameters()}
    new: dict[str, NewElements] = {}
    for name, value in state.items():
        size = (model.covariates, *value.shape[1:])
        old = own.get(name, next(model.parameters()).new_zeros(size))  # shifts that the model did not have
        if value.shape == old.shape:
            state[name] = old
            continue
        axis = next(i for i, (a, b) in enumerate(zip(value.shape, old.shape, strict=True)) if a != b)
        # the covariates are last along the axis, and the batches are the first covariates
        sizes = [old.shape[axis] - model.covariates, num_known, model.covariates - num_known]
        before, known, others = old.split(sizes, axis)
        none = old.new_zeros([1 if i == axis else size for i, size in enumerate(old.shape)])
        center = known.mean(axis, keepdim=True) if num_known else none
        if name == BATCH_COLUMNS:
            none = center = torch.ones_like(none)
        if name.endswith(PSEUDO_INPUTS):
            center = none
        state[name] = torch.cat((before, known, *[none] * num_reference, *[center] * num_added, others), axis)
        if name in trainable and not name.endswith(PSEUDO_INPUTS):
            mask = torch.zeros_like(state[name], dtype=torch.bool)
            mask.narrow(axis, sizes[0] + num_known + num_reference, num_added).fill_(True)
            new[name] = NewElements(mask, state[name], _scale(name, known, axis))
    match_precision(extended, state)
    extended.load_state_dict(state)
    return extended.eval().to(model.device), new


def _scale(name: str, known: Tensor, axis: int) -> float:
    """Return the prior standard deviation of the elements of new batches.

    That of a shift is at least the default: similar batches do not exclude a different one.
    """
    std = float(known.var(axis).mean().sqrt()) if known.shape[axis] > 1 else 0.0
    if name.startswith(SHIFTS):
        return max(std, SHIFT_STD)
    return std or COLUMN_STD
