"""The report of a trained model: contents, escaping, names of files, and models and runs of every kind."""

from __future__ import annotations

import shutil
import warnings
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from models.tiny import trainer

import vaekit
from vaekit import DiscreteVAE, GaussianVAE, MixedVAE, SequentialVAE
from vaekit._core.private_paths import hide_directories
from vaekit._core.warning_log import record_warnings
from vaekit.callbacks import FigureWriter, PosteriorCollapseMonitor, RunCheckpoint, RunRecord
from vaekit.data import GeneExpressionData, ImageData, simulate_counts
from vaekit.exceptions import CheckpointError, DataError, VaekitError
from vaekit.latents import Categorical, Dirichlet, Gaussian
from vaekit.likelihoods import Bernoulli, NegativeBinomial
from vaekit.models import export, load, save
from vaekit.models.checkpoint import read_checkpoint

SCRIPT = "<script>document.title = 'changed'</script>"
HOSTILE = {"0": f"B {SCRIPT}", "1": 'T" onload="x', "2": "$\\frac & 'NK'"}  # names of labels
VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Elements of an HTML page: ``(tag, attributes)``, text by tag, and whether every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.rows: list[list[str]] = []  # of all tables
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data.strip()))
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, *tags: str) -> str:
        return " ".join(text for tag, text in self.texts if not tags or tag in tags)

    @property
    def titles(self) -> list[str]:
        return [text for tag, text in self.texts if tag == "h2" and text]


@pytest.fixture(autouse=True)
def quick_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaekit.plotting.embedding_figures.umap_coordinates", lambda points, seed=0: points[:, :2])


def write(model: Any, directory: Path, data: Any = None, **kwargs: Any) -> Page:
    path = vaekit.analysis.report(model, directory / "report.html", data, num_samples=5, **kwargs)
    return Page(path.read_text())


