"""What the slixmpp programs share: where the regions are, a user who remembers what came, a ledger of serial numbers.

Each program beside this one is one promise: it ends with status 0, or says what was broken and ends with 1. They are
started by tests/e2e (Rust), which gives the place in the environment. Nothing sleeps: everything waits for an event,
with a deadline.
"""

import asyncio
import json
import logging
import os
import sys
import time
import urllib.request

import slixmpp

PATIENCE = float(os.environ.get("PANGAEA_TEST_PATIENCE", "10")) * 2


class Broken(Exception):
    """A promise that was not kept."""


class Place:
    """Regions, ports, and how to steer what is between them."""

    def __init__(self):
        self.domain = os.environ["PANGAEA_DOMAIN"]
        self.ports = json.loads(os.environ["PANGAEA_PORTS"])  # region → STARTTLS port
        self.tls_ports = json.loads(os.environ["PANGAEA_TLS_PORTS"])  # region → direct TLS port, if there is one
        self.ca = os.environ["PANGAEA_CA"]
        self.control = int(os.environ.get("PANGAEA_CONTROL") or 0)
        self.http_ports = json.loads(os.environ.get("PANGAEA_HTTP_PORTS", "{}"))  # region → HTTP port, if there is one
        self.users = []
        self.changed = asyncio.Event()  # something came, to anybody

    def user(self, number, region, resource, door="starttls"):
        user = User(self, number, region, resource, door)
        self.users.append(user)
        return user

    async def steer(self, method, path, body=None):
        def call():
            data = json.dumps(body).encode() if body is not None else b""
            request = urllib.request.Request(f"http://127.0.0.1:{self.control}{path}", data=data, method=method)
            request.add_header("Content-Type", "application/json")
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.read()

        return await asyncio.get_running_loop().run_in_executor(None, call)

    async def filed(self, region, count):
        """Waits until a region has decided to file so many messages. Nothing to wait for where there is no such number."""
        if region not in self.http_ports:
            return

        def read():
            with urllib.request.urlopen(f"http://127.0.0.1:{self.http_ports[region]}/metrics", timeout=PATIENCE) as answer:
                lines = answer.read().decode().splitlines()
            wanted = [l for l in lines if l.startswith("pangaea_routed_total") and 'way="offline"' in l]
            return sum(float(line.rsplit(" ", 1)[1]) for line in wanted)

        deadline = time.monotonic() + PATIENCE
        while await asyncio.get_running_loop().run_in_executor(None, read) < count:
            if time.monotonic() > deadline:
                raise Broken(f"{region} has not filed {count} messages")

    async def reset(self, one, other):
        await self.steer("POST", f"/wan/{one}/{other}/reset")


class User(slixmpp.ClientXMPP):
    """One session. Remembers what came; `until` waits for it."""

    def __init__(self, place, number, region, resource, door):
        super().__init__(f"user{number}@{place.domain}/{resource}", f"pw{number}")
        self.place, self.region, self.door = place, region, door
        self.ca_certs = place.ca
        self.enable_direct_tls = door == "tls"
        self.enable_starttls = door == "starttls"
        self.enable_plaintext = False
        self.auto_authorize, self.auto_subscribe = None, False
        self.messages, self.presences, self.carbons, self.errors, self.events = [], [], [], [], []
        self.started, self.closed, self.resumed = 0, 0, 0
        for plugin in ("xep_0030", "xep_0199", "xep_0203", "xep_0280", "xep_0297", "xep_0198"):
            self.register_plugin(plugin)
        self.plugin["xep_0198"].allow_resume = True
        self.add_event_handler("session_start", lambda _: self._note("started"))
        self.add_event_handler("disconnected", lambda _: self._note("closed"))
        self.add_event_handler("session_resumed", lambda _: self._note("resumed"))
        self.add_event_handler("roster_update", lambda _: self.place.changed.set())
        self.add_event_handler("stanza_acked", lambda _: self.place.changed.set())
        self.add_event_handler("failed_auth", lambda _: self._keep(self.events, "failed_auth"))
        self.serials = {}
        self.add_event_handler("message", self._message)
        self.add_event_handler("message_error", lambda m: self._keep(self.errors, m))
        self.add_event_handler("carbon_received", lambda m: self._keep(self.carbons, ("received", m)))
        self.add_event_handler("carbon_sent", lambda m: self._keep(self.carbons, ("sent", m)))
        # The type as it is on the wire: slixmpp's own reading makes <show/> a type.
        self.add_event_handler("presence", lambda p: self._keep(self.presences, (p.xml.get("type", "available"), p)))

    def _note(self, counter):
        setattr(self, counter, getattr(self, counter) + 1)
        self.place.changed.set()

    def _keep(self, where, what):
        where.append(what)
        self.place.changed.set()

    def _message(self, message):
        words = message["body"].split(" ")
        if len(words) == 3 and words[0] == "serial":
            self.serials.setdefault(words[1], []).append(int(words[2]))
        self._keep(self.messages, message)

    async def until(self, fits, what, within=PATIENCE):
        """Waits until `fits()` is true."""
        deadline = time.monotonic() + within
        while not fits():
            self.place.changed.clear()
            left = deadline - time.monotonic()
            try:
                if left <= 0:
                    raise asyncio.TimeoutError
                await asyncio.wait_for(self.place.changed.wait(), left)
            except asyncio.TimeoutError:
                raise Broken(f"{self.boundjid} in {self.region} waited {within:.0f} s for {what}") from None

    def dial(self):
        ports = self.place.tls_ports if self.door == "tls" else self.place.ports
        self.connect("127.0.0.1", ports[self.region])

    async def online(self, presence=True, roster=False):
        """Logs in; with presence, waits to hear it back. A refused login is tried again while there is patience."""
        before = self.started
        deadline = time.monotonic() + PATIENCE
        self.dial()
        await self.until(lambda: self.started > before, "the session to start", deadline - time.monotonic())
        if roster:
            await self.get_roster()
        if presence:
            self.send_presence()
            me = self.boundjid.full
            await self.until(lambda: self.saw("available", me), "its own presence")
        return self

    def saw(self, kind, jid):
        return any(k == kind and str(p["from"]) == jid for k, p in self.presences)

    async def see(self, kind, jid, within=PATIENCE):
        await self.until(lambda: self.saw(kind, str(jid)), f"{kind} of {jid}", within)

    def cut(self):
        """The connection is gone without a word."""
        self.transport.abort()

    async def leave(self):
        before = self.closed
        self.disconnect()
        await self.until(lambda: self.closed > before, "the stream to end")

    async def settled(self):
        """A round trip to the server: what it was sent before it has by now taken in hand."""
        await self.plugin["xep_0199"].send_ping(slixmpp.JID(self.place.domain), timeout=PATIENCE)

    async def acknowledged(self):
        """The server has taken responsibility for all that was sent (XEP-0198)."""
        sm = self.plugin["xep_0198"]
        await self.settled()  # what is still on its way out of slixmpp leaves before this
        sm.request_ack()
        await self.until(lambda: not sm.unacked_queue, f"acknowledgement of {len(sm.unacked_queue)} stanzas")

    def say(self, to, body, kind="chat"):
        message = self.make_message(mto=to, mbody=body, mtype=kind)
        message["id"] = body  # an error that comes back need not carry the body, but must carry this
        message.send()


