"""Requests to the simulated Graph for benchmarks that do not use the connector."""

from datetime import UTC, datetime

import aiohttp

from benchmarks.rig import Rig


async def token(session: aiohttp.ClientSession, rig: Rig, tenant: str) -> str:
    """Request an access token for a tenant, and return it."""
    form = {
        "client_id": rig.client_id,
        "client_secret": rig.client_secret,
        "grant_type": "client_credentials",
        "scope": "https://graph.microsoft.com/.default",
    }
    async with session.post(f"{rig.url}/{tenant}/oauth2/v2.0/token", data=form) as answer:
        return str((await answer.json())["access_token"])


def headers(access_token: str) -> dict[str, str]:
    """Return the headers that every request to Graph needs."""
    return {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}


def window_url(rig: Rig) -> str:
    """Return the URL of the first page of a page chain that contains all rows of a tenant."""
    since, until = (
        datetime.fromisoformat(instant).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for instant in (rig.since, rig.until)
    )
    call = f"getDirectRoutingCalls(fromDateTime={since},toDateTime={until})"
    return f"{rig.url}/v1.0/communications/callRecords/{call}"
