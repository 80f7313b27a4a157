"""Files from somebody else: no code of theirs runs, and nothing that they name is imported."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import anndata
import h5py
import numpy as np
import pytest
import torch
import yaml

import vaekit
from vaekit._core import class_paths
from vaekit.cli.config_files import MAX_BYTES
from vaekit.cli.main import main
from vaekit.exceptions import CheckpointError, ConfigError

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/digits_gaussian.yaml"


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module ``evil`` that can be imported, and then leaves a trace: this path."""
    trace = tmp_path / "it_ran"
    (tmp_path / "evil.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Thing: pass\ndef run(*_): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(os, "system", lambda *_: trace.touch())
    return trace


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a model of digits."""
    folder = tmp_path_factory.mktemp("run")
    assert fit(folder) == 0
    return folder / "last.ckpt"


def fit(folder: Path, *arguments: str | Path, config: Path = CONFIG) -> int:
    common = ["fit", "--config", str(config), "--trainer.default_root_dir", str(folder), "--trainer.logger", "false"]
    common += ["--trainer.max_steps", "2", "--trainer.limit_val_batches", "1"]
    return main([*common, *map(str, arguments)])


def configured(tmp_path: Path, key: str, value: object) -> Path:
    """Write the shipped configuration with one key changed."""
    config = yaml.safe_load(CONFIG.read_text())
    *parents, name = key.split(".")
    place = config
    for parent in parents:
        place = place.setdefault(parent, {})
    place[name] = value
    path = tmp_path / "hostile.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


PLACES = ["model", "data", "model.init_args.likelihood", "model.init_args.estimator", "model.init_args.objective",
          "trainer.callbacks", "trainer.logger", "trainer.strategy", "trainer.plugins", "trainer.profiler"]  # fmt: skip


@pytest.mark.parametrize("path", ["os.system", "evil.Thing", "evil.run"])
@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("form", ["mapping", "text"])
def test_a_configuration_names_only_what_is_allowed(tmp_path, evil, capsys, key, path, form) -> None:
    value: object = {"class_path": path, "init_args": {"command": "x"}} if form == "mapping" else path
    value = [value] if key == "trainer.callbacks" else value
    assert fit(tmp_path / "run", config=configured(tmp_path, key, value)) == 2
    message = capsys.readouterr().err
    assert not evil.exists()
    assert "evil" not in sys.modules
    assert not (tmp_path / "run").exists()
    if form == "mapping":
        assert f"class path '{path}' is outside vaekit, torch, pytorch_lightning" in message
        assert f"hostile.yaml: {key}" in message
        assert f"--trust {path.split('.')[0]}" in message


@pytest.mark.parametrize(
    "flags",
    [
        ["--model.likelihood", "evil.Thing"],
        ["--model=evil.Thing"],
        ["--trainer.logger", "evil.Thing"],
        ["--trainer.callbacks+=evil.Thing"],
        ["--trainer.callbacks", "LambdaCallback", "--trainer.callbacks.on_fit_start", "evil.run"],
        ["--config", '{"model": {"class_path": "evil.Thing"}}'],
        ["--model", "inner.yaml"],
    ],
)
def test_nor_does_a_flag_or_a_file_within(tmp_path, evil, capsys, flags) -> None:
    (tmp_path / "inner.yaml").write_text("class_path: evil.Thing\n")
    flags = [str(tmp_path / flag) if flag == "inner.yaml" else flag for flag in flags]
    assert fit(tmp_path / "run", *flags) == 2
    assert "'evil." in capsys.readouterr().err
    assert not evil.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model", {"class_path": "pytorch_lightning.LightningModule.load_from_checkpoint",
                   "init_args": {"checkpoint_path": "bomb.ckpt", "weights_only": False}}),
        ("model", {"class_path": "torch.subprocess.Popen", "init_args": {"args": "x"}}),
        ("model", {"class_path": "torch.hub.load"}),
        ("model", {"class_path": "vaekit.models.vae.torch.hub.load"}),
        ("model", {"class_path": "vaekit._core.components.importlib.import_module"}),
        ("model", {"class_path": "torch._C._jit_pass_lint"}),
        ("data", {"class_path": "vaekit.data.cells.sources.Path"}),
        ("trainer.callbacks", [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": "torch.hub.load"}}]),
        ("trainer.callbacks", [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": "torch.os.system"}}]),
        ("trainer.callbacks", [{"class_path": "vaekit.cli.main.main"}]),
        ("trainer.callbacks", [{"class_path": "vaekit.cli.cells.sys.exit"}]),
        ("model.class_path", ["os.system"]),
    ],
)  # fmt: skip
def test_nothing_but_classes_of_the_right_kind(tmp_path, evil, capsys, monkeypatch, key, value) -> None:
    monkeypatch.setattr(torch.hub, "load", lambda *_: evil.touch())
    assert fit(tmp_path / "run", config=configured(tmp_path, key, value)) == 2
    assert capsys.readouterr().err.startswith(("vaekit fit: error:", "Seed set"))
    assert not evil.exists()
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [x, x, x, x, x, x, x, x, x]\n"
         + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
         "more than 100000 values"),
        ("a: " + "[" * 5000, "hostile.yaml"),
        ("model: !!python/object/apply:os.system [x]", "hostile.yaml is not valid YAML"),
        ("model: {class_path: 2026-99-99}", "hostile.yaml is not valid YAML"),
        ("x" * (MAX_BYTES + 1), "more than 1048576 bytes"),
        ("\xff\xfe\x00", "hostile.yaml"),
        ("", "hostile.yaml is empty"),
        ("- 1", "hostile.yaml contains a list"),
        ("just words", "hostile.yaml contains a str"),
    ],
)  # fmt: skip
def test_configurations_that_are_none(tmp_path, evil, capsys, content, message) -> None:
    (tmp_path / "hostile.yaml").write_text(content, encoding="latin-1")
    assert fit(tmp_path / "run", config=tmp_path / "hostile.yaml") == 2
    assert message in capsys.readouterr().err
    assert not evil.exists()


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


COMMANDS = [["evaluate"], ["embed", "-o", "out.h5ad"], ["sample"], ["validate", "--ckpt_path"], ["traverse"],
            ["gradients", "--ckpt_path"], ["export", "-o", "out"], ["fit", "--config", str(CONFIG), "--ckpt_path"],
            ["de", "-o", "out.csv", "--groupby", "a", "--group1", "b", "--group2", "c"],
            ["denoise", "-o", "out.h5ad"], ["markers", "-o", "out.csv"], ["ppc", "-o", "out.csv"],
            ["transfer", "--query", "x.h5ad", "-o", "out.csv"]]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_no_command_runs_code_of_a_checkpoint(tmp_path, trained, evil, capsys, command, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    bomb, part, model = (tmp_path / f"{name}.ckpt" for name in ("bomb", "part", "model"))
    bomb.write_bytes(pickle.dumps({"hyper_parameters": Bomb(evil)}))
    for path, key in ((model, "_class_path"), (part, "likelihood")):
        checkpoint = torch.load(trained, weights_only=True)
        checkpoint["hyper_parameters"][key] = (
            "evil.Thing" if key == "_class_path" else {"class_path": "evil.Thing", "init_args": {}}
        )
        torch.save(checkpoint, path)
    for path in (bomb, part, model):
        if command[0] == "fit" and path is not bomb:
            continue  # the model is the configuration's; a difference is reported before the run resumes
        assert main([*command, str(path)]) == 2
        assert "evil" in capsys.readouterr().err or path is bomb
        assert not evil.exists()
        assert "evil" not in sys.modules
    assert not list(tmp_path.glob("out*"))


def test_the_data_of_a_checkpoint_are_of_vaekit(tmp_path, trained, evil) -> None:
    checkpoint = torch.load(trained, weights_only=True)
    checkpoint["data_registry"]["config"]["class_path"] = "evil.Thing"
    torch.save(checkpoint, tmp_path / "data.ckpt")
    for command in ("evaluate", "validate --ckpt_path"):
        assert main([*command.split(), str(tmp_path / "data.ckpt")]) == 2
    assert "evil" not in sys.modules


OWN = '''
import torch
from vaekit.latents import Gaussian

class Wide(Gaussian):
    """Gaussian of another package."""
    def __init__(self, dim: int = 3) -> None:
        super().__init__(dim)
'''


def test_a_package_that_is_trusted(tmp_path, monkeypatch, capsys) -> None:
    """Its components train, and load again from their checkpoint, with --trust and not without."""
    (tmp_path / "mypackage").mkdir()
    (tmp_path / "mypackage" / "__init__.py").write_text(OWN)
    monkeypatch.setattr(class_paths, "_trusted", {})
    monkeypatch.syspath_prepend(str(tmp_path))
    model = {
        "class_path": "vaekit.MixedVAE",
        "init_args": {"likelihood": {"class_path": "Bernoulli"}, "latents": {"z": {"class_path": "mypackage.Wide"}}},
    }
    config = configured(tmp_path, "model", model)
    assert fit(tmp_path / "run", config=config) == 2
    assert "pass --trust mypackage" in capsys.readouterr().err
    assert fit(tmp_path / "run", "--trust", "mypackage", config=config) == 0
    path = tmp_path / "run" / "last.ckpt"

    def command(*words: str) -> subprocess.CompletedProcess[str]:  # a process that trusts nothing yet
        return subprocess.run([sys.executable, "-m", "vaekit.cli.main", "evaluate", str(path), "--num_samples", "2",
                               *words], env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True,
                              check=False)  # fmt: skip

    monkeypatch.setattr(class_paths, "_trusted", {})
    with pytest.raises(CheckpointError, match=r"mypackage\.Wide.*--trust mypackage.*trust=\['mypackage'\]"):
        vaekit.load(path)
    assert command("--trust=mypackage").returncode == 0
    loaded = vaekit.load(path, trust=["mypackage"])
    assert type(loaded.latents["z"]).__module__ == "mypackage"


@pytest.mark.parametrize("name", ["", "my package", "a..b", "../a", "a/b"])
def test_only_packages_can_be_trusted(name: str) -> None:
    with pytest.raises(ConfigError, match="is not a package name"):
        class_paths.trust([name])
    assert main(["evaluate", "x.ckpt", "--trust"]) == 2


def test_an_h5ad_with_a_pickled_object(tmp_path, trained, evil, capsys) -> None:
    """It stays bytes: ignored in uns, and rejected as counts."""
    pickled = np.void(pickle.dumps(Bomb(evil)))
    counts = np.random.default_rng(0).poisson(2.0, (30, 12)).astype(np.float32)
    anndata.AnnData(counts).write_h5ad(tmp_path / "cells.h5ad")
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        file["uns"].create_dataset("object", data=pickled)
        file["uns"].create_dataset("pickle", data=np.frombuffer(pickled.tobytes(), dtype=np.uint8))
    data = vaekit.data.GeneExpressionData(path=str(tmp_path / "cells.h5ad"))
    try:
        assert data.num_cells == 30
    except vaekit.VaekitError as error:
        assert "cells.h5ad" in str(error)  # noqa: PT017
    with h5py.File(tmp_path / "cells.h5ad", "r+") as file:
        del file["X"]
        file["X"] = np.full((30, 12), pickled)
    with pytest.raises(vaekit.VaekitError, match=r"cells\.h5ad"):
        _ = vaekit.data.GeneExpressionData(path=str(tmp_path / "cells.h5ad")).num_cells
    assert not evil.exists()


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "/etc/passwd", "digits/../../x"])
def test_a_source_name_is_not_a_path(tmp_path, capsys, name: str) -> None:
    assert fit(tmp_path / "run", "--data.name", name) == 2
    assert f"name={name!r} is unknown" in capsys.readouterr().err


def test_a_latent_name_is_no_path(tmp_path, capsys) -> None:
    latents = {"../../escaped": {"class_path": "Gaussian", "init_args": {"dim": 2}}}
    model = {"class_path": "vaekit.MixedVAE", "init_args": {"likelihood": {"class_path": "Bernoulli"},
                                                           "latents": latents}}  # fmt: skip
    assert fit(tmp_path / "run", config=configured(tmp_path, "model", model)) == 2
    assert "a latent cannot be named '../../escaped'" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*escaped*"))


def test_a_second_configuration_says_what_it_replaces(tmp_path, capsys) -> None:
    (tmp_path / "second.yaml").write_text(
        "model: {init_args: {latents: {y: {class_path: Categorical, init_args: {categories: 4}}}}}\n"
    )
    assert fit(tmp_path / "run", "--config", tmp_path / "second.yaml", config=ROOT / "configs/digits_mixed.yaml") == 0
    message = capsys.readouterr().err
    assert "second.yaml replaces 'y', 'z' in model.latents of" in message
