"""A web application that shows stored runs, and can act on them: `app.mount("/flows", inspector(storage, [MyFlow]))`.

Its pages need no other host, run under a strict content security policy, and are useful without JavaScript. A run of any flow is shown;
its class adds the graph, the forms of signals, and most actions.
"""

try:
    import jinja2  # noqa: F401
    import starlette  # noqa: F401
except ImportError as _error:
    raise ImportError(
        "asyncflow.integrations.inspector needs Starlette and Jinja2; install the extra in a checkout of asyncflow: pip install '.[web]'"
    ) from _error

from .access import Action, Authorize
from .app import inspector
from .serving import serve

__all__ = ["Action", "Authorize", "inspector", "serve"]
