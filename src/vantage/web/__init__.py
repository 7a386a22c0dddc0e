"""The edge: HTTP in, HTTP out. With ``vantage.app`` the only package that imports Litestar."""
