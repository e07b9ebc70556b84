"""Where a server listens, and what others call that place."""

from __future__ import annotations

import socket

from twistlm.errors import BadInput


def bound(host: str, port: int) -> socket.socket:
    """Return a socket that is bound; 0 is any port that is free.

    Raises:
        BadInput: the address cannot be had.
    """
    try:
        listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen()  # else another server can bind it too, and the later of both fails
    except (OSError, OverflowError) as error:
        raise BadInput(
            f"{host} port {port} cannot be had: {error}. Another server may run there: give --port, 0 "
            "for any that is free."
        ) from error
    return listening


def reachable(host: str) -> str:
    """Return how a URL names `host`; for all addresses of this machine, its name."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
