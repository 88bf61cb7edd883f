"""For the site: the README is its front page, and files outside docs/ that pages link to are part of it."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"(?<=\]\()(?P<path>[^)\s#:]+)(?P<rest>(#[^)\s]*)?\))")


def _address(path: str) -> str:
    """Return where a file of the repository lies in the site."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def _origin(page: File) -> str:
    """Return where a page of the site lies in the repository."""
    return Path(page.abs_src_path or "").relative_to(ROOT).as_posix()


def _linked(origin: str, target: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), target))


def on_files(files: Files, config: Any) -> Files:
    """Add the README and, from page to page, all files outside docs/ that are linked to."""
    waiting, outside = ["README.md", *(_origin(page) for page in files.documentation_pages())], {"README.md"}
    for page in waiting:
        for match in LINK.finditer((ROOT / page).read_text(encoding="utf-8")):
            path = _linked(page, match["path"])
            if (ROOT / path).is_file() and not path.startswith("docs/") and path not in outside:
                outside.add(path)
                waiting += [path] if path.endswith(".md") else []
    for path in sorted(outside):
        source, kept = str(ROOT / path), InclusionLevel.INCLUDED
        files.append(File.generated(config, _address(path), abs_src_path=source, inclusion=kept))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    origin, here = _origin(page.file), posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        return posixpath.relpath(_address(_linked(origin, match["path"])), here or ".") + match["rest"]

    return LINK.sub(moved, markdown)
