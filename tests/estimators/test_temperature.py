"""Temperature schedules."""

from __future__ import annotations

import pytest
import torch
from models.tiny import counts, fit

from vaekit import DiscreteVAE
from vaekit._core.components import from_config
from vaekit.estimators import GumbelRao, GumbelSoftmax, ReinMax, TemperatureSchedule
from vaekit.exceptions import EstimatorError
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import load

TEMPERED = (GumbelSoftmax, GumbelRao, ReinMax)


@pytest.mark.parametrize("make", TEMPERED)
def test_follows_the_schedule_and_then_stays(make) -> None:
    estimator = make(TemperatureSchedule(2.0, 0.5, fraction=0.5))
    actual = []
    for progress in (0.0, 0.25, 0.5, 0.8):
        estimator.update_schedule(progress)
        actual.append(estimator.temperature.item())
    assert actual == pytest.approx([2.0, 1.0, 0.5, 0.5])


@pytest.mark.parametrize("make", TEMPERED)
def test_a_value_does_not_change(make) -> None:
    estimator = make(0.7)
    estimator.update_schedule(1.0)
    assert estimator.temperature.item() == pytest.approx(0.7)


def test_configuration_recreates_it() -> None:
    again = from_config(GumbelSoftmax(TemperatureSchedule(1.0, 0.1, fraction=0.2), hard=True).config)
    assert (again.schedule.start, again.schedule.end, again.schedule.fraction) == (1.0, 0.1, 0.2)


@pytest.mark.parametrize("arguments", [(0.0, 1.0), (1.0, -1.0), (1.0, 0.5, 0.0), (1.0, 0.5, 1.5)])
def test_impossible_schedules(arguments) -> None:
    with pytest.raises(EstimatorError, match="TemperatureSchedule"):
        TemperatureSchedule(*arguments)


@pytest.mark.parametrize("make", TEMPERED)
@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_impossible_values(make, temperature) -> None:
    with pytest.raises(EstimatorError, match=f"{make.__name__}: temperature="):
        make(temperature)


def test_training_anneals_and_a_checkpoint_keeps_the_temperature(tmp_path) -> None:
    estimator = GumbelSoftmax(TemperatureSchedule(1.0, 0.25, fraction=1.0))
    model = DiscreteVAE(5, NegativeBinomial(), variables=2, categories=3, hidden=[4], estimator=estimator)
    trainer = fit(model, counts(), 4)  # the last batch begins at 3/4 of the training steps
    expected = 0.25**0.75
    assert model.estimators["y"].temperature.item() == pytest.approx(expected)
    assert "train/temperature_y" in trainer.callback_metrics
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    torch.testing.assert_close(load(tmp_path / "a.ckpt").estimators["y"].temperature, torch.tensor(expected))
