"""Run on the host of tenants: answer on ports that are to be out of reach, and note what crosses the bridges.

argv: PORTS (with commas), a UDP port, and interfaces. A line for every tag that was heard, by which way: the frame's on
an interface, or as a datagram of the host's. 'ready' comes first. Ends when its standard input does.
"""

import re
import selectors
import socket
import sys

ETH_P_ALL = 3
TAG = re.compile(rb"nestctl:([a-z]+):([a-z0-9-]+)")


def main() -> None:
    ports, datagrams, *interfaces = sys.argv[1:]
    selector = selectors.DefaultSelector()
    for port in map(int, ports.split(",")):
        server = socket.create_server(("0.0.0.0", port), backlog=64)  # noqa: S104 - in a namespace of its own
        selector.register(server, selectors.EVENT_READ, "tcp")
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("0.0.0.0", int(datagrams)))  # noqa: S104
    selector.register(receiver, selectors.EVENT_READ, "host")
    for interface in interfaces:
        sniffer = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        sniffer.bind((interface, 0))
        selector.register(sniffer, selectors.EVENT_READ, interface)
    selector.register(sys.stdin.buffer, selectors.EVENT_READ, "end")
    say("ready")
    while True:
        for key, _ in selector.select():
            if key.data == "end":
                return
            if key.data == "tcp":
                connection, _ = key.fileobj.accept()  # type: ignore[union-attr]
                connection.sendall(b"here\n")
                connection.close()
            elif found := TAG.search(key.fileobj.recv(65536)):  # type: ignore[union-attr]
                say(f"{key.data} {found[1].decode()} {found[2].decode()}")


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
