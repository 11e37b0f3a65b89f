//! Which new passwords are good enough (XEP-0077 §3.1, §3.3). Pure.

use xmpp::sasl::{Password, saslprep};
use xmpp::stanza::error::StanzaError;

/// Whether it can be kept, and the operator thinks it good enough.
///
/// # Errors
/// `not-acceptable`, and why.
pub(super) fn acceptable(
    password: &Password,
    rules: &config::Registration,
) -> Result<(), StanzaError> {
    let refuse = |why: &str| Err(StanzaError::not_acceptable().with_text(why));
    let prepared = match saslprep(password.expose()) {
        Ok(prepared) => prepared,
        Err(why) => return refuse(&why.to_string()),
    };
    if prepared.chars().count() < rules.password_length_min as usize {
        return refuse(&format!(
            "A password has {} characters at least.",
            rules.password_length_min
        ));
    }
    if bits(&prepared) < f64::from(rules.password_bits_min) {
        return refuse(
            "The password is too easy to guess: make it longer, or of more kinds of characters.",
        );
    }
    Ok(())
}

/// About how many bits somebody has to guess who knows of which kinds its characters are: the measure of ejabberd's `password_strength`.
fn bits(password: &str) -> f64 {
    let has = |kind: fn(char) -> bool| password.chars().any(kind);
    let mut kinds = 0.0;
    for (there, size) in [
        (has(|c| c.is_ascii_digit()), 10.0),
        (has(|c| c.is_ascii_lowercase()), 26.0),
        (has(|c| c.is_ascii_uppercase()), 26.0),
        (has(|c| c.is_ascii() && !c.is_ascii_alphanumeric()), 33.0),
        (has(|c| !c.is_ascii()), 128.0),
    ] {
        if there {
            kinds += size;
        }
    }
    let mut characters: Vec<char> = password.chars().collect();
    // The same one in a row is worth nothing more.
    characters.dedup();
    characters.len() as f64 * f64::log2(kinds)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(length: u32, bits: u32) -> config::Registration {
        config::Registration {
            enabled: true,
            per_address_per_10min: 5,
            instructions: None,
            url: None,
            password_length_min: length,
            password_bits_min: bits,
            change_password: true,
            remove_account: true,
            reserved: Vec::new(),
        }
    }

    #[test]
    fn a_password_is_long_enough_hard_to_guess_and_can_be_kept() {
        for (password, length, bits, good) in [
            ("wonderland", 8, 0, true),
            ("wonder", 8, 0, false),
            // Characters count, not bytes; a soft hyphen is none.
            ("päßwörter", 9, 0, true),
            ("wonderl\u{ad}", 8, 0, false),
            ("", 1, 0, false),
            ("nul\u{0}", 1, 0, false),
            ("aaaaaaaaaaaaaaaa", 8, 32, false),
            ("wonderland", 8, 47, true),
            ("wonderland", 8, 48, false),
            ("W0nderland!", 8, 64, true),
        ] {
            let said = acceptable(&Password::new(password), &rules(length, bits));
            assert_eq!(said.is_ok(), good, "{password:?} {length} {bits}");
            if let Err(error) = said {
                assert_eq!(error.condition, StanzaError::not_acceptable().condition);
            }
        }
    }
}
