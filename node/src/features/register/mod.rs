//! XEP-0077 In-Band Registration, version 2.4: an account for whoever asks (where the operator wants that), another password, the end of
//! an account. Creating needs no session and is called by the session's negotiation ([`before_sign_in`]); the rest are iqs of a
//! signed-in user. All three are requests to the account's home.
//!
//! What every account change brings with it is here too, registered or not: kept credentials are forgotten, and the sessions of
//! an account that was removed end.
//!
//! Left out: data forms and more fields than name and password (§3.1.1, §4), CAPTCHAs, redirection (§5), registration with
//! gateways and services (§3.1.2).

mod payload;
#[cfg(test)]
mod tests;
