"""The program behind every service of a topology: a real HTTP server that plays its part of the application file.

    station.py   what a request goes through: worker or queue or 503, self time, calls, answer
    http.py      the server's side of HTTP/1.1: bytes in, requests out
    client.py    calls to other services, through `http_proxy`
    faults.py    what may be made to go wrong, and the admin port's /faults
    admin.py     /ready /live /metrics /faults
    metrics.py   what it counts

A dozen of these share two cores with the mesh under test, so each must cost little: one process, uvloop, callbacks and
no task for a request.
"""
