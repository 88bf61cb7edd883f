"""What verbs show while they work: progress bars on a terminal, tables."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager


@contextmanager
def progress_bar(
    title: str, total: float, *, as_share: bool = False, hidden: bool = False
) -> Iterator[Callable[[float], None]]:
    """Show a bar on stderr, if that is a terminal.

    Args:
        title: stands before the bar.
        total: where it ends.
        as_share: show per cent in place of a count.
        hidden: show nothing in any case.

    Yields:
        A function that puts the bar to a value.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        "{task.description}",
        BarColumn(),
        TaskProgressColumn() if as_share else MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = hidden or not console.is_terminal
    with Progress(
        *columns, console=console, disable=hidden, transient=True, redirect_stdout=sys.stdout.isatty()
    ) as progress:
        task = progress.add_task(title, total=total)
        yield lambda value: progress.update(task, completed=value)


def progress(title: str, total: int, steps: Iterator[int]) -> int:
    """Show a bar while an iterator tells how much is done, and return the last that it told."""
    done = 0
    with progress_bar(title, total) as show:
        for done in steps:
            show(done)
    return done


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str | None = None) -> None:
    """Print a table to stdout; the last columns are numbers where every cell of theirs is one."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for index, name in enumerate(columns):
        is_number = bool(rows) and all(row[index].replace(".", "").replace(" M", "").isdigit() for row in rows)
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:  # a file or a pipe has no width that a line could pass
        console = Console(markup=False, highlight=False, width=10_000)
    console.print(table)
