"""Optimizers for finite sums: gradients of mini-batches with a control variate that makes their noise vanish."""

from vaekit.optim.fixed_batches import FixedBatchSampler
from vaekit.optim.loss_rng import RNGState
from vaekit.optim.saga import SAGA
from vaekit.optim.svrg import SVRG

__all__ = ["SAGA", "SVRG", "FixedBatchSampler", "RNGState"]
