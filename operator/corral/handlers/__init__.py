"""kopf's side of the operator: the watches, and the process around them."""
