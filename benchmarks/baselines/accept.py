"""Vantage's complete ingest, over a sink that stores nothing: ``python -m benchmarks.baselines.accept PORT``."""

from __future__ import annotations

import contextlib
import socket
import sys
from typing import Any

from benchmarks.baselines.key import KEY
from vantage import server
from vantage.app import App
from vantage.config import Settings
from vantage.core.batch import Batch
from vantage.core.clock import SystemClock
from vantage.ingest.receive import Receiver
from vantage.telemetry import Telemetry
from vantage.web.api.ingest import IngestApp
from vantage.web.auth import Authenticator
from vantage.web.limits import TokenBuckets, TrustedProxies
from vantage.web.middleware import EdgeMiddleware, HostGuard
from vantage.web.request_metrics import RequestMetrics


class NullSink:
    """Accepts everything, stores nothing."""

    async def publish(self, batch: Batch) -> None:
        return None


async def _site(scope: Any, receive: Any, send: Any) -> None:
    """Do nothing: only ingest receives requests."""


def main() -> None:
    settings = Settings(port=int(sys.argv[1]), api_key=KEY, ingest_rate_limit=1_000_000_000)
    clock, telemetry = SystemClock(), Telemetry()
    requests = RequestMetrics(telemetry)
    ingest = IngestApp(
        Receiver(NullSink(), clock=clock, telemetry=telemetry),
        authenticator=Authenticator(clock=clock, auth="auto", api_key=KEY),
        proxies=TrustedProxies(()),
        rates=TokenBuckets(settings.ingest_rate_limit),
        telemetry=telemetry,
        requests=requests,
        clock=clock,
    )
    edge = EdgeMiddleware(
        ingest=ingest,
        site=_site,
        sockets=(),
        hosts=HostGuard(listen_host=settings.host, allowed=()),
        cors_origins=(),
        requests=requests,
        log_requests=False,
    )
    listening: socket.socket = server.listen(settings)
    app = App(edge, contextlib.nullcontext, lambda: None, telemetry, lambda: False)
    server.serve(app, settings, listening, print)


if __name__ == "__main__":
    main()
