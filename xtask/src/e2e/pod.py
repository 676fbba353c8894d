"""What the pods of the acceptance suite run: a server that tells who asks it, and clients that count.

Needs nothing but Python 3. Clients print one line of JSON.
"""

import collections
import errno
import http.server
import ipaddress
import json
import os
import select
import socket
import sys
import threading
import time

PATIENCE_SECONDS = 10


class Handler(http.server.BaseHTTPRequestHandler):
    # A connection goes on after an answer, unless the client says HTTP/1.0.
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        # For probes that shall fail.
        code = 503 if self.path == "/unready" else 200
        client = ipaddress.ip_address(self.client_address[0].split("%")[0])
        client = getattr(client, "ipv4_mapped", None) or client
        said = {"client": str(client), "pod": os.environ.get("POD"), "namespace": os.environ.get("NAMESPACE")}
        body = (json.dumps(said) + "\n").encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    address_family = socket.AF_INET6 if socket.has_ipv6 and os.path.exists("/proc/net/if_inet6") else socket.AF_INET

    def server_bind(self):
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        # Not its own, which asks DNS for the host's name.
        http.server.socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", self.server_address[1]


def serve(*ports):
    for port in ports[1:]:
        threading.Thread(target=Server(("", int(port)), Handler).serve_forever, daemon=True).start()
    Server(("", int(ports[0])), Handler).serve_forever()


def request(host, port):
    """One request on a connection of its own: the answer, or the name of what went wrong."""
    try:
        with socket.create_connection((host, port), timeout=PATIENCE_SECONDS) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while True:
                part = connection.recv(65536)
                if not part:
                    break
                answer += part
    except socket.timeout:
        return None, "timeout"
    except OSError as error:
        return None, errno.errorcode.get(error.errno, type(error).__name__)
    if b"\r\n\r\n" not in answer or b" 200 " not in answer.split(b"\r\n")[0]:
        return None, "no answer" if not answer else "not 200"
    return json.loads(answer.split(b"\r\n\r\n", 1)[1]), None


def count(host, port, more):
    """Asks as long as `more()` says so."""
    found = {"asked": 0, "answered": 0, "by": collections.Counter(), "clients": collections.Counter(),
             "errors": collections.Counter(), "longest_gap": 0.0}
    last = time.monotonic()
    while more():
        found["asked"] += 1
        said, error = request(host, port)
        if error:
            found["errors"][error] += 1
        else:
            found["answered"] += 1
            found["by"][said["pod"]] += 1
            found["clients"][said["client"]] += 1
            now = time.monotonic()
            found["longest_gap"], last = max(found["longest_gap"], now - last), now
    print(json.dumps(found), flush=True)


def ask(times, host, port):
    left = iter(range(int(times)))
    count(host, int(port), lambda: next(left, None) is not None)


def load(stop, host, port):
    """Every 20 ms a connection, until the file `stop` is there."""

    def more():
        time.sleep(0.02)
        return not os.path.exists(stop)

    count(host, int(port), more)


