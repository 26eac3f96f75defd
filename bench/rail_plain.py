"""One plain TCP connection over a rail: what the kernel buffers where no engine holds it back.

    python rail_plain.py sink ADDRESS                  prints {"port"}, reads until the other ends
    python rail_plain.py pour ADDRESS PORT SOURCE      prints {"pouring"}, sends until stdin ends

A child of rails.py. Leans on the standard library only; must never set a buffer size, for the
kernel's own choice is what is looked at.
"""

from __future__ import annotations

import json
import select
import socket
import sys

PIECE = bytes(1 << 20)
SILENCE_S = 20.0


def sink(address: str) -> None:
    with socket.create_server((address, 0)) as listener:
        listener.settimeout(SILENCE_S)
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        stream, _ = listener.accept()
        into = bytearray(len(PIECE))
        with stream:
            stream.settimeout(SILENCE_S)
            while stream.recv_into(into):
                pass


def pour(address: str, port: int, source: str) -> None:
    with socket.create_connection(
        (address, port), timeout=SILENCE_S, source_address=(source, 0)
    ) as stream:
        print(json.dumps({"pouring": 1}), flush=True)
        while not select.select([sys.stdin], [], [], 0)[0]:
            stream.sendall(PIECE)


def main(words: list[str]) -> int:
    match words:
        case ["sink", address]:
            sink(address)
        case ["pour", address, port, source]:
            pour(address, int(port), source)
        case _:
            raise SystemExit(f"rail_plain: unknown words {words}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
