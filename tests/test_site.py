"""The built documentation (``make docs``): links, public names, and six pages in a browser, with screenshots."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

import vaekit

ROOT = Path(__file__).parents[1]
SITE = ROOT / "docs" / "_build" / "html"
SCREENSHOTS = ROOT / "docs" / "_build" / "screenshots"
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PAGES = (
    "index",
    "tutorials/01_first_model",
    "guide/estimators",
    "guide/commands",
    "api/generated/vaekit.estimators.DisARM",
    "benchmarks/cells",
)
pytestmark = pytest.mark.skipif(not (SITE / "index.html").exists(), reason="make docs builds the site")

# A page of frames: desktop and phone width, light and dark. Its log is the result.
FRAMES = """<!doctype html><link rel="icon" href="data:,"><body style="margin:0;display:flex"><script>
for (const [width, theme] of [[1280, "light"], [1280, "dark"], [390, "light"], [390, "dark"]]) {
  const frame = document.body.appendChild(document.createElement("iframe"));
  frame.style = `flex:none;border:0;width:${width}px;height:1600px`;
  frame.onload = () => {
    const page = frame.contentDocument;
    page.documentElement.dataset.mode = page.documentElement.dataset.theme = theme;
    console.log("frame " + JSON.stringify({width, theme, scroll: page.documentElement.scrollWidth, title: page.title,
      background: frame.contentWindow.getComputedStyle(page.body).backgroundColor}));
  };
  frame.src = "/PAGE.html";
}
</script>"""


class Page(HTMLParser):
    """Targets of links, external addresses and identifiers of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.identifiers: set[str] = set()
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.identifiers.update(filter(None, (values.get("id"), values.get("name"))))
        target = values.get("href") or values.get("src")
        if target and tag in ("a", "img", "link", "script", "source"):
            self.targets.append(target)
            if tag != "a" and values.get("rel") != "canonical":
                self.loaded.append(target)


@pytest.fixture(scope="module")
def pages() -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in sorted(SITE.rglob("*.html")) if "_static" not in path.parts}


def test_internal_links_and_anchors(pages: dict[Path, Page]) -> None:
    missing = []
    for path, page in pages.items():
        for target in page.targets:
            link = urlsplit(target)
            if link.scheme or link.netloc or target.startswith("data:"):
                continue
            file = (path.parent / unquote(link.path)).resolve() if link.path else path
            other = pages.get(file)
            anchored = not link.fragment or other is None or unquote(link.fragment) in other.identifiers
            if not file.exists() or not anchored:
                missing.append(f"{path.relative_to(SITE)}: {target}")
    assert not missing, "\n".join(missing)


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    elsewhere = {target for page in pages.values() for target in page.loaded if urlsplit(target).netloc}
    assert not elsewhere


def test_every_public_name_has_an_entry(pages: dict[Path, Page]) -> None:
    entries = set().union(*(page.identifiers for page in pages.values()))
    names = {f"vaekit.{name}" for name in vaekit.__all__ if name != "__version__"}
    for package in (name for name in vaekit.__all__ if hasattr(getattr(vaekit, name), "__all__")):
        for name in getattr(vaekit, package).__all__:
            top = getattr(vaekit, name, None) is getattr(getattr(vaekit, package), name)
            names.add(f"vaekit.{name}" if top else f"vaekit.{package}.{name}")
    missing = {name for name in names if name not in entries and f"module-{name}" not in entries}
    assert missing <= {"vaekit.graph"}, missing  # its functions are those of vaekit and vaekit.returns


@pytest.fixture(scope="module")
def missing_files() -> list[str]:
    """Addresses that a page asked for in vain; the console does not show them."""
    return []


@pytest.fixture(scope="module")
def address(missing_files: list[str]) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/frames/")
            if name == self.path:
                return super().do_GET()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(FRAMES.replace("PAGE", name).encode())
            return None

        def send_error(self, *args: Any, **options: Any) -> None:
            missing_files.append(self.path)
            super().send_error(*args, **options)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
@pytest.mark.parametrize("page", PAGES)
def test_page_in_a_browser(page: str, address: str, missing_files: list[str], tmp_path: Path) -> None:
    SCREENSHOTS.mkdir(exist_ok=True)
    screenshot = SCREENSHOTS / f"{page.replace('/', '_')}.png"
    screenshot.unlink(missing_ok=True)
    missing_files.clear()
    done = subprocess.run(
        [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
         f"--user-data-dir={tmp_path}", "--enable-logging=stderr", "--virtual-time-budget=20000",
         "--window-size=3340,1600", f"--screenshot={screenshot}", f"{address}/frames/{page}"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    messages = re.findall(r'CONSOLE[^\]]*\] "(.*)", source: ', done.stderr)
    frames = [json.loads(text.removeprefix("frame ")) for text in messages if text.startswith("frame {")]
    assert [text for text in messages if not text.startswith(("frame {", "[PST]:"))] == []  # PST: the theme's log
    assert missing_files == []
    assert {(frame["width"], frame["theme"]) for frame in frames} == {
        (width, theme) for width in (1280, 390) for theme in ("light", "dark")
    }
    assert all(frame["title"].endswith("vaekit") for frame in frames)
    assert all(frame["scroll"] <= frame["width"] for frame in frames), frames  # no sideways scrolling
    assert len({frame["background"] for frame in frames}) == 2  # dark mode
    assert screenshot.stat().st_size > 50_000
