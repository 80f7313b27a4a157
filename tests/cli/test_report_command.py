"""``vaekit report``, and the report at the end of ``vaekit fit``: files, messages, and the page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vaekit.cli.main import main
from vaekit.exceptions import OutputError

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# A page of frames at desktop and phone width, which logs their sizes; images without a size are broken.
FRAMES = """<!doctype html><link rel="icon" href="data:,"><body><script>
for (const width of [1280, 390]) {
  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.style = `border:0;width:${width}px;height:2000px`;
  frame.onload = () => {
    const page = frame.contentDocument, style = frame.contentWindow.getComputedStyle(page.body);
    const images = [...page.images];
    for (const fold of page.querySelectorAll("details")) fold.open = true;
    console.log("frame " + JSON.stringify({width, scroll: page.documentElement.scrollWidth, images: images.length,
      broken: images.filter((image) => !image.naturalWidth).length, background: style.backgroundColor,
      title: page.title, scripts: page.scripts.length}));
  };
  frame.src = "/report.html";
}
</script>"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of `vaekit fit` with its report."""
    directory = tmp_path_factory.mktemp("fit") / "my <run>"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vaekit.plotting.embedding_figures.umap_coordinates", lambda points, seed=0: points[:, :2])
        patch.setattr("vaekit.callbacks.FigureWriter.on_fit_end", lambda *_: None)
        values = {"max_epochs": 11, "default_root_dir": directory, "logger": "false", "accelerator": "cpu"}
        flags = [f"--trainer.{name}={value}" for name, value in values.items()]
        flags.append("--trainer.enable_progress_bar=false")
        assert main(["fit", "--config", "digits_mixed", *flags]) == 0
    return directory


def report(*arguments: object) -> int:
    return main(["report", *map(str, arguments)])


def test_fit_writes_a_report(run: Path) -> None:
    text = (run / "report.html").read_text()
    assert "my &lt;run&gt;" in text
    assert "--config digits_mixed" in text
    assert "Neither the data nor the training caused a warning" in text or "Never active" in text
    assert str(run.parent) not in text


def test_a_run_that_is_repeated_keeps_the_earlier_report(run: Path) -> None:
    from vaekit.callbacks.run_archive import RUN_FILES

    assert "report.html" in RUN_FILES


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OutputError("report.html could not be written: no space."), "report.html could not be written: no space"),
        (ValueError("Unknown\nsymbol"), "ValueError: Unknown symbol"),  # of matplotlib
    ],
)
def test_a_report_that_fails_does_not_fail_the_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    from types import SimpleNamespace

    from vaekit.cli.report_command import report_run

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr("vaekit.analysis.report", fail)
    trainer = SimpleNamespace(fast_dev_run=False, loggers=[], callbacks=[], progress_bar_callback=None)
    with pytest.warns(UserWarning, match=f"No report was written: {message}. Try: vaekit report"):
        report_run(trainer, run, None)  # type: ignore[arg-type]


def test_outputs_are_not_lost(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, output = run / "last.ckpt", tmp_path / "report.html"
    output.write_text("mine")
    cases = {
        ("-o", output): "exists. Choose another name, or pass --overwrite",
        ("-o", tmp_path / "report.pdf"): "must end in .html. Name it report.html",
        ("-o", tmp_path / "missing" / "report.html"): "does not exist. Create it first",
        ("-o", tmp_path / "new.html", "--num_samples", 0): "num_samples=0 must be at least 1",
        ("-o", tmp_path / "new.html", "--seed", -1): "seed",
        ("no.npz", "-o", tmp_path / "new.html"): "no.npz",
    }
    for arguments, message in cases.items():
        assert report(checkpoint, *arguments) == 2, arguments
        assert message in capsys.readouterr().err, arguments
    assert output.read_text() == "mine"
    assert report(checkpoint, "-o", output, "--overwrite", "--num_samples", 2) == 0
    assert output.read_text().startswith("<!DOCTYPE html>")
    assert re.search(r"Wrote \S+report.html \(\d+\.\d (k|M)B\)", capsys.readouterr().out)


@pytest.fixture
def address(run: Path, tmp_path: Path) -> Iterator[str]:
    (tmp_path / "frames.html").write_text(FRAMES)
    shutil.copy(run / "report.html", tmp_path / "report.html")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(BROWSER is None, reason="a browser is not installed")
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_in_a_browser(address: str, tmp_path: Path, scheme: str) -> None:
    """No message of the console, no overflow at phone width, whole figures, and the colors of the reader's theme."""
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}",
             "--window-size=1800,2100", "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom",
             f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"]  # fmt: skip
    done = subprocess.run(
        [str(BROWSER), *flags, f"{address}/frames.html"], capture_output=True, text=True, timeout=120, check=True
    )
    messages = re.findall(r'CONSOLE[^"]*"(.*?)", source', done.stderr)
    frames = [json.loads(text.removeprefix("frame ")) for text in messages if text.startswith("frame ")]
    assert len(frames) == len(messages) == 2, messages
    for frame in frames:
        assert frame["scroll"] <= frame["width"], frame
        assert frame["images"] >= 7
        assert frame["broken"] == frame["scripts"] == 0
        assert frame["title"] == "my <run>: vaekit report"
        assert frame["background"] == {"dark": "rgb(20, 23, 29)", "light": "rgb(255, 255, 255)"}[scheme]
