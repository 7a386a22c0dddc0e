"""A Litestar application: `uvicorn examples.litestar_app:app`."""

from litestar import Litestar, get

from vantage_agent import init_agent

init_agent(service_name="shop", collector_url="http://127.0.0.1:8000", auto_instrument=["litestar"])


@get("/orders/{order_id:int}")
async def order(order_id: int) -> dict[str, int]:
    return {"order": order_id}


app = Litestar([order])
