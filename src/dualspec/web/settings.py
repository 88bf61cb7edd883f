"""What the service allows: every limit in one place."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

MAX_CLIPS = 16  # of one job
MAX_SERVED_SCENE_S = 120.0  # longest scene
MAX_SEED = 2**53 - 1  # the largest whole number that every JSON reader keeps
MAX_JSON_BYTES = 64 * 1024
MAX_UPLOAD_BYTES = 20_000_000
MAX_UPLOAD_S = 120.0
MAX_UPLOAD_RATE = 48_000  # Hz; uploads of a higher rate are resampled to it before they are rendered
MIN_TOKEN_CHARS = 16
MAX_WAITING, MAX_WAITING_PER_ADDRESS = 256, 64  # connections whose next head has not come; the oldest makes room
MAX_ACTIVE, MAX_ACTIVE_PER_ADDRESS = 256, 128  # requests at work; one more gets 503


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one service is run; times in seconds."""

    host: str = "127.0.0.1"  # address to listen on
    token: str | None = None  # what clients must send as `Authorization: Bearer …`; None asks for nothing
    allowed_hosts: tuple[str, ...] = ()  # names under which a proxy offers the service
    queue_size: int = 8  # jobs that may wait beside the one that runs
    uploads: int = 4  # uploads that may be at work or wait
    deadline_s: float = 120.0  # longest run of a job
    abandoned_s: float = 60.0  # a job that nobody asks for so long is cancelled
    keep_s: float = 3600.0  # results are deleted after that
    kept_clips: int = 256  # at most; the oldest jobs go first
    body_s: float = 30.0  # time for a body to arrive
    drain_s: float = 30.0  # time for the running job to end after SIGTERM
    linger_s: float = 2.0  # time to fetch its result after that

    def __post_init__(self) -> None:
        """Refuse what would open the service to strangers.

        Raises:
            ValueError: others can reach the address and there is no token, or the token is short.
        """
        if self.token is None and not (self.host == "localhost" or _is_address(self.host, loopback=True)):
            raise ValueError(
                f"token must be given when host is {self.host!r}, which others can reach, got none; "
                "set DUALSPEC_TOKEN, or leave --host out"
            )
        if self.token is not None and (len(self.token) < MIN_TOKEN_CHARS or not self.token.isascii()):
            raise ValueError(
                f"token must be {MIN_TOKEN_CHARS} or more ASCII characters, got another; "
                "python -c 'import secrets; print(secrets.token_urlsafe())' makes one"
            )

    def allows_host(self, header: str) -> bool:
        """Tell whether a Host header ("localhost:8000", "[::1]") is ours: a foreign name can be a rebound DNS entry."""
        name = header.rpartition(":")[0] if ":" in header.rpartition("]")[2] else header
        name = name.strip("[]").lower()
        return name in ("localhost", self.host, *self.allowed_hosts) or _is_address(name)


def _is_address(name: str, *, loopback: bool = False) -> bool:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or not loopback
