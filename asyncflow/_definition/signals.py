"""Signals: messages that a flow waits for, and that others send to one of its runs."""

from __future__ import annotations

from keyword import iskeyword
from typing import Any, Final, Generic, Literal, TypeVar, get_args, overload

__all__ = ["Early", "Signal"]

P = TypeVar("P")

Early = Literal["keep", "refuse"]
"""What happens to a signal that nothing waits for yet."""

LONGEST: Final = 200
"""The longest name of a signal, in characters."""


class Signal(Generic[P]):
    """A message that a flow waits for, and that is sent to one of its runs: `approved = Signal("approved", Decision)`.

    Declare it once, in the class or in its module. Use it as a condition, `@listen(and_(draft, approved))`, and send it with
    `MyFlow.signal(run_id, approved, Decision(...))`.

    - `name`: the name by which senders know it; also the name of the parameter that receives its payload under `and_`. No method and no
      label of the flow may have the same name.
    - `payload`: the type of its payload, as in an annotation. Without one, the signal has no payload.
    - `early`: what happens to a signal that nothing waits for yet. "keep": it is stored until something does. "refuse": the sender gets
      a `NotWaitingError`.

    Raises `ValueError` for an invalid name, payload or `early`.
    """

    __slots__ = ("early", "name", "payload")

    @overload
    def __init__(self: Signal[None], name: str, /, *, early: Early = "keep") -> None: ...
    @overload
    def __init__(self, name: str, payload: type[P], /, *, early: Early = "keep") -> None: ...
    @overload
    def __init__(self: Signal[Any], name: str, payload: object, /, *, early: Early = "keep") -> None: ...
    def __init__(self, name: str, payload: Any = None, /, *, early: Early = "keep") -> None:
        if not isinstance(name, str) or not name.isidentifier() or iskeyword(name) or len(name) > LONGEST:
            raise ValueError(
                f"the name of a signal must be the name of a parameter, such as 'approved', of at most {LONGEST} characters, not "
                f"{name!r:.100}"
            )
        if isinstance(payload, str):
            raise ValueError(f"the payload of the signal {name} must be a type, not its name {payload!r}")
        if early not in get_args(Early):
            raise ValueError(f"early must be 'keep' or 'refuse', not {early!r}")
        self.name: str = name
        self.payload: Any = payload
        self.early = early

    def __repr__(self) -> str:
        return f"Signal({self.name!r})"

    @property
    def declared(self) -> str:
        """The declaration, as its author wrote it."""
        payload = "" if self.payload is None else f", {getattr(self.payload, '__name__', self.payload)}"
        early = "" if self.early == "keep" else f", early={self.early!r}"
        return f"Signal({self.name!r}{payload}{early})"

    def __eq__(self, other: object) -> bool:
        """Whether another one declares the same name, with the same payload and options."""
        if not isinstance(other, Signal):
            return NotImplemented
        return (self.name, self.payload, self.early) == (other.name, other.payload, other.early)

    def __hash__(self) -> int:
        return hash(self.name)
