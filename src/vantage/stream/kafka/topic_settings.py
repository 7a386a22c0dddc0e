"""The settings that topics are created with, and what it means that one has others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TOPIC: Final = "metrics-raw"
DEAD_LETTERS: Final = "vantage-dead-letters"
LIVE: Final = "vantage-live"
MESSAGE_NBYTES_MAX: Final = 16 << 20  # a body of 8 MB becomes a message of about as much
VALUE_NBYTES_MAX: Final = MESSAGE_NBYTES_MAX - 8192  # the rest is for key, headers and the frame
LETTER_NBYTES_MAX: Final = 2 * MESSAGE_NBYTES_MAX  # a message, and the reason; one of another topic may be larger
RECEIVE_NBYTES_MAX: Final = 128 << 20  # more than brokers take at once unless set: a limit here would stop a partition
RETENTION_MS: Final = 7 * 86_400_000
LIVE_RETENTION_MS: Final = 300_000


@dataclass(frozen=True, slots=True)
class TopicSettings:
    """How topics are created."""

    name: str = TOPIC
    partitions: int = 6
    replicas: int = 1

    def config(self, name: str) -> dict[str, str]:
        """Return the settings of a topic at the broker."""
        return {
            "retention.ms": str(LIVE_RETENTION_MS if name == LIVE else RETENTION_MS),
            "max.message.bytes": str(LETTER_NBYTES_MAX if name == DEAD_LETTERS else MESSAGE_NBYTES_MAX),
        }


def differences(name: str, partitions: int, config: Mapping[str, str], wanted: TopicSettings) -> list[str]:
    """Return a sentence for each setting of a topic with which messages may be lost or refused, or wait."""
    sentences = []
    if name == wanted.name and partitions < wanted.partitions:
        sentences.append(
            f"the topic {name} has fewer partitions than kafka_partitions, {partitions} of {wanted.partitions}: "
            f"at most {partitions} of the workers share it"
        )
    retention_ms = int(config.get("retention.ms", -1))
    if 0 <= retention_ms < RETENTION_MS:
        sentences.append(
            f"the topic {name} keeps messages for {retention_ms / 3_600_000:g} h and not for 7 days: what waits longer "
            "is lost; set retention.ms"
        )
    if int(config.get("retention.bytes", -1)) >= 0:
        sentences.append(f"the topic {name} deletes messages beyond a size: set retention.bytes to -1")
    if config.get("cleanup.policy", "delete") != "delete":
        sentences.append(f"the topic {name} deletes messages by key: set cleanup.policy to delete")
    nbytes_max = int(config.get("max.message.bytes", 1 << 62))
    wanted_nbytes = int(wanted.config(name)["max.message.bytes"])
    if nbytes_max < wanted_nbytes:
        sentences.append(
            f"the topic {name} refuses messages of more than {nbytes_max} bytes: set max.message.bytes to "
            f"{wanted_nbytes}"
        )
    return sentences
