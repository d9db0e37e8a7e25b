"""Health of a tenant: whether it fails, and the reason."""

from connector.core.health import Health


def reason(health: Health, now: float) -> str | None:
    failure = health.failing(now)
    return failure and failure.reason


def test_before_the_first_request_a_tenant_is_neither_up_nor_failing() -> None:
    health = Health()
    assert not health.up
    assert reason(health, 1e9) is None


def test_what_the_owner_has_to_repair_fails_at_once_with_a_sentence() -> None:
    health = Health()
    health.rejected("permission", "grant the role", 5.0)
    failure = health.failing(5.0)
    assert failure is not None
    assert (failure.reason, failure.message, failure.since) == ("permission", "grant the role", 5.0)
    assert not health.up


def test_weather_fails_only_after_two_minutes_without_a_success() -> None:
    health = Health()
    health.answered()
    health.failed_transiently("unreachable", "503", 100.0)
    assert not health.up
    assert reason(health, 219.0) is None
    assert reason(health, 220.0) == "unreachable"


def test_weather_becomes_a_failure_also_while_nothing_is_asked() -> None:
    health = Health()
    health.failed_transiently("throttled", "429", 0.0)
    assert reason(health, 121.0) == "throttled"


def test_the_latest_weather_names_the_reason_and_the_first_its_beginning() -> None:
    health = Health()
    health.failed_transiently("throttled", "429", 0.0)
    health.failed_transiently("unreachable", "503", 100.0)
    assert reason(health, 121.0) == "unreachable"


def test_an_answer_ends_every_failure_and_starts_the_patience_anew() -> None:
    health = Health()
    health.rejected("sign_in", "secret", 0.0)
    health.failed_transiently("unreachable", "503", 1.0)
    health.answered()
    assert health.up
    assert reason(health, 1000.0) is None
    health.failed_transiently("unreachable", "503", 1000.0)
    assert reason(health, 1100.0) is None


def test_a_token_alone_makes_a_tenant_up_but_does_not_end_a_failure() -> None:
    health = Health()
    health.rejected("permission", "grant", 0.0)
    health.signed_in()
    assert health.up
    assert reason(health, 1.0) == "permission"


def test_a_rejection_stays_through_short_weather_and_gives_way_to_long() -> None:
    health = Health()
    health.rejected("permission", "grant", 0.0)
    health.failed_transiently("unreachable", "503", 10.0)
    assert reason(health, 20.0) == "permission"
    assert reason(health, 130.0) == "unreachable"


def test_a_repeated_rejection_keeps_its_beginning() -> None:
    health = Health()
    health.rejected("sign_in", "a", 1.0)
    health.rejected("sign_in", "b", 50.0)
    failure = health.failing(60.0)
    assert failure is not None
    assert (failure.since, failure.message) == (1.0, "b")
