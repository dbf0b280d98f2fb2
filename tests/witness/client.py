"""Clients, and what they saw: MODE HOST PORT COUNT THREADS SEED, JSON out."""

import collections
import http.client
import json
import random
import socket
import struct
import sys
import threading
import time

# Paths of the lab's nginx, and how often each is asked for.
PATHS = {"/": 82, "/missing": 6, "/broken": 5, "/moved": 3, "/reset": 4}
ALERT = bytes([21, 3, 3, 0, 2, 2, 40])
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
ABORT = struct.pack("ii", 1, 0)


def http_mode(server, total, draw, saw):
    """Keep-alive connections of one to nine requests, as far as they get."""
    left = total
    while left > 0:
        connection = http.client.HTTPConnection(*server, timeout=6)
        asked = 0
        try:
            for _ in range(min(left, draw.randint(1, 9))):
                asked += 1
                path = draw.choices(list(PATHS), PATHS.values())[0]
                connection.request("GET", path)
                response = connection.getresponse()
                response.read()
                saw[f"{response.status // 100}xx"] += 1
        except ConnectionRefusedError:
            saw["refused"] += 1
        except socket.timeout:
            # A reset that got lost, which nobody sends again.
            saw["timeout"] += 1
        except (ConnectionResetError, http.client.RemoteDisconnected):
            saw["reset"] += 1
        saw["requests"] += asked
        left -= asked
        if draw.random() < 0.03 and connection.sock:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            saw["aborted"] += 1
        connection.close()


def raw(server, total, draw, saw, words, timeout=20):
    for _ in range(total):
        connection = socket.socket()
        connection.settimeout(timeout)
        try:
            connection.connect(server)
            connection.sendall(words)
            while connection.recv(65536):
                pass
            saw["answered"] += 1
        except socket.timeout:
            saw["timeout"] += 1
        except ConnectionResetError:
            saw["reset"] += 1
        yield connection


def closing(*arguments, **options):
    for connection in raw(*arguments, **options):
        connection.close()


def void_mode(server, total, draw, saw):
    for _ in range(total):
        connection = socket.socket()
        connection.settimeout(0.3)
        try:
            connection.connect(server)
        except socket.timeout:
            saw["timeout"] += 1
        connection.close()


def download_mode(server, total, draw, saw):
    for _ in range(total):
        connection = socket.socket()
        # Little room, and a while before there is more of it.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        connection.settimeout(20)
        connection.connect(server)
        connection.sendall(GET)
        time.sleep(1)
        while data := connection.recv(65536):
            saw["bytes"] += len(data)
        connection.close()


KEPT = []
MODES = {
    "http": http_mode,
    "slow": lambda *all: closing(*all, GET),
    "silent": lambda *all: KEPT.extend(raw(*all, GET, timeout=0.2)),
    "alert": lambda *all: closing(*all, GET),
    "alerting": lambda *all: closing(*all, ALERT),
    "upload": lambda *all: closing(*all, bytes(1 << 20)),
    "download": download_mode,
    "void": void_mode,
}


def main(mode, host, port, count, threads, seed):
    server = (host, int(port))
    threads = int(threads)
    seen = []
    workers = []
    for number in range(threads):
        share = (int(count) + number) // threads
        saw = collections.Counter()
        seen.append(saw)
        draw = random.Random(f"{seed} {number}")
        arguments = [server, share, draw, saw]
        workers.append(threading.Thread(target=MODES[mode], args=arguments))
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print(json.dumps(sum(seen, collections.Counter())), flush=True)
    if KEPT:
        # Nothing more is said on them: not even that they are over.
        threading.Event().wait()


main(*sys.argv[1:])
