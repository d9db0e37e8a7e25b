"""Options of `connector resume`."""

from connector.commands.options import ConfigOption, TenantOption


def resume(*, tenant: TenantOption, config: ConfigOption = None) -> None:
    r"""Read a paused tenant again.

    The call time that was missed during the pause is read, too.

    \b
    Example:
      connector resume --tenant contoso --config connector.toml
    """
    from connector.commands import orders

    orders.submit(config, tenant, "resume")
