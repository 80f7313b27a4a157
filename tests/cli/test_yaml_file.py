"""YAML that is read as configuration: no key is repeated, and messages quote no secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vaekit.cli.config_files import MAX_BYTES, load_yaml, read_config
from vaekit.cli.main import main
from vaekit.exceptions import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        ("trainer:\n  max_epochs: 3\nmodel: {}\ntrainer:\n  max_epochs: 2\n", 4, "trainer"),
        ("model:\n  init_args:\n    latent_dim: 2\n    latent_dim: 3\n", 4, "latent_dim"),
        ("a: 1\n'a': 2\n", 2, "a"),
        ('"a": 1\n? a\n: 2\n', 2, "a"),
        ("x: {a: 1, b: {c: 1, c: 2}}\n", 1, "c"),
        ("x:\n- {a: 1}\n- a: 1\n  b: 2\n  a: 3\n", 5, "a"),
        ('{"a": 1, "a": 2}', 1, "a"),
        ("base: &b {a: 1, a: 2}\nx: {<<: *b}\n", 1, "a"),
        ("trainer.max_epochs: 3\ntrainer:\n  max_epochs: 2\n", 1, "trainer.max_epochs"),
        ("parameters:\n  model.estimator: {value: A}\n  seed: {value: 1}\n  model.estimator: {value: B}\n", 4,
         "model.estimator"),
    ],
)  # fmt: skip
def test_a_repeated_key(tmp_path: Path, text: str, line: int, key: str) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"a\.yaml, line {line} repeats .*'{key}'"):
        read_config(str(path))


@pytest.mark.parametrize(
    "text",
    [
        "base: &b {a: 1}\nx: {<<: *b, a: 2}\ny: {<<: *b, a: 3}\n",
        "x: {a: 1}\ny: {a: 1}\nz: [{a: 1}, {a: 2}]\n",
        "a: &x {b: 1}\nc: *x\nd: *x\n",
        "trainer.max_epochs: 3\ntrainer.max_steps: 2\n",
        *(path.read_text() for path in sorted(CONFIGS.glob("*.yaml"))),
    ],
)
def test_no_repeated_key(text: str) -> None:
    load_yaml(text, "a.yaml")


@pytest.mark.parametrize("form", ["--model", "a flag", "--config"])
def test_in_files_and_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    text = '{"class_path": "GaussianVAE", "init_args": {"latent_dim": 2, "latent_dim": 3}}'
    (tmp_path / "inner.yaml").write_text(text)
    flag = {"--model": ["--model", str(tmp_path / "inner.yaml")], "a flag": ["--model", text],
            "--config": ["--config", '{"model": ' + text + "}"]}[form]  # fmt: skip
    assert main(["fit", "--config", str(CONFIGS / "digits_gaussian.yaml"), *flag]) == 2
    assert "repeats the key 'latent_dim'" in capsys.readouterr().err


SECRET = "hunter2"


@pytest.mark.parametrize(
    "content",
    [
        f"machine api.wandb.ai login user password {SECRET}\n",
        f"password: {SECRET}: x\n",
        f"*{SECRET}\n",
        f"!{SECRET} x\n",
        f'"\\{SECRET}"\n',
        f"[{SECRET}\n",
        f"%{SECRET}\n---\n",
        f"- {SECRET}\n",
        f"{SECRET}\x00",
        f"{SECRET}\t: @{SECRET}",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n",
    ],
)
def test_a_file_that_is_not_yaml_is_not_quoted(tmp_path: Path, capsys, content: str) -> None:
    (tmp_path / "id_rsa").write_text(content)
    assert main(["fit", "--config", str(tmp_path / "id_rsa")]) == 2
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert "id_rsa" in message
    assert SECRET not in message


@pytest.mark.parametrize("kind", ["pipe", "directory", "device", "large", "binary", "missing"])
def test_paths_that_are_not_files_of_text(tmp_path: Path, capsys, kind: str) -> None:
    path = tmp_path / "x.yaml"
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case "device":
            path = Path("/dev/zero")
        case "large":
            with path.open("wb") as file:
                file.truncate(MAX_BYTES * 1024)
        case "binary":
            path.write_bytes(bytes(range(256)))
    assert main(["fit", "--config", str(path)]) == 2
    (message,) = capsys.readouterr().err.strip().splitlines()
    assert str(path) in message
