"""People write all the time, and move, while lines are cut and reset and regions are killed: what was sent, acknowledged, received, stored and
refused adds up, and comes in order. 60 s, or as long as `PANGAEA_TEST_CHAOS_SECONDS` says; longer where that was too little of a load.

Each writer writes to one reader, whatever happens to either. A session that broke is resumed where that can be, else begun anew, and what was
not acknowledged is then said again, as a client does. A reader may see again what it had not acknowledged when its node died: with the same
id, so that it can tell. Such repetitions are counted and bounded.
"""

import asyncio
import logging
import os
import random
import time
from collections import Counter

from slixmpp.exceptions import IqTimeout

from common import Broken, run

SECONDS = float(os.environ.get("PANGAEA_TEST_CHAOS_SECONDS", "60"))
SEED = int(os.environ.get("PANGAEA_TEST_CHAOS_SEED", "1"))
PAIRS, RATE = 6, 500  # messages a second, all writers together
TICK = 0.05
SENT_MIN = RATE * SECONDS * 0.4
SLOW_MAX = 2  # so many times as long it may take to send that
FIRST_USER = 60
UNACKNOWLEDGED_MAX = 400  # a writer waits for the server with more
# Nor does it say more to a reader who has not read so many: what is kept for one who is away is bounded (1,000), and what comes back then comes to
# nobody if the writer is away, too.
UNREAD_MAX = 600
RESUME_SECONDS = 8
HEAL_SECONDS = 100
REGIONS = ("eu", "us", "ap")
REPEATED_MAX = 0.02  # of what was sent
AROUND_SECONDS = 10  # what is told of, if a message is missing


class Story:
    """What happened to whom and when; told only if it ends badly."""

    def __init__(self):
        self.began, self.events = time.monotonic(), []

    def now(self):
        return time.monotonic() - self.began

    def note(self, who, what):
        self.events.append((self.now(), who, what))

    def around(self, at, whom):
        near = (e for e in self.events if abs(e[0] - at) < AROUND_SECONDS and (e[1] in whom or e[1] == "trouble"))
        return "\n".join(f"    {when:8.2f}  {who}: {what}" for when, who, what in near)


STORY = Story()


class Person:
    """A user with one device, which comes back whenever its session is gone."""

    def __init__(self, place, number, fate):
        self.place, self.number, self.fate = place, number, fate
        self.user, self.life, self.moves, self.resumptions = None, 0, 0, 0
        self.up, self.ready = False, False  # connected; and what the last session left open is said again

    async def arrive(self, region):
        """A new session, in this region or, when that one takes nobody, in another."""
        while True:
            self.user = self.place.user(self.number, region, "phone")
            self.listen(self.user)
            try:
                await self.user.online()
                STORY.note(self.number, f"a new session in {region}")
                return self.began()
            except Broken:
                STORY.note(self.number, f"no new session in {region}")
                self.drop()
                region = self.fate.choice(REGIONS)

    def drop(self):
        STORY.note(self.number, "drops what it had")
        self.up, self.ready = False, False
        self.user.abort()
        self.place.users.remove(self.user)

    @property
    def is_there(self):
        return self.up and self.ready

    def listen(self, user):
        user.add_event_handler("session_start", lambda _: self.turn(user, True, False))
        user.add_event_handler("session_resumed", lambda _: self.turn(user, True, True))
        user.add_event_handler("disconnected", lambda _: self.turn(user, False, False))

    def turn(self, user, up, ready):
        if user is self.user:
            STORY.note(self.number, "is up" if up else "is down")
            self.up, self.ready = up, ready

    def began(self):
        self.life += 1
        self.ready = True

    async def resume(self):
        """On a new connection, while the server still has the session; it may answer with a new one."""
        user = self.user
        started, resumed = user.started, user.resumed
        user.dial()
        try:
            await user.until(lambda: user.started + user.resumed > started + resumed, "resumption", RESUME_SECONDS)
        except Broken:
            self.drop()
            return await self.arrive(self.fate.choice(REGIONS))
        if user.started > started:
            user.send_presence()
            self.began()
        else:
            STORY.note(self.number, "has resumed")
            self.resumptions += 1

    async def live(self, over):
        """Moves now and then, and comes back when it must."""
        while not over.is_set():
            user, closed = self.user, self.user.closed
            try:
                await user.until(lambda: over.is_set() or user.closed > closed, "a break", self.fate.uniform(1, 4))
            except Broken:
                pass
            if over.is_set():
                return
            what = self.fate.random()
            if user.closed == closed and what < 0.5:
                self.moves += 1
                STORY.note(self.number, "leaves")
                await self.leave()
                await self.arrive(self.fate.choice(REGIONS))
                continue
            if user.closed == closed:
                STORY.note(self.number, "cuts its connection")
                user.cut()
                await user.until(lambda: user.closed > closed, "its own cut")
            if what < 0.8:
                await self.resume()
            else:
                self.moves += 1
                self.drop()
                await self.arrive(self.fate.choice(REGIONS))

    async def leave(self):
        try:
            await self.user.leave()
        except Broken:
            pass  # Its node was killed meanwhile.
        self.drop()