class Ledger:
    """Numbers that were sent, numbers that came."""

    def __init__(self, name):
        self.name, self.sent = name, 0

    def next(self):
        self.sent += 1
        return f"serial {self.name} {self.sent - 1}"

    def came(self, user):
        """The numbers of this ledger that came to a user, in the order they came."""
        return user.serials.get(self.name, [])

    def of(self, messages):
        """The numbers of this ledger among some messages, in their order."""
        prefix = f"serial {self.name} "
        bodies = (m["body"] for m in messages)
        return [int(b[len(prefix) :]) for b in bodies if b.startswith(prefix)]

    def returned(self, errors):
        """The numbers of this ledger that were given back with an error."""
        prefix = f"serial {self.name} "
        return [int(m["id"][len(prefix) :]) for m in errors if m["id"].startswith(prefix)]

    def check(self, where, what=""):
        """Each once, in order; `where` is a user or a list of messages."""
        came = self.came(where) if isinstance(where, User) else self.of(where)
        if came == list(range(self.sent)):
            return
        lost = sorted(set(range(self.sent)) - set(came))
        doubled = sorted({n for n in came if came.count(n) > 1}) if len(came) != len(set(came)) else []
        late = next((f"{b} after {a}" for a, b in zip(came, came[1:]) if b < a), "none")
        raise Broken(
            f"{self.name} {what}: sent {self.sent}, came {len(came)}, lost {len(lost)} {lost[:10]}, "
            f"doubled {len(doubled)} {doubled[:10]}, out of order: {late}; in all {came[:300]}"
        )


async def befriend(one, other):
    """Both online and interested: both subscribe to each other and see each other."""
    for asker, granter in ((one, other), (other, one)):
        a, g = asker.boundjid.bare, granter.boundjid.bare
        asker.send_presence_subscription(pto=g, ptype="subscribe")
        await granter.see("subscribe", a)
        granter.send_presence_subscription(pto=a, ptype="subscribed")
        await asker.see("subscribed", g)
    await one.see("available", other.boundjid.full)
    await other.see("available", one.boundjid.full)


def run(program):
    """Runs a program, ends the process with what became of it."""
    logging.basicConfig(level=os.environ.get("PANGAEA_TEST_LOG", "ERROR"), format="%(asctime)s %(message)s")
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)

    async def whole():
        place = Place()
        try:
            await program(place)
            return 0
        except Broken as why:
            print(f"broken: {why}")
            return 1
        except Exception as why:  # noqa: BLE001 (whatever it is, the promise was not shown)
            logging.getLogger("asyncio").setLevel(logging.ERROR)
            logging.exception("the program fell over")
            print(f"fell over: {why!r}")
            return 1
        finally:
            for user in place.users:
                user.abort()

    # slixmpp leaves tasks behind when a stream is aborted: not waited for.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    status = loop.run_until_complete(whole())
    sys.stdout.flush()
    os._exit(status)
