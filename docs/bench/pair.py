#!/usr/bin/env python3
"""Compares the CPU that two builds of the gateway use for the same work.

    python3 pair.py single|batch|fanout OLD NEW [--seconds 30] [--each 3] [--set KEY=VALUE]...

OLD and NEW are paths of `tidegate`. Some gateways of each run at the same time and are served in turn, a few
milliseconds each, so that what else the machine does hits all of them alike. What one process differs from another
of the same build is often 5 %: more of each (`--each`) tell the builds apart. CPU is that of all threads, from
/proc/PID/task/*/schedstat. It needs Python and nothing else.

    single   a request of one event, from 64 connections at a time     CPU of one request
    batch    a request of 64 events, from one connection                CPU of one request
    fanout   one event to 100 readers over WebSocket                    CPU of one delivery
"""

import argparse
import base64
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time

READERS = 100
EVENT = {"service": "finance", "event": "e", "data": "x" * 100}


class Gateway:
    def __init__(self, program, work, settings, directory):
        settings = ["listen.admin=\"127.0.0.1:0\"", "logs.level=warn", "log.sync=interval",
                    f"limits.connections_per_user={READERS}",
                    # The readers answer no pings.
                    "ping.interval=10m", "ping.timeout=9m", *settings]
        command = [program, "dev", "--json", "--no-feed", "--data-dir", directory, "--listen", "127.0.0.1:0"]
        command += [word for setting in settings for word in ("--set", setting)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{program} did not start")
        self.dev = json.loads(line)
        self.host = self.dev["url"].split("//")[1]
        body = json.dumps([EVENT] * 64 if work == "batch" else EVENT).encode()
        self.request = (f"POST /v1/orgs/{self.dev['org']}/events HTTP/1.1\r\nhost: {self.host}\r\n"
                        f"authorization: Bearer {self.dev['publish_key']}\r\ncontent-type: application/json\r\n"
                        f"content-length: {len(body)}\r\n\r\n").encode() + body
        self.publishers = [self.connect() for _ in range(64 if work == "single" else 1)]
        self.readers = [self.reader() for _ in range(READERS if work == "fanout" else 0)]
        self.per_turn = len(self.readers) or len(self.publishers)

    def connect(self):
        host, port = self.host.split(":")
        connection = socket.create_connection((host, int(port)), timeout=30)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def reader(self):
        connection = self.connect()
        connection.sendall((f"GET /v1/orgs/{self.dev['org']}/stream HTTP/1.1\r\nhost: {self.host}\r\n"
                            "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
                            f"sec-websocket-key: {base64.b64encode(os.urandom(16)).decode()}\r\n"
                            f"sec-websocket-protocol: tidegate.v1, tidegate.bearer.{self.dev['token']}\r\n"
                            "\r\n").encode())
        come = b""
        while b'"hello"' not in come:
            come += self.some(connection)
        if not come.startswith(b"HTTP/1.1 101"):
            sys.exit(come.decode(errors="replace"))
        return connection

    @staticmethod
    def some(connection):
        come = connection.recv(65536)
        if not come:
            sys.exit("the gateway closed a connection")
        return come

    def turn(self):
        """Publishes over each connection, and waits for all answers and deliveries."""
        for publisher in self.publishers:
            publisher.sendall(self.request)
        for publisher in self.publishers:
            head, _, body = self.some(publisher).partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                sys.exit((head + body).decode(errors="replace"))
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            missing = int(lengths[0].split(b":")[1]) - len(body)
            while missing > 0:
                missing -= len(self.some(publisher))
        for reader in self.readers:
            while b'"xxx' not in self.some(reader):
                pass

    def cpu(self):
        """Nanoseconds."""
        tasks = f"/proc/{self.process.pid}/task"
        total = 0
        for task in os.listdir(tasks):
            try:
                with open(f"{tasks}/{task}/schedstat", encoding="ascii") as file:
                    total += int(file.read().split()[0])
            except FileNotFoundError:
                pass
        return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", choices=["single", "batch", "fanout"])
    parser.add_argument("old")
    parser.add_argument("new")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--each", type=int, default=3)
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    turns = {"single": 10, "batch": 50, "fanout": 20}[options.work]
    with tempfile.TemporaryDirectory() as scratch:
        gateways = []
        try:
            for number in range(options.each):
                pair = [("old", options.old), ("new", options.new)]
                for name, program in pair if number % 2 == 0 else pair[::-1]:
                    directory = os.path.join(scratch, f"{name}{number}")
                    gateways.append((name, Gateway(program, options.work, options.set, directory)))
            for _, gateway in gateways:
                for _ in range(10 * turns):
                    gateway.turn()
            used, done = [0] * len(gateways), 0
            end = time.monotonic() + options.seconds
            while time.monotonic() < end:
                order = list(enumerate(gateways))
                for index, (_, gateway) in order if done % 2 == 0 else order[::-1]:
                    before = gateway.cpu()
                    for _ in range(turns):
                        gateway.turn()
                    # What the gateway does just after its answers.
                    time.sleep(0.002)
                    used[index] += gateway.cpu() - before
                done += 1
        finally:
            for _, gateway in gateways:
                gateway.process.kill()
        costs = {"old": [], "new": []}
        for (name, gateway), cpu in zip(gateways, used):
            costs[name].append(cpu / (done * turns * gateway.per_turn) / 1000)
    for name, each in costs.items():
        print(f"{name}  {statistics.mean(each):7.2f} us  ({', '.join(f'{cost:.2f}' for cost in each)})")
    print(f"new/old  {statistics.mean(costs['new']) / statistics.mean(costs['old']):.3f}")


if __name__ == "__main__":
    main()
