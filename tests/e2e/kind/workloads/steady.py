"""Steady traffic, and who answers it; neither knows of a mesh.

steady.py serve              HTTP on 8080 and an echo on 9999; both answer the pod's name. It serves until it is killed:
                             as a container's first process it does not hear SIGTERM
steady.py load HOST SELDOM   open loop, whatever becomes of it: ten HTTP requests and five TCP connections a second to
                             HOST; every eight seconds an HTTP request to SELDOM, which a proxy has forgotten by then

The load prints a line of JSON for each failure, when it was sent and how it ended, and one a second with how many were
answered, by kind and by who answered.
"""

import asyncio
import collections
import http.server
import json
import os
import socket
import socketserver
import sys
import threading
import time

NAME = os.environ.get("HOSTNAME", "").encode()
TIMEOUT = 10.0
answered = collections.Counter()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", str(len(NAME)))
        self.end_headers()
        self.wfile.write(NAME)

    def log_message(self, *_):
        pass


class Echo(socketserver.StreamRequestHandler):
    def handle(self):
        self.rfile.readline()
        self.wfile.write(NAME + b"\n")


def serve():
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    socketserver.ThreadingTCPServer.request_queue_size = 64
    echo = socketserver.ThreadingTCPServer(("0.0.0.0", 9999), Echo)
    threading.Thread(target=echo.serve_forever, daemon=True).start()
    http.server.ThreadingHTTPServer.request_queue_size = 64
    http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Handler).serve_forever()


async def exchange(host, port, sent):
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(sent)
        return (await reader.read()).decode()
    finally:
        writer.close()


async def ask_http(host):
    answer = await exchange(host, 80, b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
    head, _, body = answer.partition("\r\n\r\n")
    if " 200 " not in head.partition("\r\n")[0]:
        raise OSError(head or "no answer")
    return body


async def ask_tcp(host):
    answer = await exchange(host, 9999, b"who\n")
    if not answer.endswith("\n"):
        raise OSError(f"answer {answer!r}")
    return answer.strip()


async def once(kind, ask, host):
    sent = time.time()
    try:
        async with asyncio.timeout(TIMEOUT):
            who = await ask(host)
    except (OSError, TimeoutError) as error:
        text = str(error) or type(error).__name__
        print(json.dumps({"failed": kind, "sent": sent, "ended": time.time(), "error": text}), flush=True)
    else:
        answered[f"{kind} {who}"] += 1


async def every(seconds, kind, ask, host):
    loop, running = asyncio.get_running_loop(), set()
    due = loop.time()
    while True:
        task = loop.create_task(once(kind, ask, host))
        running.add(task)
        task.add_done_callback(running.discard)
        due += seconds
        await asyncio.sleep(max(0.0, due - loop.time()))


async def tell():
    while True:
        await asyncio.sleep(1.0)
        print(json.dumps({"at": time.time(), "answered": dict(answered)}), flush=True)
        answered.clear()


async def load(host, seldom):
    host, seldom = socket.gethostbyname(host), socket.gethostbyname(seldom)
    async with asyncio.TaskGroup() as group:
        group.create_task(every(0.1, "http", ask_http, host))
        group.create_task(every(0.2, "tcp", ask_tcp, host))
        group.create_task(every(8.0, "seldom", ask_http, seldom))
        group.create_task(tell())


if sys.argv[1] == "serve":
    serve()
else:
    asyncio.run(load(*sys.argv[2:]))
