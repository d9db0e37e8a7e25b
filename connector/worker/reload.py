"""Configuration of a running worker. SIGHUP makes the worker read it again."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

from connector import log
from connector.config import Settings
from connector.errors import ConfigurationError, ConnectorError

_logger = log.get(__name__)

Follow = Callable[[Settings], Awaitable[None]]
"""Function that prepares the topics and schemas that new settings need, before the worker uses these settings.

It raises BrokersUnavailableError, RegistryUnavailableError or FatalError.
"""


class Configuration:
    """Settings that a worker currently uses, with the operation that reloads them."""

    def __init__(self, settings: Settings, read: Callable[[], Settings] | None, follow: Follow) -> None:
        """Start with `settings`.

        `read` reads the configuration again. If it is None, the settings are never reloaded. Before new settings are
        used, `follow` prepares the topics and schemas that they need.
        """
        self.settings = settings
        self._read = read
        self._follow = follow
        self._reloading = asyncio.Lock()
        self._reloads: set[asyncio.Task[None]] = set()

    def reload_soon(self) -> asyncio.Task[None]:
        """Start a task that reloads the configuration, and return it."""
        task = asyncio.get_running_loop().create_task(self.reload(), name="reload")
        self._reloads.add(task)
        task.add_done_callback(self._reloads.discard)
        return task

    async def reload(self) -> None:
        """Read the configuration again, and use its tenants and secrets from now on.

        If the new configuration cannot be used, log its problems and keep the current settings.
        """
        if self._read is None:
            return
        async with self._reloading:
            try:
                await self._take_over(await asyncio.to_thread(self._read))
            except ConfigurationError as error:
                _logger.error("configuration_reload_failed", problems="; ".join(error.problems))  # noqa: TRY400 - not a bug
            except ConnectorError as error:
                _logger.error("configuration_reload_failed", problems=str(error))  # noqa: TRY400 - not a bug
            except Exception as error:
                _logger.exception("configuration_reload_failed", problems=repr(error))

    async def _take_over(self, read: Settings) -> None:
        """Replace the current tenants and secrets by those of the new settings `read`.

        If the new settings cannot be used, an error is raised, and the current settings stay in use.
        """
        self._check(read)
        settings = dataclasses.replace(self.settings, tenants=read.tenants)
        await self._follow(settings)
        self.settings = settings
        mine, newest = settings.rows.pseudonym_key, read.rows.pseudonym_key
        if mine is not None and newest is not None:
            mine.become(newest)
        _logger.info("configuration_reloaded", tenants=len(settings.tenants))

    def _check(self, read: Settings) -> None:
        """Raise ConfigurationError if a running worker cannot use the new settings `read`.

        The result depends only on the settings, so that either all workers accept them or none does.
        """
        mine, wanted = self.settings.kafka.topic, read.kafka.topic
        if not read.tenants:
            raise ConfigurationError(
                ["tenants: no tenant is configured any more; configure at least one, or stop the worker"]
            )
        if wanted != mine:
            problem = f"kafka.topic: is {wanted}, but was {mine} when the worker started"
            raise ConfigurationError([f"{problem}; a running worker cannot change it: set it back to {mine}"])
