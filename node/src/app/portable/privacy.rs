//! Accounts that leave and come, their privacy lists (XEP-0016; the block list of XEP-0191 is in the default one): between the rows of
//! `features::blocking` and a `<query/>` with `<default/>` and the lists, as ejabberd writes it. Pure; called by `portable` and `import`.

use xmpp::ns;
use xmpp::xml::element::Element;

use super::Done;
use crate::admin::Refusal;
use crate::features::blocking::list::List;
use crate::features::blocking::payload::{self, Set};
use crate::features::blocking::record::{HEAD, Head, Named, decode, encode, key, name};

/// Of the rows; `None`: there are no lists.
pub(super) fn element(rows: &[(String, Vec<u8>)]) -> Done<Option<Element>> {
    let damaged = |_| Refusal::failed("a privacy list that is kept cannot be read");
    let mut default = None;
    let mut lists = Vec::new();
    for (row, bytes) in rows {
        match name(row) {
            Some(name) => {
                let list: List = decode(bytes).map_err(damaged)?;
                lists.push(payload::list(&Named { name: name.to_owned(), list }));
            }
            None if row == HEAD => {
                let head: Head = decode(bytes).map_err(damaged)?;
                default = head.default.map(|named| payload::named("default", &named.name));
            }
            None => {}
        }
    }
    let query = || payload::query(default.into_iter().chain(lists.drain(..)));
    Ok((!rows.is_empty()).then(query).filter(|query| query.children().next().is_some()))
}

/// The rows of a `<query/>`.
pub(super) fn rows(query: &Element, limits: &config::Limits) -> Done<Vec<(String, Vec<u8>)>> {
    let invalid = |what: String| Err(Refusal::invalid(what));
    if !query.is("query", ns::PRIVACY) {
        return invalid("the privacy lists are something else".to_owned());
    }
    let mut lists: Vec<Named> = Vec::new();
    let mut default = None;
    for child in query.children() {
        match payload::set(&payload::query([child.clone()])) {
            Ok(Set::Default(Some(name))) if default.is_none() => default = Some(name),
            // What a session had in force is over.
            Ok(Set::Active(_) | Set::Default(None)) => {}
            Ok(Set::List(named)) if lists.iter().all(|known| known.name != named.name) => {
                if named.list.items().len() > limits.privacy_items_max {
                    let (name, most) = (&named.name, limits.privacy_items_max);
                    return invalid(format!(
                        "the privacy list {name:?} is too long: limits.privacy_items_max is {most}"
                    ));
                }
                lists.push(named);
            }
            _ => return invalid("a privacy list that does not add up".to_owned()),
        }
    }
    if lists.len() > limits.privacy_lists_max {
        let (count, most) = (lists.len(), limits.privacy_lists_max);
        return invalid(format!("{count} privacy lists: limits.privacy_lists_max is {most}"));
    }
    let default = match default {
        None => None,
        Some(name) => match lists.iter().find(|named| named.name == name) {
            Some(named) => Some(named.clone()),
            None => return invalid(format!("there is no privacy list {name:?} to be the default")),
        },
    };
    let mut rows: Vec<(String, Vec<u8>)> =
        lists.into_iter().map(|named| (key(&named.name), encode(&named.list))).collect();
    if !rows.is_empty() {
        // Behind the lists: who applies the changes in order has everything when the head comes.
        let head = Head { serial: 1, default, ..Head::default() };
        rows.push((HEAD.to_owned(), encode(&head)));
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(inside: &str) -> Element {
        let text = format!("<query xmlns='jabber:iq:privacy'>{inside}</query>");
        Element::parse(text.as_bytes()).expect("well-formed")
    }

    fn limits() -> config::Limits {
        let text = "[node]\nregion = 'eu'\ndata_dir = 'd'\n[domains]\nglobal = 'x'\n[c2s]\ncertificate = 'c'\nkey = 'k'\n\
                    [limits]\nprivacy_lists_max = 2\nprivacy_items_max = 2\n";
        config::Config::parse(text, "t", "/".as_ref()).expect("good").limits
    }

    const ITEM: &str =
        "<item type='jid' value='tybalt@x' action='deny' order='1'><message/></item>";

    #[test]
    fn lists_come_back_as_they_were() {
        let lists = format!(
            "<default name='b'/><list name='a'>{ITEM}</list><list name='b'><item action='allow' order='7'/></list>"
        );
        let given = query(&lists);
        let mut kept = rows(&given, &limits()).expect("good");
        assert_eq!(kept.len(), 3);
        kept.sort();
        assert_eq!(element(&kept).expect("read"), Some(given));
        assert_eq!(element(&[]).expect("read"), None);
        assert!(rows(&query(""), &limits()).expect("good").is_empty());
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        for inside in [
            "<default name='a'/>".to_owned(),
            format!("<list name='a'>{ITEM}</list><list name='a'>{ITEM}</list>"),
            "<list name='a'><item/></list>".to_owned(),
            format!("<list>{ITEM}</list>"),
            ["a", "b", "c"].map(|name| format!("<list name='{name}'>{ITEM}</list>")).concat(),
            format!(
                "<list name='a'>{ITEM}<item action='deny' order='2'/><item action='deny' order='3'/></list>"
            ),
        ] {
            assert!(rows(&query(&inside), &limits()).is_err(), "{inside}");
        }
        assert!(rows(&Element::new("query", ns::ROSTER), &limits()).is_err());
    }
}
