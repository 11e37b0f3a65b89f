//! Reads a play. Called by the scenario test binary; knows nothing of connections.
//!
//! A line that starts in the first column is a heading or a step, an indented one belongs to the step above it. `#` begins
//! a comment; the first comment is the title.

use crate::client::Result;
use crate::reference::Which;
use std::collections::BTreeMap;

/// A person in the play.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// What the play calls it.
    pub name: String,
    /// Asks for this resource; the name in lower case without the header, `-` for none.
    pub resource: String,
    /// Shares the account of that other role.
    pub account_of: Option<String>,
    /// Always connects where that other role connects.
    pub beside: Option<String>,
    /// Insists on this SCRAM mechanism.
    pub mechanism: Option<String>,
    /// Begins without an account.
    pub stranger: bool,
    /// Has its account on the own domain of the region where it is.
    pub is_regional: bool,
    /// Has no account: a guest, on the domain of guests.
    pub is_guest: bool,
    /// Is the platform's administrator, with a resource nobody else has.
    pub is_admin: bool,
    /// Is no client but a component (XEP-0114).
    pub is_component: bool,
}

/// What happens in one step. XML is kept as text: names in it are filled in during the performance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Opens a stream, with TLS, and does not log in.
    OpensStream,
    /// Logs in and binds.
    Connects,
    /// Logs in, binds, sends initial presence and waits to hear it back.
    ComesOnline,
    /// Gets the roster and passes over it: from here on it is pushed.
    AsksForRoster,
    /// Says a word to everybody, and they hear it: so they know whatever changed before, wherever they are.
    IsKnown,
    /// From now on logs in with this password.
    UsesPassword(String),
    /// Must not get in.
    FailsToConnect,
    /// Opens a stream in the name of its account, and has its features to receive.
    OpensNamedStream,
    /// Opens a stream, passes over its features, sends this as it is; receives what follows when it is success in SASL2.
    SignsIn(String),
    /// Sends stanzas.
    Sends(String),
    /// Writes text as it is.
    SendsRaw(String),
    /// These come next, in this order.
    Receives(String),
    /// These come next, in any order.
    ReceivesUnordered(String),
    /// Nothing has come, now that all that was sent has arrived.
    ReceivesNothing,
    /// What fits these is passed over from now on.
    Ignores(String),
    /// Ends the stream.
    Disconnects,
    /// The connection is gone without a word.
    Cuts,
    /// Comes back and resumes.
    Resumes,
    /// The same in the next region.
    ResumesElsewhere,
    /// Comes back and is refused resumption.
    FailsToResume,
    /// The server ends the stream.
    StreamEnds,
    /// XEP-0198 `<enable/>`, with resumption or without.
    EnablesSm(bool),
    /// All that was sent is acknowledged.
    IsAcknowledged,
    /// Answers the server's `<r/>`, or stops doing so.
    AnswersAcks(bool),
    /// Before anybody connects: both subscribe to each other.
    AreFriends(String),
}

/// One step, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Line in the file, from 1.
    pub line: usize,
    /// Who acts.
    pub who: String,
    /// What happens.
    pub act: Act,
}

/// A whole play.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Play {
    /// The first comment.
    pub title: String,
    /// Who plays.
    pub roles: Vec<Role>,
    /// What happens.
    pub steps: Vec<Step>,
    /// Why servers of others are not held to it (`# not on prosody: …`), by their names.
    pub not_on: BTreeMap<String, String>,
}

impl Play {
    /// Is anybody to receive a push of that namespace here?
    pub fn pushes(&self, who: &str, ns: &str) -> bool {
        self.steps.iter().filter(|step| step.who == who).any(|step| match &step.act {
            Act::Receives(xml) | Act::ReceivesUnordered(xml) => {
                xml.lines().any(|line| line.contains("type='set'") && line.contains(ns))
            }
            _ => false,
        })
    }

    /// Reads a play.
    ///
    /// # Errors
    /// Names the line that is not understood.
    pub fn read(text: &str) -> Result<Self> {
        let mut play = Self {
            title: String::new(),
            roles: Vec::new(),
            steps: Vec::new(),
            not_on: BTreeMap::new(),
        };
        let lines: Vec<&str> = text.lines().collect();
        let mut at = 0;
        while at < lines.len() {
            let line = lines[at].trim_end();
            let number = at + 1;
            at += 1;
            if let Some(comment) = line.strip_prefix('#') {
                let comment = comment.trim();
                if let Some((server, why)) =
                    comment.strip_prefix("not on ").and_then(|c| c.split_once(':'))
                {
                    if !Which::ALL.iter().any(|which| which.name() == server) {
                        return Err(format!("line {number}: no server is called {server}"));
                    }
                    play.not_on.insert(server.into(), why.trim().into());
                } else if play.title.is_empty() {
                    play.title = comment.into();
                }
                continue;
            }
            if line.is_empty() || line.starts_with("---") {
                continue;
            }
            if line.starts_with([' ', '\t']) {
                return Err(format!("line {number}: indented, but belongs to nothing"));
            }
            let mut block = Vec::new();
            while at < lines.len()
                && (lines[at].starts_with([' ', '\t']) || lines[at].trim().is_empty())
            {
                block.push(lines[at].trim());
                at += 1;
            }
            let block = block.join("\n").trim().to_owned();
            let client = line.strip_prefix("[Client] ").map(|name| (name, false));
            let component = || line.strip_prefix("[Component] ").map(|name| (name, true));
            if let Some((name, is_component)) = client.or_else(component) {
                let role = role(name.trim(), &block);
                let role = role.map_err(|e| format!("line {number}: {e}"))?;
                play.roles.push(Role { is_component, ..role });
            } else {
                let step = step(number, line, block).map_err(|e| format!("line {number}: {e}"))?;
                for name in [
                    Some(&step.who),
                    if let Act::AreFriends(o) = &step.act { Some(o) } else { None },
                ] {
                    if name.is_some_and(|n| !play.roles.iter().any(|r| r.name == *n)) {
                        return Err(format!(
                            "line {number}: nobody is called {}",
                            name.map_or("", |n| n)
                        ));
                    }
                }
                play.steps.push(step);
            }
        }
        if play.title.is_empty() || play.steps.is_empty() {
            return Err("a play needs a title and a step".into());
        }
        Ok(play)
    }
}

