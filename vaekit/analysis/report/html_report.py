"""Report of a trained model: one HTML file with data, settings, training, bounds, latents, codes and checks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from vaekit._core.atomic import atomic_write, try_writing
from vaekit._core.version import __version__
from vaekit._core.warning_log import record_warnings
from vaekit.analysis.model_source import resolve_model
from vaekit.analysis.report.code_section import code_section
from vaekit.analysis.report.data_section import data_section
from vaekit.analysis.report.image_section import image_section
from vaekit.analysis.report.label_section import label_section
from vaekit.analysis.report.latent_section import latent_section, umap_section, usage_tiles
from vaekit.analysis.report.likelihood_section import HeldOut, likelihood_section, likelihood_tile
from vaekit.analysis.report.notes_section import find_warnings, reproduction_section, warning_section
from vaekit.analysis.report.page import Page, Section, Tile, counted
from vaekit.analysis.report.predictive_section import predictive_section
from vaekit.analysis.report.run_facts import read_run
from vaekit.analysis.report.settings_section import settings_section
from vaekit.analysis.report.subject import Subject
from vaekit.analysis.report.training_section import training_section
from vaekit.analysis.training_data import check_training_data, load_training_data
from vaekit.data.data_module import DataModule
from vaekit.exceptions import CheckpointError, DataError
from vaekit.models import VAE

if TYPE_CHECKING:
    from anndata import AnnData

NUM_SAMPLES = 100


def report(
    model: VAE | str | Path,
    output: str | Path,
    data: AnnData | DataModule | str | Path | Sequence[str | Path] | None = None,
    *,
    color: list[str] | None = None,
    num_samples: int = NUM_SAMPLES,
    progress: bool = False,
    seed: int = 0,
) -> Path:
    """Write a report of a trained model as one HTML file without scripts or external files.

    It has sections on warnings, the data, the training, the likelihood of held-out observations with standard errors,
    the latents in use, their UMAP by batch, label and code, the codes or topics with sizes and marker genes, the
    reliability of predicted labels, a posterior predictive check, images, the settings, and how to reproduce the run.
    It contains the names of files, but not those of their directories.

    The likelihood is computed for at most 2,000 test observations, the predictive check for at most 2,000 cells, and
    the UMAP for at most 20,000.

    Parameters
    ----------
    model : VAE or path
        Trained model, or its checkpoint. Curves and warnings come from the checkpoint, or from the trainer or
        :func:`vaekit.fit` of a model in memory.
    output : path
        File to write; an existing one is replaced.
    data : AnnData, DataModule, path, sequence of paths, or None
        The training data, if they are in memory or at another path than in training. None: they are read from their
        path; if that is impossible, the report is limited to the contents of the checkpoint.
    color : list of str or None
        Columns of obs, or genes, that color the UMAP, besides batch, label and codes.
    num_samples : int
        Number of importance samples per observation.
    progress : bool
        Whether to show a progress bar.
    seed : int
        Seed of all samples.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    CheckpointError
        If the model cannot be loaded, or ``data`` are not its training data.
    DataError
        If ``num_samples`` is below 1, ``data`` have another type, or a name of ``color`` does not exist.
    OutputError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile, vaekit
    >>> adata = vaekit.data.simulate_counts(cells=100, genes=30)
    >>> model = vaekit.fit(adata, max_steps=10, progress=False)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = vaekit.analysis.report(model, f"{directory}/report.html", adata)
    ...     "Held-out likelihood" in path.read_text()
    True
    """
    if num_samples < 1:
        raise DataError(f"report: num_samples={num_samples} must be at least 1.")
    try_writing(Path(output))
    with torch.random.fork_rng(devices=[]):
        model, checkpoint = resolve_model(model)
        page = _page(_load(model, checkpoint, data, color, num_samples, seed), progress)
    with atomic_write(output) as temporary:
        temporary.write_text(page.to_html(), encoding="utf-8")
    return Path(output)


def _load(model: VAE, checkpoint: str, data: Any, color: list[str] | None, num_samples: int, seed: int) -> Subject:
    """Read the facts about the run, and the training data; without ``data`` these may be missing."""
    facts, problem = read_run(model, checkpoint), ""
    with record_warnings() as messages:
        if isinstance(data, DataModule):
            check_training_data(model, data)
        else:
            try:
                data = load_training_data(model, cells=data)
            except CheckpointError as error:
                if data is not None:
                    raise
                problem = str(error)
    if problem:
        warnings.warn(f"report: the sections on results need the training data. {problem}", UserWarning, stacklevel=3)
    elif color:
        data.figure_columns(color)  # checks the names before long work
    return Subject(model, facts, data, messages, color, num_samples, seed)


def _page(subject: Subject, progress: bool) -> Page:
    """Return the page; the RNG states do not change."""
    from tqdm.auto import tqdm

    model, tiles, sections = subject.model, list[Tile](), list[Section | None]()
    was_training = model.training
    model.eval()
    try:
        steps = tqdm(list(_steps(subject, tiles)), desc="report", unit="section", disable=not progress)
        with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
            for step in steps:
                torch.manual_seed(subject.seed)
                sections.append(step())
    finally:
        model.train(was_training)
    if count := len(find_warnings(subject)):
        tiles.append(Tile("Warnings", str(count)))
    version = f"Written by vaekit {__version__} on {date.today().isoformat()}."
    return Page(subject.facts.name, _subtitle(subject), tiles, [each for each in sections if each], version)


def _steps(subject: Subject, tiles: list[Tile]) -> Iterator[Callable[[], Section | None]]:
    """Yield functions that return the sections in their order, and add the numbers for the top of the page."""

    def held_out() -> Section:
        results = HeldOut(subject)
        tiles.insert(0, likelihood_tile(results, subject.noun))
        return likelihood_section(subject, results)

    def latents() -> Section:
        tiles.extend(usage_tiles(subject))
        return latent_section(subject)

    yield from (partial(section, subject) for section in (warning_section, data_section, training_section))
    if subject.data is not None:
        yield from (held_out, latents)
        yield from (
            partial(section, subject) for section in (umap_section, code_section, label_section, predictive_section)
        )
    yield from (partial(section, subject) for section in (image_section, settings_section, reproduction_section))


def _subtitle(subject: Subject) -> str:
    registry, facts = subject.registry, subject.facts
    text = facts.model["class_path"].rpartition(".")[2]
    if registry:
        text += f" of {counted(registry['num_rows'], subject.noun)}"
        if subject.has_counts:
            text += f" and {counted(len(registry['feature_names']), 'gene')}"
    if facts.step:
        text += f", trained for {counted(facts.step, 'step')}"
    return f"{text}; checkpoint {facts.checkpoint}." if facts.checkpoint else f"{text}."
