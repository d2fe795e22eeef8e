"""The setup of a flow: everything about it that does not change from run to run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .._definition.attempting import check_bounded
from .._definition.declared import Persisted
from .._definition.identity import Identity, checked_former_names, checked_name
from .._keywords import Unset
from .._runtime.audience import Audience, joined
from .._runtime.codecs import Codecs
from .._runtime.observe import log_events
from .._runtime.parking import PARK_AFTER
from .._runtime.settings import Settings
from .._runtime.timing import clock_of, now
from .._runtime.turns import Turn
from ..events import Observer
from ..persistence.checkpoint import Checkpoint
from ..persistence.default import default_persistence
from ..persistence.parking import Parking
from ..persistence.protocol import FlowPersistence, offers

__all__ = ["Setup", "log_unchecked_labels", "settings_of", "setup_of"]

logger = logging.getLogger("asyncflow")


@dataclass(frozen=True, slots=True)
class Setup:
    """A flow's settings with its codecs and its backend: all that is constant from run to run."""

    settings: Settings
    codecs: Codecs
    persistence: FlowPersistence | None
    whole: bool
    """Whether every checkpoint is a snapshot: true if only some methods have a checkpoint."""
    observe: Callable[[Checkpoint], object] | None = None
    is_declared: bool = False
    """Whether the flow declares its own persistence instead of using the default one."""
    turn: Turn | None = None
    """Set if a runner drives the run."""
    park_after: float = PARK_AFTER
    """Seconds from which on a run that only waits is parked."""
    parent: tuple[str, int] | None = None
    """Of a child: see `Progress.parent`."""
    until: float = 0.0
    """Of a child: when the time limit of its parent passes, in seconds since the Unix epoch; 0: it has none."""
    audience: Audience | None = None
    """Who observes the run and its children."""
    clock: Callable[[], float] = now
    """Returns the time of checkpoints, deadlines and attempts, in seconds since the Unix epoch."""

    def for_child(
        self, own: Setup, parent: tuple[str, int], until: float, observe: Callable[[Checkpoint], object]
    ) -> Setup:
        """Return the setup of a child of a run with this setup. `own`: that of the child's flow. `observe`: an observer besides its own."""
        known = own.observe
        both = observe if known is None else lambda checkpoint: (observe(checkpoint), known(checkpoint))
        turn, mine = None if self.turn is None else self.turn.of_child(), self.audience
        audience = joined(own.audience, None if mine is None else mine.of_children)
        return Setup(
            *(own.settings, own.codecs, self.persistence, own.whole, both, own.is_declared, turn, self.park_after),
            *(parent, until, audience, self.clock),
        )

    @property
    def parks(self) -> bool:
        """Whether runs are parked while they only wait."""
        return self.settings.definition.may_wait and not self.parks_not()

    def parks_not(self) -> str:
        """Return why runs are not parked; '' if they are."""
        if self.persistence is None:
            return "they are not stored"
        if self.whole:
            return "only some of its methods have @persist"
        return "" if offers(self.persistence, Parking) else f"{type(self.persistence).__name__} cannot park runs"


def settings_of(
    cls: Any,
    name: str | None,
    on_error: Literal["finish", "cancel"],
    max_method_calls: int | None,
    run_timeout: float | None,
) -> Settings:
    """Return the settings of a flow class; all its instances with the same arguments share one object."""
    key = name, on_error, max_method_calls, run_timeout
    known: Settings | None = cls._settings_cache.get(key)
    if known is None:
        formerly = checked_former_names(vars(cls).get("formerly", ()), cls)  # not inherited: a subclass is another flow
        identity = Identity(cls, cls._origin, checked_name(name, cls) or cls.name, formerly)
        check_bounded(cls._definition, run_timeout)
        declared = identity, cls._definition, cls._state_type
        known = Settings(*declared, on_error, max_method_calls, run_timeout, cls._persisted.checkpoints)
        if len(cls._settings_cache) < 16:  # names may be generated for each run
            cls._settings_cache[key] = known
    return known


def log_unchecked_labels(flow: str, methods: Sequence[str]) -> None:
    """Log the routers of a class whose labels cannot be checked."""
    for method in methods:
        logger.warning(
            "labels not checked: the return annotation of %s.%s uses a name that is not defined at run time. Import it outside of "
            "`if TYPE_CHECKING`, or declare the labels by emit=[...]",
            flow,
            method,
        )


def setup_of(
    settings: Settings,
    codecs: Codecs,
    persisted: Persisted,
    given: FlowPersistence | Unset | None,
    durability: Literal["full", "process"],
    observers: tuple[Observer, ...],
) -> Setup:
    """Return the setup of a flow that stores its runs in `given`; where it is unset, `@persist` decides."""
    if isinstance(given, Unset):
        is_declared = persisted.backend is not None
        default = None if is_declared or not persisted.is_marked else default_persistence(durability)
        persistence = persisted.backend if is_declared else default
    else:
        is_declared, persistence = given is not None, given
    observe = log_events if persisted.is_verbose else None
    clock = now if persistence is None else clock_of(persistence)
    audience, is_whole = Audience(observers) if observers else None, persisted.only is not None
    return Setup(settings, codecs, persistence, is_whole, observe, is_declared, audience=audience, clock=clock)
