//! As much of SOCKS 5 (RFC 1928) as XEP-0065 §5.3.2 uses, as a state machine without a socket: no authentication, CONNECT, and for a host name
//! the digest that names a bytestream. Nothing is read beyond the request: what follows belongs to the other side.

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Read so many bytes and hand them in.
    Read(usize),
    /// Send this, then the same.
    Say(Vec<u8>, usize),
    /// The other side asks for this bytestream; it waits for [`granted`].
    Asked(String),
    /// Send this and close.
    Refuse(Vec<u8>),
}

/// One connection, before it is part of a bytestream.
#[derive(Debug, Default)]
pub(super) enum Handshake {
    /// The version, and how many methods follow.
    #[default]
    Version,
    /// The methods.
    Methods,
    /// A command, up to the length of the name.
    Request,
    /// The name, and a port.
    Name,
}

const SOCKS5: u8 = 5;
const NO_AUTHENTICATION: u8 = 0;
const NONE_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;
const DOMAIN_NAME: u8 = 3;

/// Of replies (RFC 1928 §6).
const NOT_ALLOWED: u8 = 2;
const COMMAND_NOT_SUPPORTED: u8 = 7;
const ADDRESS_NOT_SUPPORTED: u8 = 8;

/// Hexadecimal digits of a SHA-1.
const NAME_BYTES: usize = 40;

impl Handshake {
    /// What to do first.
    pub(super) fn begin() -> (Handshake, Next) {
        (Handshake::Version, Next::Read(2))
    }

    /// The bytes that were asked for.
    pub(super) fn handle_bytes(&mut self, bytes: &[u8]) -> Next {
        match (&self, bytes) {
            (Handshake::Version, [SOCKS5, count]) if *count > 0 => {
                *self = Handshake::Methods;
                Next::Read(usize::from(*count))
            }
            (Handshake::Methods, methods) => {
                *self = Handshake::Request;
                if methods.contains(&NO_AUTHENTICATION) {
                    Next::Say(vec![SOCKS5, NO_AUTHENTICATION], 5)
                } else {
                    Next::Refuse(vec![SOCKS5, NONE_ACCEPTABLE])
                }
            }
            (Handshake::Request, [SOCKS5, CONNECT, _, DOMAIN_NAME, length]) => {
                *self = Handshake::Name;
                Next::Read(usize::from(*length) + 2)
            }
            (Handshake::Request, [SOCKS5, CONNECT, _, _, _]) => {
                Next::Refuse(refusal(ADDRESS_NOT_SUPPORTED))
            }
            (Handshake::Request, [SOCKS5, ..]) => Next::Refuse(refusal(COMMAND_NOT_SUPPORTED)),
            (Handshake::Name, [name @ .., 0, 0])
                if name.len() == NAME_BYTES && name.iter().all(u8::is_ascii_hexdigit) =>
            {
                Next::Asked(String::from_utf8_lossy(name).to_ascii_lowercase())
            }
            (Handshake::Name, _) => Next::Refuse(refusal(NOT_ALLOWED)),
            // Another protocol: nothing it would understand.
            _ => Next::Refuse(Vec::new()),
        }
    }
}

fn refusal(why: u8) -> Vec<u8> {
    vec![SOCKS5, why, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// It waits for the other side: more than two are not allowed.
pub(super) fn not_allowed() -> Vec<u8> {
    refusal(NOT_ALLOWED)
}

/// It is one side of the bytestream. The address is that of the request (XEP-0065 §5.3.2).
pub(super) fn granted(name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("forty digits");
    let mut reply = vec![SOCKS5, 0, 0, DOMAIN_NAME, length];
    reply.extend(name.as_bytes());
    reply.extend([0, 0]);
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "972b7bf47291ca609517f67f86b5081086052dad";

    /// What comes last of these pieces.
    fn check(pieces: &[&[u8]], expected: Next) {
        let (mut handshake, mut next) = Handshake::begin();
        for piece in pieces {
            match next {
                Next::Read(count) | Next::Say(_, count) => assert_eq!(count, piece.len()),
                other => panic!("{other:?} came early"),
            }
            next = handshake.handle_bytes(piece);
        }
        assert_eq!(next, expected);
    }

    #[test]
    fn a_bytestream_is_asked_for_by_its_digest() {
        let name = [NAME.to_ascii_uppercase().as_bytes(), &[0, 0]].concat();
        let request = [5, 1, 0, 3, 40];
        check(&[&[5, 1], &[0], &request, &name], Next::Asked(NAME.to_owned()));
        check(&[&[5, 2], &[2, 0]], Next::Say(vec![5, 0], 5));
        assert_eq!(granted(NAME)[..5], [5, 0, 0, 3, 40]);
        assert_eq!(granted(NAME).len(), 47);
    }

    #[test]
    fn everything_else_is_refused_as_rfc_1928_has_it() {
        check(&[&[4, 1]], Next::Refuse(vec![]));
        check(&[&[5, 0]], Next::Refuse(vec![]));
        check(&[b"GE"], Next::Refuse(vec![]));
        check(&[&[5, 1], &[2]], Next::Refuse(vec![5, 0xff]));
        let refused = |why| Next::Refuse(vec![5, why, 0, 1, 0, 0, 0, 0, 0, 0]);
        check(&[&[5, 1], &[0], &[5, 2, 0, 3, 40]], refused(7));
        check(&[&[5, 1], &[0], &[5, 1, 0, 1, 127]], refused(8));
        let with_port = [NAME.as_bytes(), &[0, 80]].concat();
        check(&[&[5, 1], &[0], &[5, 1, 0, 3, 40], &with_port], refused(2));
        check(&[&[5, 1], &[0], &[5, 1, 0, 3, 3], b"abc\0\0"], refused(2));
        let no_digest = [&[b'z'; 40][..], &[0, 0]].concat();
        check(&[&[5, 1], &[0], &[5, 1, 0, 3, 40], &no_digest], refused(2));
    }
}
