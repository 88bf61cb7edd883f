"""Every `dualspec` command on a page: there is such a verb, it has these options, and a recipe takes these settings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import typer

from dualspec.cli import app
from dualspec.cli.training import resolve_recipe

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [
    REPOSITORY / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "src" / "dualspec" / "bundles").rglob("README.md")),
]
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words after `dualspec` of every command in a fenced block or in back quotes, variables put in."""
    text = page.read_text(encoding="utf-8")
    fenced = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
    blocks = [block for language, block in fenced.findall(text) if language in ("", "sh")]
    inline = re.findall(r"`(dualspec [a-z]+ [^`]+)`", fenced.sub("", text))
    values: dict[str, str] = {}
    for line in [*(line for block in blocks for line in joined(block)), *inline]:
        if each := re.match(r"\s*for (\w+) in (\S+)", line):
            values[each[1]] = each[2]
        elif named := re.match(r'\s*(\w+)="([^"]*)"', line):
            values[named[1]] = named[2]
        line = re.sub(r"\$(\w+)", lambda name: values.get(name[1], name[0]), line)
        for part in re.split(r";\s*(?=dualspec)", line):
            if found := re.search(r"(?:^|-m )\s*dualspec ([a-z]+ .*)", part):
                yield shlex.split(found[1], comments=True)


def joined(block: str) -> list[str]:
    """Return the lines of a block, those that a backslash or an open quote continues as one."""
    lines = block.replace("\\\n", " ").splitlines()
    whole: list[str] = []
    for line in lines:
        if whole and whole[-1].partition("#")[0].count("'") % 2 and whole[-1].lstrip().startswith("dualspec"):
            whole[-1] += " " + line
        else:
            whole.append(line)
    return whole


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_commands_name_what_exists(page: Path) -> None:
    wrong = []
    for verb, *words in commands(page):
        if verb not in VERBS:
            wrong.append(f"no verb {verb!r}")
            continue
        options = {name for parameter in VERBS[verb].params for name in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        wrong += [f"{verb} has no {name}" for name in sorted(used - options - {"--help"})]
        settings = [value for option, value in pairwise(words) if option == "--set"]
        if verb in ("train", "show") and words and re.fullmatch(r"[a-z-]+/[a-z_]+", words[0]):
            try:
                resolve_recipe(words[0], [value for value in settings if not value.endswith(("=N", "=…"))])
            except ValueError as error:
                wrong.append(f"{verb} {words[0]}: {error}")
    assert not wrong


def test_enough_is_read() -> None:
    found = [command for page in PAGES for command in commands(page)]
    assert len(found) > 100 and {verb for verb, *_ in found} >= set(VERBS) - {"baseline", "cascade"}
