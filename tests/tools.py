"""`python -m tests.tools`: makes what tests need and what takes long to make, while others run already.

Who needs one of them meanwhile waits for it, so that nothing is made twice.
"""

from concurrent.futures import ThreadPoolExecutor

from tests.containers import base_image
from tests.helm import helm, resource_schema


def main() -> None:
    """Fill the cache."""
    with ThreadPoolExecutor() as pool:
        first, second = pool.submit(helm), pool.submit(base_image)
        resource_schema("ServiceMonitor")
        first.result()
        second.result()


if __name__ == "__main__":
    main()
