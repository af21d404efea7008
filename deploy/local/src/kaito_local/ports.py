"""Free TCP ports."""

import socket


def free_ports(count: int, address: str = "127.0.0.1") -> list[int]:
    """Ports that nobody listens on at `address` now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind((address, 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
