#!/usr/bin/env python3
"""An order and its message in one transaction: both are kept, or neither. Standard library only.

    python3 outbox.py shop.db        # the database that redrive's `store.url` names, after redrive has made its tables
"""
import json
import sqlite3
import sys


def place_order(database, number, total):
    database.execute("INSERT INTO orders (number, total) VALUES (?, ?)", (number, total))
    # These columns are enough; the table's defaults fill in the rest, including the id.
    database.execute(
        "INSERT INTO resend_log (source, topic, msg_key, payload, headers) VALUES (?, ?, ?, ?, ?)",
        ("orders-events", "orders", number, json.dumps({"order": number, "total": total}), json.dumps({"tenant": "a"})),
    )


def main():
    database = sqlite3.connect(sys.argv[1] if len(sys.argv) > 1 else "shop.db", timeout=10)
    database.execute("CREATE TABLE IF NOT EXISTS orders (number TEXT PRIMARY KEY, total INTEGER)")

    with database:  # BEGIN ... COMMIT
        place_order(database, "o-17", 12)

    try:
        with database:
            place_order(database, "o-18", 99)
            raise RuntimeError("the card was declined")
    except RuntimeError as error:
        print(f"o-18 rolled back, and its message with it: {error}")

    kept = [number for (number,) in database.execute("SELECT number FROM orders")]
    print(f"orders kept: {kept}")
    database.close()


if __name__ == "__main__":
    main()
