"""What is written to somebody who is away, in one region, is there when he comes, in another: once, in order."""

from common import Broken, Ledger, run

COUNT = 50


async def program(place):
    writers = [await place.user(8, "eu", "writer").online(), await place.user(9, "us", "writer").online()]
    to = f"user10@{place.domain}"
    ledgers = [Ledger("eu"), Ledger("us")]
    for _ in range(COUNT):
        for writer, ledger in zip(writers, ledgers):
            writer.say(to, ledger.next())
    for writer in writers:
        await writer.acknowledged()
        await place.filed(writer.region, COUNT)

    reader = await place.user(10, "ap", "reader").online()
    await reader.until(lambda: len(reader.messages) >= 2 * COUNT, "all that was written")
    await reader.settled()
    for ledger in ledgers:
        ledger.check(reader)
    unstamped = [m for m in reader.messages if not m["delay"]["stamp"]]
    if unstamped:
        raise Broken(f"{len(unstamped)} messages that waited do not say since when, as {unstamped[0]}")
    await reader.leave()

    again = await place.user(10, "eu", "again").online()
    await again.settled()
    if again.messages:
        raise Broken(f"{len(again.messages)} messages come a second time, in another region")


run(program)
