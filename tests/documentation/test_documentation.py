"""Every command and every block of Python in the README and the documentation, run as by copy and paste.

Each page is one session in an empty directory. Training is cut to a few steps. Commands that need a network, a cluster
or hours are checked instead: their files, targets and flags must exist. ``not_run.py`` lists them with the reasons;
pages add others by ``<!-- not run: reason -->`` in the line before a block.
"""

from __future__ import annotations

import functools
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
import pytorch_lightning as pl
from PIL import Image

from tests.documentation.not_run import NOT_RUN, check_vaekit
from tests.documentation.pages import (
    COMMAND,
    OTHERS,
    PAGES,
    PYTHONS,
    ROOT,
    SHELLS,
    inline_commands,
    number_tables,
    read_blocks,
    sections,
)
from tests.documentation.sample_files import RUN_COMMAND, write_samples
from tests.documentation.session import Session
from tests.documentation.shell import read_commands
from vaekit.analysis import state_posteriors
from vaekit.cli.main import main
from vaekit.plotting import embedding_figures

MAX_STEPS, STEPS_PER_EPOCH = 6, 3
OFFLINE = {"weights_and_biases", "resume"}  # pages that need the files of Weights & Biases; they take two seconds a run
TINY = Image.new("RGB", (8, 8))  # in place of each figure; tests/plotting draws them
SLOW = {"estimators", "images", "latents", "map_and_transfer", "resume"}
WITH_CODE = [page for page in PAGES if any(block.language in SHELLS | PYTHONS for block in read_blocks(page))]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def save_tiny(figure: object, path: Any, **options: Any) -> None:
    """Write a tiny image in place of a figure."""
    if options.get("format") == "svg":
        path.write(b'<svg width="8pt" height="8pt" viewBox="0 0 8 8"></svg>')
    else:
        TINY.save(path, "PNG")


@pytest.fixture(scope="module", autouse=True)
def short_runs() -> Iterator[None]:
    """Cut every training run to a few steps, and omit UMAP: it takes seconds and depends on no page."""
    fit = pl.Trainer.fit

    @functools.wraps(fit)  # the command line reads its signature
    def short_fit(trainer: pl.Trainer, *args: object, **kwargs: object) -> None:
        loop = trainer.fit_loop.epoch_loop
        loop.max_steps = MAX_STEPS if loop.max_steps < 0 else min(loop.max_steps, MAX_STEPS)
        trainer.limit_train_batches, trainer.limit_val_batches = STEPS_PER_EPOCH, 1
        fit(trainer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pl.Trainer, "fit", short_fit)
        patch.setattr(embedding_figures, "umap_coordinates", lambda points, seed=0: points[:, :2])
        patch.setattr(state_posteriors, "ACTIVE_VARIANCE", 0.0)  # no dimension is active after few steps
        patch.setattr("matplotlib.figure.Figure.savefig", save_tiny)
        yield


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sample files and a trained run."""
    directory = tmp_path_factory.mktemp("samples")
    write_samples(directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        assert main([*RUN_COMMAND, "--trainer.logger", "false"]) == 0
    return directory


@pytest.fixture
def session(page: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    directory = tmp_path / "page"
    shutil.copytree(samples, directory)
    monkeypatch.chdir(directory)
    monkeypatch.setenv("HOME", str(tmp_path))  # no account of Weights & Biases
    monkeypatch.setenv("WANDB_MODE", "offline" if page.stem in OFFLINE else "disabled")
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: None)
    return Session()


def pages_with_code() -> list[Any]:
    """Return the pages whose code is run; the slow ones are not part of the main run."""
    marks = [pytest.mark.exhaustive if page.stem in SLOW and page.parent.name == "guide" else () for page in WITH_CODE]
    return [pytest.param(page, marks=mark, id=name(page)) for page, mark in zip(WITH_CODE, marks, strict=True)]


@pytest.mark.parametrize("page", pages_with_code())
def test_blocks_run(page: Path, session: Session) -> None:
    failures = []
    for block in read_blocks(page):
        try:
            session.run(block)
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n\n".join(failures)
    assert session.num_run + len(session.reasons)
    print("\n".join(["not run:", *session.reasons, "seconds:", *session.seconds]))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_have_a_language(page: Path) -> None:
    """A block of another language, or without one, would not be run."""
    for block in read_blocks(page):
        assert block.language in SHELLS | PYTHONS | OTHERS, f"{block.place}: language {block.language!r}"
        if block.language in OTHERS:
            assert not COMMAND.search(block.text), f"{block.place}: commands belong into a block of bash"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_the_text_exist(page: Path) -> None:
    for line, text in inline_commands(page):
        for command in read_commands(re.sub(r"\.\.\.|…", "", text)):
            try:
                if command.program == "vaekit":
                    check_vaekit(command.words)
                elif command.program in NOT_RUN:
                    NOT_RUN[command.program][1](command.words)
            except AssertionError as error:
                raise AssertionError(f"{name(page)}:{line}: `{text}`: {error}") from None


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_tables_of_numbers_name_their_command(page: Path) -> None:
    for line, heading, text in sections(page):
        if number_tables(text):
            named = re.search(r"\b(python (tests|notebooks)/|vaekit |make |pytest |notebooks?/\d)", text)
            assert named, f"{name(page)}:{line}: section {heading!r} has a table of numbers, but not its command"
