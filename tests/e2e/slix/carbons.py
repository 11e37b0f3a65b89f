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

    # That a device wants copies travels to the other regions like everything else: wait until it has arrived.
    for turn in range(40):
        friend.say(laptop.boundjid.full, "are the copies coming?")
        laptop.say(friend.boundjid.full, "are the copies coming?")
        await laptop.settled()
        try:
            for device in others:
                await device.until(lambda: {k for k, _ in device.carbons} == {"sent", "received"}, "a copy", 0.25)
            break
        except Broken:
            continue
    for user in [friend, *devices]:
        await user.settled()

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
        for ledger, kind in ((sent, "sent"), (received, "received")):
            await device.until(lambda: len(ledger.of(copies(device, kind))) >= COUNT, f"the {kind} copies")
        await device.settled()
        sent.check(copies(device, "sent"), f"copied to {device.region}")
        received.check(copies(device, "received"), f"copied to {device.region}")
    if laptop.carbons:
        raise Broken("the laptop has copies of its own messages")


run(program)
