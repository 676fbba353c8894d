"""Connections of every kind at once, with every byte compared: new ones, idle ones, ones that echo, long transfers.

Needs nothing but Python 3. The client prints one line of JSON.
"""

import asyncio
import collections
import errno
import hashlib
import json
import os
import sys
import time

# Nothing of a healthy mesh takes as long.
PATIENCE_SECONDS = 20
BLOCK = os.urandom(1 << 20)


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        transport.set_write_buffer_limits(1 << 18)

    def data_received(self, data):
        self.transport.write(data)

    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


async def ended(stop):
    while not os.path.exists(stop):
        await asyncio.sleep(0.1)


async def serve(stop, port):
    loop = asyncio.get_running_loop()
    await loop.create_server(Echo, ["0.0.0.0", "::"] if os.path.exists("/proc/net/if_inet6") else "0.0.0.0", int(port),
                             backlog=1024)
    print("serving", flush=True)
    await ended(stop)


class Wrong(Exception):
    """What came back is not what was sent."""


class Kind:
    """What is known of the connections of one kind."""

    def __init__(self):
        self.begun, self.good, self.errors, self.pauses = 0, 0, collections.Counter(), []

    async def watch(self, work):
        self.begun += 1
        try:
            await work
            self.good += 1
        except (asyncio.TimeoutError, TimeoutError):
            self.errors["timeout"] += 1
        except asyncio.IncompleteReadError:
            self.errors["ended early"] += 1
        except Wrong:
            self.errors["wrong bytes"] += 1
        except OSError as error:
            self.errors[errno.errorcode.get(error.errno, type(error).__name__)] += 1

    def told(self):
        pauses = sorted(self.pauses)
        found = {"begun": self.begun, "good": self.good, "errors": self.errors, "exchanges": len(pauses)}
        if pauses:
            milliseconds = lambda at: round(pauses[at] * 1000, 1)
            found["p99_ms"], found["longest_ms"] = milliseconds(int(len(pauses) * 0.99)), milliseconds(-1)
        return found


class Drive:
    def __init__(self, stop, host, port):
        self.stop, self.to = stop, (host, int(port))
        self.ending = asyncio.Event()

    async def open(self):
        return await asyncio.wait_for(asyncio.open_connection(*self.to), PATIENCE_SECONDS)

    async def exchange(self, reader, writer, block, pauses=None):
        start = time.monotonic()
        writer.write(block)
        answer = await asyncio.wait_for(reader.readexactly(len(block)), PATIENCE_SECONDS)
        if pauses is not None:
            pauses.append(time.monotonic() - start)
        if answer != block:
            raise Wrong

    def block(self, length):
        at = int.from_bytes(os.urandom(3), "big") % (len(BLOCK) - length)
        return BLOCK[at:at + length]

    async def fresh(self, kind, every):
        """A new connection `every` so many seconds."""

        async def one():
            reader, writer = await self.open()
            try:
                await self.exchange(reader, writer, self.block(100), kind.pauses)
            finally:
                writer.close()

        due, tasks = time.monotonic(), set()
        while not self.ending.is_set():
            task = asyncio.ensure_future(kind.watch(one()))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            due += every
            await asyncio.sleep(max(0, due - time.monotonic()))
        if tasks:
            await asyncio.wait(tasks)

    async def idle(self):
        """Opened, silent until the end, and as good as new then."""
        reader, writer = await self.open()
        try:
            await self.exchange(reader, writer, self.block(16))
            await self.ending.wait()
            await self.exchange(reader, writer, self.block(16))
        finally:
            writer.close()

    async def busy(self, kind, every):
        reader, writer = await self.open()
        try:
            while not self.ending.is_set():
                await self.exchange(reader, writer, self.block(1000), kind.pauses)
                await asyncio.sleep(every)
        finally:
            writer.close()

    async def transfer(self, size, rate):
        """`size` bytes to the echo and back, at `rate` a second until all else ends, and then as fast as may be."""
        reader, writer = await self.open()
        sent, received = hashlib.sha256(), hashlib.sha256()

        async def send():
            start, left = time.monotonic(), size
            while left:
                part = self.block(min(left, 1 << 16))
                sent.update(part)
                writer.write(part)
                await asyncio.wait_for(writer.drain(), PATIENCE_SECONDS)
                left -= len(part)
                early = start + (size - left) / rate - time.monotonic()
                if early > 0 and not self.ending.is_set():
                    await asyncio.sleep(min(early, 1))

        async def receive():
            left = size
            while left:
                part = await asyncio.wait_for(reader.read(1 << 18), PATIENCE_SECONDS)
                if not part:
                    raise asyncio.IncompleteReadError(b"", left)
                received.update(part)
                left -= len(part)

        try:
            await asyncio.gather(send(), receive())
        finally:
            writer.close()
        if sent.digest() != received.digest():
            raise Wrong

    async def run(self, new_a_second, idle, busy, transfers, size, rate):
        kinds = {name: Kind() for name in ("fresh", "idle", "busy", "transfers")}
        tasks = [asyncio.ensure_future(kinds["transfers"].watch(self.transfer(size, rate))) for _ in range(transfers)]
        tasks += [asyncio.ensure_future(kinds["busy"].watch(self.busy(kinds["busy"], 0.05))) for _ in range(busy)]
        for _ in range(idle):
            tasks.append(asyncio.ensure_future(kinds["idle"].watch(self.idle())))
            await asyncio.sleep(0.002)
        if new_a_second:
            tasks.append(asyncio.ensure_future(self.fresh(kinds["fresh"], 1 / new_a_second)))
        print("all open", file=sys.stderr, flush=True)
        await ended(self.stop)
        self.ending.set()
        await asyncio.gather(*tasks)
        print(json.dumps({name: kind.told() for name, kind in kinds.items()}), flush=True)


if __name__ == "__main__":
    command, stop, *rest = sys.argv[1:]
    if command == "serve":
        asyncio.run(serve(stop, *rest))
    else:
        host, port, *numbers = rest

        async def drive():
            await Drive(stop, host, port).run(*map(int, numbers))

        asyncio.run(drive())
