"""`python -m tests.tools`: prepares software that tests need and that takes long, while other tests already run.

A test that needs it at the same time waits for it, so that nothing is installed twice.
"""

from concurrent.futures import ThreadPoolExecutor

from tests import environments
from tests.containers import base_image
from tests.helm import helm, resource_schema


def main() -> None:
    """Fill the cache."""
    with ThreadPoolExecutor() as pool:
        tools = [pool.submit(helm), pool.submit(base_image), pool.submit(environments.python, "sinks")]
        resource_schema("ServiceMonitor")
        for tool in tools:
            tool.result()


if __name__ == "__main__":
    main()
