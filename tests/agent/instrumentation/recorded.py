"""What the agent told, as tests ask for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import vantage_agent
from tests.agent.receiver import Receiver


@dataclass
class Told:
    """What arrived, flushed first: spans as they were sent, and samples as ``(metric, tags, value)``."""

    receiver: Receiver

    def _flush(self) -> None:
        assert vantage_agent.flush(5)

    @property
    def spans(self) -> list[dict[str, Any]]:
        self._flush()
        return sorted(
            (span for sent in self.receiver.sent for span in sent.packed.get("spans", ())),
            key=lambda span: span["start_ns"],
        )

    @property
    def samples(self) -> list[tuple[str, dict[str, str], float]]:
        self._flush()
        found = []
        for sent in self.receiver.sent:
            packed = sent.packed
            for place, _, values, *_ in packed["samples"]:
                name, _, _, tags = packed["series"][place][:4]
                found += [(name, dict(tags), value) for value in values]
        return found

    def tags(self, metric: str) -> list[dict[str, str]]:
        """Of each sample of the metric, without those that every sample has."""
        return [
            {key: value for key, value in tags.items() if key not in ("instance", "service_version")}
            for name, tags, _ in self.samples
            if name == metric
        ]

    @property
    def server(self) -> list[dict[str, str]]:
        return self.tags("http.request.duration")

    @property
    def client(self) -> list[dict[str, str]]:
        return self.tags("http.client.request.duration")

    @property
    def database(self) -> list[dict[str, str]]:
        return self.tags("db.client.operation.duration")

    def forget(self) -> None:
        """What arrived so far."""
        self._flush()
        self.receiver.sent.clear()

    @property
    def text(self) -> str:
        """All that was sent."""
        self._flush()
        return repr([sent.packed for sent in self.receiver.sent])
