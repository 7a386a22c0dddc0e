"""A Django application in one file: `gunicorn examples.django_app:app`."""

from vantage_agent import init_agent

init_agent(service_name="shop", collector_url="http://127.0.0.1:8000", auto_instrument=["django"])

from django.conf import settings  # noqa: E402  # before or after: both work
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1", "localhost"], SECRET_KEY="not a secret")


def order(request: HttpRequest, order_id: int) -> JsonResponse:
    return JsonResponse({"order": order_id})


urlpatterns = [path("orders/<int:order_id>", order)]
app = get_wsgi_application()
