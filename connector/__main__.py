"""`python -m connector`, and what the console commands call."""

from connector.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
