//! `[registration]`: accounts that people make for themselves (XEP-0077), and what they may do with them in-band.

use crate::table::Table;

/// Longest instructions, in bytes: they are part of every answer to a stranger.
const INSTRUCTIONS_BYTES_MAX: usize = 2_000;

/// The `[registration]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// Whether anybody may make an account. Who has an invitation may where this is `false` too, see `[invitations]`.
    pub enabled: bool,
    /// Accounts from one IP address in ten minutes. Beyond: refused with `resource-constraint`.
    pub per_address_per_10min: u32,
    /// What a stranger is told to do, in place of our own words.
    pub instructions: Option<String>,
    /// Where accounts are made on the web (XEP-0077 §5.1). Named beside the form, or in its place where `enabled` is `false`.
    pub url: Option<String>,
    /// Characters a new password has at least. Below: `not-acceptable`.
    pub password_length_min: u32,
    /// Bits a new password is worth at least, guessed from its length and the kinds of its characters. Below: `not-acceptable`. 0: no
    /// such rule.
    pub password_bits_min: u32,
    /// Whether a user may change the password in-band. If not: `not-allowed`.
    pub change_password: bool,
    /// Whether a user may remove the account in-band. If not: `not-allowed`.
    pub remove_account: bool,
    /// Names nobody may take in-band, in lower case: refused with `not-acceptable`.
    pub reserved: Vec<String>,
}

pub(crate) fn read(table: &Table<'_>) -> Registration {
    let registration = Registration {
        enabled: table.value("enabled", false),
        per_address_per_10min: table.between(
            "per_address_per_10min",
            5,
            1,
            1_000_000,
            "a number from 1 to 1000000",
        ),
        instructions: table.optional("instructions"),
        url: table.optional("url"),
        password_length_min: table.between(
            "password_length_min",
            8,
            1,
            256,
            "a number from 1 to 256",
        ),
        password_bits_min: table.between(
            "password_bits_min",
            0,
            0,
            1_000,
            "a number from 0 to 1000",
        ),
        change_password: table.value("change_password", true),
        remove_account: table.value("remove_account", true),
        reserved: table.value(
            "reserved",
            ["abuse", "admin", "administrator", "hostmaster", "postmaster", "root", "webmaster"]
                .map(str::to_owned)
                .to_vec(),
        ),
    };
    if let Some(text) = registration.instructions.as_ref()
        && text.len() > INSTRUCTIONS_BYTES_MAX
    {
        table.refuse(
            "instructions",
            format!("at most {INSTRUCTIONS_BYTES_MAX} bytes"),
            format!("{} bytes", text.len()),
        );
    }
    if let Some(url) = registration.url.as_ref()
        && !["https://", "http://"].iter().any(|scheme| url.starts_with(scheme))
    {
        table.refuse("url", "a URL that begins with https://", format!("{url:?}"));
    }
    registration
}
