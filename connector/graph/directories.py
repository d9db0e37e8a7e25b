"""Which configured tenant reads a directory of Entra.

A directory can be configured by its id and by each of its domains. Only a token states that two tenants are one
directory, whose rows would be published twice.
"""

import re

from connector.config.settings import Tenant

GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Directories:
    """The tenants of one process that read directories.

    A tenant that is configured by the id of its directory comes before one that is configured by a domain. Of several
    domains, the first one that signs in comes first.
    """

    def __init__(self) -> None:
        self._readers: dict[str, Tenant] = {}

    def end(self, tenant: Tenant) -> None:
        """Forget a tenant that is not read any more."""
        self._readers = {one: reader for one, reader in self._readers.items() if reader.key != tenant.key}

    def other_reader(self, directory: str, tenant: Tenant) -> Tenant | None:
        """Return the other tenant that reads a directory, or None after recording that `tenant` reads it."""
        reader = self._readers.get(directory)
        if reader is None or tenant.key == directory:
            reader = self._readers[directory] = tenant
        return None if reader.key == tenant.key else reader
