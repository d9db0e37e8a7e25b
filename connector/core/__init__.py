"""Pure core: decides about windows, rows and ids. It has no clock, I/O, logging or asyncio: time is an argument."""
