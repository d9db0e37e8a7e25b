"""Faults of the simulator. Whether a fault happens is decided at random, with a fixed seed."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches

STRIKES = {
    "throttled": "429, with Retry-After as `retry_after` says",
    "server_error": "500, 502, 503, 504 or 509 (or only `status`) with HTML",
    "cut": "the body ends before its Content-Length, or the connection is dropped",
    "garbage": "200 with bytes that are no JSON, no UTF-8, or HTML",
    "not_a_page": "200 with valid JSON that is no page",
    "slow": "the answer comes after `slow_s`",
    "hang": "no answer ever",
    "unauthorized": "401 although the token is good",
    "forbidden": "403 with an empty message",
    "bad_request": "400",
    "not_found": "404",
    "too_long": "406",
    "unservable": "`unservable_status` for every range that holds an instant of `unservable_at`",
    "upper_link": "the link is spelled @odata.NextLink",
    "empty_page": "an empty page with a link to the page that should have come",
    "self_link": "the page's link is its own address",
    "foreign_link": "the page's link leads to `foreign_url`",
    "endless": "from this page on empty pages, each with a link of its own, for ever",
    "redirect": "302, 307 or 308 to `foreign_url`",
    "repeat": "the next page begins again with this page's last `repeat_rows` rows, whenever the chain is read",
    "repeat_once": "the same, but only the first time that this seam is read",
    "sign_in_error": "the sign-in answers 500, 502 or 503 with HTML",
    "sign_in_throttled": "the sign-in answers 429, with Retry-After as `retry_after` says",
    "sign_in_slow": "the sign-in answers after `slow_s`",
    "sign_in_hang": "the sign-in never answers",
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
    "date_skew_s": 0.0,
}
SETTINGS_HELP = {
    "down": "connections to Graph are closed without an answer",
    "sign_in_down": "connections to the sign-in are closed without an answer",
    "retry_after": "seconds, date, none or mixed",
    "retry_after_s": "how long Retry-After asks to wait",
    "status": "the one status of server_error; 0: any",
    "error_retry_after": "server_error too carries Retry-After",
    "slow_s": "how long slow answers take",
    "repeat_rows": "how many rows repeat at a seam",
    "foreign_url": "where foreign_link and redirect lead",
    "unservable_at": "instants that unservable concerns, separated by commas, such as 2026-03-01T10:00:00Z",
    "unservable_status": "the status that unservable answers with",
    "date_skew_s": "how far the Date header is off",
}
_RETRY_AFTER = ("seconds", "date", "none", "mixed")


@dataclass(slots=True)
class Strike:
    """Probability of a fault, and how often it can still happen. None means any number of times."""

    share: float
    times: int | None = None


def _strike(name: str, value: object) -> Strike:
    share: object = value
    times: object = None
    if isinstance(value, Mapping):
        share, times = value.get("share", 1.0), value.get("times")
        if set(value) - {"share", "times"}:
            message = f"{name}: a fault has no other members than share and times"
            raise ValueError(message)
    elif isinstance(value, str):
        text, cross, count = value.partition("x")
        try:
            share, times = float(text), int(count) if cross else None
        except ValueError:
            share = None
    if not isinstance(share, int | float) or not 0 <= share <= 1 or not (times is None or isinstance(times, int)):
        message = f'{name}: give a share from 0 to 1, such as 0.05, or with how many times at most, "1x3"'
        raise ValueError(message)
    return Strike(float(share), times)


def instants(text: str) -> list[datetime]:
    """Return the times in a text that separates them by commas. Raise ValueError if one of them is invalid."""
    found = [datetime.fromisoformat(part.strip()) for part in text.split(",") if part.strip()]
    if any(instant.tzinfo is None for instant in found):
        message = "unservable_at: give instants with their offset from UTC, such as 2026-03-01T10:00:00Z"
        raise ValueError(message)
    return found


def _setting(name: str, value: object) -> object:
    default = SETTINGS[name]
    if isinstance(default, bool):
        if isinstance(value, bool):
            return value
        if str(value).lower() in {"true", "false", "1", "0"}:
            return str(value).lower() in {"true", "1"}
        message = f"{name}: give true or false"
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
        message = f"{name}: give a number"
        raise ValueError(message) from None
    return int(number) if isinstance(default, int) else number


class Faults:
    """Faults and settings, for all tenants and for single tenants.

    A fault is given as a share, as {"share", "times"} or as "SHARExTIMES". A setting is given as its value.
    """

    def __init__(self, seed: int, changes: Mapping[str, object] | None = None) -> None:
        self.random = random.Random(seed)  # noqa: S311
        self._strikes: dict[str | None, dict[str, Strike]] = {None: {}}
        self._settings: dict[str | None, dict[str, object]] = {None: {}}
        self.struck: dict[str, int] = {}
        self.set(changes or {})

    def set(self, changes: Mapping[str, object], tenant: str | None = None) -> None:
        """Change the named faults and settings, for all tenants or only for `tenant`. The others stay as they are.

        Raise ValueError if a value is invalid. Nothing is changed in that case.
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
        """Decide whether a fault happens now. If it does, count it and return True."""
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
        """Return all faults and settings in the form in which they are given.

        Those of single tenants are in the member "tenants".
        """
        parts: dict[str | None, dict[str, object]] = {}
        for tenant in {*self._strikes, *self._settings}:
            strikes = self._strikes.get(tenant, {})
            parts[tenant] = {
                **{n: {"share": s.share, "times": s.times} for n, s in strikes.items()},
                **self._settings.get(tenant, {}),
            }
        return {**parts.pop(None, {}), "tenants": parts, "struck": self.struck}
