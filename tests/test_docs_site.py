"""The site that `make docs` builds: no warning, no broken link, nothing from other hosts; and what its clips say."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from dualspec.audio.waveform import read_waveform
from dualspec.files import sha256_of
from dualspec.model_folder import embedded_bundle, load_judge
from dualspec.training.weights_folder import CONFIG_NAME, read_hashes

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"
LOADS = {"script": "src", "img": "src", "audio": "src", "iframe": "src", "source": "src", "link": "href"}
MAX_LISTENING_BYTES = 600_000


class Page(HTMLParser):
    """What one page loads, links to, and can be linked by."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attrs}
        self.anchors |= {of[name] for name in ("id", "name") if name in of}
        if of.get(LOADS.get(tag, "")) and of.get("rel") != "canonical":
            self.loaded.append(of[LOADS[tag]])
        if tag == "a" and "href" in of:
            self.links.append(of["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="the site needs the extra 'docs'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=200)
    assert built.returncode == 0 and not built.stderr, built.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_nothing_comes_from_other_hosts(site: Path, pages: dict[Path, Page]) -> None:
    foreign = {
        (path.name, address) for path, page in pages.items() for address in page.loaded if urlsplit(address).netloc
    }
    assert not foreign
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert "@import" not in styles and "url(http" not in styles and "url(//" not in styles


def test_every_link_within_the_site_holds(pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc or path.name == "404.html":
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            wrong = target in pages and parts.fragment and unquote(parts.fragment) not in pages[target].anchors
            if not target.is_file() or wrong:
                broken.append((path.name, address))
    assert not broken


def test_the_front_page_is_the_readme_and_cards_are_pages(site: Path, pages: dict[Path, Page]) -> None:
    assert any(link.startswith("training.html") for link in pages[site / "index.html"].links)
    card = site / "src" / "dualspec" / "bundles" / "default" / "index.html"
    assert card in pages and (site / "clips" / "01-rain-90.ogg").is_file()
    assert "from_pretrained" in (site / "api.html").read_text(encoding="utf-8")
    assert not list(site.rglob("*.py"))


def test_the_menu_names_every_page_of_ours() -> None:
    """Without the site's tools, too: a page that is not in the menu, or a name without a page, is noticed."""

    def names(menu: Any) -> list[str]:
        if isinstance(menu, str):
            return [menu]
        return [name for entry in (menu.values() if isinstance(menu, dict) else menu) for name in names(entry)]

    menu = names(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    assert {path.name for path in DOCS.glob("*.md")} <= set(menu)
    for name in menu:
        assert any((root / name).is_file() for root in (DOCS, REPOSITORY)) or name == "index.md", name


def test_the_listening_examples_are_the_embedded_models() -> None:
    document = json.loads((DOCS / "clips" / "clips.json").read_text(encoding="utf-8"))
    for part, files in document["model"]["sha256"].items():
        folder = embedded_bundle() / part
        own = {CONFIG_NAME: sha256_of(folder / CONFIG_NAME), **read_hashes(folder)}
        assert files == own, "run: python docs/clips/make.py"
    assert len({clip["asked_deg"] for clip in document["clips"]}) == len(document["clips"]) == 12
    assert sum(path.stat().st_size for path in (DOCS / "clips").glob("*.*g")) < MAX_LISTENING_BYTES
    specification = importlib.util.spec_from_file_location("make", DOCS / "clips" / "make.py")
    assert specification is not None and specification.loader is not None
    make = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(make)
    assert [clip["prompt"] for clip in document["clips"]] == make.PROMPTS
    assert make.table_of(document["clips"]) in (DOCS / "clips.md").read_text(encoding="utf-8")


def test_the_listening_examples_are_heard_as_their_records_say() -> None:
    document = json.loads((DOCS / "clips" / "clips.json").read_text(encoding="utf-8"))
    judge = load_judge()
    for clip in document["clips"]:
        heard = judge.hear(*read_waveform(DOCS / "clips" / f"{clip['file']}.ogg"), clip["asked_deg"])
        assert heard["heard_deg"] == clip["ogg"]["heard_deg"]
        assert heard["itd_us"] == pytest.approx(clip["itd_us"], abs=25), "the codec keeps the time difference"
        assert heard["ild_db"] == pytest.approx(clip["ild_db"], abs=0.3)
