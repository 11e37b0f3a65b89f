"""One user, a device in each of three regions: what one sends or receives the others have a copy of, once."""

from common import Broken, Ledger, run

COUNT = 50


async def program(place):
    friend = await place.user(6, "us", "friend").online()
    devices = [place.user(7, region, f"in-{region}") for region in ("eu", "us", "ap")]
    for device in devices:
        await device.online()
        await device.plugin["xep_0280"].enable()
    laptop, *others = devices

    sent, received = Ledger("sent"), Ledger("received")
    for _ in range(COUNT):
        laptop.say(friend.boundjid.full, sent.next())
        friend.say(laptop.boundjid.full, received.next())
    await friend.until(lambda: len(sent.came(friend)) >= COUNT, "what the laptop sent")
    await laptop.until(lambda: len(received.came(laptop)) >= COUNT, "what the friend sent")
    sent.check(friend)
    received.check(laptop)

    def copies(device, kind):
        return [m[f"carbon_{kind}"] for k, m in device.carbons if k == kind]

    for device in others:
        await device.until(lambda: len(device.carbons) >= 2 * COUNT, "the copies")
        await device.settled()
        sent.check(copies(device, "sent"), f"copied to {device.region}")
        received.check(copies(device, "received"), f"copied to {device.region}")
    if laptop.carbons:
        raise Broken("the laptop has copies of its own messages")


run(program)
