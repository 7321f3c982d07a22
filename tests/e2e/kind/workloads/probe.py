"""A client that does what it is told, one JSON command a line on standard input, one JSON answer a line.

HTTP connections, gRPC channels and TCP connections stay open from command to command, unless `fresh` asks for new ones.
"""

import http.client
import json
import socket
import sys

import grpc

connections, channels, sockets = {}, {}, {}
opened = 0


def ask_http(host, port=80, path="/", method="GET", headers=None, count=1, fresh=False, timeout=5.0):
    """[status, location, body] of each of `count` requests; status 0 is no answer."""
    global opened
    answers = []
    for _ in range(count):
        connection = connections.pop((host, port), None)
        if connection is None or fresh:
            connection = http.client.HTTPConnection(host, port, timeout=timeout)
            opened += 1
        try:
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            body = response.read().decode()
            answers.append([response.status, response.headers.get("location"), body])
            if not response.will_close:
                connections[host, port] = connection
        except (OSError, http.client.HTTPException) as error:
            answers.append([0, None, repr(error)])
            connection.close()
    return {"answers": answers, "opened": opened}


def ask_tcp(host, port, text, fresh=False, timeout=5.0):
    """What a line that is sent comes back as; None where the connection ended."""
    if fresh or (host, port) not in sockets:
        connection = socket.create_connection((host, port), timeout)
        connection.settimeout(timeout)
    else:
        connection = sockets[host, port]
    try:
        connection.sendall(text.encode() + b"\n")
        answer = connection.recv(1024).decode().strip() or None
    except OSError:
        answer = None
    if fresh:
        connection.close()
    else:
        sockets[host, port] = connection
    return {"answer": answer}


def ask_grpc(target, method, timeout=5.0):
    if target not in channels:
        channels[target] = grpc.insecure_channel(target)
    try:
        return {"answer": channels[target].unary_unary(method)(b"", timeout=timeout).decode()}
    except grpc.RpcError as error:
        return {"answer": error.code().name}


ASK = {"http": ask_http, "tcp": ask_tcp, "grpc": ask_grpc}
for line in sys.stdin:
    command = json.loads(line)
    print(json.dumps(ASK[command.pop("do")](**command)), flush=True)
