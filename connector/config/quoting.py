"""Values as messages show them."""

import json


def shown(value: object) -> str:
    """Return a value for a message: as JSON on one line, cut if it is longer than 80 characters."""
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 80 else f"{text[:76]}…{text[-1]}"
