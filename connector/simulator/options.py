"""Options of a simulator. Durations are in seconds, shares are from 0 to 1."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Order = Literal["start", "newest", "id"]
Shape = Literal["flat", "busy-hours"]

CLOUDS = ("global", "us-gov-l4", "us-gov-l5")

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([+-]?)(\d+(?:\.\d+)?)(ms|s|m|h|d)?")

LATENESS = {
    "none": "1:0s-0s",
    "mixed": "0.9:20s-10m,0.09:10m-24h,0.01:24h-6d",
}
DURATIONS = {
    "short": "1:1s-20s",
    "mixed": "0.55:3s-2m,0.38:2m-20m,0.07:20m-3h",
    "long": "1:20m-4h",
}
LATEST_S = 6 * 86400


def duration_s(text: str) -> float:
    """Return the seconds of a text such as "90s" or "-3d". A number without a unit means seconds.

    Raises ValueError for any other text.
    """
    found = _DURATION.fullmatch(text.strip())
    if not found:
        message = f'"{text}" is not a duration: write a number with ms, s, m, h or d, such as "90s" or "-3d"'
        raise ValueError(message)
    sign, number, unit = found.groups()
    return (-1.0 if sign == "-" else 1.0) * float(number) * _UNITS_S[unit or "s"]


@dataclass(frozen=True, slots=True)
class Federation:
    """Federated credential of the application: issuer, subject, and the issuer's public key as PEM."""

    issuer: str
    subject: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class Spread:
    """Random distribution of durations. Each part is (share, shortest, longest) in ms.

    Within a part, shorter durations are more likely than longer ones.
    """

    parts: tuple[tuple[float, int, int], ...]

    @classmethod
    def parse(cls, text: str, names: dict[str, str]) -> "Spread":
        """Parse a distribution. `text` has the form "SHARE:FROM-TO,…", or is a name that `names` maps to that form.

        Raises ValueError with the reason for any other text.
        """
        parts: list[tuple[float, int, int]] = []
        for part in names.get(text, text).split(","):
            share, _, reach = part.strip().partition(":")
            low, _, high = reach.partition("-")
            try:
                parts.append((float(share), int(duration_s(low) * 1000), int(duration_s(high) * 1000)))
            except ValueError:
                known = ", ".join(names)
                message = f'"{text}" is not a distribution: write {known}, or shares such as "0.9:20s-10m,0.1:10m-24h"'
                raise ValueError(message) from None
        if any(share < 0 or low < 0 or high < low for share, low, high in parts) or sum(p[0] for p in parts) <= 0:
            message = (
                f'"{text}" is not a distribution: no share or duration may be negative, and FROM must not exceed TO'
            )
            raise ValueError(message)
        return cls(tuple(parts))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Parameters of the calls, and of the times at which their rows become visible.

    The rows of a tenant on a day depend only on these parameters.
    """

    seed: int = 1
    calls_per_day: int = 10_000
    shape: Shape = "flat"
    lateness: str = "mixed"
    durations: str = "mixed"
    failed: float = 0.12
    revised: float = 0.02
    revised_after: str = "1:1m-24h"
    moved: float = 0.05
    masked: float = 0.5
    unknown: float = 0.0
    unfit: float = 0.0
    startless: float = 0.0
    users: int = 200
    trunks: int = 4

    @property
    def latest_ms(self) -> int | None:
        """Longest time in ms from the start of a call until its last version is visible.

        It is None (no limit) if `lateness` is not a name in LATENESS.
        """
        return LATEST_S * 1000 if self.lateness in LATENESS else None

    def check(self) -> list[str]:
        """Return one sentence per invalid parameter. It begins with the parameter's name."""
        problems = []
        for name, names in (("lateness", LATENESS), ("durations", DURATIONS), ("revised_after", {})):
            try:
                Spread.parse(getattr(self, name), names)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        shares = ("failed", "revised", "moved", "masked", "unknown", "unfit", "startless")
        problems += [f"{s}: write a share from 0 to 1" for s in shares if not 0 <= getattr(self, s) <= 1]
        for name, least in (("calls_per_day", 0), ("users", 1), ("trunks", 1)):
            if getattr(self, name) < least:
                problems.append(f"{name}: write at least {least}")
        if self.shape not in {"flat", "busy-hours"}:
            problems.append("shape: write flat or busy-hours")
        return problems


@dataclass(frozen=True, kw_only=True)
class Options(Recipe):
    """All options of a simulator: the parameters of its rows, and those of its responses."""

    host: str = "127.0.0.1"
    port: int = 0
    ca_out: Path | None = None
    names: tuple[str, ...] = ()
    tenants: int = 1
    days: float = 7.0
    retention_days: float = 150.0
    page_size: int = 1000
    order: Order = "start"
    requests_per_minute: int = 50
    token_lifetime_s: int = 3600
    without_role: int = 0
    cloud: str = ""
    certificates: tuple[bytes, ...] = ()
    federation: Federation | None = None
    imds: bool = False
    clock_offset_s: float = 0.0
    frozen: bool = False
    prebuilt: bool = False
    compress: bool = False
    faults: dict[str, object] = field(default_factory=dict)

    def check(self) -> list[str]:
        """Return one sentence per invalid option. It begins with the option's name."""
        problems = super().check()
        for name, least in (
            ("tenants", 1),
            ("days", 0),
            ("page_size", 1),
            ("requests_per_minute", 0),
            ("token_lifetime_s", 1),
            ("without_role", 0),
        ):
            if getattr(self, name) < least:
                problems.append(f"{name}: write at least {least}")
        if self.cloud and self.cloud not in CLOUDS:
            problems.append(f"cloud: write one of {', '.join(CLOUDS)}")
        if self.order not in {"start", "newest", "id"}:
            problems.append("order: write start, newest or id")
        return problems
