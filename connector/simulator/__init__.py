"""Simulator of Microsoft Graph's call log and of its sign-in. Tests use it in place of the real services."""

from typing import TYPE_CHECKING

from connector.simulator.options import Options

if TYPE_CHECKING:
    from connector.simulator.http_server import Simulator
    from connector.simulator.world import TruthRow

__all__ = ["Options", "Simulator", "TruthRow"]


def __getattr__(name: str) -> object:
    # aiohttp and numpy take longer to import than `connector simulate --help` should.
    if name == "Simulator":
        from connector.simulator.http_server import Simulator  # noqa: PLC0415

        return Simulator
    if name == "TruthRow":
        from connector.simulator.world import TruthRow  # noqa: PLC0415

        return TruthRow
    raise AttributeError(name)
