"""Real checkpoints for tests of backends: chained and sealed, of a run with a method that triggers itself and a half-filled join."""

from __future__ import annotations

import copy
from typing import Any, Final, get_args

from .._scheduling.messages import Invocation, Seen, Transition
from .._scheduling.progress import Progress
from ..persistence.checkpoint import Checkpoint, encode_progress, encode_transition
from ..persistence.status import STORED, Kind

__all__ = ["AWKWARD", "IDS", "NOT_IDS", "Chain", "differences"]

AT: Final = 1_763_900_000.123457
"""A time that a backend with milliseconds, or with single precision, does not return unchanged."""

_STEP: Final = frozenset(("step",))


class Chain:
    """The checkpoints of one run, each following the last. It stores nothing: that is up to its caller."""

    def __init__(self, run_id: str, *, epoch: int = 1, parent: tuple[str, int] | None = None) -> None:
        self.run_id = run_id
        self.epoch = epoch
        self.rows: list[Checkpoint] = []
        """The checkpoints as they are to be stored: complete ones (snapshots) and deltas."""
        self.complete: list[Checkpoint] = []
        """The checkpoints as `load` has to return them."""
        self._progress = Progress(parent=parent)
        self._state = b"{}"
        self._inputs = b'{"a":1}'

    def add(self, *, whole: bool = True, **fields: Any) -> Checkpoint:
        """Create the next checkpoint, and return it as it is to be stored: complete, or else a delta."""
        seq = len(self.rows)
        transition, result = self._step(seq)
        changed = None if not whole and seq % 3 == 0 else b'{"n":%d,"log":"%s"}' % (seq, b"x" * (seq % 7))
        self._state = fields.get("state", changed) or self._state
        progress = encode_progress(self._progress)
        row = Checkpoint(
            run_id=self.run_id,
            flow="Conformance",
            identity="asyncflow.testing.Conformance",
            seq=seq,
            pass_number=1,
            kind="method" if seq else "started",
            status="running",
            at=AT + seq,
            method=f"step:{seq}" if seq else "",
            base=seq if whole or not seq else self.rows[-1].base,
            epoch=self.epoch,
            state=self._state if whole else changed,
            progress=progress if whole else None,
            changes=encode_transition(transition),
            result=None if whole else result,
            inputs=self._inputs if whole else None,
            previous=self.rows[-1].digest if seq else b"",
        )
        row = row._replace(**fields).sealed()
        self.rows.append(row)
        self.complete.append(row if whole else self._completed(row, progress))
        return row

    def extend(self, count: int, *, whole: bool = False) -> list[Checkpoint]:
        """Create the next `count` checkpoints, and return them."""
        return [self.add(whole=whole) for _ in range(count)]

    def instead(self, *, whole: bool = True, **fields: Any) -> Checkpoint:
        """Return a checkpoint with these fields in place of the next one; the chain does not change."""
        return copy.deepcopy(self).add(whole=whole, **fields)

    def _step(self, seq: int) -> tuple[Transition, bytes | None]:
        """Complete one method, which triggers itself again with its result; at every other step a join latches the result, too."""
        done = f"step:{seq}" if seq else ""
        arguments = (("", done),) if seq else ()
        enabled = (Invocation("step", seq + 1, "", _STEP, arguments),)
        latched = (("join", "step", Seen("", _STEP, done)),) if seq % 2 else ()
        transition = Transition(completed=done, enabled=enabled, latched=latched)
        result = b'"%d"' % seq if seq else None
        self._progress.fold(transition, result)
        return transition, result

    def _completed(self, row: Checkpoint, progress: bytes) -> Checkpoint:
        return row._replace(state=self._state, progress=progress, changes=None, inputs=self._inputs)


def differences(found: Checkpoint, expected: Checkpoint) -> list[str]:
    """Return the names of the fields in which two checkpoints differ, in value or in type."""
    pairs = [(name, getattr(found, name), getattr(expected, name)) for name in Checkpoint._fields]
    return [name for name, is_, should in pairs if type(is_) is not type(should) or is_ != should]


AWKWARD: Final[dict[str, dict[str, Any]]] = {
    "text beyond ASCII": {"state": '{"ä":"ß \u2028 \u202e 😀 e\u0301"}'.encode(), "flow": "Flüß", "method": "größe:1"},
    "escaped characters": {"state": rb'{"nul":"\u0000","half":"\ud800","quotes":"\"\\\/"}'},
    "JSON in a spelling of its own": {
        "state": b'{ "b" : 1.0,\n"a":1E2, "a": 0.10, "c":123456789012345678901234567890 }'
    },
    "null, which is not nothing": {"result": b"null", "inputs": b"null", "outcome": b"null"},
    "empty values": {"state": b"{}", "result": b'""', "inputs": b"{}", "outcome": b"[]", "flow": "F"},
    "nothing": {"result": None, "inputs": None, "outcome": None, "changes": None},
    "quotes of other languages": {"flow": "'; DROP TABLE runs; -- %s {} \\ \" `", "method": "a'b:1"},
    "deep nesting": {"state": b'{"a":' + b"[" * 100 + b"]" * 100 + b"}"},
    "a time before all": {"at": 0.0},
    "a time with many digits": {"at": 4102444799.9999995},
    "large numbers": {"pass_number": 2**31 + 1},
    "a megabyte": {"state": b'{"a":"' + "ä".encode() * 500_000 + b'"}', "result": b'"' + b"x" * 1_000_000 + b'"'},
    **{f"{kind}, {status}": {"kind": kind, "status": status} for kind in get_args(Kind) for status in sorted(STORED)},
}
"""Values that the fields of a checkpoint may have, all of them JSON."""

IDS: Final = (
    *("a", "A", "ä", "a\u0308", "ß", "ss", "SS", "İ", "i", "I", "\u0131"),
    *("x" * 128, "x" * 127, "x" * 127 + "y", "😀" * 128, "1", "01", "1.0", "1e0", "0x1", "-1", "null", "None", "true"),
    *(
        "/",
        "a/b",
        "a\\b",
        "a//b",
        "/etc/passwd",
        ".",
        "..",
        "../a",
        "../../a",
        "a/../b",
        "~",
        "C:\\a",
        "CON",
        "a.run",
        "a.new",
    ),
    *(
        "a_b",
        "a-b",
        "a b",
        "a%b",
        "a%",
        "%",
        "_",
        "*",
        "?",
        "[a]",
        "a*",
        "a:b",
        "a.b",
        "a;b",
        "a#b",
        "a?b=c&d",
        "%61",
        "{}",
    ),
    *("'", '"', "`", "''", "' OR 1=1 --", "$1", ":id", "?1", "\\", "<a>", "|", "e3b0c442-98fc-4c14-9afb-f4c8996fb924"),
)
"""Ids of distinct runs, all valid: 1 to 128 printable characters without surrounding spaces."""

NOT_IDS: Final = (
    "a_",
    "A%",
    "x_",
    "a?",
    "__",
    "*b",
    "a/B",
    "E3B0C442-98FC-4C14-9AFB-F4C8996FB924",
    "x" * 126,
    "a/",
    "./a",
)
"""Ids under which nothing is stored, although they are similar to ids in `IDS`."""
