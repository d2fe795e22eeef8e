"""An order saga: the stock is reserved, the card charged, the parcel shipped. If a part fails, all are undone, the last one first.

`uvicorn examples.order_saga:app --workers 2` serves it; README.md here says what to try. Each part is a child run with retries of its
own. An order that is not confirmed in time expires. Its customer may cancel it until it is shipped, and an operator at any time.
"""

import os
import random
from datetime import timedelta
from typing import Annotated, Any, Literal

import anyio
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel, Field

from asyncflow import Flow, FlowRunner, FlowState, Retry, Signal, after, and_, listen, or_, router, run_child, start
from asyncflow.errors import ChildFailedError
from asyncflow.integrations.fastapi import Action, action_of, flow_router, lifespan

# ---- the outside world: a warehouse, a bank and a carrier, simulated -------------------------------------------------

LOG = os.environ.get("SAGA_LOG", "outside.log")  # a line for each call: process, call, order
SECONDS = float(os.environ.get("SAGA_SECONDS", 1))  # that a call takes
UNRELIABLE = float(os.environ.get("SAGA_UNRELIABLE", 0.2))  # the share of calls that get no answer

UNDO = {"reserve": "release", "charge": "refund", "ship": "recall"}
OPPOSITE = UNDO | {undo: do for do, undo in UNDO.items()}


class RefusedError(Exception):
    """The answer is no. Another attempt would get the same."""


async def outside(call: str, order: str, about: str = "") -> bool:
    """Make a call. The order is its idempotency key: the same call again has no effect.

    Of a call and its opposite the first one counts: a card that is refunded before it is charged is never charged, and a parcel that has
    gone is not recalled. Return whether this one counts.
    """
    await anyio.sleep(SECONDS / 2)
    if random.random() < UNRELIABLE:
        raise ConnectionError(f"{call}: no answer")
    if about in ("unicorn", "declined", "nowhere"):
        raise RefusedError(f"{call}: {about}")
    async with await anyio.open_file(LOG, "ab", buffering=0) as log:  # one appending write: all see the same order
        await log.write(f"{os.getpid()} {call} {order}\n".encode())
    await anyio.sleep(SECONDS / 2)  # the answer takes as long as the call: a process may die between them
    lines = (await anyio.Path(LOG).read_text()).splitlines()
    calls = [line.split()[1] for line in lines if line.endswith(f" {order}")]
    return OPPOSITE[call] not in calls[: calls.index(call)]


# ---- the parts of an order, and what undoes them ----------------------------------------------------------------------


class Part(FlowState):
    order: str
    about: str = ""  # the item, the card, the address, or the call that undoes a part


FEW = Retry(attempts=5, initial=SECONDS, on=ConnectionError)
MANY = Retry(attempts=50, initial=SECONDS, on=ConnectionError)


class Reserve(Flow[Part, None]):
    @start(retry=FEW)
    async def reserve(self) -> None:
        await outside("reserve", self.state.order, self.state.about)


class Charge(Flow[Part, None]):
    @start(retry=FEW)
    async def charge(self) -> None:
        await outside("charge", self.state.order, self.state.about)


class Ship(Flow[Part, None]):
    @start(retry=FEW)
    async def ship(self) -> None:
        await outside("ship", self.state.order, self.state.about)


class Undo(Flow[Part, bool]):
    """Undoes a part. If it fails permanently, its order fails, and `POST /runs/{order}/resume` continues both."""

    @start(retry=MANY)
    async def undo(self) -> bool:
        return await outside(self.state.about, self.state.order)


async def undo(order: str, parts: list[str]) -> list[str]:
    """Undo parts of an order, the last one first, unless the parcel has gone. Return what was done.

    Each is a child: a method that runs again gets the results of those that have finished, so nothing is undone twice.
    """
    done: list[str] = []
    for call in (UNDO[part] for part in reversed(parts)):
        is_undone = await run_child(Undo, {"order": order, "about": call}, key=call)
        if call == "recall" and not is_undone:
            return ["too late: the parcel has gone"]
        done.append(call)
    return done


class Confirmation(BaseModel):
    reference: str


class Cancellation(BaseModel):
    reason: str


class Order(FlowState):
    item: str
    card: str
    address: str
    confirm_within: timedelta = timedelta(minutes=15)
    happened: list[str] = Field(default_factory=list)


class Sell(Flow[Order, list[str]]):
    """Reserves, charges, waits for the confirmation, and ships; or undoes what it did."""

    confirmed = Signal("confirmed", Confirmation)  # by the bank
    cancelled = Signal("cancelled", Cancellation)  # by the customer

    async def part(self, name: str, child: type[Flow[Part, None]], about: str) -> bool:
        """Run a part. One that fails is undone, too: its last call may have arrived, although the answer did not."""
        self.state.happened.append(name)
        try:
            await run_child(child, {"order": self.run_id, "about": about})
        except ChildFailedError:
            self.state.happened.append(f"{name} failed")
            return False
        return True

    @start()
    async def reserve(self) -> bool:
        return await self.part("reserve", Reserve, self.state.item)

    @router(reserve)
    async def charge(self, is_reserved: bool) -> Literal["charged", "undo"]:
        return "charged" if is_reserved and await self.part("charge", Charge, self.state.card) else "undo"

    @router(or_(and_("charged", or_(confirmed, cancelled)), after("charged", lambda order: order.confirm_within)))
    async def decide(self, answer: Confirmation | Cancellation | str) -> Literal["go", "undo"]:
        match answer:
            case Confirmation():
                self.state.happened.append(f"confirmed: {answer.reference}")
                return "go"
            case Cancellation():
                self.state.happened.append(f"cancelled: {answer.reason}")
            case _:
                self.state.happened.append("expired")
        return "undo"

    @router("go")
    async def ship(self) -> Literal["shipped", "undo"]:
        return "shipped" if await self.part("ship", Ship, self.state.address) else "undo"

    @listen(or_("shipped", "undo"))
    async def end(self, how: str) -> list[str]:
        if how == "undo":
            self.state.happened += await undo(self.run_id, [part for part in self.state.happened if part in UNDO])
        return self.state.happened


class Abort(Flow[Part, list[str]]):
    """The operator's cancel. A cancelled run runs nothing more, so this run undoes it: all parts, since any may have been begun."""

    @start()
    async def stop(self) -> str:
        await runner.cancel(self.state.order)  # its children, too
        return await (await runner.get(self.state.order)).status()

    @listen(stop)
    async def end(self, status: str) -> list[str]:
        return await undo(self.state.order, list(UNDO)) if status == "cancelled" else [f"too late: it has {status}"]


async def authorize(action: Annotated[Action, Depends(action_of)]) -> None:
    if action.name == "cancel" or action.flow == "Abort":
        raise HTTPException(403, "DELETE /runs/{order} cancels an order, and undoes it")


runner = FlowRunner(flows=[Sell, Abort, Reserve, Charge, Ship, Undo])
app = FastAPI(title="Orders", lifespan=lifespan(runner))
app.include_router(flow_router(runner, [Sell, Abort], authorize=authorize, signals=[Sell.confirmed, Sell.cancelled]))


@app.delete("/runs/{order}", status_code=202)
async def abort(order: str) -> dict[str, Any]:
    """Cancel an order and undo it, in a run of its own, which a second request finds again. Return the id of that run."""
    stored = await runner.persistence.load(order)
    if stored is None or stored.flow != "Sell":
        raise HTTPException(404, "No such order.")
    return {"run_id": (await runner.start(Abort, {"order": order}, run_id=f"abort-{order}")).run_id}
