"""The leg of faststream-outbox: speaks the lines of leg/src/protocol.rs, and measures itself as
leg/src/run.rs does."""

import asyncio
import json
import resource
import sys
import time
from contextlib import asynccontextmanager
from importlib.metadata import version

from faststream_outbox import OutboxBroker, make_outbox_table
from sqlalchemy import MetaData
from sqlalchemy.ext.asyncio import create_async_engine

QUEUE = "bench"
FILL = 10_000
TELL = 0.02
PAUSE = 0.02
TIMED = 20.0
STARTED = 1.0

SETTINGS = {
    "default": {},
    "best": {
        "max_workers": 24,
        "fetch_batch_size": 500,
        "terminal_flush_batch_size": 100,
        "min_fetch_interval": 0.01,
    },
}

metadata = MetaData()
table = make_outbox_table(metadata, table_name="outbox")
handled = 0
last = 0.0
starts = None


def describe():
    every = {"processes": True, "enqueue": True, "latency": True}
    return {
        "package": None,
        "version": version("faststream-outbox"),
        "fenced": "yes: a random token for each claim",
        "left": "select count(*) from outbox",
        "settings": [
            {
                **every,
                "name": "default",
                "text": "nothing is set but logger=None and the pool",
                "drain": 5_000,
                "processes": False,
            },
            {
                **every,
                "name": "best",
                "text": "max_workers 24, fetch 500, terminal flush 100, min_fetch_interval 10 ms, logger=None",
                "drain": 50_000,
                "enqueue": False,
            },
        ],
    }


def say(what):
    print(json.dumps(what), flush=True)


def payload(number):
    return {"id": number, "text": "x" * 75}


def engine(url):
    # The scheme names the driver, which takes no sslmode.
    address = url.split("?")[0].split("://", 1)[1]
    return create_async_engine(f"postgresql+asyncpg://{address}", pool_size=30)


def worker(url, setting):
    broker = OutboxBroker(engine(url), outbox_table=table, logger=None)

    @broker.subscriber(QUEUE, **SETTINGS[setting])
    async def noop(body: dict):
        global handled, last
        last = time.perf_counter()
        handled += 1
        if starts is not None:
            starts.put_nowait(last)

    return broker


class Producer:
    def __init__(self, url):
        self.engine = engine(url)
        self.broker = OutboxBroker(self.engine, outbox_table=table, logger=None)
        self.connection = None

    async def migrate(self):
        async with self.engine.begin() as connection:
            await connection.run_sync(metadata.create_all)

    async def one(self, number):
        async with self.connection.begin():
            await self.broker.publish(
                payload(number), queue=QUEUE, session=self.connection
            )

    async def many(self, numbers):
        bodies = [payload(number) for number in numbers]
        async with self.connection.begin():
            await self.broker.publish_batch(
                *bodies, queue=QUEUE, session=self.connection
            )


@asynccontextmanager
async def producer(url):
    made = Producer(url)
    await made.migrate()
    async with made.engine.connect() as made.connection:
        yield made
    await made.engine.dispose()


async def fill(url, messages):
    async with producer(url) as writer:
        for start in range(0, messages, FILL):
            await writer.many(range(start, min(start + FILL, messages)))


async def drain(url, setting):
    broker = worker(url, setting)
    lines = asyncio.StreamReader()
    protocol = asyncio.StreamReaderProtocol(lines)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    say("ready")
    if await lines.readline() != b"go\n":
        raise SystemExit("the driver has ended")
    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    await broker.start()
    stop = asyncio.ensure_future(lines.readline())
    told = 0
    while not stop.done():
        await asyncio.wait([stop], timeout=TELL)
        if handled > told:
            told = handled
            say({"handled": told})
    after = resource.getrusage(resource.RUSAGE_SELF)
    say(
        {
            "drained": {
                "handled": handled,
                "seconds": max(last - begun, 0.0),
                "user_seconds": after.ru_utime - before.ru_utime,
                "system_seconds": after.ru_stime - before.ru_stime,
            }
        }
    )
    await broker.stop()


async def enqueue(url, one, many):
    async with producer(url) as writer:
        await writer.one(0)
        await writer.many([0])
        begun = time.perf_counter()
        for number in range(one):
            await writer.one(number)
        ones = time.perf_counter() - begun
        begun = time.perf_counter()
        await writer.many(range(many))
        manies = time.perf_counter() - begun
    say({"one": one / ones, "many": many / manies})


async def latency(url, setting, messages):
    global starts
    starts = asyncio.Queue()
    async with producer(url) as writer:
        broker = worker(url, setting)
        await broker.start()
        await asyncio.sleep(STARTED)
        for number in range(5):
            await timed(writer, number)
        begun = time.perf_counter()
        milliseconds = []
        while len(milliseconds) < messages and time.perf_counter() - begun < TIMED:
            milliseconds.append(await timed(writer, len(milliseconds)))
        await broker.stop()
    say({"milliseconds": milliseconds})


async def timed(writer, number):
    await writer.one(number)
    committed = time.perf_counter()
    start = await asyncio.wait_for(starts.get(), 30)
    await asyncio.sleep(PAUSE)
    return max(start - committed, 0.0) * 1000


def main():
    match sys.argv[1:]:
        case ["describe"]:
            say(describe())
        case ["fill", url, messages]:
            asyncio.run(fill(url, int(messages)))
        case ["drain", url, setting]:
            asyncio.run(drain(url, setting))
        case ["enqueue", url, _, one, many]:
            asyncio.run(enqueue(url, int(one), int(many)))
        case ["latency", url, setting, messages]:
            asyncio.run(latency(url, setting, int(messages)))
        case _:
            raise SystemExit(
                "a leg is started by the driver: see benches/peers/README.md"
            )


main()
