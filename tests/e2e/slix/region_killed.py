"""A region is killed (-9) while messages cross. The others go on, its users are seen to leave within 15 s; started again
it rejoins by itself and messages flow again."""

import asyncio

from common import PATIENCE, Broken, Ledger, befriend, run

SEEN_TO_LEAVE_SECONDS = 15


async def program(place):
    eu = await place.user(15, "eu", "eu").online(roster=True)
    ap = await place.user(16, "ap", "ap").online(roster=True)
    us = await place.user(17, "us", "us").online(roster=True)
    await befriend(eu, us)
    await befriend(ap, us)

    there, back, towards = Ledger("eu-to-ap"), Ledger("ap-to-eu"), Ledger("eu-to-us")
    stop = asyncio.Event()

    async def talk(speaker, hearer, ledger):
        """Says something whenever the last thing but twenty has come."""
        while not stop.is_set():
            speaker.say(hearer.boundjid.full, ledger.next())
            goal = ledger.sent - 20
            await hearer.until(lambda: len(ledger.came(hearer)) >= goal, f"message {goal} of {ledger.name}")
            await asyncio.sleep(0)

    async def call_into_the_dark():
        """Messages into the region that dies, up to the moment it is seen to be gone."""
        while not eu.saw("unavailable", us.boundjid.full):
            eu.say(us.boundjid.full, towards.next())
            await asyncio.sleep(0.01)

    talks = asyncio.gather(talk(eu, ap, there), talk(ap, eu, back))
    dark = asyncio.ensure_future(call_into_the_dark())
    await us.until(lambda: len(towards.came(us)) >= 20, "messages before the kill")
    await place.steer("POST", "/nodes/us-0/kill")
    name = us.boundjid.full
    await asyncio.gather(
        eu.see("unavailable", name, SEEN_TO_LEAVE_SECONDS), ap.see("unavailable", name, SEEN_TO_LEAVE_SECONDS)
    )
    await dark
    came = towards.came(us)
    if came != list(range(len(came))):
        raise Broken(f"before the kill, out of order or not once: {came}")

    # The two that are left go on for a while yet: at least 200 more each way.
    mark = there.sent
    await ap.until(lambda: len(there.came(ap)) >= mark + 200, "200 more messages without the third region")

    late = Ledger("while-away")
    for _ in range(20):
        eu.say(us.boundjid.bare, late.next())
    await eu.settled()

    await place.steer("POST", "/nodes/us-0/start")
    returned = place.user(17, "us", "us")
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            await returned.online(roster=True)
            break
        except Broken:
            if asyncio.get_running_loop().time() > deadline:
                raise
    await eu.see("available", returned.boundjid.full)

    # What was said while it was away has come, or was given back: nothing is silently gone, nothing comes twice.
    def accounted():
        return len(set(late.came(returned)) | set(late.returned(eu.errors)))

    await returned.until(lambda: accounted() >= late.sent, "what was said meanwhile, delivered or given back", 30)
    numbers = late.came(returned)
    if numbers != sorted(set(numbers)):
        raise Broken(f"what was said meanwhile came out of order or twice: {numbers}")

    again, answer = Ledger("again"), Ledger("answer")
    for _ in range(200):
        eu.say(returned.boundjid.bare, again.next())
        returned.say(ap.boundjid.full, answer.next())
    await returned.until(lambda: len(again.came(returned)) >= 200, "messages after the return")
    await ap.until(lambda: len(answer.came(ap)) >= 200, "messages from the region that returned")
    again.check(returned)
    answer.check(ap)

    stop.set()
    await talks
    await ap.until(lambda: len(there.came(ap)) >= there.sent, "the rest")
    await eu.until(lambda: len(back.came(eu)) >= back.sent, "the rest")
    there.check(ap)
    back.check(eu)


run(program)
