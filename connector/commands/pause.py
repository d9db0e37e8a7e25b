"""Options of `connector pause`."""

from connector.commands.options import ConfigOption, TenantOption


def pause(*, tenant: TenantOption, config: ConfigOption = None) -> None:
    r"""Stop reading a tenant until it is resumed. The pause survives restarts. Other tenants are not affected.

    \b
    Example:
      connector pause --tenant contoso --config connector.toml
    """
    from connector.commands import orders

    orders.submit(config, tenant, "pause")
