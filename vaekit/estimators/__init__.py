"""Estimators of the gradient of an expectation. ``estimator`` documents their common interface."""

from vaekit.estimators.arm import ARM
from vaekit.estimators.baselines import Baseline, LearnedBaseline, LeaveOneOut, MovingAverage, SelfCritic
from vaekit.estimators.critic import Critic
from vaekit.estimators.disarm import DisARM
from vaekit.estimators.enumerate import Enumerate
from vaekit.estimators.estimator import Estimator
from vaekit.estimators.gumbel_rao import GumbelRao
from vaekit.estimators.gumbel_softmax import GumbelSoftmax
from vaekit.estimators.local_expectation import LocalExpectation
from vaekit.estimators.measure_valued import MeasureValued
from vaekit.estimators.muprop import MuProp
from vaekit.estimators.node_sample import NodeSample, sample_from_values
from vaekit.estimators.pathwise import Pathwise
from vaekit.estimators.rao_blackwell import RaoBlackwell
from vaekit.estimators.rebar import REBAR
from vaekit.estimators.reinmax import ReinMax
from vaekit.estimators.relax import RELAX
from vaekit.estimators.score_function import ScoreFunction
from vaekit.estimators.straight_through import StraightThrough
from vaekit.estimators.temperature import TemperatureSchedule
from vaekit.estimators.unordered_set import UnorderedSet

__all__ = [
    "ARM",
    "REBAR",
    "RELAX",
    "Baseline",
    "Critic",
    "DisARM",
    "Enumerate",
    "Estimator",
    "GumbelRao",
    "GumbelSoftmax",
    "LearnedBaseline",
    "LeaveOneOut",
    "LocalExpectation",
    "MeasureValued",
    "MovingAverage",
    "MuProp",
    "NodeSample",
    "Pathwise",
    "RaoBlackwell",
    "ReinMax",
    "ScoreFunction",
    "SelfCritic",
    "StraightThrough",
    "TemperatureSchedule",
    "UnorderedSet",
    "sample_from_values",
]
