"""Directories of Microsoft Entra, and which configured tenant reads each of them.

A directory can be configured by its id and by each of its domains. Only an access token shows that two configured
tenants are the same directory. If both were read, the rows of the directory would be published twice.
"""

import re

from connector.config.settings import Tenant

GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Directories:
    """Record of which tenant of this process reads which directory. Only one tenant may read a directory.

    A tenant that is configured by the id of the directory takes precedence over one that is configured by a domain.
    Between two domains, the tenant that signs in first takes precedence.
    """

    def __init__(self) -> None:
        self._readers: dict[str, Tenant] = {}

    def end(self, tenant: Tenant) -> None:
        """Record that a tenant is not read any more, so that another tenant may read its directory."""
        self._readers = {one: reader for one, reader in self._readers.items() if reader.key != tenant.key}

    def other_reader(self, directory: str, tenant: Tenant) -> Tenant | None:
        """Return the tenant that already reads the directory, if it is another one than `tenant`.

        Otherwise record that `tenant` reads the directory, and return None.
        """
        reader = self._readers.get(directory)
        if reader is None or tenant.key == directory:
            reader = self._readers[directory] = tenant
        return None if reader.key == tenant.key else reader
