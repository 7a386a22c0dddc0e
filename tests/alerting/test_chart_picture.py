"""The chart in mails: a picture that programs can read, with its line, its limit and its gaps."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.context_writes import write_batch
from tests.support.pages import page_context
from tests.support.samples import NOW_MS, a_series
from vantage.alerting.alert_points import AlertPoints
from vantage.alerting.chart_picture import HEIGHT, LIMIT, LINE, MARGIN, WIDTH, ChartPicture, Pixels, draw
from vantage.core.alert_rule import MetricValue, NoDataCondition, Rule, Threshold
from vantage.core.batch import build_batch
from vantage.core.notification import NoticeAlert, Status


def decoded(picture: bytes) -> Pixels:
    """The pixels of a PNG without filters, whose checksums are right."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n")
    chunks, position = {}, 8
    while position < len(picture):
        (length,) = struct.unpack_from(">I", picture, position)
        kind, body = picture[position + 4 : position + 8], picture[position + 8 : position + 8 + length]
        (checksum,) = struct.unpack_from(">I", picture, position + 8 + length)
        assert checksum == zlib.crc32(kind + body)
        chunks[kind] = body
        position += 12 + length
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    assert (depth, colour) == (8, 2)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, 1 + width * 3)
    assert not rows[:, 0].any()
    return rows[:, 1:].reshape(height, width, 3)


def columns_of(pixels: Pixels, colour: tuple[int, int, int]) -> list[int]:
    return sorted({int(column) for column in np.nonzero((pixels == colour).all(axis=2))[1]})


def rows_of(pixels: Pixels, colour: tuple[int, int, int]) -> list[int]:
    return sorted({int(row) for row in np.nonzero((pixels == colour).all(axis=2))[0]})


def points(values: Sequence[float | None], limit: float | None = None) -> AlertPoints:
    return AlertPoints(NOW_MS, 60_000, values, "ms", limit)


def test_a_line_goes_up_across_its_limit() -> None:
    pixels = decoded(draw(points([0.0, 50.0, 100.0], limit=50.0)))
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    line = (pixels == LINE).all(axis=2)
    first, last = (int(np.nonzero(line[:, column])[0].min()) for column in (MARGIN, WIDTH - 1 - MARGIN))
    assert (first, last) == (HEIGHT - 1 - MARGIN, MARGIN)
    assert columns_of(pixels, LINE)[:1] == [MARGIN]
    assert len(columns_of(pixels, LINE)) >= WIDTH - 2 * MARGIN
    assert abs(rows_of(pixels, LIMIT)[0] - HEIGHT // 2) <= 1


def test_where_there_is_no_data_there_is_no_line() -> None:
    drawn = columns_of(decoded(draw(points([1.0, 1.0, None, None, 1.0, 1.0]))), LINE)
    gaps = [after - before for before, after in itertools.pairwise(drawn)]
    assert max(gaps) > WIDTH // 3


@pytest.mark.parametrize(
    "values",
    [[0.0, 0.0], [5.0, None], [-3.0, -1.0], [1e308, -1e308], [float("nan"), 1.0], [float("inf"), 1.0], [5e-324, 0.0]],
    ids=range(7),
)
def test_any_values_make_a_picture(values: list[float | None]) -> None:
    assert decoded(draw(points(values, limit=2.0))).shape == (HEIGHT, WIDTH, 3)


async def test_an_alert_of_a_metric_has_a_picture_and_others_have_none() -> None:
    async with page_context() as context:
        series = a_series("shop", "queue.depth")
        rows = [(series, NOW_MS - minute * 60_000 - 1000, 900.0) for minute in range(120)]
        await write_batch(context, build_batch(rows))
        alerts = context.metadata.alerts
        value = MetricValue("shop", "queue.depth")
        await alerts.save_rule(Rule("queue", Threshold(value, above=500.0)), actor="ann")  # type: ignore[attr-defined]
        await alerts.save_rule(Rule("silent", NoDataCondition()), actor="ann")  # type: ignore[attr-defined]
        picture = ChartPicture(context)
        alert = NoticeAlert("f" * 16, 1, "queue", "shop", "warning", Status.FIRING, NOW_MS - 60_000,
                            entity={"service": "shop"})  # fmt: skip
        drawn = await picture(alert)
        assert drawn is not None
        assert columns_of(decoded(drawn), LINE)
        for rule in ("silent", "removed"):
            assert await picture(NoticeAlert("f" * 16, 1, rule, "shop", "info", Status.FIRING, NOW_MS)) is None
