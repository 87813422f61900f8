"""Objects as JSON or YAML."""

import json
from collections.abc import Sequence
from typing import Any

import yaml


def write(data: Any, form: str) -> None:
    """Prints ``data`` in one of the two forms."""
    if form == "yaml":
        print(yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100), end="")
    else:
        print(json.dumps(data, indent=2, ensure_ascii=False))


def tidy(data: dict[str, Any]) -> dict[str, Any]:
    """An object without what only the API server reads."""
    metadata = {k: v for k, v in data.get("metadata", {}).items() if k != "managedFields"}
    return {**data, "metadata": metadata}


def as_list(objects: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several objects as one."""
    return {"apiVersion": "v1", "kind": "List", "items": [tidy(data) for data in objects]}
