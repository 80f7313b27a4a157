"""``vaekit sample``, ``traverse`` and ``compare``: real runs on digits, real PNG files, each wrong thing on purpose."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from scipy import stats

from vaekit.cli.compare import estimator_config
from vaekit.cli.main import main
from vaekit.exceptions import ConfigError
from vaekit.models import load, save

CONFIGS = Path(__file__).parents[2] / "configs"
SILENT = ("--trainer.logger", "false", "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false")


def run(*arguments: str | Path | int) -> int:
    return main([str(argument) for argument in arguments])


def picture(path: Path) -> np.ndarray:
    found = imread(path)[..., :3]
    assert found.std() > 0.05
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a short run on digits."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.plotting.embedding_figures.umap_coordinates", lambda points, seed=0: points[:, :2])
        assert run("fit", "--config", CONFIGS / "digits_mixed.yaml", "--trainer.default_root_dir", folder, *SILENT) == 0
    return folder / "last.ckpt"


class TestSample:
    def test_a_grid_beside_the_checkpoint(self, trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("sample", trained, "--num_images", 30) == 0
        assert run("sample", trained, "--num_images", 30) == 0  # the first one is not written over
        out = capsys.readouterr().out
        names = ("samples.png", "samples-2.png")
        assert all(str(trained.parent / name) in out for name in names)
        first, again = (picture(trained.parent / name) for name in names)
        np.testing.assert_array_equal(first, again)  # the same seed

    def test_other_seeds_draw_other_pictures(self, trained: Path, tmp_path: Path) -> None:
        for seed in (0, 1):
            assert run("sample", trained, "-o", tmp_path / f"{seed}.png", "--seed", seed) == 0
        assert not np.array_equal(picture(tmp_path / "0.png"), picture(tmp_path / "1.png"))

    def test_a_row_for_each_category(self, trained: Path, tmp_path: Path) -> None:
        assert run("sample", trained, "--category", "y", "--num_images", 3, "-o", tmp_path / "y.png") == 0
        height, width, _ = picture(tmp_path / "y.png").shape
        assert height > 1.5 * width  # ten rows of three

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--num_images", "0"), "num_images=0 must be at least 1"),
            (("--category", "z"), "latent 'z' is not a single categorical variable. Available: 'y'."),
            (("-o", "x.jpg"), "must end in .png"),
            (("-o", "nowhere/x.png"), "the directory nowhere does not exist"),
        ],
    )
    def test_wrong_arguments(
        self, trained: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
    ) -> None:
        assert run("sample", trained, *arguments) == 2
        assert message in capsys.readouterr().err

    def test_nothing_is_written_over_unasked(self, trained: Path, tmp_path: Path) -> None:
        path = tmp_path / "precious.png"
        path.write_text("precious")
        assert run("sample", trained, "-o", path) == 2
        assert path.read_text() == "precious"
        assert run("sample", trained, "-o", path, "--overwrite") == 0
        picture(path)


@pytest.mark.parametrize("command", ["sample", "traverse"])
def test_pictures_trained_on_are_never_written_over(
    trained: Path, tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = load(trained)
    assert model.data_registry is not None
    model.data_registry["config"]["init_args"]["path"] = str(tmp_path / "own")
    save(model, tmp_path / "own.ckpt")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/0001.png").write_text("precious")
    assert run(command, tmp_path / "own.ckpt", "-o", tmp_path / "own/0001.png", "--overwrite") == 2
    assert f"lies in the input {tmp_path / 'own'}" in capsys.readouterr().err
    assert (tmp_path / "own/0001.png").read_text() == "precious"


class TestTraverse:
    def test_a_row_for_each_unit(self, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("traverse", trained, "-o", tmp_path / "a.png", "--num_steps", 5) == 0
        assert "6 dimensions of z" in capsys.readouterr().out
        assert run("traverse", trained, "-o", tmp_path / "b.png", "--num_steps", 5, "--index", 7) == 0
        assert not np.array_equal(picture(tmp_path / "a.png"), picture(tmp_path / "b.png"))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--num_steps", "1"), "num_steps=1 must be at least 2"),
            (("--num_std", "0"), "num_std=0 must be positive"),
            (("--latent", "y"), "latent 'y' is not Gaussian. Available: 'z'."),
            (("--index", "180"), "index=180 must be from 0 to 179: there are 180 test images"),
        ],
    )
    def test_wrong_arguments(
        self, trained: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
    ) -> None:
        assert run("traverse", trained, *arguments) == 2
        assert message in capsys.readouterr().err

    def test_a_model_of_counts_has_no_pictures(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = CONFIGS / "pbmc_gaussian.yaml"
        one = ("--trainer.max_steps", "1", "--trainer.callbacks", "[]")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("vaekit.plotting.embedding_figures.umap_coordinates", lambda points, seed=0: points[:, :2])
            assert run("fit", "--config", config, "--trainer.default_root_dir", tmp_path, *SILENT, *one) == 0
        for command in ("sample", "traverse"):
            assert run(command, tmp_path / "last.ckpt") == 2
            assert "was not trained on images" in capsys.readouterr().err


class TestCompare:
    BASE = ("compare", "--config", CONFIGS / "digits_discrete.yaml", "--trainer.max_epochs", 2)

    def test_table_curves_and_picture(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        two = "ScoreFunction(num_samples=2, baseline=LeaveOneOut())"
        estimators = ("--estimators", "ReinMax", two, "--seeds", 3, 4)
        where = ("-o", tmp_path / "out", "--trainer.default_root_dir", tmp_path / "run")
        assert run(*self.BASE, *estimators, *where, "--json") == 0
        shown = capsys.readouterr()
        assert "run 4 of 4" in shown.err
        assert "184/184" in shown.err  # one bar over all steps
        record = json.loads(shown.out.splitlines()[-1])
        assert (record["key"], record["seeds"]) == ("model.estimator", [3, 4])
        with (tmp_path / "out" / "compare.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert [row["estimator"] for row in rows] == ["ReinMax"] * 4 + [two] * 4
        for found in record["estimators"]:
            own = [row for row in rows if row["estimator"] == found["estimator"]]
            assert [(row["seed"], row["step"]) for row in own] == [("3", "23"), ("3", "46"), ("4", "23"), ("4", "46")]
            last = [float(row["elbo"]) for row in own[1::2]]
            assert found["seeds"] == last
            low, high = stats.t.interval(0.95, 1, np.mean(last), stats.sem(last))
            assert found["interval"] == pytest.approx((high - low) / 2)
            assert f"{found['elbo']:.2f}" in shown.out
        assert "the first exceeds the second by" in shown.out
        picture(tmp_path / "out" / "compare.png")
        assert not (tmp_path / "run").exists()

    def test_one_seed_and_a_named_latent(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        config = ("compare", "--config", CONFIGS / "digits_mixed.yaml", "--trainer.max_epochs", 1)
        assert run(*config, "--estimators", "Enumerate", "--seeds", 0, "-o", tmp_path) == 0
        assert "by model.latents.y.estimator" in capsys.readouterr().out
        assert run(*config, "--estimators", "Pathwise", "--latent", "z", "--seeds", 0, "-o", tmp_path) == 0
        assert "by model.latents.z.estimator" in capsys.readouterr().out
        assert (tmp_path / "compare-2.csv").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("--estimators", "ReinMux"), "Did you mean 'ReinMax'?"),
            (("--estimators", "ReinMax", "Pathwise"), "Pathwise does not support"),
            (("--estimators", "ReinMax(2.0)"), "'ReinMax(2.0)' is not an estimator"),
            (("--estimators", "ReinMax(heat=2.0)"), "has no argument 'heat'"),
            (("--estimators", "ReinMax", "ReinMax"), "name each only once"),
            (("--estimators", "ReinMax", "--latent", "x"), "latent='x' not found among the latents 'y'"),
            (
                ("--estimators", "ReinMax", "--trainer.limit_val_batches", "0", "--seeds", "0"),
                "no validation took place",
            ),
        ],
    )
    def test_wrong_arguments(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
    ) -> None:
        assert run(*self.BASE, *arguments, "-o", tmp_path) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text", ["", "1 + 1", "'ReinMax'", "f(x)(y)", "a.b", "A(**b)", "A(1)", "[A]", "A(", "A(b=c.d)"]
)
def test_what_is_no_estimator(text: str) -> None:
    with pytest.raises(ConfigError, match="is not an estimator"):
        estimator_config(text)


def test_nested_and_plain_arguments() -> None:
    found = estimator_config(
        "GumbelSoftmax(temperature=TemperatureSchedule(start=1.0, end=0.25), hard=True, num_samples=-1)"
    )
    assert found["init_args"]["temperature"] == {
        "class_path": "TemperatureSchedule",
        "init_args": {"start": 1.0, "end": 0.25},
    }
    assert (found["init_args"]["hard"], found["init_args"]["num_samples"]) == (True, -1)
