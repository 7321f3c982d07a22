"""gRPC without generated code: `greeter.py serve PORT` and `greeter.py call HOST:PORT TEXT`, unary and streaming."""

import sys
from concurrent import futures

import grpc

UNARY, STREAM = "/test.Greeter/Hello", "/test.Greeter/Count"


class Greeter(grpc.GenericRpcHandler):
    def service(self, details):
        if details.method == UNARY:
            return grpc.unary_unary_rpc_method_handler(self.hello)
        if details.method == STREAM:
            return grpc.unary_stream_rpc_method_handler(self.count)
        return None

    def hello(self, request, context):
        caller = dict(context.invocation_metadata()).get("l5d-client-id", "nobody")
        context.set_trailing_metadata((("x-trailer", "kept"),))
        return f"hello {request.decode()} from {caller}".encode()

    def count(self, request, context):
        for number in range(int(request)):
            yield str(number).encode()


def serve(port):
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=(Greeter(),))
    server.add_insecure_port(f"0.0.0.0:{port}")
    server.start()
    server.wait_for_termination()


def call(target, text):
    with grpc.insecure_channel(target) as channel:
        hello, call = channel.unary_unary(UNARY).with_call(text.encode(), timeout=10)
        print(hello.decode(), dict(call.trailing_metadata()).get("x-trailer"))
        print(*(part.decode() for part in channel.unary_stream(STREAM)(b"5", timeout=10)))


serve(sys.argv[2]) if sys.argv[1] == "serve" else call(sys.argv[2], sys.argv[3])
