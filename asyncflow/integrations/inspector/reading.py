"""What a request asks: the filters of a list, the numbers in a query, and the fields of a form."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple, get_args
from urllib.parse import parse_qsl

from starlette.exceptions import HTTPException
from starlette.requests import Request

from ...persistence.status import Status

__all__ = ["LARGEST", "STATUSES", "WITHIN", "Filters", "Form", "form_of", "number"]

LARGEST: Final = 256 * 1024
"""The largest form, in bytes."""

STATUSES: Final[tuple[str, ...]] = get_args(Status)

WITHIN: Final = {
    "15m": ("15 minutes", 900.0),
    "1h": ("hour", 3_600.0),
    "1d": ("day", 86_400.0),
    "7d": ("7 days", 604_800.0),
}
"""Times since the last change, as a list can be filtered: their texts, and their seconds."""


class Filters(NamedTuple):
    """The filters of a list of runs, as they were given."""

    flow: str = ""
    status: str = ""
    within: str = ""
    since: str = ""
    until: str = ""
    id: str = ""
    parent: str = ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filters:
        """Return the filters that a query names."""
        return cls(*(query.get(name, "").strip() for name in cls._fields))

    def asked(self, now: float) -> dict[str, Any]:
        """Return the arguments of `list_runs`. Raises `ValueError` for a filter that makes no sense, with what to do."""
        if self.status not in ("", "unfinished", *STATUSES):
            raise ValueError(f"There is no status {self.status!r}. Choose one from the list.")
        if self.within not in ("", *WITHIN):
            raise ValueError(f"There is no time {self.within!r}. Choose one from the list.")
        begins = [now - WITHIN[self.within][1]] if self.within else []
        begins += [_time(self.since, "Changed from")] if self.since else []
        since = max(begins, default=None)
        until = _time(self.until, "Created until") if self.until else None
        asked = {"flow": self.flow, "status": self.status, "id_text": self.id, "parent": self.parent}
        return {**{name: value or None for name, value in asked.items()}, "since": since, "until": until}

    @property
    def given(self) -> dict[str, str]:
        """The filters that are set, by name."""
        return {name: value for name, value in self._asdict().items() if value}


def _time(text: str, which: str) -> float:
    try:
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"{which!r} is no time. Write it as 2026-11-30T22:45 (UTC).") from None


def number(request: Request, name: str) -> int | None:
    """Return a number of the query; None if it has none. Raises `HTTPException` 400 for any other text."""
    text = request.query_params.get(name, "")
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise HTTPException(400, f"{name} must be a number.")
    return int(text)


class Form(NamedTuple):
    """A form that was sent."""

    fields: Mapping[str, str]
    """The last value of each field."""
    ids: tuple[str, ...]
    """All values of the field `id`."""

    def seq(self) -> int | None:
        """Return the field `seq`; None if it is empty. Raises `HTTPException` 400."""
        text = self.fields.get("seq", "")
        if not text:
            return None
        if not text.isascii() or not text.isdecimal() or len(text) > 15:
            raise HTTPException(400, "seq must be the number of a step.")
        return int(text)


async def form_of(request: Request) -> Form:
    """Read a form. Raises `HTTPException` 413 for one that is too large, 415 and 400 for any other content."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "The request is no form.")
    data = bytearray()
    async with aclosing(request.stream()) as parts:
        async for part in parts:
            data += part
            if len(data) > LARGEST:
                raise HTTPException(413, f"A form has at most {LARGEST // 1024} kB; nothing was done.")
    try:
        pairs = parse_qsl(data.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict")
    except ValueError:
        raise HTTPException(400, "The form cannot be read; nothing was done.") from None
    return Form(dict(pairs), tuple(value for name, value in pairs if name == "id"))
