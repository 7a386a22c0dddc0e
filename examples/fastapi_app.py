"""A FastAPI application that calls another service: `uvicorn examples.fastapi_app:app`."""

import httpx
from fastapi import FastAPI

from vantage_agent import init_agent, set_tags

init_agent(service_name="shop", collector_url="http://127.0.0.1:8000", auto_instrument=["fastapi", "httpx"])

app = FastAPI()
PAYMENTS = "http://127.0.0.1:8001"


@app.get("/orders/{order_id}")
async def order(order_id: int) -> dict[str, int]:
    set_tags({"tier": "gold"})
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{PAYMENTS}/payments/{order_id}")
    return {"order": order_id, "payment": answer.status_code}
