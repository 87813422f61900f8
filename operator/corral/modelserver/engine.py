"""The server's state: rules and how often they were used, fault draws, the journal."""

import hashlib
from collections import Counter, deque
from collections.abc import Mapping
from datetime import UTC, datetime

from corral.api.trace import TRACEPARENT
from corral.api.types import Resource
from corral.modelserver.answers import ChatRequest
from corral.modelserver.rules import Fault, Rule, RuleSet

_JOURNAL_LENGTH = 20_000
_TEXT_LENGTH = 500


class JournalEntry(Resource):
    """One request for a completion. Never holds a key."""

    time: str
    model: str
    digest: str
    """SHA-256 of the messages' text."""
    last_user: str
    attempt_id: str | None = None
    effect_key: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    """The span that the caller said the request is."""
    rule: int | None = None
    """The index of the rule that answered."""
    outcome: str
    """``Answered``, or a fault's name."""
    input_tokens: int = 0
    output_tokens: int = 0


class Engine:
    """Decides what happens to each request. Not thread-safe: one event loop uses it."""

    def __init__(self, rules: RuleSet) -> None:
        self._journal: deque[JournalEntry] = deque(maxlen=_JOURNAL_LENGTH)
        self.rules = rules
        self._used: Counter[int] = Counter()
        self._drawn: Counter[str] = Counter()

    def replace_rules(self, rules: RuleSet) -> None:
        """New rules; counts of ``times`` and of draws start again."""
        self.rules = rules
        self._used.clear()
        self._drawn.clear()

    def take_rule(self, request: ChatRequest) -> tuple[int, Rule] | None:
        """The first rule that matches, which is used up by one."""
        for index, rule in enumerate(self.rules.rules):
            if rule.model is not None and rule.model != request.model:
                continue
            if rule.times is not None and self._used[index] >= rule.times:
                continue
            searched = request.last_user if rule.search == "lastUser" else request.conversation
            if rule.found_in(searched):
                self._used[index] += 1
                return index, rule
        return None

    def draw_fault(self, attempt_id: str | None) -> Fault | None:
        """The fault of this request, by the rates.

        Drawn from the seed, the attempt id and the number of its request, so that a run meets the
        same faults however its attempts interleave.
        """
        who = attempt_id or ""
        self._drawn[who] += 1
        for fault, percent in self.rules.faults.rates():
            seed = f"{self.rules.seed}/{who}/{self._drawn[who]}/{fault}"
            if int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big") % 100 < percent:
                return fault
        return None

    def record(
        self,
        request: ChatRequest,
        headers: Mapping[str, str],
        outcome: str,
        rule: int | None,
        used: tuple[int, int] = (0, 0),
    ) -> None:
        """Adds a request to the journal; the oldest goes when it is full."""
        self._journal.append(
            JournalEntry(
                time=datetime.now(UTC).isoformat(timespec="milliseconds"),
                model=request.model,
                digest=hashlib.sha256(request.conversation.encode()).hexdigest(),
                last_user=request.last_user[:_TEXT_LENGTH],
                attempt_id=headers.get("corral-attempt-id"),
                effect_key=headers.get("corral-effect-key"),
                correlation_id=headers.get("corral-correlation-id"),
                traceparent=headers.get(TRACEPARENT),
                rule=rule,
                outcome=outcome,
                input_tokens=used[0],
                output_tokens=used[1],
            )
        )

    def journal(self, filters: Mapping[str, str]) -> list[dict[str, object]]:
        """Entries, oldest first, whose fields equal the filters (attemptID=…, outcome=…)."""
        entries = (entry.to_json() for entry in self._journal)
        return [
            entry
            for entry in entries
            if all(str(entry.get(name, "")) == value for name, value in filters.items())
        ]

    def clear_journal(self) -> None:
        """Forgets all requests."""
        self._journal.clear()