class Reader(Person):
    """Remembers what came, and how often."""

    def __init__(self, place, number, fate):
        super().__init__(place, number, fate)
        self.times, self.order, self.stored = {}, [], 0

    @property
    def bare(self):
        return f"user{self.number}@{self.place.domain}"

    def listen(self, user):
        super().listen(user)
        user.add_event_handler("message", self.hear)

    def hear(self, message):
        name = message["id"]
        if name not in self.times:
            self.order.append(name)
            self.stored += message.xml.find("{urn:xmpp:delay}delay") is not None
        self.times[name] = self.times.get(name, 0) + 1


class Writer(Person):
    """Says numbers to a reader, and knows which of them the server has answered for."""

    def __init__(self, place, number, fate, reader):
        super().__init__(place, number, fate)
        self.reader, self.sent, self.again = reader, 0, 0
        self.open = {}  # said in this session or before, and not acknowledged; in order
        self.acknowledged, self.refused, self.said_again = set(), {}, set()  # refused: why
        self.said_at, self.acknowledged_at = {}, {}

    def listen(self, user):
        super().listen(user)
        user.add_event_handler("stanza_acked", self.is_acknowledged)
        user.add_event_handler("message_error", self.is_refused)

    def is_acknowledged(self, stanza):
        if self.open.pop(stanza["id"], False):
            self.acknowledged.add(stanza["id"])
            self.acknowledged_at[stanza["id"]] = STORY.now()

    def is_refused(self, message):
        self.refused[message["id"]] = message["error"]["condition"]
        STORY.note(self.number, f"{message['id']} came back: {message['error']['condition']}")
        self.place.changed.set()

    def turn(self, user, up, ready):
        if up and ready and user is self.user:
            # What slixmpp had taken when the connection broke, and had not yet counted as sent, it forgets. It says the others again itself.
            counted = {stanza["id"] for _, stanza in user.plugin["xep_0198"].unacked_queue}
            self.say_again([name for name in self.open if name not in counted])
        super().turn(user, up, ready)

    def began(self):
        self.say_again(list(self.open))
        super().began()

    def say_again(self, names):
        for name in names:
            self.again += 1
            self.said_again.add(name)
            self.user.say(self.reader.bare, name)

    @property
    def unread(self):
        return self.sent - len(self.reader.times) - len(self.refused)

    async def write(self, over):
        due = 0.0
        while not over.is_set():
            due = min(due + RATE / PAIRS * TICK, 100)
            while due >= 1 and self.is_there and len(self.open) < UNACKNOWLEDGED_MAX and self.unread < UNREAD_MAX:
                due -= 1
                name = f"{self.number}.{self.life}.{self.sent}"
                self.sent += 1
                self.open[name] = True
                self.said_at[name] = STORY.now()
                self.user.say(self.reader.bare, name)
            await asyncio.sleep(TICK)

    def check(self):
        """Everything the server answered for has come or was given back; each session's in order."""
        gone = self.acknowledged - set(self.reader.times) - set(self.refused)
        if gone:
            raise Broken(f"user{self.number}: {len(gone)} acknowledged messages are nowhere: {self.story(gone)}")
        last = {}
        for name in self.reader.order:
            number, life, serial = name.split(".")
            if int(number) != self.number:
                raise Broken(f"{self.reader.bare} read {name}, which is not for it")
            if name in self.said_again:
                continue
            if int(serial) < last.get(life, -1):
                raise Broken(f"user{self.number}: {name} came after {last[life]} of the same session")
            last[life] = int(serial)


    def story(self, gone):
        """Of those that are nowhere."""
        gone = sorted(gone, key=self.said_at.get)
        when = lambda name: f"{name}, said at {self.said_at[name]:.2f}, acknowledged at {self.acknowledged_at[name]:.2f}"
        whom = {self.number, self.reader.number}
        again = sum(name in self.said_again for name in gone)
        near = STORY.around(self.said_at[gone[0]], whom)
        later = STORY.around(max(self.acknowledged_at[name] for name in gone), whom)
        return f"from {when(gone[0])}, to {when(gone[-1])}; {again} were said again\n{near}\n    and\n{later}"


