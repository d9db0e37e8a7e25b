"""Entry point of `python -m connector` and of the console commands."""

from connector.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
