"""The same verbs in an event loop: many transfers at a time, and a clean cancel.

Run it: python 06_asyncio.py
"""

import asyncio

import numpy as np

import tent

BLOCK = 64 << 10
BLOCKS = 256


async def main() -> None:
    async with tent.Engine(name="server") as server, tent.Engine(name="client") as client:
        pages = server.alloc(BLOCK * BLOCKS).numpy()
        server.register(pages, label="pages")
        source = np.random.default_rng(0).integers(0, 256, BLOCK * BLOCKS, dtype=np.uint8)
        local = client.register(source)
        segment = await client.open_segment(server.address)

        # Each await ends when its bytes are there; the loop is free meanwhile.
        await asyncio.gather(
            *(
                client.write(segment, local=local[at : at + BLOCK], remote=("pages", at))
                for at in range(0, BLOCK * BLOCKS, BLOCK)
            )
        )
        assert np.array_equal(pages, source)

        # A batch is started first and awaited later.
        starts = np.arange(0, BLOCK * BLOCKS, BLOCK, dtype=np.uint64)
        source[:] = 0
        batch = await client.submit(
            segment, op="read", local=(local, starts), remote=("pages", starts), length=BLOCK
        )
        await batch
        assert np.array_equal(pages, source)

        # When a cancelled task ends, nothing touches its buffers any more: they may be reused at
        # once.
        task = asyncio.create_task(client.write(segment, local=local, remote="pages"))
        await asyncio.sleep(0)
        task.cancel()
        try:
            await task
            print("the transfer was faster than its cancel")
        except asyncio.CancelledError:
            print("cancelled, and quiet")
        source[:] = 1
        print("all well")


asyncio.run(main())
