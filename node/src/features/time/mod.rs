//! XEP-0202 Entity Time, version 2.0: what time it is here. Always in UTC: a server that spans continents has no time zone.
//! Left out: nothing.

use xmpp::ns;
use xmpp::stanza::{Stanza, Type};
use xmpp::xml::element::Element;

use crate::feature::{Action, Ctx, Disco, Feature, Flow, Interests, Iq, Target};

#[cfg(test)]
mod tests;

/// See the room.
pub struct Time;

impl Feature for Time {
    fn name(&self) -> &'static str {
        "time"
    }

    fn interests(&self) -> Interests {
        Interests { iq: &[ns::TIME], ..Interests::default() }
    }

    fn disco(&self, disco: &mut Disco) {
        disco.server.push(ns::TIME);
    }

    fn iq(&self, ctx: &mut Ctx<'_>, iq: &Iq) -> Flow {
        match answer(iq, ctx.node.wall_ms()) {
            Some(reply) => {
                ctx.actions.push(Action::Reply(reply));
                Flow::Done
            }
            None => Flow::Next,
        }
    }
}

fn answer(iq: &Iq, now_ms: u64) -> Option<Stanza> {
    if iq.target != Target::Server || iq.stanza.type_() != Type::Get {
        return None;
    }
    let time = Element::new("time", ns::TIME)
        .with_child(Element::new("tzo", ns::TIME).with_text("+00:00"))
        .with_child(Element::new("utc", ns::TIME).with_text(&utc(now_ms)));
    Some(Stanza::iq_result(&iq.stanza, Some(time)))
}

/// Milliseconds since 1970 as XEP-0082 writes them. The calendar is the proleptic Gregorian one, counted in eras of 400 years that
/// begin in March, so that the leap day is the last of its year.
fn utc(ms: u64) -> String {
    let (days, ms_of_day) = (ms / 86_400_000, ms % 86_400_000);
    let since_march_0000 = days + 719_468;
    let (era, day_of_era) = (since_march_0000 / 146_097, since_march_0000 % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (seconds, ms) = (ms_of_day / 1000, ms_of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z")
}