def keep(stop, connections, host, port):
    """Asks every 20 ms on each of some connections, which stay open until the file `stop` is there."""
    found = {"asked": 0, "answered": 0, "errors": collections.Counter()}
    lock = threading.Lock()

    def told(error=None):
        with lock:
            found["asked"] += 1
            if error:
                found["errors"][error] += 1
            else:
                found["answered"] += 1

    def one():
        try:
            with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
                answers = connection.makefile("rb")
                while not os.path.exists(stop):
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")
                    status, length = answers.readline(), 0
                    while (line := answers.readline()) not in (b"\r\n", b""):
                        name, value = line.split(b":", 1)
                        if name.lower() == b"content-length":
                            length = int(value)
                    body = answers.read(length)
                    if b" 200 " not in status or len(body) != length or not length:
                        return told("no answer")
                    told()
                    time.sleep(0.02)
        except socket.timeout:
            told("timeout")
        except OSError as error:
            told(errno.errorcode.get(error.errno, type(error).__name__))

    threads = [threading.Thread(target=one) for _ in range(int(connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(found), flush=True)


def record(file, seconds, settled, host, port):
    """Asks five times a second for `seconds`, whoever called it, and writes to `file` what came of it.

    What was asked after `settled` seconds is counted apart.
    """
    start = time.monotonic()
    found = {part: {"asked": 0, "answered": 0, "errors": collections.Counter()} for part in ("first", "then")}
    while time.monotonic() < start + float(seconds):
        part = found["first" if time.monotonic() < start + float(settled) else "then"]
        said, error = request(host, int(port))
        part["asked"] += 1
        if error:
            part["errors"][error] += 1
        else:
            part["answered"] += 1
        time.sleep(0.2)
    with open(file + ".new", "w") as out:
        json.dump(found, out)
    os.rename(file + ".new", file)


def sweep(stop, seconds, port, *ranges):
    """Asks every address, ten times a second where something answers or refuses, and counts by whom it is answered.

    `stop` is a file that ends it; so do `seconds`.
    """
    addresses = [str(address) for part in ranges for address in ipaddress.ip_network(part, strict=False)]
    found = {"asked": 0, "refused": 0, "answered": collections.Counter()}
    end = time.monotonic() + float(seconds)
    poll = select.epoll()
    open_at, waiting = {}, {address: 0.0 for address in addresses}

    def close(fd, pause):
        connection, address, _, _ = open_at.pop(fd)
        poll.unregister(fd)
        connection.close()
        waiting[address] = time.monotonic() + pause

    def start(address):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        connection = socket.socket(family, socket.SOCK_STREAM)
        connection.setblocking(False)
        found["asked"] += 1
        result = connection.connect_ex((address, int(port)))
        if result not in (0, errno.EINPROGRESS):
            connection.close()
            found["refused"] += 1
            return
        del waiting[address]
        open_at[connection.fileno()] = [connection, address, time.monotonic(), b""]
        poll.register(connection.fileno(), select.EPOLLOUT)

    def event(fd, flags):
        connection, _, _, answer = open_at[fd]
        try:
            if flags & select.EPOLLOUT:
                connection.send(b"GET / HTTP/1.0\r\n\r\n")
                poll.modify(fd, select.EPOLLIN)
                return
            part = connection.recv(65536)
        except OSError:
            found["refused"] += 1
            return close(fd, 0.1)
        if part:
            open_at[fd][3] = answer + part
            return
        body = answer.split(b"\r\n\r\n", 1)[-1]
        try:
            found["answered"][json.loads(body)["namespace"]] += 1
        except (ValueError, KeyError, TypeError):
            # Whoever it is: it is an answer.
            found["answered"]["unknown" if answer else "nothing"] += 1
        close(fd, 0.1)

    while time.monotonic() < end and not os.path.exists(stop):
        now = time.monotonic()
        for address in [address for address, due in waiting.items() if due <= now]:
            waiting[address] = now + 0.1
            start(address)
        for fd, flags in poll.poll(0.05):
            event(fd, flags)
        for fd in [fd for fd, entry in open_at.items() if now - entry[2] > 0.3]:
            close(fd, 0.0)
    found["answered"].pop("nothing", None)
    print(json.dumps(found), flush=True)


def ports(first, last):
    """Which TCP ports of the range an application cannot have."""
    taken = []
    for port in range(int(first), int(last) + 1):
        for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            try:
                with socket.socket(family, socket.SOCK_STREAM) as connection:
                    if family == socket.AF_INET6:
                        connection.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    # Connections that have ended do not count: those that listen do.
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    connection.bind((any_address, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE and port not in taken:
                    taken.append(port)
    print(json.dumps({"taken": taken}), flush=True)


def listening(port, backlog):
    """A socket that listens on all addresses."""
    listener = socket.socket(Server.address_family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if Server.address_family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("", int(port)))
    listener.listen(backlog)
    return listener


def late(port, seconds):
    """Listens with a queue that is full, and takes connections only after a while."""
    listener = listening(port, 0)
    fillers = []
    for _ in range(3):
        filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        filler.settimeout(0.5)
        filler.connect_ex(("127.0.0.1", int(port)))
        fillers.append(filler)
    print(json.dumps({"listening": True}), flush=True)
    time.sleep(float(seconds))
    for filler in fillers:
        filler.close()
    end = time.monotonic() + 90
    listener.settimeout(1)
    while time.monotonic() < end:
        try:
            connection, client = listener.accept()
        except socket.timeout:
            continue
        with connection:
            connection.settimeout(1)
            try:
                asked = connection.recv(65536)
            except OSError:
                continue
            if asked:
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nlate\n")
                return


def drain(port):
    """Reads three connections to their ends, and answers a second later how much there was."""
    listener = listening(port, 128)
    for _ in range(3):
        connection, _ = listener.accept()
        with connection:
            count = 0
            while part := connection.recv(65536):
                count += len(part)
            time.sleep(1)
            connection.sendall(b"%d\n" % count)


def halve(host, port, count):
    """Sends so many bytes, ends its side, and prints what is answered."""
    with socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS) as connection:
        connection.sendall(b"x" * int(count))
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    print(answer.decode().strip(), flush=True)
    sys.exit(0 if answer else 1)


if __name__ == "__main__":
    commands = {"serve": serve, "ask": ask, "load": load, "sweep": sweep, "ports": ports, "late": late,
                "record": record, "keep": keep, "drain": drain, "halve": halve}
    commands[sys.argv[1]](*sys.argv[2:])
