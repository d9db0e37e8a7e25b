"""Simulator, broker, service and consumer on one machine, with invented calls."""
