"""Asking the simulator without the connector."""

from datetime import UTC, datetime

import aiohttp

from benchmarks.rig import Rig


async def token(session: aiohttp.ClientSession, rig: Rig, tenant: str) -> str:
    """An access token."""
    form = {
        "client_id": rig.client_id,
        "client_secret": rig.client_secret,
        "grant_type": "client_credentials",
        "scope": "https://graph.microsoft.com/.default",
    }
    async with session.post(f"{rig.url}/{tenant}/oauth2/v2.0/token", data=form) as answer:
        return str((await answer.json())["access_token"])


def headers(access_token: str) -> dict[str, str]:
    """What each request carries."""
    return {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}


def window_url(rig: Rig) -> str:
    """The first link of the chain that holds every row of a tenant, by the tenant's token."""
    since, until = (
        datetime.fromisoformat(instant).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        for instant in (rig.since, rig.until)
    )
    call = f"getDirectRoutingCalls(fromDateTime={since},toDateTime={until})"
    return f"{rig.url}/v1.0/communications/callRecords/{call}"
