"""Presence crosses regions: seen when it comes, seen when it changes, withdrawn when the stream or the line ends."""

from common import befriend, run


async def program(place):
    one = await place.user(4, "eu", "one").online(roster=True)
    other = await place.user(5, "us", "other").online(roster=True)
    await befriend(one, other)

    other.send_presence(pshow="away", pstatus="on the balcony")
    await one.until(lambda: any(k == "available" and p["status"] == "on the balcony" for k, p in one.presences), "a status")

    second = await place.user(5, "ap", "second").online(roster=True)
    await one.see("available", second.boundjid.full)
    await second.see("available", one.boundjid.full)
    await second.see("available", other.boundjid.full)

    name = other.boundjid.full
    await other.leave()
    await one.see("unavailable", name)
    await second.see("unavailable", name)

    # Without stream management to keep the session, a cut connection is the end of it.
    third = place.user(5, "us", "third")
    third.plugin["xep_0198"].allow_resume = False
    await third.online(roster=True)
    await one.see("available", third.boundjid.full)
    name = third.boundjid.full
    third.cut()
    await one.see("unavailable", name)


run(program)
