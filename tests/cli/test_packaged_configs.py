"""Packaged configurations by name: a list, a copy, and ``--config NAME``."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from vaekit._core.config_store import packaged_configs
from vaekit.cli.main import main
from vaekit.cli.packaged_configs import first_sentence, resolve_config
from vaekit.exceptions import ConfigError

FOLDER = Path(__file__).parents[2] / "configs"
NAMES = sorted(path.stem for path in FOLDER.glob("*.yaml"))


def test_the_list_has_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES == list(packaged_configs())
    assert max(map(len, lines)) <= 140
    line = next(line for line in lines if line.startswith("pbmc_gaussian "))
    assert line.split(maxsplit=1)[1].startswith("A Gaussian vector on 700 blood cells")


def test_each_begins_with_a_sentence(tmp_path: Path) -> None:
    sentences = [first_sentence(path) for path in packaged_configs().values()]
    assert all(10 < len(sentence) < 120 for sentence in sentences)
    (tmp_path / "a.yaml").write_text("# One thing, in\n# two lines: more\nseed_everything: 0\n# later\n")
    assert first_sentence(tmp_path / "a.yaml") == "One thing, in two lines"


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_is_exact(name: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["configs", name]) == 0
    assert capfdbinary.readouterr().out == (FOLDER / f"{name}.yaml").read_bytes()


def fit(*arguments: str) -> int:
    return main(["fit", *arguments, "--trainer.fast_dev_run=true", "--trainer.logger=false",
                 "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"])  # fmt: skip


def test_fit_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert fit("--config", "digits_gaussian") == 0
    assert fit("--config=digits_gaussian", "-c", "{data: {init_args: {batch_size: 100}}}") == 0
    capsys.readouterr()
    Path("digits_gaussian").write_text("model: vaekit.Nothing\n")  # a local file takes precedence
    assert fit("-c", "digits_gaussian") == 2
    assert "Nothing" in capsys.readouterr().err
    Path("pbmc_mixed").mkdir()  # and a directory does not
    assert resolve_config("pbmc_mixed") == str(packaged_configs()["pbmc_mixed"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pbmc_mixd", ["configuration 'pbmc_mixd' not found", "Did you mean 'pbmc_mixed'?", "pbmc_topics, pbmc_tree"]),
        ("zzz", ["configuration 'zzz' not found", "Available: 'cluster_ddp', 'digits_discrete'"]),
        ("configs/pbmc_mixed.yaml", ["configs/pbmc_mixed.yaml does not exist. Pass --config pbmc_mixed for"]),
        ("pbmc_mixed.yaml", ["Pass --config pbmc_mixed for"]),
        ("mine.yaml", ["mine.yaml cannot be read: No such file"]),
        ("../pbmc_mixed", ["../pbmc_mixed cannot be read"]),
    ],
)
def test_unknown_names(text: str, words: list[str], tmp_path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert fit("--config", text) == 2
    message = capsys.readouterr().err
    assert all(word in message for word in words)
    if "/" not in text and "." not in text:
        assert main(["configs", text]) == 2
        assert words[0] in capsys.readouterr().err


def test_text_is_not_a_name() -> None:
    assert resolve_config("{seed_everything: 1}") == "{seed_everything: 1}"
    assert resolve_config("seed_everything: 1\n") == "seed_everything: 1\n"
    with pytest.raises(ConfigError, match="not found"):
        resolve_config("seed_everything")


def test_the_sweep_names_a_packaged_configuration() -> None:
    sweep = yaml.safe_load(packaged_configs()["sweep_estimators"].read_text())
    command = sweep["command"]
    assert command[command.index("--config") + 1] in packaged_configs()
