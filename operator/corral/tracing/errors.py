"""What can go wrong when spans are exported."""


class CollectorAwayError(Exception):
    """There was no answer, or one that says later: the same spans may be taken another time."""


class SpansRefusedError(Exception):
    """The collector does not take these spans, and never will."""
