"""A configuration of somebody else sets no destination of credentials or files; the user's own flags do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning.loggers import WandbLogger

from vaekit._core import class_paths
from vaekit.cli.fit import VaekitCLI
from vaekit.cli.foreign import check_wandb_files
from vaekit.cli.main import main
from vaekit.exceptions import ConfigError

CONFIG = Path(__file__).parents[2] / "configs/digits_gaussian.yaml"
HOST = "http://127.0.0.1:1"


@pytest.fixture(autouse=True)
def nothing_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stop before any object is created: the settings have been checked by then."""

    def accepted(cli: VaekitCLI) -> None:
        raise SystemExit("accepted")

    monkeypatch.setattr(VaekitCLI, "instantiate_classes", accepted)
    monkeypatch.setattr(class_paths, "_trusted", {})
    monkeypatch.chdir(tmp_path)


def fit(*arguments: str) -> Any:
    try:
        return main(["fit", "--config", str(CONFIG), "--trainer.default_root_dir", "run", *arguments])
    except SystemExit as stop:
        return stop.code


def wandb(**settings: Any) -> dict[str, Any]:
    return {"logger": {"class_path": "pytorch_lightning.loggers.WandbLogger", **settings}}


def of(kind: str, name: str, /, **arguments: Any) -> dict[str, Any]:
    made = {"class_path": f"pytorch_lightning.{kind}.{name}", "init_args": arguments}
    return {"loggers": {"logger": made}, "callbacks": {"callbacks": [made]}, "profilers": {"profiler": made},
            "strategies": {"strategy": made}}[kind]  # fmt: skip


REFUSED = [
    (wandb(dict_kwargs={"settings": {"base_url": HOST}}), "settings.base_url"),
    (wandb(init_args={"project": "x"}, dict_kwargs={"settings": {"api_key": "0" * 40}}), "settings.api_key"),
    (wandb(dict_kwargs={"settings": {"x_extra_http_headers": {"a": "b"}}}), "settings"),
    (wandb(dict_kwargs={"host": HOST}), "host"),
    (wandb(init_args={"save_dir": "/tmp/elsewhere"}), "save_dir"),
    ({"logger": [{"class_path": "CSVLogger", "init_args": {"save_dir": "run"}},
                 *wandb(dict_kwargs={"settings": {"base_url": HOST}}).values()]}, "settings.base_url"),
    (of("loggers", "CometLogger", api_key="x"), "CometLogger"),
    (of("loggers", "MLFlowLogger", tracking_uri=HOST), "MLFlowLogger"),
    (of("loggers", "CSVLogger", save_dir="/tmp/elsewhere"), "save_dir"),
    (of("loggers", "CSVLogger", save_dir="run/../elsewhere"), "save_dir"),
    (of("loggers", "CSVLogger", save_dir="s3://bucket/run"), "save_dir"),
    (of("loggers", "CSVLogger", save_dir="run", name="../../elsewhere"), "name"),
    (of("loggers", "CSVLogger", save_dir="run", version="/tmp/elsewhere"), "version"),
    (of("loggers", "TensorBoardLogger", save_dir="run", sub_dir="../../elsewhere"), "sub_dir"),
    (of("callbacks", "ModelCheckpoint", dirpath="/tmp/elsewhere"), "dirpath"),
    (of("callbacks", "ModelCheckpoint", filename="../../elsewhere"), "filename"),
    (of("callbacks", "OnExceptionCheckpoint", dirpath="elsewhere"), "dirpath"),
    ({"callbacks": [{"class_path": "vaekit.callbacks.RunCheckpoint", "init_args": {"dirpath": "~/x"}}]}, "dirpath"),
    ({"callbacks": [{"class_path": "vaekit.callbacks.FigureWriter", "init_args": {"dirpath": ".."}}]}, "dirpath"),
    (of("profilers", "SimpleProfiler", dirpath="/tmp/elsewhere"), "dirpath"),
    (of("profilers", "AdvancedProfiler", dirpath="elsewhere", dump_stats=True), "dirpath"),
    (of("strategies", "DeepSpeedStrategy", config="/etc/passwd"), "DeepSpeedStrategy"),
    ({"model_registry": "stranger/model"}, "model_registry"),
]  # fmt: skip


def name_of(case: Any) -> str | None:
    return case if isinstance(case, str) else None


@pytest.mark.parametrize(("trainer", "key"), REFUSED, ids=name_of)
def test_a_configuration_may_not_choose_a_destination(tmp_path, capsys, trainer, key) -> None:
    path = tmp_path / "strange.yaml"
    path.write_text(yaml.safe_dump({"trainer": trainer}))
    assert fit("--config", str(path)) == 2
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert key in message
    assert "--trust pytorch_lightning" in message
    assert HOST not in message
    assert "0" * 40 not in message


