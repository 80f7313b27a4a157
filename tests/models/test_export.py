"""Models as safetensors and JSON equal the exported ones; damaged and foreign files are rejected."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import vaekit
from vaekit.exceptions import CheckpointError, OutputError
from vaekit.likelihoods import NegativeBinomial
from vaekit.models.checkpoint import read_checkpoint
from vaekit.models.export import DESCRIPTION, TENSORS, export

from .test_checkpoint import data, model_for
from .tiny import MODELS, counts, differences, fit, trainer


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "a.ckpt"
    model = model_for("mixed", cells := data())
    used = trainer(max_epochs=1)
    used.fit(model, datamodule=cells)
    used.save_checkpoint(path)
    return path


@pytest.mark.parametrize("name", list(MODELS))
def test_an_exported_model_is_the_same(name, tmp_path):
    fit(MODELS[name](NegativeBinomial()), counts(), 1).save_checkpoint(tmp_path / "a.ckpt")
    first = vaekit.load(tmp_path / "a.ckpt")
    again = vaekit.load(export(read_checkpoint(tmp_path / "a.ckpt"), tmp_path / "out"))
    assert first.config == again.config
    assert first.state_dict().keys() == again.state_dict().keys()
    assert all(value.equal(again.state_dict()[key]) for key, value in first.state_dict().items())
    with torch.no_grad():
        for latent, q in first.posteriors(counts()).items():
            assert q.mean.equal(again.posteriors(counts())[latent].mean)


def test_what_is_known_of_the_data_comes_back(saved, tmp_path):
    before = vaekit.load(saved).data_registry
    after = vaekit.load(export(read_checkpoint(saved), tmp_path / "out")).data_registry
    assert before is not None
    assert after is not None
    assert before.keys() == after.keys()
    for key, value in before.items():
        if key == "split_indices":
            assert all(value[part].equal(after[key][part]) for part in value)
        else:
            assert after[key].equal(value) if isinstance(value, torch.Tensor) else after[key] == value
    description = json.loads((tmp_path / "out" / DESCRIPTION).read_text())
    assert description["hyper_parameters"]["_class_path"] == "vaekit.MixedVAE"
    weights = torch.load(saved, weights_only=True)["state_dict"]
    assert weights.keys() <= load_file(tmp_path / "out" / TENSORS).keys()


@pytest.mark.parametrize(
    ("arguments", "source", "names", "name"),
    [
        ({"path": "/home/me/a b/c.h5ad"}, "/home/me/a b/c.h5ad", {"path": "c.h5ad"}, "c.h5ad"),
        ({"path": ["/d/a.h5ad", "/e/b"]}, "/d/a.h5ad and 1 more", {"path": ["a.h5ad", "b"]}, "a.h5ad and 1 more"),
        ({"layer": "/layers/x"}, "AnnData of /d/a.h5ad", {"layer": "/layers/x"}, "AnnData of a.h5ad"),
        ({"name": "MNIST", "root": "/d/data"}, "MNIST in /d/data", {"name": "MNIST", "root": "data"}, "MNIST in data"),
        ({"path": None}, "AnnData in memory", {"path": None}, "AnnData in memory"),
    ],
)
def test_directories_of_the_data_are_removed(arguments, source, names, name, tmp_path):
    registry = {"source": source, "config": {"class_path": "x", "init_args": arguments}}
    content = {"hyper_parameters": {"_class_path": "x"}, "state_dict": {}, "data_registry": registry}
    after = read_checkpoint(export(content, tmp_path / "out"))["data_registry"]
    assert after == {"source": name, "config": {"class_path": "x", "init_args": names}}
    assert registry["config"]["init_args"] == arguments  # the checkpoint in memory is not changed


def test_numbers_that_json_does_not_have(tmp_path):
    content = {"hyper_parameters": {"_class_path": "x", "a": [float("inf"), -float("inf"), 1]}, "state_dict": {}}
    export(content, tmp_path / "out")
    assert read_checkpoint(tmp_path / "out")["hyper_parameters"]["a"] == [float("inf"), -float("inf"), 1]
    with pytest.raises(CheckpointError, match=r"hyper_parameters\.b is a set"):
        export({"hyper_parameters": {"b": {1}}}, tmp_path / "other")


def test_nothing_is_written_over(saved, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("full", "file"):
        with pytest.raises(OutputError, match=f"{name} exists"):
            export(read_checkpoint(saved), tmp_path / name)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "precious"]


def exported(saved: Path, folder: Path) -> Path:
    return export(read_checkpoint(saved), folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", "{" * 9, "[" * 100_000, '{"format": 2}', '{"format": 1}', "\0",
             '{"format": 1, "hyper_parameters": 3, "data_registry": null, "state_dict": {}}',
             '{"format": 1, "hyper_parameters": {"_class_path": "os.system"}, "data_registry": null, "state_dict": {}}',
             '{"format": 1, "hyper_parameters": {"_class_path": "vaekit.GaussianVAE", "features": {"tensor": "no"}},'
             ' "data_registry": null, "state_dict": 5}'],
    ids=range(12),
)  # fmt: skip
def test_foreign_descriptions(saved, tmp_path, text):
    folder = exported(saved, tmp_path / "out")
    (folder / DESCRIPTION).write_text(text)
    with pytest.raises(CheckpointError, match="out"):
        vaekit.load(folder)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.9, 0.9999])
def test_truncated_weights(saved, tmp_path, share):
    folder = exported(saved, tmp_path / "out")
    whole = (folder / TENSORS).read_bytes()
    (folder / TENSORS).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"out/model\.safetensors is damaged"):
        vaekit.load(folder)


@pytest.mark.parametrize("name", [TENSORS, DESCRIPTION])
def test_a_flipped_bit_is_found_wherever_it_is(saved, tmp_path, name):
    folder = exported(saved, tmp_path / "out")
    whole, before, generator = (folder / name).read_bytes(), read_checkpoint(folder), random.Random(0)
    refused = 0
    for _ in range(200):
        damaged, place = bytearray(whole), generator.randrange(len(whole))
        damaged[place] ^= 1 << generator.randrange(8)
        (folder / name).write_bytes(damaged)
        try:
            assert not differences(before, read_checkpoint(folder)), f"bit flipped in byte {place}"
        except CheckpointError:
            refused += 1
    assert refused > 150  # a line break of the JSON may become a space


def test_files_of_two_exports(saved, tmp_path):
    """The files of the same model after another epoch, whose names and sizes fit."""
    first = exported(saved, tmp_path / "first")
    checkpoint = read_checkpoint(saved)
    for value in checkpoint["state_dict"].values():
        value.add_(1e-3)
    second = export(checkpoint, tmp_path / "second")
    (first / TENSORS).write_bytes((second / TENSORS).read_bytes())
    with pytest.raises(
        CheckpointError, match=r"first/model\.safetensors is damaged, or belongs to another model\.json"
    ):
        vaekit.load(first)


def test_an_edited_description(saved, tmp_path):
    folder = exported(saved, tmp_path / "out")
    text = (folder / DESCRIPTION).read_text()
    (folder / DESCRIPTION).write_text(text.replace('"learning_rate": 0.01', '"learning_rate": 0.02'))
    with pytest.raises(CheckpointError, match=r"out/model\.json is damaged or was edited.*export the checkpoint again"):
        vaekit.load(folder)
    (folder / DESCRIPTION).write_text(json.dumps(json.loads(text)))  # another layout says the same
    vaekit.load(folder)


def test_weights_of_another_model(saved, tmp_path):
    folder = exported(saved, tmp_path / "out")
    weights = load_file(folder / TENSORS)
    name = next(name for name in weights if name.endswith("weight"))
    save_file({**weights, name: weights[name][:1].clone()}, folder / TENSORS)
    with pytest.raises(CheckpointError, match="belongs to another"):
        vaekit.load(folder)
    content = read_checkpoint(saved)
    content["state_dict"][name] = content["state_dict"][name][:1].clone()
    with pytest.raises(CheckpointError, match="do not fit"):
        vaekit.load(export(content, tmp_path / "written_so"))
    (folder / TENSORS).unlink()
    with pytest.raises(CheckpointError, match="out"):
        vaekit.load(folder)
