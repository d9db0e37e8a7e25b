"""Requests to the simulator without the connector."""

from datetime import UTC, datetime

import aiohttp

from benchmarks.rig import Rig


async def token(session: aiohttp.ClientSession, rig: Rig, tenant: str) -> str:
    """Return an access token."""
    form = {
        "client_id": rig.client_id,
        "client_secret": rig.client_secret,
        "grant_type": "client_credentials",
        "scope": "https://graph.microsoft.com/.default",
    }
    async with session.post(f"{rig.url}/{tenant}/oauth2/v2.0/token", data=form) as answer:
        return str((await answer.json())["access_token"])


def headers(access_token: str) -> dict[str, str]:
    """Return the headers of each request."""
    return {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}


def window_url(rig: Rig) -> str:
    """Return the first link of the page chain that holds every row of a tenant."""
    since, until = (
        datetime.fromisoformat(instant).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for instant in (rig.since, rig.until)
    )
    call = f"getDirectRoutingCalls(fromDateTime={since},toDateTime={until})"
    return f"{rig.url}/v1.0/communications/callRecords/{call}"