def test_a_configuration_that_is_trusted(tmp_path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(yaml.safe_dump({"trainer": wandb(dict_kwargs={"settings": {"base_url": HOST}})}))
    assert fit("--config", str(path), "--trust", "pytorch_lightning") == "accepted"


@pytest.mark.parametrize("form", ["inline", "file in a flag", "file in a configuration"])
def test_by_whatever_way(tmp_path, capsys, form) -> None:
    logger = wandb(dict_kwargs={"settings": {"base_url": HOST}})["logger"]
    (tmp_path / "logger.yaml").write_text(yaml.safe_dump(logger))
    (tmp_path / "outer.yaml").write_text(yaml.safe_dump({"trainer": {"logger": "logger.yaml"}}))
    arguments = {
        "inline": ["--config", json.dumps({"trainer": {"logger": logger}})],
        "file in a flag": ["--trainer.logger", "logger.yaml"],
        "file in a configuration": ["--config", "outer.yaml"],
    }[form]
    assert fit(*arguments) == 2
    assert capsys.readouterr().err.startswith("vaekit fit: error: ")


def test_what_is_harmless(tmp_path) -> None:
    settings = [
        wandb(init_args={"project": "x", "name": "a/b", "offline": True, "entity": "us", "notes": "n"},
              dict_kwargs={"tags": ["a"], "group": "g", "resume": "allow"}),
        of("loggers", "CSVLogger", save_dir="run/logs"),
        of("loggers", "CSVLogger", save_dir=str(tmp_path / "run")),
        of("callbacks", "ModelCheckpoint", monitor="val/elbo", dirpath="run/more", filename="{epoch}-{val/elbo:.2f}"),
        of("callbacks", "EarlyStopping", monitor="val/elbo"),
        of("strategies", "DDPStrategy", find_unused_parameters=True, process_group_backend="gloo"),
        {"strategy": "ddp", "profiler": "simple", "logger": False},
        {"profiler": {"class_path": "PyTorchProfiler", "init_args": {"filename": "x"}}},
    ]  # fmt: skip
    for number, trainer in enumerate(settings):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump({"trainer": trainer}))
        assert fit("--config", str(path)) == "accepted", trainer


@pytest.mark.parametrize(
    "flags",
    [
        ["--trainer.logger", "WandbLogger", "--trainer.logger.settings.base_url", HOST],
        ["--trainer.logger=WandbLogger", f"--trainer.logger.dict_kwargs.settings.base_url={HOST}"],
        ["--trainer.logger", json.dumps(wandb(dict_kwargs={"settings": {"base_url": HOST, "quiet": True}})["logger"])],
        ["--trainer.logger", "WandbLogger", "--trainer.logger.entity", "us"],
        ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "/tmp/logs"],
        ["--trainer.logger", "MLFlowLogger", "--trainer.logger.tracking_uri", HOST],
        ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.dirpath=/tmp/mine"],
        ["--trainer.callbacks", '[{"class_path": "ModelCheckpoint", "init_args": {"dirpath": "/tmp/mine"}}]'],
    ],
)  # fmt: skip
def test_flags_are_the_users_own(flags: list[str]) -> None:
    assert fit(*flags) == "accepted"


def test_a_flag_excuses_itself_alone(tmp_path, capsys) -> None:
    """Another setting of the same logger, or another value of the same setting, is still the configuration's."""
    path = tmp_path / "strange.yaml"
    path.write_text(yaml.safe_dump({"trainer": wandb(dict_kwargs={"settings": {"base_url": HOST}})}))
    assert fit("--config", str(path), "--trainer.logger.settings.init_timeout", "10") == 2
    assert fit("--trainer.logger", "WandbLogger", "--trainer.logger.settings.base_url", "http://ours", "--config",
               str(path)) == 2  # fmt: skip
    assert "base_url" in capsys.readouterr().err


FILE = "[default]\nentity = us\nproject = x\nbase_url = {}\n"


@pytest.mark.parametrize(
    "content", [FILE.format(HOST), "[default]\napi_key = 0\n", "[other]\nBASE_URL: x\n", "base_url"]
)
@pytest.mark.parametrize("name", ["wandb", ".wandb"])
def test_a_working_directory_sets_no_server(tmp_path, monkeypatch, name, content) -> None:
    """W&B reads ``wandb/settings`` there: of a directory from somebody else, with the key of the user."""
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "mine"))
    (tmp_path / name).mkdir()
    (tmp_path / name / "settings").write_text(content)
    with pytest.raises(ConfigError, match="--trust pytorch_lightning"):
        check_wandb_files([WandbLogger()])
    check_wandb_files([WandbLogger(offline=True)])
    monkeypatch.setattr(class_paths, "_trusted", {"pytorch_lightning": None})
    check_wandb_files([WandbLogger()])


def test_a_server_of_the_user(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "mine"))
    for name in ("wandb", "mine"):
        (tmp_path / name).mkdir()
    settings = tmp_path / "wandb/settings"
    settings.write_text(FILE.format("https://api.wandb.ai"))
    check_wandb_files([WandbLogger()])
    settings.write_text(FILE.format(HOST))
    (tmp_path / "mine/settings").write_text(FILE.format(HOST + "/"))
    check_wandb_files([WandbLogger()])
    (tmp_path / "mine/settings").unlink()
    monkeypatch.setenv("WANDB_BASE_URL", "https://ours")  # which takes precedence
    check_wandb_files([WandbLogger()])
