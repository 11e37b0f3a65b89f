//! Which names a stranger may take (XEP-0077 §3.1 leaves it to the deployment). Pure.

use xmpp::jid::BareJid;
use xmpp::stanza::error::StanzaError;

/// Alphabets whose letters look like each other's: a name in two of them is made to be taken for another (Unicode TR 39 §5.2, the
/// mixtures that matter here).
const ALPHABETS: [&[std::ops::RangeInclusive<char>]; 5] = [
    &['a'..='z', 'A'..='Z', '\u{c0}'..='\u{24f}', '\u{1e00}'..='\u{1eff}', '\u{ff21}'..='\u{ff5a}'],
    &['\u{370}'..='\u{3ff}', '\u{1f00}'..='\u{1fff}'],
    &[
        '\u{400}'..='\u{52f}',
        '\u{1c80}'..='\u{1c8f}',
        '\u{2de0}'..='\u{2dff}',
        '\u{a640}'..='\u{a69f}',
    ],
    &['\u{531}'..='\u{58a}'],
    &['\u{13a0}'..='\u{13ff}', '\u{ab70}'..='\u{abbf}'],
];

/// Whether it may be taken.
///
/// # Errors
/// `not-acceptable`: the operator keeps it, or it mixes alphabets.
pub(super) fn free(account: &BareJid, rules: &config::Registration) -> Result<(), StanzaError> {
    let name = account.local().unwrap_or_default();
    let refuse = |why: &str| Err(StanzaError::not_acceptable().with_text(why));
    if rules.reserved.iter().any(|reserved| reserved == name) {
        return refuse("This name is reserved.");
    }
    let uses = |alphabet: &&&[std::ops::RangeInclusive<char>]| {
        name.chars().any(|c| alphabet.iter().any(|range| range.contains(&c)))
    };
    if ALPHABETS.iter().filter(uses).count() > 1 {
        return refuse("This name mixes alphabets.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_reserved_and_of_one_alphabet() {
        let text = "[node]\nregion = 'eu'\ndata_dir = 'd'\n[domains]\nglobal = 'x'\n[c2s]\ncertificate = 'c'\nkey = 'k'\n";
        let config = config::Config::parse(text, "t", "/".as_ref()).expect("good");
        for (name, good) in [
            ("romeo", true),
            ("root", false),
            ("roots", true),
            ("jürgen-7", true),
            ("ромео", true),
            ("ρωμαίος", true),
            ("日本romeo", true),
            // Cyrillic and Latin, Greek and Latin.
            ("аdmin", false),
            ("rοmeo", false),
        ] {
            let account = BareJid::parse(&format!("{name}@x")).expect("a JID");
            assert_eq!(free(&account, &config.registration).is_ok(), good, "{name}");
        }
    }
}
