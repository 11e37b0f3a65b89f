"""2,000 messages go each way between two regions while the line between them is reset: none lost, none twice, in order."""

import asyncio

from common import Ledger, run

COUNT, RESETS = 2000, 8


async def program(place):
    one = await place.user(13, "eu", "one").online()
    other = await place.user(14, "us", "other").online()
    there, back = Ledger("there"), Ledger("back")

    async def talk(speaker, hearer, ledger):
        for number in range(COUNT):
            speaker.say(hearer.boundjid.full if number % 2 else hearer.boundjid.bare, ledger.next())
            # Not more than 200 ahead of what has come: the resets fall into a conversation, not before or after it.
            await hearer.until(lambda: len(ledger.came(hearer)) > number - 200, f"number {number - 200}", 60)

    async def trouble():
        for turn in range(RESETS):
            goal = (turn + 1) * COUNT // (RESETS + 1)
            await other.until(lambda: len(there.came(other)) >= goal, f"{goal} messages", 60)
            await (place.reset("eu", "us") if turn % 2 else place.reset("us", "eu"))

    await asyncio.gather(talk(one, other, there), talk(other, one, back), trouble())
    await other.until(lambda: len(there.came(other)) >= COUNT, "all of one", 60)
    await one.until(lambda: len(back.came(one)) >= COUNT, "all of the other", 60)
    await one.settled()
    await other.settled()
    there.check(other)
    back.check(one)


run(program)
