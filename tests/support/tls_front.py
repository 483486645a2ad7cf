"""TLS in front of a server that speaks none, as hosted services and stunnel put it."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from certificates import Authority
from servers import Server


@contextmanager
def tls_front(server: Server, folder: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """URL and settings for clients, which have to show a certificate."""
    authority = Authority(folder)
    own, client = authority.pair("server"), authority.pair("client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.file)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(own.certificate, own.key)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65536):
                target.write(data)
                await target.drain()
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection("127.0.0.1", server.port)
        await asyncio.gather(copy(reader, to_server), copy(from_server, writer))

    loop = asyncio.new_event_loop()
    front = loop.run_until_complete(asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        port = front.sockets[0].getsockname()[1]
        settings = {"ssl_ca_certs": authority.file, "ssl_certfile": client.certificate}
        yield f"rediss://127.0.0.1:{port}", {**settings, "ssl_keyfile": client.key}
    finally:
        asyncio.run_coroutine_threadsafe(stopped(front), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def stopped(front: asyncio.Server) -> None:
    """Nobody is served any more."""
    front.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
