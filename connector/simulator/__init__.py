"""Microsoft Graph's call log and its sign-in, as they behave: the one stand-in that all tests use."""

from connector.simulator.options import Options
from connector.simulator.server import Simulator
from connector.simulator.world import TruthRow

__all__ = ["Options", "Simulator", "TruthRow"]
