"""Health of a tenant: whether it fails, and the reason."""

from connector.graph.health import Health


def reason(health: Health, now: float) -> str | None:
    failure = health.failing(now)
    return failure and failure.reason


def test_new_tenant_is_neither_up_nor_failing() -> None:
    health = Health()
    assert not health.up
    assert reason(health, 1e9) is None


def test_permanent_error_fails_the_tenant_at_once() -> None:
    health = Health()
    health.rejected("permission", "grant the role", 5.0)
    failure = health.failing(5.0)
    assert failure is not None
    assert (failure.reason, failure.message, failure.since) == ("permission", "grant the role", 5.0)
    assert not health.up


def test_transient_errors_fail_the_tenant_after_two_minutes() -> None:
    health = Health()
    health.answered()
    health.failed_transiently("unreachable", "503", 100.0)
    assert not health.up
    assert reason(health, 219.0) is None
    assert reason(health, 220.0) == "unreachable"


def test_transient_error_fails_an_idle_tenant_after_two_minutes() -> None:
    health = Health()
    health.failed_transiently("throttled", "429", 0.0)
    assert reason(health, 121.0) == "throttled"


def test_tenant_failure_has_the_reason_of_the_latest_error() -> None:
    health = Health()
    health.failed_transiently("throttled", "429", 0.0)
    health.failed_transiently("unreachable", "503", 100.0)
    assert reason(health, 121.0) == "unreachable"


def test_successful_response_ends_every_failure() -> None:
    health = Health()
    health.rejected("sign_in", "secret", 0.0)
    health.failed_transiently("unreachable", "503", 1.0)
    health.answered()
    assert health.up
    assert reason(health, 1000.0) is None
    health.failed_transiently("unreachable", "503", 1000.0)
    assert reason(health, 1100.0) is None


def test_new_token_alone_does_not_end_the_failure_of_a_tenant() -> None:
    health = Health()
    health.rejected("permission", "grant", 0.0)
    health.signed_in()
    assert health.up
    assert reason(health, 1.0) == "permission"


def test_short_outage_does_not_hide_a_permanent_error() -> None:
    health = Health()
    health.rejected("permission", "grant", 0.0)
    health.failed_transiently("unreachable", "503", 10.0)
    assert reason(health, 20.0) == "permission"
    assert reason(health, 130.0) == "unreachable"


def test_repeated_permanent_error_keeps_the_start_of_the_failure() -> None:
    health = Health()
    health.rejected("sign_in", "a", 1.0)
    health.rejected("sign_in", "b", 50.0)
    failure = health.failing(60.0)
    assert failure is not None
    assert (failure.since, failure.message) == (1.0, "b")
