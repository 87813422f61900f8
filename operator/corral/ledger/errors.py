"""What can go wrong with the ledger."""


class LedgerError(Exception):
    """The database does not answer, or not yet: the same call may succeed later."""


class RowsRefusedError(Exception):
    """The database answers and does not take these rows: it never will."""
