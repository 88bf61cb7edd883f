"""Run every comparison in its short form and print the promises as ratios of one run: `make bench`.

python benchmarks/run.py [--write docs/performance.md] [NAME ...]

Each comparison is a process of its own: what one leaves in the memory would burden the next. With --write, the tables
between the marks of that file are replaced.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from pathlib import Path

from compare import machine

NAMES = ("engines", "solver", "signals", "judging", "service")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME", help=f"{', '.join(NAMES)}; all by default")
    parser.add_argument("--write", type=Path, help="file whose tables are replaced")
    options = parser.parse_args()
    for name in options.names:
        facts = f"`python benchmarks/run.py {name}` on {machine()}, {time.strftime('%Y-%m-%d')}"
        words = [sys.executable, str(Path(__file__).with_name(f"{name}.py"))]
        table = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        text = f"{table}\n\n{facts}."
        print(f"\n## {name}\n\n{text}", flush=True)
        if options.write is not None:
            write(options.write, name, text)


def write(path: Path, name: str, text: str) -> None:
    """Put a table between its marks."""
    marks = re.compile(rf"(<!-- bench: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    document, count = marks.subn(lambda found: f"{found[1]}{text}\n{found[2]}", path.read_text(encoding="utf-8"))
    if count != 1:
        raise SystemExit(f"{path} must have the marks of {name!r} once, got {count}")
    path.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main()
