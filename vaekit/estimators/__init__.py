"""Estimators of the gradient of an expectation, one file each, all behind one contract (see ``base``)."""

from vaekit.estimators.arm import ARM
from vaekit.estimators.baselines import Baseline, Learned, LeaveOneOut, MovingAverage, SelfCritic
from vaekit.estimators.critic import Critic
from vaekit.estimators.disarm import DisARM
from vaekit.estimators.enumerate import Enumerate
from vaekit.estimators.estimator import Draw, Estimator
from vaekit.estimators.fixed_values import recorded
from vaekit.estimators.gumbel_rao import GumbelRao
from vaekit.estimators.gumbel_softmax import GumbelSoftmax
from vaekit.estimators.local_expectation import LocalExpectation
from vaekit.estimators.measure_valued import MeasureValued
from vaekit.estimators.muprop import MuProp
from vaekit.estimators.pathwise import Pathwise
from vaekit.estimators.rao_blackwell import RaoBlackwell
from vaekit.estimators.rebar import Rebar
from vaekit.estimators.reinmax import ReinMax
from vaekit.estimators.relax import Relax
from vaekit.estimators.score_function import ScoreFunction
from vaekit.estimators.straight_through import StraightThrough
from vaekit.estimators.temperature import Annealed
from vaekit.estimators.unordered_set import UnorderedSet

__all__ = [
    "ARM",
    "Annealed",
    "Baseline",
    "Critic",
    "DisARM",
    "Draw",
    "Enumerate",
    "Estimator",
    "GumbelRao",
    "GumbelSoftmax",
    "Learned",
    "LeaveOneOut",
    "LocalExpectation",
    "MeasureValued",
    "MovingAverage",
    "MuProp",
    "Pathwise",
    "RaoBlackwell",
    "Rebar",
    "ReinMax",
    "Relax",
    "ScoreFunction",
    "SelfCritic",
    "StraightThrough",
    "UnorderedSet",
    "recorded",
]
