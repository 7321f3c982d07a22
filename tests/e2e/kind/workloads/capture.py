"""All TCP payload between two addresses that this network namespace sees, as hex, until standard input ends."""

import select
import socket
import sys

wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(3))
wire.settimeout(0.2)
pair = {socket.inet_aton(sys.argv[1]), socket.inet_aton(sys.argv[2])}
print("captures", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        frame = wire.recv(65535)
    except TimeoutError:
        continue
    if frame[12:14] != b"\x08\x00" or frame[23] != 6:
        continue
    ip = frame[14:]
    if {ip[12:16], ip[16:20]} != pair:
        continue
    tcp = ip[(ip[0] & 15) * 4 : int.from_bytes(ip[2:4], "big")]
    payload = tcp[(tcp[12] >> 4) * 4 :]
    if payload:
        print(int.from_bytes(tcp[0:2], "big"), int.from_bytes(tcp[2:4], "big"), payload.hex(), flush=True)
