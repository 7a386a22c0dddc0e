"""The frame of the application in a stack trace, whatever the language, the host and the release."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vantage.query.stack_frames import Frame, application_frame

PYTHON = """Traceback (most recent call last):
  File "/srv/shop/app/views.py", line 40, in checkout
    total = price(cart)
  File "/srv/shop/app/pricing.py", line 12, in price
    return json.loads(text)
  File "/usr/lib/python3.11/json/decoder.py", line 355, in raw_decode
    raise JSONDecodeError("Expecting value", s, err.value) from None
json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)"""
CHAINED = """Traceback (most recent call last):
  File "/srv/shop/app/cache.py", line 7, in read
    return self.values[key]
KeyError: 'cart'

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
  File "/srv/shop/app/cart.py", line 20, in load
    raise CartMissing from error
  File "/venv/lib/python3.12/site-packages/library/raising.py", line 3, in helper
    raise error
app.cart.CartMissing"""
JAVASCRIPT = """TypeError: Cannot read properties of undefined (reading 'price')
    at total (/srv/shop/node_modules/money/index.js:3:9)
    at Cart.total (/srv/shop/src/cart.js:14:22)
    at /srv/shop/src/server.js:30:5
    at process.processTicksAndRejections (node:internal/process/task_queues:95:5)"""
JAVA = """java.lang.IllegalStateException: no cart
\tat java.base/java.util.Optional.orElseThrow(Optional.java:403)
\tat org.springframework.web.Handler.handle(Handler.java:10)
\tat com.example.shop.Cart.load(Cart.java:27)
Caused by: java.sql.SQLException: closed
\tat com.example.shop.Database.read(Database.java:99)"""


@pytest.mark.parametrize(
    ("stacktrace", "frame"),
    [
        (PYTHON, Frame("shop/app/pricing.py", "price", 12)),
        (CHAINED, Frame("shop/app/cart.py", "load", 20)),
        (PYTHON.replace("/", "\\"), Frame("shop/app/pricing.py", "price", 12)),
        (JAVASCRIPT, Frame("shop/src/cart.js", "Cart.total", 14)),
        (JAVA, Frame("Cart.java", "com.example.shop.Cart.load", 27)),
        ('  File "<frozen runpy>", line 88, in run\n', Frame("<frozen runpy>", "run", 88)),
        ('  | File "/a/b.py", line 2, in f\n', Frame("a/b.py", "f", 2)),
        ('File "/a/b.py", line 2', Frame("a/b.py", "", 2)),
        ("", None),
        ("ValueError: at the end", None),
        ("at the end: 5", None),
        ("x" * 5000, None),
    ],
    ids=["python", "chained", "windows", "javascript", "java", "library", "group", "no function", "empty", "no frame",
         "a sentence", "long"],
)  # fmt: skip
def test_the_innermost_frame_outside_of_libraries_is_the_origin(stacktrace: str, frame: Frame | None) -> None:
    assert application_frame(stacktrace) == frame


@pytest.mark.parametrize("folder", ["20261130", "v1.42.0", "2026-11-30", "6d5ca1e9"])
def test_releases_share_a_key_and_so_do_lines(folder: str) -> None:
    here = application_frame(PYTHON.replace("/srv/shop", f"/srv/releases/{folder}").replace("line 12", "line 14"))
    assert here is not None
    assert here.key == ("app/pricing.py", "price")
    assert here.line == 14


def test_functions_without_a_name_differ_by_their_line() -> None:
    frames = [application_frame(f"    at /srv/app/server.js:{line}:5") for line in (30, 31)]
    assert len({frame.key for frame in frames if frame}) == 2


@given(st.text(max_size=400))
def test_any_text_is_a_stack_trace_of_some_kind_or_none(text: str) -> None:
    application_frame(text)
    application_frame(f'File "{text}", line 5, in {text}')
    application_frame(f"    at {text} ({text}:5:1)")
