"""``--color`` and ``--figure`` of the commands: what is drawn, with which colors, and in which file."""

from __future__ import annotations

from pathlib import Path

import anndata
import pytest
import torch
from models.tiny import MODELS, adata, trainer

from vaekit.callbacks import FigureWriter
from vaekit.cli.main import main
from vaekit.data import GeneExpressionData
from vaekit.likelihoods import NegativeBinomial
from vaekit.models import VAE
from vaekit.plotting import embedding_figures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells, those of one label, and a model."""
    path = tmp_path_factory.mktemp("cells")
    cells = adata(cells=90, genes=20)
    cells.obs["score"] = range(90)
    cells.write_h5ad(path / "cells.h5ad")
    last = cells.obs["cell_type"].astype(str).max()
    part = cells[cells.obs["cell_type"] == last].copy()
    part.obs["cell_type"] = part.obs["cell_type"].astype(str)
    part.write_h5ad(path / "part.h5ad")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        data = GeneExpressionData(path=str(path / "cells.h5ad"), batch_key="batch", label_key="cell_type")
        model = MODELS["mixed"](NegativeBinomial(), data.features, covariates=data.covariates)
        (used := trainer(max_epochs=1, limit_val_batches=0)).fit(model, datamodule=data)
        used.save_checkpoint(path / "model.ckpt")
    return path


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list:
    """Return the list of the figures that are saved from now on."""
    from vaekit.plotting import figure_files

    saved: list = []
    encode = figure_files.encode_figure
    monkeypatch.setattr(
        figure_files, "encode_figure", lambda figure, form: saved.append(figure) or encode(figure, form)
    )
    return saved


def colors(figure, title: str) -> dict[str, str]:
    """Return the colors of the legend of a panel."""
    panel = next(axis for axis in figure.axes if axis.get_title() == title)
    entries = panel.get_legend()
    names = [text.get_text() for text in entries.get_texts()]
    return dict(zip(names, [handle.get_color() for handle in entries.legend_handles], strict=True))


def embed(folder: Path, cells: str, output: Path, *flags: str) -> int:
    return main(["embed", str(folder / "model.ckpt"), str(folder / cells), "-o", str(output), *flags])


def test_colors_of_all_cells_of_a_part_and_of_fit_are_the_same(folder: Path, tmp_path: Path, figures: list) -> None:
    assert embed(folder, "cells.h5ad", tmp_path / "all.csv", "--color", "score", "gene1") == 0
    assert embed(folder, "part.h5ad", tmp_path / "part.csv") == 0
    every, part = figures
    titles = [axis.get_title() for axis in every.axes]
    assert titles == ["batch", "cell_type", "score", "gene1", "code y"]
    bars = [axis.child_axes[0].get_ylabel() for axis in every.axes if axis.child_axes]
    assert bars == ["", "log(1 + counts per 10,000)"]
    last = max(colors(every, "cell_type"))
    assert colors(part, "cell_type") == {last: colors(every, "cell_type")[last]}
    data = GeneExpressionData(path=str(folder / "cells.h5ad"), batch_key="batch", label_key="cell_type")
    model = MODELS["mixed"](NegativeBinomial(), data.features, covariates=data.covariates)
    fitted = FigureWriter(color=["score"]).figures(model, data)["umap"]
    assert colors(fitted, "cell_type") == colors(every, "cell_type")
    assert colors(fitted, "batch") == colors(every, "batch")


def test_colors_of_the_file_are_used(folder: Path, tmp_path: Path, figures: list) -> None:
    cells = anndata.read_h5ad(folder / "cells.h5ad")
    cells.obs["cell_type"] = cells.obs["cell_type"].astype("category")
    names = cells.obs["cell_type"].cat.categories
    cells.uns["cell_type_colors"] = [f"#00000{number}" for number in range(len(names))]
    cells.write_h5ad(tmp_path / "cells.h5ad")
    assert embed(folder, str(tmp_path / "cells.h5ad"), tmp_path / "out.csv") == 0
    assert colors(figures[0], "cell_type") == {name: f"#00000{number}" for number, name in enumerate(names)}


def test_formats(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert embed(folder, "cells.h5ad", tmp_path / "a.csv", "--figure", "pdf") == 0
    assert (tmp_path / "a.pdf").read_bytes()[:5] == b"%PDF-"
    monkeypatch.setattr(embedding_figures, "umap_coordinates", None)  # not computed
    assert embed(folder, "cells.h5ad", tmp_path / "b.csv", "--figure", "none") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "a.pdf", "b.csv"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--color", "scor"], "color='scor' not found among the columns"),
        (["--color", "score", "--color", "score"], "color names 'score' twice"),
        (["--figure", "jpg"], "--figure='jpg' must be"),
    ],
)
def test_wrong_flags_are_found_before_the_cells_are_embedded(
    folder: Path, tmp_path: Path, flags: list[str], message: str, capsys, monkeypatch
) -> None:
    monkeypatch.setattr(VAE, "posteriors", None)
    assert embed(folder, "cells.h5ad", tmp_path / "a.h5ad", *flags) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
