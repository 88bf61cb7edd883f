"""`dualspec serve`: the page and the HTTP service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dualspec.cli.door import refuse, usage


def serve(
    host: Annotated[str, typer.Option(help="Address; one that others can reach needs a token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token: Annotated[
        str | None, typer.Option(envvar="DUALSPEC_TOKEN", help="What clients must send; better by the environment.")
    ] = None,
    allow_host: Annotated[list[str] | None, typer.Option(help="Name that a proxy gives us; repeatable.")] = None,
    model: Annotated[Path | None, typer.Option(help="Model folder.  [default: the embedded model]")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.  [default: the GPU, if any]")] = None,
    batch_size: Annotated[
        int, typer.Option(min=1, max=16, help="Clips denoised at once; with 1 the seed alone makes the sound.")
    ] = 1,
    sofa: Annotated[list[Path] | None, typer.Option(help="Head (SOFA) for uploaded recordings; repeatable.")] = None,
    queue: Annotated[int, typer.Option(min=1, max=1000, help="Jobs that may wait beside the one that runs.")] = 8,
    deadline: Annotated[float, typer.Option(min=1, help="Longest run of a job, seconds.")] = 120.0,
    keep: Annotated[float, typer.Option(min=0.1, help="How long results are kept, minutes.")] = 60.0,
) -> None:
    """Open the page for playing, and the HTTP service behind it.

    Everything stays on this machine. SIGTERM lets the running job finish; Ctrl-C does not.
    """
    try:
        from dualspec.web.serving import listen_on, run, work_folder
    except ModuleNotFoundError as error:
        refuse(f"serve must have the extra 'web', got no {error.name}; pip install '.[web]' in the clone")
    import asyncio
    import signal

    from dualspec.model_folder import embedded_bundle
    from dualspec.training.processes import check_device
    from dualspec.web.settings import Settings

    with usage():
        device, names = check_device(device), tuple(name.lower() for name in allow_host or ())
        sizes = {"queue_size": queue, "deadline_s": deadline, "keep_s": 60 * keep}
        settings = Settings(host=host, token=token or None, allowed_hosts=names, **sizes)  # type: ignore[arg-type]
    with listen_on(settings, port) as (listener, url), work_folder() as folder:
        from dualspec.web.app import create_app
        from dualspec.web.studio import Studio

        studio = Studio(model or embedded_bundle(), device=device, batch_size=batch_size, sofas=sofa or ())
        app = create_app(studio, settings, folder)
        ended_by = asyncio.run(run(app, listener, settings, lambda: print(f"{url}  (Ctrl-C stops)", flush=True)))
    if ended_by is signal.SIGINT:
        raise KeyboardInterrupt
