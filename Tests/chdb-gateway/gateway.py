"""ClickHouse's HTTP interface, as far as pg_reactions speaks it, over one chDB session.

chDB embeds the current ClickHouse engine without a server. The gateway lets the conformance suite send the same requests to it as to
a server. What differs from a server: queries run one at a time (so none finds another one with its query_id), the access control is
one user with one password, and a request that was received whole runs to its end.
"""

import argparse
import gzip
import http.server
import os
import re
import signal
import socketserver
import tempfile
import threading
import urllib.parse
import zlib

import chdb
from chdb import session

CODE = re.compile(r"Code: (\d+)\.")
INSERT = re.compile(r"\s*(INSERT\s+INTO\s.+?)\s+FORMAT\s+(\w+)\s*", re.IGNORECASE | re.DOTALL)
READ = re.compile(r"\s*(SELECT|WITH|SHOW|DESCRIBE|DESC|EXISTS|EXPLAIN)\b", re.IGNORECASE)

# Parameters of the interface itself; every other one is a setting of the query.
INTERFACE = {"query", "database", "default_format", "query_id", "wait_end_of_query", "user", "password"}

UNKNOWN_EXCEPTION, READONLY, AUTHENTICATION_FAILED, UNKNOWN_DATABASE = 1002, 164, 516, 81

# What a server answers for a code; 500 for the others.
STATUS = {
    **dict.fromkeys((26, 27, 38, 41, 42, 43, 44, 53, 62, 6, 70, 72, 117, 20, 130), 400),
    **dict.fromkeys((16, 46, 47, 60, 63, 81), 404),
    **dict.fromkeys((192, 193, 194, AUTHENTICATION_FAILED), 403),
}


class QueryError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def quoted(value):
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Engine:
    """One chDB session: a single connection, whose settings are put back after every query."""

    def __init__(self, path):
        self.session = session.Session(path)
        self.lock = threading.Lock()

    def run(self, sql, database, output_format, settings):
        with self.lock:
            self.query(f"USE `{database}`")
            try:
                for name, value in settings.items():
                    self.query(f"SET {name} = {quoted(value)}")
                return self.query(sql, output_format)
            finally:
                for name in settings:
                    try:
                        self.query(f"SET {name} = DEFAULT")
                    except QueryError:
                        pass  # It could not be set either.

    def query(self, sql, output_format="Null"):
        try:
            return self.session.query(sql, output_format).bytes()
        except chdb.ChdbError as error:
            found = CODE.search(str(error))
            raise QueryError(int(found.group(1)) if found else UNKNOWN_EXCEPTION, str(error)) from error

    def close(self):
        with self.lock:
            self.session.close()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 10  # keep-alive, as the server's
    disable_nagle_algorithm = True  # else the body of an answer waits for the acknowledgement of its head
    engine = user = password = None

    def do_GET(self):
        self.answer(b"", read_only=True)

    def do_POST(self):
        try:
            body = self.body()
        except (OSError, EOFError, ValueError, zlib.error):
            self.close_connection = True  # The request was cut off: nobody waits for an answer.
            return
        self.answer(body, read_only=False)

    def body(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            chunks = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                chunks.append(self.exactly(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(chunks)
        else:
            data = self.exactly(int(self.headers.get("Content-Length", 0)))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def exactly(self, size):
        data = self.rfile.read(size)
        if len(data) < size:
            raise EOFError
        return data

    def answer(self, body, read_only):
        url = urllib.parse.urlsplit(self.path)
        if url.path == "/ping":
            return self.reply(200, b"Ok.\n")
        parameters = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        try:
            self.authenticate(parameters)
            self.reply(200, self.run(parameters, body, read_only))
        except QueryError as error:
            text = str(error).encode() + b"\n"
            self.reply(STATUS.get(error.code, 500), text, {"X-ClickHouse-Exception-Code": str(error.code)})

    def authenticate(self, parameters):
        user = self.headers.get("X-ClickHouse-User", parameters.get("user", "default"))
        password = self.headers.get("X-ClickHouse-Key", parameters.get("password", ""))
        if (user, password) != (self.user, self.password):
            raise QueryError(AUTHENTICATION_FAILED, f"Code: {AUTHENTICATION_FAILED}. DB::Exception: {user}")

    def run(self, parameters, body, read_only):
        database = parameters.get("database", "default")
        settings = {name: value for name, value in parameters.items() if name not in INTERFACE}
        sql = parameters.get("query", "")
        insert = INSERT.fullmatch(sql)
        if not insert:
            sql, body = (sql + "\n" + body.decode()).strip(), None
        if read_only and not READ.match(sql):
            raise QueryError(READONLY, f"Code: {READONLY}. DB::Exception: Cannot execute query in readonly mode")
        if insert:
            with tempfile.NamedTemporaryFile(suffix=".bin") as file:
                file.write(body)
                file.flush()
                sql = f"{insert.group(1)} FROM INFILE {quoted(file.name)} FORMAT {insert.group(2)}"
                return self.engine.run(sql, database, "Null", settings)
        output_format = parameters.get("default_format", "TabSeparated")
        return self.engine.run(sql, database, output_format if READ.match(sql) else "Null", settings)

    def reply(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain; charset=UTF-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 64


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", required=True, help="directory of the data")
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    parser.add_argument("--user", default="default", help="the only user; the password is in GATEWAY_PASSWORD")
    options = parser.parse_args()

    Handler.engine = Engine(options.path)
    Handler.user, Handler.password = options.user, os.environ.get("GATEWAY_PASSWORD", "")
    server = Server(("127.0.0.1", options.port), Handler)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever(poll_interval=0.1)
    server.server_close()
    Handler.engine.close()


if __name__ == "__main__":
    main()
