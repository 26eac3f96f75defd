"""What applications hold: engine, regions, segments, batches, plans; sync and asyncio."""
