"""Servers that fail as real ones do, one on each port from the first on.

slow      accepts one connection at a time, seldom: its queue overflows
silent    takes requests and never answers
alert     answers with a fatal TLS alert in the clear
reluctant waits a second before it reads what it is sent
generous  sends more than its clients have room for
"""

import socket
import sys
import threading
import time

ALERT = bytes([21, 3, 3, 0, 2, 2, 40])
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def drain(connection):
    """Reads to the end, so that closing is not a reset."""
    while connection.recv(65536):
        pass
    connection.close()


def slow(listener):
    while True:
        time.sleep(0.15)
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(RESPONSE)
        connection.shutdown(socket.SHUT_WR)
        threading.Thread(target=drain, args=[connection], daemon=True).start()


def silent(listener):
    kept = []
    while True:
        kept.append(listener.accept())


def answering(listener, answer):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=[connection], daemon=True).start()


def alert(connection):
    connection.recv(65536)
    connection.sendall(ALERT)
    connection.shutdown(socket.SHUT_WR)
    drain(connection)


def reluctant(connection):
    time.sleep(1)
    left = 1 << 20
    while left > 0:
        left -= len(connection.recv(65536))
    connection.sendall(RESPONSE)
    connection.shutdown(socket.SHUT_WR)
    drain(connection)


def generous(connection):
    connection.recv(65536)
    connection.sendall(RESPONSE + bytes(1 << 19))
    connection.shutdown(socket.SHUT_WR)
    drain(connection)


def listen(port, backlog):
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("0.0.0.0", port))
    listener.listen(backlog)
    return listener


def main(port):
    roles = [
        (slow, 1),
        (silent, 128),
        (lambda listener: answering(listener, alert), 128),
        (lambda listener: answering(listener, reluctant), 128),
        (lambda listener: answering(listener, generous), 128),
    ]
    for offset, (role, backlog) in enumerate(roles):
        listener = listen(port + offset, backlog)
        threading.Thread(target=role, args=[listener], daemon=True).start()
    print("listening", flush=True)
    threading.Event().wait()


main(int(sys.argv[1]))
