"""``vantage promote --url``: a running server promotes its own store; this starts it and shows how far it is."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from vantage.commands.client import Client, open_client
from vantage.commands.console import Progress
from vantage.core.errors import InputError, StartupError, UnavailableError
from vantage.core.number_format import duration_s
from vantage.core.printable import printable

PATH: Final = "/api/promotion"
TIMEOUT_S: Final = 600.0  # deleting a copy may take as long
EVERY_S: Final = 0.5
AWAY_S_MAX: Final = 120.0  # the server starts again at the switch


def promote_on_server(arguments: argparse.Namespace) -> int:
    """Start a promotion on a server and follow it to its end, or print how far it is, or end it. Raises InputError,
    StartupError for one that failed, and what the client raises."""
    if getattr(arguments, "data", None):
        raise InputError("give --url or --data, not both")
    if arguments.back:
        raise InputError("--back needs the server to be stopped: stop it, and leave --url away")
    client = open_client(arguments, timeout_s=TIMEOUT_S)
    try:
        if arguments.abandon:
            client.request(PATH, method="DELETE")
            print("the copy is deleted; the data folder is as it was")
        elif arguments.status:
            print(printable(_sentence(_state_of(client))))
        else:
            wanted = {"to": arguments.to, "leave_rollups": arguments.leave_rollups}
            client.request(PATH, msgspec.json.encode(wanted))
            print(printable(_followed(client)))
    finally:
        client.close()
    return 0


def _followed(client: Client) -> str:
    """Show the progress until the promotion ends, and return its sentence. Raises StartupError when it failed."""
    began_s = answered_s = time.monotonic()
    with Progress() as progress:
        while True:
            try:
                state = _state_of(client)
            except UnavailableError:
                if time.monotonic() - answered_s > AWAY_S_MAX:
                    raise
            else:
                answered_s = time.monotonic()
                if state["phase"] in ("failed", "none"):
                    raise StartupError(f"{_sentence(state)}; nothing is switched: mend it and run the command again")
                if state["phase"] == "switched" and state["serving"]:
                    return f"{_sentence(state)}, after {duration_s(answered_s - began_s)}"
                progress.show(_sentence(state), share=state["hours"] / max(1, state["hours_total"]))
            time.sleep(EVERY_S)


def _state_of(client: Client) -> Mapping[str, Any]:
    state: Mapping[str, Any] = client.request(PATH)
    if not isinstance(state, dict) or not {"phase", "to", "hours", "hours_total", "problem"} <= state.keys():
        raise InputError(f"{client.url} answered something else: is it Vantage?")
    return state


def _sentence(state: Mapping[str, Any]) -> str:
    to, problem = state["to"], f": {state['problem']}" if state["problem"] else ""
    return {
        "none": "not promoted: the data is in the data folder",
        "copying": f"copying to {to}, {state['hours']} of {state['hours_total']} hours{problem}",
        "following": f"copying to {to}: following what is written{problem}",
        "switching": f"switching to {to}",
        "switched": f"promoted to {to}: the server uses it",
        "failed": f"the promotion to {to} failed{problem}",
    }.get(str(state["phase"]), str(state["phase"]))
