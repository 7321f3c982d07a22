"""One version of an application: `versions.py VERSION` serves HTTP on 8080, gRPC on 9000 and an echo on 9999.

/flaky/ID/N        the first N requests with this ID are answered 503
/slow/SECONDS      200 after a while
/only/VERSION      503 from any other version
/seen/ID           how many requests to /note/ID came
anything else      200; every answer is JSON that says who answered what
"""

import collections
import http.server
import json
import socketserver
import sys
import threading
import time
from concurrent import futures

import grpc

VERSION = sys.argv[1]
SEEN = collections.Counter()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        status, count = 200, 0
        match self.path.split("/")[1:]:
            case ["flaky", name, times]:
                SEEN[name] += 1
                status = 503 if SEEN[name] <= int(times) else 200
            case ["slow", seconds]:
                time.sleep(float(seconds))
            case ["only", version]:
                status = 200 if version == VERSION else 503
            case ["note", name]:
                SEEN[name] += 1
            case ["seen", name]:
                count = SEEN[name]
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = json.dumps({"version": VERSION, "path": self.path, "headers": headers, "count": count}).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        pass


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile:
            self.wfile.write(line)


class Greeter(grpc.GenericRpcHandler):
    def service(self, details):
        return grpc.unary_unary_rpc_method_handler(lambda request, context: VERSION.encode())


greeter = grpc.server(futures.ThreadPoolExecutor(2), handlers=(Greeter(),))
greeter.add_insecure_port("0.0.0.0:9000")
greeter.start()
socketserver.ThreadingTCPServer.allow_reuse_address = True
echo = socketserver.ThreadingTCPServer(("0.0.0.0", 9999), Echo)
threading.Thread(target=echo.serve_forever, daemon=True).start()
http.server.ThreadingHTTPServer.request_queue_size = 64
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
