"""Functions and types on which the guarantee depends: scheduling, coverage, deduplication, rows and budget.

They have no clock, I/O, logging or asyncio. The caller passes the time.
"""
