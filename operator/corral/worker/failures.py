"""Which error class a failed model call belongs to.

========================================  ================
what the provider or pydantic-ai said     class
========================================  ================
401, 403                                  Auth
402, 429 with a quota code                Quota
429                                       RateLimited
404 (no such model, or a wrong baseURL)   ModelUnavailable
5xx, no connection, no answer in time     ModelUnavailable
other 4xx, a content filter               Rejected
a body that is not a chat completion      InvalidOutput
``maxTurns``, ``maxToolCalls`` reached    InvalidOutput
========================================  ================

The limits count as InvalidOutput because Budget is about money and is never retried, while an
attempt that talked for too long failed to produce an output and may do better the next time.
"""

import json

from pydantic_ai import exceptions as ai

from corral.api.errors import ErrorClass
from corral.worker.outcome import AttemptFailedError
from corral.worker.redaction import Redaction

_DETAIL_LENGTH = 300

_CLASSES: tuple[tuple[type[Exception], ErrorClass, str], ...] = (
    (ai.ModelAuthenticationError, ErrorClass.AUTH, "refused the API key"),
    (ai.ModelQuotaExceededError, ErrorClass.QUOTA, "has no quota or credit left for this account"),
    (ai.ModelRateLimitError, ErrorClass.RATE_LIMITED, "limits the rate of requests"),
    (ai.ModelNotFoundError, ErrorClass.MODEL_UNAVAILABLE, "is not found at its provider"),
    (ai.ModelRequestRejectedError, ErrorClass.REJECTED, "rejected the request"),
    (ai.ModelTimeoutError, ErrorClass.MODEL_UNAVAILABLE, "did not answer in time"),
    (ai.ModelConnectionError, ErrorClass.MODEL_UNAVAILABLE, "could not be reached"),
    (ai.ContentFilterError, ErrorClass.REJECTED, "ended the answer with its content filter"),
)
_REFUSALS = (
    ai.ModelHTTPError,
    ai.ModelAuthenticationError,
    ai.ModelQuotaExceededError,
    ai.ModelRateLimitError,
    ai.ModelNotFoundError,
    ai.ModelRequestRejectedError,
)


def classify(error: Exception, model_ref: str, key: str | None) -> AttemptFailedError:
    """The failure that an exception of a model call means; never shows the key."""
    if isinstance(error, AttemptFailedError):
        return error
    for kind, error_class, words in _CLASSES:
        if isinstance(error, kind):
            return _failure(error_class, words, model_ref, error, key)
    if isinstance(error, ai.ModelHTTPError):
        return _failure(*_by_status(error.status_code), model_ref=model_ref, error=error, key=key)
    if isinstance(error, ai.ModelAPIError):
        if isinstance(error.__cause__, json.JSONDecodeError | UnicodeDecodeError):
            return AttemptFailedError(
                ErrorClass.INVALID_OUTPUT,
                f"Model {model_ref} answered with a body that is not JSON.",
            )
        return _failure(ErrorClass.MODEL_UNAVAILABLE, "failed", model_ref, error, key)
    if isinstance(error, ai.UnexpectedModelBehavior):
        return AttemptFailedError(
            ErrorClass.INVALID_OUTPUT, f"Model {model_ref} answered with what is not a completion."
        )
    return AttemptFailedError(
        ErrorClass.MODEL_UNAVAILABLE, f"A call of Model {model_ref} failed: {type(error).__name__}."
    )


def answered(error: Exception) -> bool:
    """Whether the provider refused the call, which it then does not bill."""
    return isinstance(error, _REFUSALS)


def _by_status(status: int) -> tuple[ErrorClass, str]:
    if status >= 500 or status == 408:
        return ErrorClass.MODEL_UNAVAILABLE, f"failed with HTTP {status}"
    return ErrorClass.REJECTED, f"rejected the request with HTTP {status}"


def _failure(
    error_class: ErrorClass, words: str, model_ref: str, error: Exception, key: str | None
) -> AttemptFailedError:
    # What a provider says about a wrong key tends to contain the key.
    said = None if error_class is ErrorClass.AUTH else _said(error)
    said = said and Redaction([key]).text(said)
    return AttemptFailedError(
        error_class,
        f"Model {model_ref} {words}" + (f": {said[:_DETAIL_LENGTH]}" if said else "."),
        getattr(error, "retry_after", None),
    )


def _said(error: Exception) -> str | None:
    body = getattr(error, "body", None)
    message = body.get("message") if isinstance(body, dict) else None
    return message if isinstance(message, str) and message else None


def simulated_answer(error: Exception) -> bool | None:
    """Whether an error answer came from a simulated server; None if there was no answer."""
    headers = getattr(error, "headers", None)
    return None if headers is None else headers.get("corral-simulated") == "true"
