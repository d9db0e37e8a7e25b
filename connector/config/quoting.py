"""Formatting of configured values in error messages."""

import json


def shown(value: object) -> str:
    """Format a value for an error message: as JSON on one line, cut off after 80 characters."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else f"{text[:76]}…{text[-1]}"
