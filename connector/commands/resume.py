"""Options of `connector resume`."""

from connector.commands.options import ConfigOption, TenantOption


def resume(*, tenant: TenantOption, config: ConfigOption = None) -> None:
    r"""Read a paused tenant again.

    Call time that was not read during the pause is read afterwards.

    \b
    Example:
      connector resume --tenant contoso --config connector.toml
    """
    from connector.commands import orders

    orders.submit(config, tenant, "resume")
