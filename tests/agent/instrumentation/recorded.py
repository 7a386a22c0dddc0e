"""The spans and samples that an agent has sent, for assertions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import vantage_agent
from tests.agent.receiver import Receiver


@dataclass
class Recorded:
    """Everything received, after a flush: spans as sent, and samples as ``(metric, tags, value)``."""

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
        samples: list[tuple[str, dict[str, str], float]] = []
        for sent in self.receiver.sent:
            packed = sent.packed
            for index, _, values, *_ in packed["samples"]:
                name, _, _, tags = packed["series"][index][:4]
                samples += [(name, dict(tags), value) for value in values]
        return samples

    def tags(self, metric: str) -> list[dict[str, str]]:
        """Return the tags of each sample of a metric, without those that every sample has."""
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

    def clear(self) -> None:
        """Drop everything received so far."""
        self._flush()
        self.receiver.sent.clear()

    @property
    def text(self) -> str:
        """Everything that was sent, as text."""
        self._flush()
        return repr([sent.packed for sent in self.receiver.sent])
