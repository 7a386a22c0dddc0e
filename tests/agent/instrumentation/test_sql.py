"""Only an operation of a closed list and a certain table are parsed from a statement."""

from __future__ import annotations

import random

import pytest

from vantage_agent._sql import STATEMENT_LENGTH_MAX, summary


@pytest.mark.parametrize(
    ("statement", "operation", "table"),
    [
        ("SELECT a, b FROM orders WHERE c = 'x'", "SELECT", "orders"),
        ("select * from Shop.Orders", "SELECT", "Shop.Orders"),
        ("  SELECT\n*\nFROM\n\torders", "SELECT", "orders"),
        ("/* who asks */ -- and why\nSELECT * FROM orders", "SELECT", "orders"),
        ("SELECT a -- why\r\nFROM orders -- and where", "SELECT", "orders"),
        ('SELECT "a" FROM "shop"."orders"', "SELECT", "shop.orders"),
        ("SELECT `a` FROM `orders`", "SELECT", "orders"),
        ("SELECT [a] FROM [dbo].[orders]", "SELECT", "dbo.orders"),
        ("SELECT a[1], $1, :b, %s, %(c)s, ?, d::text FROM orders", "SELECT", "orders"),
        ("SELECT extract(year FROM placed) FROM orders", "SELECT", "orders"),
        ("SELECT a IS DISTINCT FROM b FROM orders", "SELECT", "orders"),
        ("SELECT (SELECT 1 FROM inner_one) FROM orders", "SELECT", "orders"),
        ("SELECT a - b / c FROM ONLY orders, others", "SELECT", "orders"),
        ("SELECT * FROM (SELECT * FROM orders) AS o", "SELECT", ""),
        ("SELECT 1", "SELECT", ""),
        ("SELECT 'a' FROM orders", "SELECT", ""),
        ("INSERT INTO orders (a) VALUES (1)", "INSERT", "orders"),
        ("INSERT OR REPLACE INTO orders VALUES (1)", "INSERT", "orders"),
        ("REPLACE INTO orders VALUES (1)", "REPLACE", "orders"),
        ("UPDATE orders SET a = 1", "UPDATE", "orders"),
        ("UPDATE OR IGNORE orders SET a = 1", "UPDATE", "orders"),
        ("DELETE FROM orders", "DELETE", "orders"),
        ("MERGE INTO orders USING others", "MERGE", "orders"),
        ("CREATE TEMPORARY TABLE IF NOT EXISTS orders (a)", "CREATE", "orders"),
        ("CREATE INDEX a ON orders (b)", "CREATE", ""),
        ("DROP TABLE IF EXISTS orders", "DROP", "orders"),
        ("ALTER TABLE orders ADD b", "ALTER", "orders"),
        ("TRUNCATE orders", "TRUNCATE", "orders"),
        ("TRUNCATE TABLE orders", "TRUNCATE", "orders"),
        ("WITH a AS (SELECT 1 FROM others) SELECT * FROM orders", "SELECT", "orders"),
        ("WITH a AS (SELECT 1) INSERT INTO orders SELECT * FROM a", "INSERT", "orders"),
        ("WITH a AS (SELECT 'x') SELECT * FROM orders", "WITH", ""),
        ("PRAGMA user_version", "PRAGMA", ""),
        ("COMMIT", "COMMIT", ""),
        ("", "", ""),
        (" \n", "", ""),
    ],
)
def test_the_operation_and_the_table(statement: str, operation: str, table: str) -> None:
    assert summary(statement) == (operation, table)


@pytest.mark.parametrize(
    ("statement", "operation"),
    [
        ("secret", "_OTHER"),
        ("secret.secret FROM secret", "_OTHER"),
        ("'secret' FROM secret", "_OTHER"),
        ("/* a /* nested */ SELECT 1 FROM secret */ SELECT 1", "_OTHER"),
        (r"SELECT 'it\' FROM secret '", "SELECT"),
        (r'SELECT "it\" FROM secret "', "SELECT"),
        ('SELECT "FROM secret"', "SELECT"),
        ("SELECT E'\\' FROM secret '", "SELECT"),
        ("SELECT $$ FROM secret $$", "SELECT"),
        ("SELECT $a$ FROM secret $a$", "SELECT"),
        ("SELECT 5--' \n FROM secret '", "SELECT"),
        ("SELECT 5 -- \r, ' \n FROM secret '", "SELECT"),
        ("SELECT 5 -- \r FROM secret", "SELECT"),
        ("SELECT 5 #' \n FROM secret '", "SELECT"),
        ("SELECT 5 /* ' /* */ FROM secret */", "SELECT"),
        ("SELECT 5 # FROM secret \n FROM orders", "SELECT"),
        ("SELECT 5 \\ FROM secret", "SELECT"),
        ("SELECT 5) ( FROM secret", "SELECT"),
        ("SELECT trim(both FROM secret)", "SELECT"),
        ('SELECT a IS DISTINCT FROM "secret"', "SELECT"),
        ("SELECT a FROM 'secret'", "SELECT"),
        ('SELECT a FROM "secret of mine"', "SELECT"),
        ("SELECT a FROM 4111secret", "SELECT"),
        ("SELECT a) FROM secret", "SELECT"),
        ("INSERT INTO 'secret' VALUES (1)", "INSERT"),
        (f"SELECT a FROM {'secret' * 17}", "SELECT"),
        ("SELECT a FROM sécret", "SELECT"),
        ("ALTER USER a PASSWORD 'secret'", "ALTER"),
        ("SET secret = 'secret'", "SET"),
    ],
)
def test_text_that_may_be_a_string_or_a_comment_is_not_sent(statement: str, operation: str) -> None:
    assert summary(statement) == (operation, "")


def test_a_table_name_that_may_be_cut_is_not_sent() -> None:
    blanks = STATEMENT_LENGTH_MAX - len("SELECTa FROM ord")
    complete = f"SELECT{' ' * blanks}a FROM orders"
    assert complete[:STATEMENT_LENGTH_MAX].endswith(" ord")
    assert summary(complete[:STATEMENT_LENGTH_MAX]) == ("SELECT", "")
    assert summary(complete.replace("  ", " ", 2)[: STATEMENT_LENGTH_MAX - 1]) == ("SELECT", "orde")


def test_any_text_is_read_without_a_fault() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    pieces = [
        "SELECT ",
        "FROM ",
        "(",
        ")",
        "'",
        '"',
        "`",
        "/*",
        "*/",
        "--",
        "\n",
        "$",
        "$a$",
        "a.",
        "é",
        "\\",
        "[",
        "1",
    ]
    for _ in range(300):
        operation, table = summary("".join(chance.choices(pieces, k=400))[:STATEMENT_LENGTH_MAX])
        assert operation in ("", "SELECT", "_OTHER")
        assert table == "" or (table.isascii() and "'" not in table and "/" not in table)
    for item in ("a." * 500, "a$" * 500, "/*" * 500, "(" * 1000, " " * 1000, "-- \n" * 250, "a" * 1000, "$" * 1000):
        assert summary(item) in (("", ""), ("_OTHER", ""))
