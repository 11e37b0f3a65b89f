"""A file that is brought to one region is had from each of them, whole and in part (XEP-0363)."""

import io
from urllib.parse import urlsplit

from aiohttp import ClientSession
from common import Broken, run

BYTES = bytes(range(256)) * 4096  # a mebibyte


async def program(place):
    if not place.http_ports:
        return  # the Prosody of the tests has no such service
    for number, region in ((22, "eu"), (23, "us")):
        user = await place.user(number, region, "bringer").online()
        user.register_plugin("xep_0363")
        service = f"upload.{place.domain}"
        url = await user.plugin["xep_0363"].upload_file(
            "très cool.bin", size=len(BYTES), input_file=io.BytesIO(BYTES), domain=place.domain, timeout=20
        )
        async with ClientSession() as session:
            for there, port in place.http_ports.items():
                address = f"http://127.0.0.1:{port}{urlsplit(url).path}"
                async with session.get(address) as answer:
                    if answer.status != 200 or await answer.read() != BYTES:
                        raise Broken(f"a file of {region} asked for in {there}: {answer.status}")
                async with session.get(address, headers={"Range": "bytes=1000-1009"}) as answer:
                    if answer.status != 206 or await answer.read() != BYTES[1000:1010]:
                        raise Broken(f"a part of a file of {region} asked for in {there}: {answer.status}")
            # A slot of this region, used in another.
            slot = await user.plugin["xep_0363"].request_slot(service, "a.txt", 6, "text/plain")
            put = slot["http_upload_slot"]["put"]
            headers = {header["name"]: header["value"] for header in put["headers"]}
            headers["Content-Type"] = "text/plain"
            for there, port in place.http_ports.items():
                address = f"http://127.0.0.1:{port}{urlsplit(put['url']).path}"
                async with session.put(address, data=b"tototo", headers=headers) as answer:
                    expected = 201 if there == next(iter(place.http_ports)) else 409
                    if answer.status != expected:
                        raise Broken(f"a slot of {region} used in {there}: {answer.status}, not {expected}")


run(program)
