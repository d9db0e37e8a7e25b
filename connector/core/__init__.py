"""Core of the connector, on which its exactly-once guarantee depends.

It decides what to read (scheduling, coverage), which rows are published (deduplication, rows), and how many requests
are sent (budget). Its modules have no I/O, logging or asyncio, and no clock: the caller passes the current time.
"""
