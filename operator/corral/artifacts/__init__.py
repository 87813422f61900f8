"""The artifact store: values that are too large for a status, kept by the operator."""
