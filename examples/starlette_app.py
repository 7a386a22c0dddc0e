"""A Starlette application: `uvicorn examples.starlette_app:app`."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from vantage_agent import init_agent

init_agent(service_name="shop", collector_url="http://127.0.0.1:8000", auto_instrument=["starlette"])


async def order(request: Request) -> JSONResponse:
    return JSONResponse({"order": request.path_params["order_id"]})


app = Starlette(routes=[Route("/orders/{order_id}", order)])
