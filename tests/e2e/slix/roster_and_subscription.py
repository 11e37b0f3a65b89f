"""A roster changed in one region is pushed in another; a subscription made across regions is in both rosters."""

from common import Broken, befriend, run


async def program(place):
    laptop = await place.user(2, "eu", "laptop").online(roster=True)
    phone = await place.user(2, "us", "phone").online(roster=True)
    friend = await place.user(3, "ap", "friend").online(roster=True)

    await laptop.update_roster("nurse@capulet.example", name="Nurse", groups=["Servants"])
    await phone.until(
        lambda: phone.client_roster["nurse@capulet.example"]["name"] == "Nurse", "the push of what the laptop set"
    )
    await phone.update_roster("nurse@capulet.example", name="Dear nurse", groups=[])
    await laptop.until(
        lambda: laptop.client_roster["nurse@capulet.example"]["name"] == "Dear nurse", "the push of what the phone set"
    )

    await befriend(laptop, friend)
    me, other = laptop.boundjid.bare, friend.boundjid.bare
    await phone.see("available", friend.boundjid.full)
    await friend.see("available", phone.boundjid.full)
    for user, contact in ((laptop, other), (phone, other), (friend, me)):
        item = user.client_roster[contact]
        await user.until(lambda: item["subscription"] == "both", "the push of the subscription")

    # What the server says when asked afresh, in each region.
    for region in ("eu", "us", "ap"):
        fresh = await place.user(2, region, f"fresh-{region}").online(presence=False)
        roster = await fresh.get_roster()
        items = {str(jid): item for jid, item in roster["roster"]["items"].items()}
        if items[other]["subscription"] != "both" or items["nurse@capulet.example"]["name"] != "Dear nurse":
            raise Broken(f"the roster read in {region} is {roster}")


run(program)
