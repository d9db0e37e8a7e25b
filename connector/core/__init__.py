"""Pure core: it decides about windows, rows and ids.

It has no clock, I/O, logging or asyncio. The caller passes the time.
"""
