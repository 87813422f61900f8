"""Starts the tool server as a process: ``corral tool-server``."""

import logging
import os

import uvicorn

from corral.modelserver.server import QuietServer, secret_source
from corral.telemetry.logs import configure_logging
from corral.toolserver.app import create_app

TOKEN_ENV = "CORRAL_TOOL_SERVER_TOKEN"  # noqa: S105 - the variable's name
TOKEN_FILE_ENV = "CORRAL_TOOL_SERVER_TOKEN_FILE"  # noqa: S105 - the variable's name
DEFAULT_PORT = 8080

logger = logging.getLogger(__name__)


def serve(
    host: str = "0.0.0.0",  # noqa: S104 - it serves a pod's network
    port: int = DEFAULT_PORT,
    token_file: str | None = None,
) -> int:
    """Serves until SIGTERM. Writes nothing to disk and needs no rights.

    Args:
        token_file: holds the token that clients must give, read at every request; else from
            CORRAL_TOOL_SERVER_TOKEN_FILE or CORRAL_TOOL_SERVER_TOKEN, else none is needed.

    Returns:
        The exit code.
    """
    configure_logging()
    logging.getLogger("mcp").setLevel(logging.WARNING)
    token = secret_source(
        token_file or os.environ.get(TOKEN_FILE_ENV), os.environ.get(TOKEN_ENV) or None
    )
    config = uvicorn.Config(
        create_app(token),
        host=host,
        port=port,
        loop="uvloop",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=2,
    )
    logger.info("The tool server listens on port %d.", port)
    QuietServer(config).run()
    return 0
