"""What others say, as every database and every collector takes it."""

MAX_TEXT = 512


def cleaned(text: str) -> str:
    """The text without what can't be stored, and not too long."""
    return text.replace("\0", "").encode(errors="replace").decode()[:MAX_TEXT]
