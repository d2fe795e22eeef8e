"""A shop's orders as a web service: each is priced, paid and shipped, in steps that take seconds, and none is lost.

`uvicorn examples.fastapi_app:app --workers 2` serves it; `README.md` here says what to try. The runs are stored in `./asyncflow.db`,
or the file that `$ASYNCFLOW_DB` names; the workers share that file.
"""

import os
import secrets
from decimal import Decimal
from typing import Annotated, Literal

import anyio
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import APIKeyHeader
from pydantic import BaseModel, Field

from asyncflow import Flow, FlowRunner, FlowState, listen, router, start
from asyncflow.integrations.fastapi import flow_router, lifespan

SECONDS = float(os.environ.get("SHOP_SECONDS", "2"))
"""That each step takes."""

KEY = os.environ.get("SHOP_KEY", "let-me-in")

PRICES = {"tea": Decimal("4.50"), "cup": Decimal("12.00")}


class Line(BaseModel):
    item: Literal["tea", "cup"]
    count: Annotated[int, Field(ge=1, le=100)] = 1


class Order(FlowState):
    customer: Annotated[str, Field(min_length=1, max_length=100)]
    lines: Annotated[list[Line], Field(min_length=1)]
    total: Decimal = Decimal(0)
    payment: str = ""
    parcel: str = ""


class Receipt(BaseModel):
    total: Decimal
    parcel: str


class PlaceOrder(Flow[Order]):
    """Prices an order, charges it, and ships it. An order above 100 is not shipped automatically."""

    @start()
    async def price(self) -> Decimal:
        await anyio.sleep(SECONDS)
        self.state.total = sum((PRICES[line.item] * line.count for line in self.state.lines), Decimal(0))
        return self.state.total

    @router(price)
    async def judge(self, total: Decimal) -> Literal["small", "large"]:
        return "small" if total <= 100 else "large"

    @listen("small")
    async def pay(self) -> None:
        """Charge the order, at least once: pass the invocation id, which a repeated call repeats, to the payment service."""
        await anyio.sleep(SECONDS)
        self.state.payment = self.invocation_id

    @listen(pay)
    async def ship(self) -> Receipt:
        await anyio.sleep(SECONDS)
        self.state.parcel = f"parcel for {self.state.customer}"
        return Receipt(total=self.state.total, parcel=self.state.parcel)

    @listen("large")
    async def ask(self) -> Receipt:
        return Receipt(total=self.state.total, parcel="none: please call us first")


async def authorize(key: Annotated[str, Depends(APIKeyHeader(name="X-Key"))]) -> None:
    """Allow everything to a client with the key; a service with accounts would look up the owner of the run."""
    if not secrets.compare_digest(key.encode(), KEY.encode()):
        raise HTTPException(403, "wrong key")


runner = FlowRunner(flows=[PlaceOrder], max_running=100, overload="raise", grace=2 * SECONDS)
app = FastAPI(title="A shop", lifespan=lifespan(runner))
app.include_router(flow_router(runner, [PlaceOrder], authorize=authorize))
