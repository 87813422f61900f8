"""Values that are too large for a status: how they are named, written down and read again.

A value is stored as its compact JSON in UTF-8, under the SHA-256 of those bytes and the run that it
belongs to. What is left in the status is ``{"reference": "artifact://<namespace>/<runID>/<sha256>",
"sha256": …, "size": …}``.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

_NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_RUN_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SCHEME = "artifact://"
_KEYS = {"reference", "sha256", "size"}
MEMO = "memo"
"""What stands for a run's id where results are kept for later runs; no run has it."""


@dataclass(frozen=True)
class Reference:
    """Where a value is stored. ``size`` is in bytes.

    Raises:
        ValueError: a part that no reference can have; the message names it.
    """

    sha256: str
    size: int
    namespace: str
    run_id: str

    def __post_init__(self) -> None:
        check_place(self.namespace, self.run_id, self.sha256)
        if self.size < 0:
            raise ValueError(f"size: {self.size} is less than 0")

    @property
    def text(self) -> str:
        """``artifact://<namespace>/<runID>/<sha256>``."""
        return _SCHEME + self.path

    @property
    def path(self) -> str:
        """``<namespace>/<runID>/<sha256>``: the key in the store, and the end of a URL."""
        return f"{self.namespace}/{self.run_id}/{self.sha256}"

    def to_json(self) -> dict[str, Any]:
        """What stands in a status."""
        return {"reference": self.text, "sha256": self.sha256, "size": self.size}


def check_place(namespace: str, run_id: str, sha256: str | None = None) -> None:
    """Makes sure that these are names and no paths.

    Raises:
        ValueError: one is not; the message names it.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise ValueError(f"namespace: {namespace!r} is no namespace's name")
    if not _RUN_ID.fullmatch(run_id) or run_id == MEMO:
        raise ValueError(f"run_id: {run_id!r} is no run's id")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise ValueError(f"sha256: {sha256!r} is no SHA-256 in lower-case hexadecimal digits")


def parse(value: Any) -> Reference:
    """The reference that stands in a status, as ``to_json`` writes it.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(value, dict) or set(value) != _KEYS:
        raise ValueError("a reference has the fields reference, sha256 and size")
    text, sha256, size = value["reference"], value["sha256"], value["size"]
    if not isinstance(text, str) or not text.startswith(_SCHEME):
        raise ValueError(f"reference: {text!r} does not begin with {_SCHEME}")
    if isinstance(size, bool) or not isinstance(size, int):
        raise ValueError(f"size: {size!r} is no whole number")
    parts = text.removeprefix(_SCHEME).split("/")
    if len(parts) != 3 or parts[2] != sha256:
        raise ValueError(f"reference: {text!r} is not {_SCHEME}<namespace>/<runID>/<sha256>")
    return Reference(sha256, size, parts[0], parts[1])


def is_reference(value: Any) -> bool:
    """Whether a value in a status stands for one in the store."""
    try:
        parse(value)
    except ValueError:
        return False
    return True


def encode(value: Any) -> bytes:
    """The bytes of a JSON value, as they are stored.

    Raises:
        ValueError: JSON can't hold it (see ``corral.plan.data``).
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode()


def decode(content: bytes) -> Any:
    """The inverse of ``encode``.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(content)


def reference_of(value: Any, namespace: str, run_id: str) -> tuple[Reference, bytes]:
    """The reference under which a run's value is to be stored, and the bytes to store."""
    content = encode(value)
    sha256 = hashlib.sha256(content).hexdigest()
    return Reference(sha256, len(content), namespace, run_id), content
