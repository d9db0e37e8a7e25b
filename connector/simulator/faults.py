"""Faults of the simulator. Whether a fault happens is decided at random, with a fixed seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches

STRIKES = {
    "throttled": "status 429, with a Retry-After header as `retry_after` sets it",
    "server_error": "status 500, 502, 503, 504 or 509 (or only `status`) with HTML",
    "cut": "the body ends before its Content-Length, or the connection is dropped",
    "garbage": "status 200 with a body that is not JSON, not UTF-8, or HTML",
    "not_a_page": "status 200 with valid JSON that is not a page",
    "slow": "the response comes after `slow_s` seconds",
    "hang": "a response never comes",
    "unauthorized": "status 401 although the token is valid",
    "forbidden": "status 403 with an empty message",
    "bad_request": "status 400",
    "not_found": "status 404",
    "too_long": "status 406",
    "unservable": "status `unservable_status` for every range that contains a time of `unservable_at`",
    "upper_link": "the link is spelled @odata.NextLink",
    "empty_page": "an empty page with a link to the page that was requested",
    "self_link": "the page's link is its own address",
    "foreign_link": "the page's link leads to `foreign_url`",
    "endless": "from this page on, the chain has only empty pages and never ends",
    "redirect": "status 302, 307 or 308 to `foreign_url`",
    "repeat": "the next page begins with the last `repeat_rows` rows of this page, each time the chain is read",
    "repeat_once": "like repeat, but only the first time that the two pages are read",
    "sign_in_error": "the sign-in responds with status 500, 502 or 503 and HTML",
    "sign_in_throttled": "the sign-in responds with status 429, with a Retry-After header as `retry_after` sets it",
    "sign_in_slow": "the sign-in responds after `slow_s` seconds",
    "sign_in_hang": "the sign-in never responds",
}
SETTINGS: dict[str, object] = {
    "down": False,
    "sign_in_down": False,
    "retry_after": "seconds",
    "retry_after_s": 2.0,
    "status": 0,
    "error_retry_after": False,
    "slow_s": 2.0,
    "repeat_rows": 5,
    "foreign_url": "https://graph.invalid",
    "unservable_at": "",
    "unservable_status": 500,
    "withdrawn": "",
    "date_skew_s": 0.0,
}
SETTINGS_HELP = {
    "down": "connections to Graph are closed without a response",
    "sign_in_down": "connections to the sign-in are closed without a response",
    "retry_after": "form of Retry-After: seconds, date, none (no header) or mixed",
    "retry_after_s": "seconds that Retry-After asks to wait",
    "status": "status of server_error, 0 means any",
    "error_retry_after": "server_error also has a Retry-After header",
    "slow_s": "seconds that slow responses take",
    "repeat_rows": "number of rows that are repeated on the next page",
    "foreign_url": "URL to which foreign_link and redirect lead",
    "unservable_at": "times for unservable, separated by commas, such as 2026-03-01T10:00:00Z",
    "unservable_status": "status of unservable",
    "withdrawn": "ids of rows that Graph does not return any more, separated by commas",
    "date_skew_s": "error of the Date header in seconds",
}
_RETRY_AFTER = ("seconds", "date", "none", "mixed")


@dataclass(slots=True)
class Strike:
    """Probability of a fault. `times` is how often the fault can still happen, or None if there is no limit."""

    share: float
    times: int | None = None


def _strike(name: str, value: object) -> Strike:
    share: object = value
    times: object = None
    if isinstance(value, Mapping):
        share, times = value.get("share", 1.0), value.get("times")
        if set(value) - {"share", "times"}:
            message = f"{name}: a fault can have only the members share and times"
            raise ValueError(message)
    elif isinstance(value, str):
        text, cross, count = value.partition("x")
        try:
            share, times = float(text), int(count) if cross else None
        except ValueError:
            share = None
    if not isinstance(share, int | float) or not 0 <= share <= 1 or not (times is None or isinstance(times, int)):
        message = f'{name}: write a share from 0 to 1, such as 0.05, or SHARExTIMES, such as "1x3" for at most 3 times'
        raise ValueError(message)
    return Strike(float(share), times)


def instants(text: str) -> list[datetime]:
    """Parse a list of times that are separated by commas. Raises ValueError if one of them is invalid."""
    found = [datetime.fromisoformat(part.strip()) for part in text.split(",") if part.strip()]
    if any(instant.tzinfo is None for instant in found):
        message = "unservable_at: write times with their offset from UTC, such as 2026-03-01T10:00:00Z"
        raise ValueError(message)
    return found


def _setting(name: str, value: object) -> object:
    default = SETTINGS[name]
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        if str(value).lower() in {"true", "false", "1", "0"}:
            return str(value).lower() in {"true", "1"}
        message = f"{name}: write true or false"
        raise ValueError(message)
    if isinstance(default, str):
        if not isinstance(value, str) or (name == "retry_after" and value not in _RETRY_AFTER):
            message = f"{name}: {SETTINGS_HELP[name]}"
            raise ValueError(message)
        if name == "unservable_at":
            instants(value)
        return value
    try:
        number = float(str(value))
    except ValueError:
        message = f"{name}: write a number"
        raise ValueError(message) from None
    return int(number) if isinstance(default, int) else number


class Faults:
    """Faults of the simulator, and settings of how it answers. Each applies to all tenants or to one tenant.

    The value of a fault is the share of requests that it affects, for example 0.05. The value {"share": 1, "times": 3},
    or "1x3" for short, limits the fault to three requests.
    """

    def __init__(self, seed: int, changes: Mapping[str, object] | None = None) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self._strikes: dict[str | None, dict[str, Strike]] = {None: {}}
        self._settings: dict[str | None, dict[str, object]] = {None: {}}
        self.struck: dict[str, int] = {}
        self.set(changes or {})

    def set(self, changes: Mapping[str, object], tenant: str | None = None) -> None:
        """Change the faults and settings in `changes`, for all tenants or only for `tenant`. Keep all others unchanged.

        Raises ValueError if a value is invalid. Nothing is changed in that case.
        """
        strikes: dict[str, Strike] = {}
        settings: dict[str, object] = {}
        for name, value in changes.items():
            if name in STRIKES:
                strikes[name] = _strike(name, value)
            elif name in SETTINGS:
                settings[name] = _setting(name, value)
            else:
                near = get_close_matches(name, [*STRIKES, *SETTINGS], 1)
                message = f'there is no fault "{name}"' + (f', did you mean "{near[0]}"?' if near else "")
                raise ValueError(message)
        self._strikes.setdefault(tenant, {}).update(strikes)
        self._settings.setdefault(tenant, {}).update(settings)

    def clear(self) -> None:
        """Turn off all faults and settings of all tenants."""
        self._strikes = {None: {}}
        self._settings = {None: {}}

    def strikes(self, name: str, tenant: str | None) -> bool:
        """Decide at random whether a fault happens now, and return the decision. Count the fault if it happens."""
        strike = self._strikes.get(tenant, {}).get(name) or self._strikes[None].get(name)
        if strike is None or not strike.share or strike.times == 0:
            return False
        if strike.share < 1 and self.random.random() >= strike.share:
            return False
        if strike.times is not None:
            strike.times -= 1
        self.struck[name] = self.struck.get(name, 0) + 1
        return True

    def setting(self, name: str, tenant: str | None) -> object:
        """Return the value of a setting for a tenant."""
        for settings in (self._settings.get(tenant, {}), self._settings[None], SETTINGS):
            if name in settings:
                return settings[name]
        raise KeyError(name)

    def number(self, name: str, tenant: str | None) -> float:
        """Return the value of a numeric setting for a tenant."""
        return float(str(self.setting(name, tenant)))

    def described(self) -> dict[str, object]:
        """Return all faults and settings in the form that `set` accepts.

        Faults and settings of single tenants are in the member "tenants".
        """
        parts: dict[str | None, dict[str, object]] = {}
        for tenant in {*self._strikes, *self._settings}:
            strikes = self._strikes.get(tenant, {})
            parts[tenant] = {
                **{n: {"share": s.share, "times": s.times} for n, s in strikes.items()},
                **self._settings.get(tenant, {}),
            }
        return {**parts.pop(None, {}), "tenants": parts, "struck": self.struck}
