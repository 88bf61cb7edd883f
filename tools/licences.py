"""Print the licence of every distribution that dualspec and its extras need, as a Markdown page.

`make licences` writes it to docs/licences.md. What is listed is what stands installed, followed from
dualspec's own requirements; the words are those of the packages' own metadata.
"""

import re
import sys
import tomllib
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads(Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = ("", *PROJECT["optional-dependencies"])


def plain_name(text: str) -> str:
    """Return the normal form of the name that a requirement is about."""
    return re.sub(r"[-_.]+", "-", Requirement(text).name).lower()


def licence(found: Distribution) -> str:
    """Return the licence that a distribution states: the SPDX expression, else the classifiers, else its free text."""
    meta = found.metadata
    if expression := meta.get("License-Expression"):
        return expression
    named = [line.rpartition(" :: ")[2] for line in meta.get_all("Classifier") or () if line.startswith("License ::")]
    text = (meta.get("License") or "").strip().partition("\n")[0]
    return "; ".join(name for name in named if name != "OSI Approved") or text[:80] or "not stated"


def needed(extra: str) -> dict[str, Distribution]:
    """Return every installed distribution that dualspec with this extra needs, by name, and nothing else."""
    found: dict[str, Distribution] = {}
    first = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get(extra, ())]
    waiting = [(text, "") for text in first]
    seen: set[tuple[str, str]] = set()
    while waiting:
        text, for_extra = waiting.pop()
        requirement, name = Requirement(text), plain_name(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": for_extra}):
            continue
        try:
            found[name] = distribution(name)
        except PackageNotFoundError:  # of another platform, or of a build of torch that is not installed here
            continue
        for one in {"", *requirement.extras} - {own for other, own in seen if other == name}:
            seen.add((name, one))
            waiting += [(inner, one) for inner in found[name].requires or ()]
    return found


def page() -> str:
    """Return the page: one table for the core and one for what each extra adds."""
    lines = [
        "# Licences of what dualspec needs",
        "",
        "Made by `make licences` from the metadata of the packages that stand installed (Linux, Python "
        f"{sys.version_info.major}.{sys.version_info.minor},",
        "CPU build of torch; a CUDA build brings NVIDIA's own, which are not listed); not to be edited by hand.",
        "dualspec itself is Apache-2.0; the licences of embedded weights and of recordings stand in",
        "`docs/model_card.md` and `docs/dataset_card.md`.",
    ]
    core = needed("")
    for extra in EXTRAS:
        packages = core if not extra else {name: own for name, own in needed(extra).items() if name not in core}
        lines += [
            "",
            f"## {f'Added by `[{extra}]`' if extra else 'Core'}",
            "",
            "| package | version | licence |",
            "|---|---|---|",
        ]
        rows = sorted(packages.items())
        lines += [f"| {name} | {found.version} | {licence(found).replace('|', '/')} |" for name, found in rows]
    declared = [
        *PROJECT["dependencies"],
        *(text for texts in PROJECT["optional-dependencies"].values() for text in texts),
    ]
    absent = sorted({plain_name(text) for text in declared} - {name for extra in EXTRAS for name in needed(extra)})
    if absent:
        lines += ["", f"Not installed where this page was made, and so not read: {', '.join(absent)}."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
