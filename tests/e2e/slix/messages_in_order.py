"""Two users in two regions say 500 things to each other, at the same time: each comes once, in order."""

from common import Ledger, run

COUNT = 500


async def program(place):
    one = await place.user(0, "eu", "one").online()
    other = await place.user(1, "us", "other", door="tls" if place.tls_ports else "starttls").online()
    there, back = Ledger("there"), Ledger("back")
    for number in range(COUNT):
        # Full and bare address in turn: order holds between them too.
        one.say(other.boundjid.full if number % 2 else other.boundjid.bare, there.next())
        other.say(one.boundjid.bare if number % 3 else one.boundjid.full, back.next())
    await other.until(lambda: len(there.came(other)) >= COUNT, "the messages of one")
    await one.until(lambda: len(back.came(one)) >= COUNT, "the messages of the other")
    await one.settled()
    await other.settled()
    there.check(other)
    back.check(one)


run(program)
