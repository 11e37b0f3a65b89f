//! XEP-0478 Stream Limits Advertisement, version 0.1.0: how large a stanza may be, before sign-in and after it (RFC 6120 §13.12), said in the
//! stream features. What is larger is answered with a stream error by the framer.
//! Left out: `idle-seconds`, for idle clients are left alone; other servers' limits.

use crate::feature::Feature;

/// See the room.
pub struct StreamLimits {
    before_auth: String,
    after_auth: String,
}

impl StreamLimits {
    /// Those of the configuration.
    pub fn new(limits: &config::Limits) -> Self {
        let element = |bytes: usize| {
            let ns = xmpp::ns::STREAM_LIMITS;
            format!("<limits xmlns='{ns}'><max-bytes>{bytes}</max-bytes></limits>")
        };
        Self {
            before_auth: element(limits.stanza_bytes_max_before_auth),
            after_auth: element(limits.stanza_bytes_max),
        }
    }
}

impl Feature for StreamLimits {
    fn name(&self) -> &'static str {
        "limits"
    }

    fn stream_features(&self) -> &str {
        &self.after_auth
    }

    fn stream_features_before_auth(&self) -> &str {
        &self.before_auth
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_says_what_it_takes() {
        let text = include_str!("../../../../config/examples/one-node.toml");
        let config = config::Config::parse(text, "example", "/nowhere".as_ref()).expect("good");
        let limits = StreamLimits::new(&config.limits);
        assert!(limits.stream_features_before_auth().contains("<max-bytes>16384</max-bytes>"));
        assert!(limits.stream_features().contains("<max-bytes>262144</max-bytes>"));
    }
}
