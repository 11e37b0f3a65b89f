"""A connection is cut again and again while messages come from another region: resumed each time, nothing lost."""

from common import Broken, Ledger, befriend, run

COUNT, CUTS = 400, 4


async def program(place):
    writer = await place.user(11, "eu", "writer").online(roster=True)
    reader = await place.user(12, "us", "reader").online(roster=True)
    await befriend(writer, reader)
    if not reader.plugin["xep_0198"].sm_id:
        raise Broken("the server gave no id to resume with")

    ledger = Ledger("through-cuts")
    for turn in range(CUTS):
        for _ in range(COUNT // CUTS // 2):
            writer.say(reader.boundjid.full, ledger.next())
        half = ledger.sent - COUNT // CUTS // 4
        await reader.until(lambda: len(ledger.came(reader)) >= half, "the first half of them")
        closed, resumed = reader.closed, reader.resumed
        reader.cut()
        for _ in range(COUNT // CUTS // 2):
            writer.say(reader.boundjid.bare if turn % 2 else reader.boundjid.full, ledger.next())
        await writer.settled()
        await reader.until(lambda: reader.closed > closed, "its own end of the line")
        reader.dial()
        await reader.until(lambda: reader.resumed > resumed, "the stream to be resumed")
    await reader.until(lambda: len(ledger.came(reader)) >= COUNT, "all of them")
    await reader.settled()
    ledger.check(reader)
    if writer.saw("unavailable", reader.boundjid.full):
        raise Broken("the contact saw the session go")


run(program)
