//! Room: SASL EXTERNAL of another domain (RFC 6120 §6, RFC 4422 appendix A, XEP-0178 §3), part of the machine. What the certificate proves was found out
//! before it was offered; here it is only said as whom.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use xmpp::sasl::Failure;
use xmpp::stream::negotiate::FAILURES_MAX;
use xmpp::{BareJid, Element, StreamError};

use super::machine::{Machine, State};
use super::turns::Output;

impl Machine {
    pub(super) fn sasl(
        &mut self,
        element: &Element,
        out: &mut Vec<Output>,
    ) -> Result<(), StreamError> {
        let running = std::mem::replace(&mut self.state, State::Open) == State::Response;
        match element.name() {
            "auth" | "response" | "abort" if self.authenticated => {
                Err(StreamError::policy_violation())
            }
            "auth" if running => self.fail(Failure::MalformedRequest, out),
            "auth" if self.tls.is_none() => self.fail(Failure::EncryptionRequired, out), // B-067
            "auth" if !self.external || element.attr("mechanism") != Some("EXTERNAL") => {
                self.fail(Failure::InvalidMechanism, out) // B-085
            }
            "auth" if element.text().is_empty() => {
                self.state = State::Response;
                let challenge =
                    b"<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>=</challenge>";
                out.push(Output::Send(challenge[..].into()));
                Ok(())
            }
            "auth" => self.identity(&element.text(), out),
            "response" if running => self.identity(&element.text(), out),
            "abort" if running => self.fail(Failure::Aborted, out),
            "response" | "abort" => self.fail(Failure::MalformedRequest, out), // B-101
            _ => Err(StreamError::unsupported_stanza_type()),
        }
    }

    /// As whom the peer wants to act: only as whom its header names, for which the certificate is good (B-212).
    fn identity(&mut self, text: &str, out: &mut Vec<Output>) -> Result<(), StreamError> {
        let decoded = if matches!(text, "" | "=") { Ok(Vec::new()) } else { BASE64.decode(text) };
        let Ok(decoded) = decoded else { return self.fail(Failure::IncorrectEncoding, out) };
        let Ok(authzid) = String::from_utf8(decoded) else {
            return self.fail(Failure::MalformedRequest, out);
        };
        let named = BareJid::parse(&authzid).ok().map(|jid| jid.as_str().to_owned());
        if !authzid.is_empty() && (named.is_none() || named != self.from) {
            return self.fail(Failure::InvalidAuthzid, out);
        }
        self.authenticated = true;
        out.push(Output::Send(b"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"[..].into()));
        self.expect_header(out);
        Ok(())
    }

    /// One more attempt has failed; one too many ends the stream (RFC 6120 §6.4.5, B-103).
    fn fail(&mut self, failure: Failure, out: &mut Vec<Output>) -> Result<(), StreamError> {
        self.failures = self.failures.saturating_add(1);
        if self.failures > FAILURES_MAX {
            return Err(StreamError::policy_violation());
        }
        let failure = format!(
            "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><{}/></failure>",
            failure.name()
        );
        out.push(Output::Send(failure.into()));
        Ok(())
    }
}
