"""A Flask application: `flask --app examples/flask_app.py run`."""

from vantage_agent import init_agent

init_agent(service_name="shop", collector_url="http://127.0.0.1:8000", auto_instrument=["flask"])

from flask import Flask  # noqa: E402  # before or after: both work

app = Flask(__name__)


@app.get("/orders/<int:order_id>")
def order(order_id: int) -> dict[str, int]:
    return {"order": order_id}