def cells() -> AnnData:
    simulated = simulate_counts(150, 30, clusters=3, batches=2, seed=1, library_size=200.0)
    obs = pd.DataFrame(
        {
            "type": pd.Categorical([HOSTILE[str(name)[-1]] for name in simulated.obs["cluster"]]),
            "donor": np.where(simulated.obs["batch"] == simulated.obs["batch"].iloc[0], "a & b", "<i>c</i>"),
        },
        index=simulated.obs_names,
    )
    names = [f"{SCRIPT}{i}" if i < 5 else f"gene{i}" for i in range(30)]
    return AnnData(simulated.X, obs=obs, var=pd.DataFrame(index=names))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory of a mixed model, in a directory with the name of a user, and its data next to it."""
    home = tmp_path_factory.mktemp("home") / "ada lovelace"
    home.mkdir()
    cells().write_h5ad(home / "cells.h5ad")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("always")
        torch.manual_seed(0)
        with record_warnings() as messages:
            data = GeneExpressionData(path=str(home / "cells.h5ad"), batch_key="donor", label_key="type", batch_size=64)
            latents = {"y": Categorical(4), "z": Gaussian(3, parents=["y"])}
            model = MixedVAE(data.features, NegativeBinomial(), data.covariates, latents=latents, hidden=[8])
            command = ["fit", "--data.path", str(home / "cells.h5ad"), "--trainer.max_epochs", "12"]
            config = {"seed_everything": 0, "data": {"init_args": {"path": str(home / "cells.h5ad")}}}
            warnings.warn(f"{home / 'cells.h5ad'}: 3 cells are {SCRIPT}", UserWarning, stacklevel=1)
            callbacks = [
                RunRecord(messages, config, command),
                RunCheckpoint(),
                FigureWriter(),
                PosteriorCollapseMonitor(),
            ]
            callbacks[2].on_fit_end = lambda *_: None  # type: ignore[method-assign]
            trainer(home / "my_run", max_epochs=12, callbacks=callbacks).fit(model, datamodule=data)
    return home / "my_run"


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.plotting.embedding_figures.umap_coordinates", lambda points, seed=0: points[:, :2])
        return write(run / "last.ckpt", tmp_path_factory.mktemp("report"))


def test_sections_and_numbers(page: Page) -> None:
    assert page.titles[1:] == [
        "Warnings", "Data", "Training", "Held-out likelihood", "Latents in use", "UMAP", "Codes",
        "Posterior predictive check", "Model and settings", "How to reproduce",
    ]  # fmt: skip
    text = page.text()
    for part in ("150 cells", "30 genes", "cells.h5ad", "120 train", "15 test", "12", "vaekit evaluate last.ckpt"):
        assert part in text, part
    assert page.text("h1") == "my_run"
    captions = page.text("figcaption")
    for column in ("By batch (donor)", "By label (type)", "By code y"):
        assert column in captions, column


def test_bounds_are_those_of_the_evaluation(run: Path, page: Page) -> None:
    """ELBO = -(reconstruction + KL) <= log-likelihood, in the table, up to its decimals and sampling errors."""
    start = next(i for i, row in enumerate(page.rows) if row[0] == "Quantity")
    rows = page.rows[start + 1 : start + 6]
    numbers = {row[0].partition(",")[0]: float(row[1].replace("\N{MINUS SIGN}", "-")) for row in rows}
    parts = numbers["Reconstruction"] + numbers["KL of y"] + numbers["KL of z"]
    assert numbers["ELBO"] == pytest.approx(-parts, abs=0.02)
    assert numbers["Log-likelihood (importance sampling)"] >= numbers["ELBO"] - 1.0
    data = vaekit.analysis.load_training_data(load(run / "last.ckpt"))
    evaluation = vaekit.diagnostics.evaluate_model(load(run / "last.ckpt"), data.dataloader("test"), 50)
    assert numbers["ELBO"] == pytest.approx(evaluation.likelihood.elbo.mean().item(), abs=1.5)


def test_names_are_escaped(page: Page) -> None:
    assert not page.all("script")
    assert not page.all("i")
    assert all("onload" not in attributes for _, attributes in page.elements)
    text = page.text()
    for name in (*HOSTILE.values(), "<i>c</i>", "a & b", SCRIPT):
        assert name in text, name


def test_the_file_is_self_contained(page: Page) -> None:
    assert all(str(image["src"]).startswith("data:image/svg+xml;base64,") for image in page.all("img"))
    assert all(str(link["href"]).startswith("#") for link in page.all("a"))
    assert not page.all("link")
    assert not page.all("iframe")
    style = page.text("style")
    assert "url(" not in style
    assert "@import" not in style


def test_accessibility(page: Page) -> None:
    identifiers = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {link["href"] for link in page.all("a")} <= {f"#{identifier}" for identifier in identifiers}
    assert len(page.all("img")) >= 7
    assert all(len(str(image["alt"])) > 30 for image in page.all("img"))
    assert all(cell.get("scope") in ("col", "row") for cell in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table")) >= 5
    assert page.all("html") == [{"lang": "en"}]
    assert [tag for tag, _ in page.elements if tag in ("header", "nav", "main", "footer")] == [
        "header", "nav", "main", "footer",
    ]  # fmt: skip
    assert page.open == []  # every element is closed


def test_no_directory_of_the_user(run: Path, page: Page) -> None:
    assert "ada lovelace" in str(run)
    assert "lovelace" not in page.text()
    assert "cells.h5ad: 3 cells are" in page.text("li")
    assert "--data.path cells.h5ad" in page.text("code")
    assert "path: cells.h5ad" in page.text("code")


def test_the_same_checkpoint_gives_the_same_report(run: Path, tmp_path: Path) -> None:
    model = load(run / "last.ckpt")
    before = torch.get_rng_state()
    first = vaekit.analysis.report(run / "last.ckpt", tmp_path / "a.html", num_samples=3).read_bytes()
    assert torch.equal(torch.get_rng_state(), before)
    second = vaekit.analysis.report(run / "last.ckpt", tmp_path / "b.html", num_samples=3).read_bytes()
    assert first == second
    assert len(first) < 3_000_000
    model.train()
    write(model, tmp_path)
    assert model.training


def test_data_that_are_no_longer_there(run: Path, tmp_path: Path) -> None:
    checkpoint, moved = tmp_path / "other.ckpt", tmp_path / "moved.h5ad"
    shutil.copy(run / "best.ckpt", checkpoint)
    data = run.parent / "cells.h5ad"
    data.rename(moved)
    try:
        with pytest.warns(UserWarning, match="need the training data"):
            page = write(checkpoint, tmp_path)
        assert page.titles[1:] == ["Warnings", "Data", "Training", "Model and settings", "How to reproduce"]
        assert "were not available" in page.text()
        assert "lovelace" not in page.text()
        assert page.text("h1") == "other"
        assert "UMAP" in write(checkpoint, tmp_path, moved).titles
        assert "UMAP" in write(checkpoint, tmp_path, anndata.read_h5ad(moved)).titles
        fewer = anndata.read_h5ad(moved)[:100].copy()
        with pytest.raises(CheckpointError, match="fingerprint"):
            write(checkpoint, tmp_path, fewer)
        with pytest.raises(DataError, match="must be an AnnData"):
            write(checkpoint, tmp_path, 5)
    finally:
        moved.rename(data)


def test_an_interrupted_run(run: Path, tmp_path: Path) -> None:
    content = read_checkpoint(run / "last.ckpt")
    content["callbacks"]["RunRecord"] |= {"finished": False, "total_steps": 1000}
    torch.save(content, tmp_path / "last.ckpt")
    text = write(tmp_path / "last.ckpt", tmp_path).text()
    assert "before the end of the training" in text
    assert "of 1,000 planned" in text


def test_models_without_a_run(run: Path, tmp_path: Path) -> None:
    """vaekit.save and export keep neither curves nor warnings."""
    save(load(run / "last.ckpt"), tmp_path / "saved.ckpt")
    export.export(read_checkpoint(run / "last.ckpt"), tmp_path / "exported")
    for model in (tmp_path / "saved.ckpt", tmp_path / "exported"):
        page = write(model, tmp_path, run.parent / "cells.h5ad")
        assert "does not contain curves" in page.text()
        assert "does not record the warnings" in page.text()
        assert "UMAP" in page.titles


def test_a_mapped_model(run: Path, tmp_path: Path) -> None:
    new = cells()
    new.obs["donor"] = "new <b>donor</b>"
    mapped = vaekit.analysis.map_query(new, run / "last.ckpt", max_steps=2)
    page = write(mapped, tmp_path)
    assert "Cells mapped to the model" in page.text("caption")
    assert "new <b>donor</b> (150)" in page.text("td")


def test_an_untrained_model(tmp_path: Path) -> None:
    page = write(GaussianVAE(5, NegativeBinomial()), tmp_path)
    assert "Model and settings" in page.titles


MODELS = {
    "gaussian": lambda features: GaussianVAE(features, NegativeBinomial(), latent_dim=3, hidden=[8]),
    "discrete": lambda features: DiscreteVAE(features, NegativeBinomial(), variables=2, categories=3, hidden=[8]),
    "sequential": lambda features: SequentialVAE(features, NegativeBinomial(), categories=[3, 2], hidden=[8]),
    "topics": lambda features: MixedVAE(
        features, NegativeBinomial(), latents={"topics": Dirichlet(4, concentration=0.5)}, hidden=[8]
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_kinds_of_models_without_labels_and_batches(name: str, tmp_path: Path) -> None:
    data = GeneExpressionData(cells())
    model = MODELS[name](data.features)
    trainer(max_epochs=2, limit_val_batches=0).fit(model, datamodule=data)
    page = write(model, tmp_path, data)
    assert {"UMAP", "Posterior predictive check"} <= set(page.titles)
    expected = {"gaussian": set(), "topics": {"Topics"}}.get(name, {"Codes"})
    assert expected == {"Codes", "Topics"} & set(page.titles)
    assert not {"Adjusted Rand index"} & set(page.text("dt").split("  "))


@pytest.mark.parametrize("latents", [None, {"y": Categorical(3)}], ids=["mixed", "category"])
def test_images(latents: dict[str, Any] | None, tmp_path: Path) -> None:
    data = ImageData("digits")
    model = MixedVAE(data.features, Bernoulli(), latents=latents, hidden=[8])
    trainer(max_epochs=1, limit_val_batches=0).fit(model, datamodule=data)
    page = write(model, tmp_path)
    assert {"UMAP", "Images", "Codes"} <= set(page.titles)
    assert "Posterior predictive check" not in page.titles
    assert "images" in page.text("p")


def test_numbers_are_checked(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="num_samples=0 must be at least 1"):
        vaekit.analysis.report(run / "last.ckpt", tmp_path / "report.html", num_samples=0)
    with pytest.raises(VaekitError, match="could not be written"):
        vaekit.analysis.report(run / "last.ckpt", tmp_path / "missing" / "report.html", num_samples=1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/ada/cells.h5ad", "cells.h5ad"),
        ("C:\\Users\\ada\\cells.h5ad", "cells.h5ad"),
        ("--data.path=/home/ada/cells.h5ad", "--data.path=cells.h5ad"),
        ("/home/ada lovelace/my cells.h5ad", "my cells.h5ad"),
        ("'/home/ada/a.h5ad' and /home/ada/b.h5ad: 3 cells", "'a.h5ad' and b.h5ad: 3 cells"),
        ("2 files: /a/b/c.h5ad, /a/b/d.h5ad", "2 files: c.h5ad, d.h5ad"),
        ("runs/a/last.ckpt", "runs/a/last.ckpt"),
        ("CD4+/CD25 T Reg", "CD4+/CD25 T Reg"),
        ("n/a", "n/a"),
        ("https://vaekit.org/a/b", "https://vaekit.org/a/b"),
    ],
)  # fmt: skip
def test_names_of_files(text: str, expected: str) -> None:
    assert hide_directories({"key": [text]}) == {"key": [expected]}


def test_data_modules_are_compared_with_the_training_data(tmp_path: Path) -> None:
    """Another split would report cells of the training as held out."""
    cells = vaekit.data.simulate_counts(cells=120, genes=20, batches=2)
    model = vaekit.fit(cells, max_steps=3, batch_key="batch", progress=False, accelerator="cpu")
    output = tmp_path / "report.html"
    same = vaekit.data.GeneExpressionData(cells, batch_key="batch")
    vaekit.analysis.report(model, output, same, num_samples=2)
    others = {
        "another split": vaekit.data.GeneExpressionData(cells, batch_key="batch", seed=1),
        "fingerprint": vaekit.data.GeneExpressionData(cells[::-1].copy(), batch_key="batch"),
        "trained on 2 batches": vaekit.data.GeneExpressionData(cells),
    }
    for message, data in others.items():
        with pytest.raises((DataError, CheckpointError), match=message):
            vaekit.analysis.report(model, output, data, num_samples=2)
