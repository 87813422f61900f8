"""Starts the model server as a process: ``corral model-server``."""

import contextlib
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import uvicorn

from corral.modelserver.app import create_app
from corral.modelserver.rules import RuleSet, read_rules
from corral.telemetry.logs import configure_logging

RULES_ENV = "CORRAL_MODEL_SERVER_RULES"
API_KEY_ENV = "CORRAL_MODEL_SERVER_API_KEY"
API_KEY_FILE_ENV = "CORRAL_MODEL_SERVER_API_KEY_FILE"
DEFAULT_PORT = 8080

logger = logging.getLogger(__name__)


class QuietServer(uvicorn.Server):
    """Ends with 0 on SIGTERM, where uvicorn would raise the signal again."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        previous = {
            number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self.should_exit = True


def serve(
    host: str = "0.0.0.0",  # noqa: S104 - it serves a pod's network
    port: int = DEFAULT_PORT,
    rules_file: str | None = None,
    api_key_file: str | None = None,
) -> int:
    """Serves until SIGTERM. Writes nothing to disk and needs no rights.

    Args:
        rules_file: YAML or JSON; else from CORRAL_MODEL_SERVER_RULES, else default answers.
        api_key_file: holds the key that clients must give, read at every request; else from
            CORRAL_MODEL_SERVER_API_KEY_FILE or CORRAL_MODEL_SERVER_API_KEY, else none is needed.

    Returns:
        The exit code: 2 if the rules can't be read.
    """
    configure_logging()
    rules_file = rules_file or os.environ.get(RULES_ENV)
    try:
        rules = read_rules(Path(rules_file).read_bytes()) if rules_file else RuleSet()
    except (OSError, ValueError) as error:
        logger.error("The rules can't be read: %s", error)
        return 2
    api_key = secret_source(
        api_key_file or os.environ.get(API_KEY_FILE_ENV), os.environ.get(API_KEY_ENV) or None
    )
    config = uvicorn.Config(
        create_app(rules, api_key),
        host=host,
        port=port,
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    logger.info("The model server listens on port %d.", port)
    QuietServer(config).run()
    return 0


def secret_source(path: str | None, otherwise: str | None) -> Callable[[], str | None]:
    """What tells a secret now: a file (an unreadable one refuses everyone), a value, or none."""
    if path is None:
        return lambda: otherwise

    def read() -> str:
        try:
            return Path(path).read_text().strip() or "\0"
        except OSError:
            return "\0"

    return read
