"""Two users in two regions exchange bytes both ways through the relay that one of them found (XEP-0065)."""

import asyncio

from common import PATIENCE, Broken, run

BYTES = bytes(range(256)) * 4096  # a mebibyte


async def program(place):
    if not place.http_ports:
        return  # the Prosody of the tests has no such service
    one = await place.user(20, "eu", "one").online()
    other = await place.user(21, "us", "other").online()
    for user in (one, other):
        user.register_plugin("xep_0065", {"auto_accept": True})
        user.came = bytearray()
        user.add_event_handler("socks5_data", lambda data, user=user: (user.came.extend(data), place.changed.set()))
    arrived = asyncio.get_running_loop().create_future()
    other.add_event_handler("socks5_stream", arrived.set_result)
    stream = await one.plugin["xep_0065"].handshake(other.boundjid.full, timeout=PATIENCE)
    if stream is None:
        raise Broken("no bytestream")
    back = await asyncio.wait_for(arrived, PATIENCE)
    for at in range(0, len(BYTES), 65536):
        await stream.write(BYTES[at : at + 65536])
        await back.write(BYTES[at : at + 65536][::-1])
    for user in (one, other):
        await user.until(lambda: len(user.came) >= len(BYTES), "the bytes")
    if bytes(other.came) != BYTES:
        raise Broken("what came is not what was sent")
    if bytes(one.came) != b"".join(BYTES[at : at + 65536][::-1] for at in range(0, len(BYTES), 65536)):
        raise Broken("what came back is not what was sent")


run(program)
