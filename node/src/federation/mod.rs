//! Room: other people's domains, as the node meets them. The streams are `s2s::federation`'s; here is what their stanzas mean to our users.
//! * `inbound` what comes from there

pub mod inbound;
#[cfg(test)]
mod tests;

/// What a node knows of other domains.
#[derive(Debug, Default)]
pub struct Federation {
    /// What has come and waits.
    pub inbound: inbound::Inbound,
    /// What would leave for other domains, for tests that ask for it.
    #[cfg(test)]
    pub(crate) sink: crate::testing::Sink,
}
