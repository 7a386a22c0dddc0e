"""The HTTP edge. Beside ``vantage.app``, only this package imports Litestar."""
