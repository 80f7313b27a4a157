"""Estimators of the gradient of an expectation, one file each, all behind one contract (see ``base``)."""

from vaekit.estimators.base import Draw, Estimator
from vaekit.estimators.baselines import Baseline, Learned, LeaveOneOut, MovingAverage, SelfCritic
from vaekit.estimators.enumerate import Enumerate
from vaekit.estimators.gumbel_softmax import GumbelSoftmax
from vaekit.estimators.pathwise import Pathwise
from vaekit.estimators.score_function import ScoreFunction
from vaekit.estimators.straight_through import StraightThrough

__all__ = [
    "Baseline",
    "Draw",
    "Enumerate",
    "Estimator",
    "GumbelSoftmax",
    "Learned",
    "LeaveOneOut",
    "MovingAverage",
    "Pathwise",
    "ScoreFunction",
    "SelfCritic",
    "StraightThrough",
]
