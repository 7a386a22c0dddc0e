"""The shop of the demo: its services, their calls, durations and frequencies. Data, no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

ENVIRONMENT: Final = "demo"  # of everything the demo sends, so that it can be removed
INSTANCES: Final = (1, 2)  # of each service


@dataclass(frozen=True, slots=True)
class Service:
    """A service. ``version_next``, if any, is deployed during the demo; ``cpu_percent`` is that at full load."""

    name: str
    version: str
    cpu_percent: float
    rss_mib: float
    version_next: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A call of an endpoint: its own time is lognormal, and the calls it makes, one after another, add theirs.

    ``query`` is a database query within its own time. A caller survives the failure of a ``spare`` call.
    """

    service: str
    method: str
    route: str
    median_ms: float
    sigma: float
    calls: tuple[Call, ...] = ()
    query: str = ""
    spare: bool = False
    client_error_share: float = 0.004
    client_error: int = 400

    @property
    def hops(self) -> int:
        """Return how many requests a call causes, itself included."""
        return 1 + sum(call.hops for call in self.calls)

    @property
    def success(self) -> int:
        return 201 if self.method == "POST" else 200


STOREFRONT: Final = "storefront"
CHECKOUT: Final = "checkout"
CATALOG: Final = "catalog"
PAYMENTS: Final = "payments"
RECOMMENDATIONS: Final = "recommendations"

SERVICES: Final = (
    Service(STOREFRONT, "5.12.1", 62, 410),
    Service(CHECKOUT, "2.4.0", 38, 290, version_next="2.5.0"),
    Service(CATALOG, "3.8.4", 55, 520),
    Service(PAYMENTS, "1.19.0", 24, 240),
    Service(RECOMMENDATIONS, "0.9.7", 71, 880),
)

_products = Call(CATALOG, "GET", "/products", 14, 0.45, query="SELECT products")
_product = Call(
    CATALOG, "GET", "/products/{id}", 6, 0.5, query="SELECT product", client_error_share=0.012, client_error=404
)
_search = Call(CATALOG, "GET", "/search", 38, 0.6, query="SELECT search_index")
_stock = Call(CATALOG, "GET", "/stock/{id}", 4, 0.4, query="SELECT stock")
_for_user = Call(RECOMMENDATIONS, "GET", "/recommendations/{user_id}", 32, 0.55, spare=True)
_similar = Call(RECOMMENDATIONS, "GET", "/similar/{product_id}", 24, 0.5, spare=True)
_charge = Call(PAYMENTS, "POST", "/charges", 85, 0.4, query="INSERT charges", client_error_share=0.02, client_error=402)
_item = Call(CHECKOUT, "POST", "/cart/items", 18, 0.5, (_stock,), query="UPSERT cart_items")
_order = Call(CHECKOUT, "POST", "/orders", 60, 0.5, (_stock, _charge), query="INSERT orders")
_cart = Call(CHECKOUT, "GET", "/cart", 11, 0.45, query="SELECT cart_items")

# (share of the requests that reach the shop, their call)
JOURNEYS: Final = (
    (0.26, Call(STOREFRONT, "GET", "/", 21, 0.4, (_products, _for_user))),
    (0.30, Call(STOREFRONT, "GET", "/products/{id}", 16, 0.4, (_product, _similar), client_error=404)),
    (0.14, Call(STOREFRONT, "GET", "/search", 12, 0.4, (_search,))),
    (0.12, Call(STOREFRONT, "POST", "/cart", 9, 0.4, (_item,))),
    (0.08, Call(STOREFRONT, "GET", "/cart", 13, 0.4, (_cart,))),
    (0.10, Call(STOREFRONT, "POST", "/checkout", 19, 0.4, (_order,), client_error_share=0.015)),
)  # fmt: skip
HOPS_A_JOURNEY: Final = sum(share * call.hops for share, call in JOURNEYS)
