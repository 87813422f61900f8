"""``python -m tests.faults.hurried``: the operator, with what it does seldom done more often.

``CORRAL_HASTE`` says by what the periods are divided. With 1 it is the operator as it is.
"""

import os
import sys

import kopf

from corral.handlers import main, watches
from corral.plan import attempts
from corral.reconcile import agents, controller


def hurry(haste: float) -> None:
    """Shortens the periods of sweeps and of what is waited for."""
    controller.COMPARE_PERIOD /= haste
    controller.INVENTORY_PERIOD /= haste
    controller.PATIENCE /= haste
    agents.USAGE_FLUSH /= haste
    attempts.BACKSTOP /= haste
    plain = watches._settings

    def settings(settings: kopf.OperatorSettings) -> None:
        plain(settings)
        assert settings.watching.inactivity_timeout is not None
        settings.watching.inactivity_timeout /= haste

    watches._settings = settings


if __name__ == "__main__":
    hurry(float(os.environ["CORRAL_HASTE"]))
    sys.exit(main.main())