fn role(name: &str, block: &str) -> Result<Role> {
    let mut role = Role {
        name: name.into(),
        resource: name.to_lowercase(),
        account_of: None,
        beside: None,
        mechanism: None,
        stranger: false,
        is_regional: false,
        is_guest: false,
        is_admin: false,
        is_component: false,
    };
    for line in block.lines().filter(|l| !l.is_empty()) {
        match line.split_once(':').map(|(k, v)| (k.trim(), v.trim())) {
            Some(("resource", v)) => role.resource = v.into(),
            Some(("account of", v)) => role.account_of = Some(v.into()),
            Some(("beside", v)) => role.beside = Some(v.into()),
            Some(("mechanism", v)) => role.mechanism = Some(v.into()),
            Some(("account", "none")) => role.stranger = true,
            Some(("regional", "yes")) => role.is_regional = true,
            Some(("guest", "yes")) => role.is_guest = true,
            Some(("admin", "yes")) => role.is_admin = true,
            _ => return Err(format!("a client has no {line:?}")),
        }
    }
    Ok(role)
}

fn step(line: usize, text: &str, block: String) -> Result<Step> {
    const PLAIN: [(&str, Act); 18] = [
        ("opens a stream", Act::OpensStream),
        ("is known to everybody", Act::IsKnown),
        ("asks for the roster", Act::AsksForRoster),
        ("connects", Act::Connects),
        ("opens a stream of its own", Act::OpensNamedStream),
        ("comes online", Act::ComesOnline),
        ("fails to connect", Act::FailsToConnect),
        ("receives nothing", Act::ReceivesNothing),
        ("disconnects", Act::Disconnects),
        ("cuts the connection", Act::Cuts),
        ("resumes", Act::Resumes),
        ("resumes elsewhere", Act::ResumesElsewhere),
        ("fails to resume", Act::FailsToResume),
        ("enables stream management", Act::EnablesSm(true)),
        ("enables stream management without resumption", Act::EnablesSm(false)),
        ("is acknowledged", Act::IsAcknowledged),
        ("stops answering acks", Act::AnswersAcks(false)),
        ("answers acks again", Act::AnswersAcks(true)),
    ];
    let (head, has_block) = match text.strip_suffix(':') {
        Some(head) => (head, true),
        None => (text, false),
    };
    if has_block == block.is_empty() {
        return Err("what ends in a colon has an indented block, and nothing else has".into());
    }
    if let Some(who) = head.strip_suffix("'s stream ends") {
        return Ok(Step { line, who: who.into(), act: Act::StreamEnds });
    }
    if let Some((who, other)) =
        head.strip_suffix(" are friends").and_then(|p| p.split_once(" and "))
    {
        return Ok(Step { line, who: who.into(), act: Act::AreFriends(other.into()) });
    }
    let (who, what) = head.split_once(' ').ok_or("nobody does anything")?;
    let act = match (what, has_block) {
        ("sends", true) => Act::Sends(block),
        ("sends raw", true) => Act::SendsRaw(block),
        ("signs in with", true) => Act::SignsIn(block),
        ("receives", true) => Act::Receives(block),
        ("receives in any order", true) => Act::ReceivesUnordered(block),
        ("uses the password", true) => Act::UsesPassword(block),
        ("ignores", true) => Act::Ignores(block),
        (what, false) => {
            let plain = PLAIN.iter().find(|(words, _)| *words == what);
            plain
                .map(|(_, act)| act.clone())
                .ok_or_else(|| format!("nobody knows how one {what:?}"))?
        }
        _ => return Err(format!("nobody knows how one {what:?}")),
    };
    Ok(Step { line, who: who.into(), act })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_play_is_read_with_its_roles_and_steps() {
        let play = Play::read(
            "# A title\n\n[Client] Romeo\n\tresource: orchard\n\n[Client] Phone\n\taccount of: Romeo\n\tbeside: Romeo\n\n---\n\n\
             Romeo and Phone are friends\nRomeo connects\nRomeo sends:\n\t<message>\n\n\t\t<body>hi</body>\n\t</message>\n\n\
             Phone receives nothing\nRomeo's stream ends\n",
        )
        .unwrap();
        assert_eq!(play.title, "A title");
        assert_eq!(play.roles[0].resource, "orchard");
        assert_eq!(play.roles[1].account_of.as_deref(), Some("Romeo"));
        let acts: Vec<&Act> = play.steps.iter().map(|s| &s.act).collect();
        assert_eq!(acts[0], &Act::AreFriends("Phone".into()));
        assert_eq!(acts[2], &Act::Sends("<message>\n\n<body>hi</body>\n</message>".into()));
        assert_eq!(acts[4], &Act::StreamEnds);
        assert_eq!(play.steps[2].line, 14);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_its_line() {
        let check = |step: &str, expected: &str| {
            let error = Play::read(&format!("# T\n[Client] Romeo\n{step}\n")).unwrap_err();
            assert!(error.contains("line 3") && error.contains(expected), "{error}");
        };
        check("Romeo dances", "dances");
        check("Juliet connects", "Juliet");
        check("Romeo sends:", "block");
        check("Romeo connects\n\t<a/>", "block");
    }
}
