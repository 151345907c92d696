#!/usr/bin/env python3
"""A handler in the producer's own language, behind a redrive source of `kind: http`.

It verifies the signature (Standard Webhooks), drops copies by Redrive-Id, and does its work in the same transaction that
records the id as handled. Standard library only.

    WEBHOOK_SECRET=whsec_... python3 handler.py --unix /tmp/handler.sock [--database handled.db]
    WEBHOOK_SECRET=whsec_... python3 handler.py --port 9000

--lose-first-answer shows why copies occur: the first answer to each message is lost after the work is done.
"""
import argparse
import base64
import hashlib
import hmac
import os
import signal
import socketserver
import sqlite3
import sys
import time
from http.server import BaseHTTPRequestHandler
from urllib.parse import unquote

TOLERANCE = 300  # seconds; an older signature may be a replay
MOST_BYTES = 16 << 20


def signature_is_good(secrets, headers, body, now):
    """Whether one of the secrets signed this id, this time and this body."""
    identity, sent_at = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    # isdigit() alone would also accept digits other than ASCII's.
    if not (sent_at.isascii() and sent_at.isdigit()) or abs(now - int(sent_at)) > TOLERANCE:
        return False
    signed = f"{identity}.{sent_at}.".encode() + body
    for secret in secrets:
        digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        expected = "v1," + base64.b64encode(digest).decode()
        for given in headers.get("webhook-signature", "").split():
            if hmac.compare_digest(expected.encode(), given.encode()):
                return True
    return False


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_POST(self):
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or int(length) > MOST_BYTES:
            self.close_connection = True
            return self.answer(413, "a body of known, bounded length is wanted")
        body = self.rfile.read(int(length))
        if not signature_is_good(self.server.secrets, self.headers, body, time.time()):
            return self.answer(401, "the signature is wrong or old")
        identity = self.headers["Redrive-Id"]
        # Topic and key come percent-encoded, so that any text fits into a header.
        topic = unquote(self.headers.get("Redrive-Topic", ""))
        database = sqlite3.connect(self.server.database, timeout=10)
        try:
            with database:  # one transaction: the work, and the record that it was done
                new = database.execute("INSERT OR IGNORE INTO handled (id) VALUES (?)", (identity,)).rowcount == 1
                if new:
                    work(database, topic, body)
        except Exception as error:  # 500 is `refused`: redrive tries again later
            print(f"failed {identity}: {error}", flush=True)
            return self.answer(500, "the work failed")
        finally:
            database.close()
        print(f"{'done' if new else 'copy'} {identity} {topic} {body.decode(errors='replace')}", flush=True)
        if new and self.server.lose_first_answer:
            self.close_connection = True
            return
        self.answer(200, "done" if new else "done before")

    def answer(self, status, text):
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self):
        return "local"  # a Unix socket has no address

    def log_request(self, *_):
        pass


def work(database, topic, body):
    """The actual work of the handler."""
    database.execute("INSERT INTO orders (topic, body) VALUES (?, ?)", (topic, body))


class TcpServer(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    allow_reuse_address = True


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--unix", metavar="PATH")
    where.add_argument("--port", type=int)
    parser.add_argument("--database", default="handled.db")
    parser.add_argument("--lose-first-answer", action="store_true")
    options = parser.parse_args()
    secrets = os.environ.get("WEBHOOK_SECRET", "").split()
    if not secrets:
        sys.exit("WEBHOOK_SECRET is not set")

    with sqlite3.connect(options.database) as database:
        database.execute("CREATE TABLE IF NOT EXISTS handled (id TEXT PRIMARY KEY, at TEXT DEFAULT CURRENT_TIMESTAMP)")
        database.execute("CREATE TABLE IF NOT EXISTS orders (topic TEXT, body BLOB)")
    database.close()

    if options.unix:
        if os.path.exists(options.unix):
            os.unlink(options.unix)  # left by a process that is gone
        os.umask(0o077)  # the socket is for this user only
        server = UnixServer(options.unix, Handler)
    else:
        server = TcpServer(("127.0.0.1", options.port), Handler)
    server.secrets, server.database, server.lose_first_answer = secrets, options.database, options.lose_first_answer
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("ready", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
