"""What a request asks for, for `authorize` to decide on."""

from typing import Final, Literal, NamedTuple

from fastapi import Request

__all__ = ["Action", "action_of"]

_ROUTES: Final[dict[str, Literal["list", "read", "history", "cancel", "resume", "signal"]]] = {
    "list_runs": "list",
    "get_run": "read",
    "stream_events": "read",
    "get_history": "history",
    "cancel_run": "cancel",
    "resume_run": "resume",
    "send_signal": "signal",
}
"""The name of the action, by the name of the route."""


class Action(NamedTuple):
    """What a request asks for."""

    name: Literal["start", "list", "read", "history", "cancel", "resume", "signal"]
    """Of the action: start a run, list runs, read one or its events, read its history, cancel it, resume it, send it a signal."""
    flow: str | None = None
    """The name of the flow, if the request starts a run."""
    run_id: str | None = None
    """The id of the run, if the request names one."""
    signal: str | None = None
    """The name of the signal, if the request sends one."""


def action_of(request: Request) -> Action:
    """Return what a request to a route of `flow_router` asks for: a dependency, for `authorize`.

    - `request`: the request; FastAPI passes it.
    """
    route: str = request.scope["route"].name
    parameters = request.path_params
    if route.startswith("start "):
        return Action("start", flow=route.removeprefix("start "))
    return Action(_ROUTES[route], None, parameters.get("run_id"), parameters.get("name"))
