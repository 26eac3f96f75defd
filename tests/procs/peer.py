"""A process that holds memory for a test: one JSON line in, one out, until its input ends.

Run by tests/procs/peers.py. Commands: {"do": "digest"}, {"do": "counters"}, {"do": "events"},
{"do": "notice"}.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from tent import Engine


def answer(**values: Any) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main() -> None:
    setup = json.loads(sys.stdin.readline())
    key = setup["key"]
    with Engine(
        plan=setup["plan"],
        listen=setup["listen"],
        key=None if key is None else bytes.fromhex(key),
        name="peer",
    ) as engine:
        memory = engine.alloc(setup["size"])
        array = memory.numpy()
        region = engine.register(memory, label="peer")
        answer(address=engine.address, base=region.address)
        for line in sys.stdin:
            command = json.loads(line)
            match command["do"]:
                case "digest":
                    answer(digest=hashlib.sha256(array.data).hexdigest())
                case "counters":
                    row = engine.counters().engine
                    answer(refused=row.refused, charged=row.charged_bytes - row.released_bytes)
                case "events":
                    answer(events=[[int(e.type), e.text] for e in engine.events()])
                case "notice":
                    notice = engine.next_notice(timeout=10)
                    answer(notice=None if notice is None else notice.data.decode())


if __name__ == "__main__":
    main()
