"""The pure core: decides about windows, rows and ids; no clock, no I/O, no logging, no asyncio. Time comes in."""
