"""The dashboards, in the order in which one looks at them."""

from grafana.dashboards import agents, cost, operator, overview, pools, workflows

BOARDS = (
    overview.BOARD,
    workflows.BOARD,
    agents.BOARD,
    pools.BOARD,
    cost.BOARD,
    operator.BOARD,
)