async def trouble(place, fate, over):
    """One thing after the other breaks, and is mended."""
    done = {"cuts": 0, "resets": 0, "kills": 0}

    async def wait(seconds):
        try:
            await asyncio.wait_for(over.wait(), seconds)
        except asyncio.TimeoutError:
            pass

    while not over.is_set():
        await wait(fate.uniform(1, 3))
        one, other = fate.sample(REGIONS, 2)
        what = fate.random()
        if over.is_set():
            break
        if what < 0.35:
            done["resets"] += 1
            STORY.note("trouble", f"resets {one}-{other}")
            await place.reset(one, other)
        elif what < 0.75:
            done["cuts"] += 1
            ways = [(one, other), (other, one)] if fate.random() < 0.7 else [(one, other)]
            STORY.note("trouble", f"cuts {ways}")
            for a, b in ways:
                await place.steer("PUT", f"/wan/{a}/{b}", {"cut": True})
            await wait(fate.uniform(0.5, 5))
            for a, b in ways:
                await place.steer("PUT", f"/wan/{a}/{b}", {"cut": False})
            STORY.note("trouble", f"has healed {ways}")
        else:
            done["kills"] += 1
            STORY.note("trouble", f"kills {one}")
            await place.steer("POST", f"/nodes/{one}-0/kill")
            await wait(fate.uniform(0, 4))
            await place.steer("POST", f"/nodes/{one}-0/start")
            STORY.note("trouble", f"has started {one}")
    return done


async def program(place):
    logging.getLogger("slixmpp").setLevel(logging.CRITICAL)  # Connections that break are no news here.
    fate = random.Random(SEED)
    readers = [Reader(place, FIRST_USER + n, random.Random(SEED * 100 + n)) for n in range(PAIRS)]
    writers = [
        Writer(place, FIRST_USER + PAIRS + n, random.Random(SEED * 100 + 50 + n), reader) for n, reader in enumerate(readers)
    ]
    people = readers + writers
    await asyncio.gather(*(person.arrive(REGIONS[n % 3]) for n, person in enumerate(people)))

    over, quiet = asyncio.Event(), asyncio.Event()
    tasks = [person.live(over) for person in people] + [writer.write(quiet) for writer in writers]
    running = asyncio.gather(trouble(place, fate, over), *tasks)
    started = time.monotonic()
    # As long as it takes to have said as much as is a load: a slow machine says it more slowly.
    while not running.done() and (time.monotonic() - started < SECONDS or sum(w.sent for w in writers) < SENT_MIN):
        if time.monotonic() - started > SLOW_MAX * SECONDS:
            break  # The check says more.
        await asyncio.wait([running], timeout=TICK)
    over.set()
    quiet.set()
    place.changed.set()
    broken = (await running)[0]
    took = time.monotonic() - started

    # Everything is mended. Whoever is not there comes back, and what was said is answered for.
    for person in people:
        if not person.is_there:
            await person.resume()
    STORY.note("trouble", "is over")
    healed = STORY.now()
    for writer in writers:
        try:
            await writer.user.acknowledged()
        except (Broken, IqTimeout) as silent:
            raise Broken(f"user{writer.number} is not answered: {silent}\n{STORY.around(healed, {writer.number})}")

    def settled():
        return all(w.acknowledged <= set(w.reader.times) | set(w.refused) for w in writers)

    try:
        await readers[0].user.until(settled, "what was acknowledged", HEAL_SECONDS)
    except Broken:
        pass  # The check says more.
    for writer in writers:
        writer.check()

    sent = sum(w.sent for w in writers)
    acknowledged = sum(len(w.acknowledged) for w in writers)
    refused = Counter(why for w in writers for why in w.refused.values())
    received = sum(len(r.times) for r in readers)
    again = sum(w.again for w in writers)
    repeated = sum(sum(r.times.values()) for r in readers) - received
    print(
        f"({took:.0f} s, {broken['cuts']} cuts, {broken['resets']} resets, {broken['kills']} kills; "
        f"{sum(p.moves for p in people)} moves, {sum(p.resumptions for p in people)} resumptions; "
        f"sent {sent}, said again {again}, acknowledged {acknowledged}, received {received} "
        f"(stored first: {sum(r.stored for r in readers)}), refused {dict(refused) or 0}, repeated {repeated})"
    )
    if sum(len(w.open) for w in writers):
        raise Broken(f"{sum(len(w.open) for w in writers)} messages were never answered for")
    if sent < SENT_MIN:
        raise Broken(f"only {sent} messages: this was no load")
    if repeated > again + REPEATED_MAX * sent:
        raise Broken(f"{repeated} messages came again")


run(program)
