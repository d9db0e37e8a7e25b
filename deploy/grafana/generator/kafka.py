"""Dashboard *Kafka*: transactions, shards and restores of the workers."""

from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.generator.panels import (
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    Query,
    Row,
    board,
    figure,
    lines,
    of_worker,
    quantiles,
)
from deploy.grafana.generator.shared import NONE_IS_GOOD, brokers, commit_delay, missing_workers, shards_without_owner


def dashboard() -> Dashboard:
    """Return the dashboard of transactions, shards and restores."""
    return board(
        "kafka",
        "Kafka",
        "Transactions, shards and restores of the selected workers. docs/runbook.md explains what to do.",
        [_glance(), _transactions(), _shards(), _processes()],
        tenants=False,
    )


def _glance() -> Row:
    return Row(
        "Now",
        [
            figure(
                "Workers",
                "The number of workers that Prometheus scrapes.",
                "none",
                Query(f"count({of_worker('build_info')})", "workers"),
                steps=((None, RED), (1, GREEN)),
            ),
            figure(
                "Versions",
                "The versions that run. If there are several for long, finish the upgrade.",
                "none",
                Query(f"count(count by (version) ({of_worker('build_info')}))", "versions"),
                steps=((None, GREEN), (2, YELLOW)),
            ),
            figure(
                "Workers without brokers",
                "Workers whose last transaction or metadata request failed.",
                "none",
                Query(f"sum(1 - {of_worker('kafka_up')})", "workers"),
                steps=NONE_IS_GOOD,
            ),
            shards_without_owner(),
            missing_workers(),
            figure(
                "Aborted in an hour",
                "Transactions that were aborted or whose outcome is unknown. A few at each rebalance are normal.",
                "short",
                Query(f"sum(increase({of_worker('transactions_total', outcome='aborted')}[1h]))", "aborted"),
                steps=((None, GREEN), (10, ORANGE)),
            ),
            figure(
                "Longest restore",
                "The longest of the shards' last restores. After a crash of a worker, its tenants are not read for"
                " this long.",
                "s",
                Query(f"max({of_worker('restore_duration_seconds')})", "restore"),
                steps=((None, GREEN), (60, ORANGE)),
            ),
        ],
    )


def _transactions() -> Row:
    every = of_worker("transactions_total")
    aborted = of_worker("transactions_total", outcome="aborted")
    return Row(
        "Transactions",
        [
            lines(
                "Transactions per minute, by outcome",
                "A shard commits at once if it has rows, otherwise every five seconds.",
                "short",
                [Query(f"sum by (outcome) (rate({every}[$__rate_interval])) * 60", "{{outcome}}")],
                stacked=True,
            ),
            lines(
                "Aborted in half an hour, by shard",
                "If aborts continue, check the brokers, the ACLs, and whether another app uses the same kafka.app."
                " The log contains the error.",
                "short",
                [Query(f"sum by (shard) (increase({aborted}[30m]))", "shard {{shard}}")],
                steps=((None, GREEN), (10, ORANGE)),
            ),
            lines(
                "Time from begin to commit",
                "If it is above a second, check the load of the brokers, their disks and in-sync replicas.",
                "s",
                quantiles(of_worker("transaction_duration_seconds_bucket")),
                steps=((None, GREEN), (1, ORANGE)),
            ),
            commit_delay(of_worker("commit_delay_seconds_bucket")),
        ],
    )


def _shards() -> Row:
    return Row(
        "Shards and restores",
        [
            lines(
                "Shards owned, by worker",
                "The sum should reach the line of all shards. A worker with 0 shards is a standby.",
                "short",
                [
                    Query(f"sum by (instance) ({of_worker('shards_owned')})", "{{instance}}"),
                    Query(f"max({of_worker('shards')})", "all shards"),
                ],
            ),
            lines(
                "Last restore, by shard",
                "How long a shard took to read its committed state. If it takes minutes, the state and seen topics"
                " are not compacted.",
                "s",
                [Query(f"max by (shard) ({of_worker('restore_duration_seconds')})", "shard {{shard}}")],
                steps=((None, GREEN), (60, ORANGE)),
            ),
            brokers(),
            lines(
                "Remembered rows, by worker",
                "Rows in the deduplication index of a worker, which need about 24 bytes each. If memory is short,"
                " add workers.",
                "short",
                [Query(f"sum by (instance) ({of_worker('remembered_rows')})", "{{instance}}")],
            ),
        ],
    )


def _processes() -> Row:
    return Row(
        "Processes",
        [
            lines(
                "CPU, by worker",
                "Cores that a worker uses. If it is near 1, the event loop is the limit: add workers.",
                "short",
                [
                    Query(
                        f"sum by (instance) (rate({of_worker('process_cpu_seconds_total')}[$__rate_interval]))",
                        "{{instance}}",
                    )
                ],
                steps=((None, GREEN), (0.9, ORANGE)),
                width=8,
            ),
            lines(
                "Memory, by worker",
                "Resident memory. Compare it with the limit of the container, at which the kernel kills the worker.",
                "bytes",
                [Query(f"max by (instance) ({of_worker('process_resident_memory_bytes')})", "{{instance}}")],
                width=8,
            ),
            lines(
                "File descriptors, by worker",
                "Open file descriptors as a share of the limit of the process.",
                "percentunit",
                [
                    Query(
                        f"max by (instance) ({of_worker('process_open_fds')} / {of_worker('process_max_fds')})",
                        "{{instance}}",
                    )
                ],
                steps=((None, GREEN), (0.8, ORANGE)),
                width=8,
            ),
        ],
    )
