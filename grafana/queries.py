"""PromQL that several dashboards have in common."""

NAMESPACE = 'namespace=~"$namespace"'
AGENT = f'{NAMESPACE}, agent=~"$agent"'
POOL = f'{NAMESPACE}, pool=~"$pool"'
OR_ELSE = " or on () "
"""What comes after it is for when there is nothing at all before it."""


def rate(metric: str, selector: str = "", by: str = "") -> str:
    """How much a counter rises in a second, summed up by labels."""
    return _sum(f"rate({metric}{{{selector}}}[$__rate_interval])", by)


def rise(metric: str, selector: str = "", by: str = "") -> str:
    """By how much a counter has risen in the time that is shown, summed up by labels."""
    return _sum(f"increase({metric}{{{selector}}}[$__range])", by)


def quantile(share: float, histogram: str, selector: str = "", by: str = "") -> str:
    """What so large a share of a histogram's values does not pass."""
    buckets = rate(f"{histogram}_bucket", selector, ", ".join(filter(None, (by, "le"))))
    return f"histogram_quantile({share:g}, {buckets})"


def or_none(expr: str, label: str = "") -> str:
    """0 where there is nothing, with ``none`` for the label: what never happened has no series."""
    none = f'label_replace(vector(0), "{label}", "none", "", "")' if label else "vector(0)"
    return f"{expr}{OR_ELSE}{none}"


def named(expr: str, label: str, name: str) -> str:
    """The series without that label get it, with this name."""
    return f'label_replace({expr}, "{label}", "{name}", "{label}", "")'


def _sum(expr: str, by: str) -> str:
    return f"sum by ({by}) ({expr})" if by else f"sum({expr})"
