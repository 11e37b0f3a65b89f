//! Every namespace, one constant a line, labelled with its RFC or XEP. Values only: nothing is called from here.

/// Content of client streams (RFC 6120 §4.8.3). Also the implied namespace of canonical stanzas.
pub const CLIENT: &str = "jabber:client";
/// Content of server streams (RFC 6120 §4.8.3).
pub const SERVER: &str = "jabber:server";
/// Content of component streams (XEP-0114).
pub const COMPONENT: &str = "jabber:component:accept";
/// The stream root, features and stream errors (RFC 6120 §4.8.2).
pub const STREAM: &str = "http://etherx.jabber.org/streams";
/// Bound to the prefix `xml` for ever (XML Namespaces §3).
pub const XML: &str = "http://www.w3.org/XML/1998/namespace";
/// Bound to the prefix `xmlns` for ever (XML Namespaces §3).
pub const XMLNS: &str = "http://www.w3.org/2000/xmlns/";
/// STARTTLS (RFC 6120 §5).
pub const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
/// SASL (RFC 6120 §6).
pub const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";
/// Resource binding (RFC 6120 §7).
pub const BIND: &str = "urn:ietf:params:xml:ns:xmpp-bind";
/// Session establishment, kept for old clients (RFC 3921 §3).
pub const SESSION: &str = "urn:ietf:params:xml:ns:xmpp-session";
/// Stanza error conditions (RFC 6120 §8.3).
pub const STANZAS: &str = "urn:ietf:params:xml:ns:xmpp-stanzas";
/// Stream error conditions (RFC 6120 §4.9).
pub const STREAMS: &str = "urn:ietf:params:xml:ns:xmpp-streams";
/// Roster (RFC 6121 §2).
pub const ROSTER: &str = "jabber:iq:roster";
/// Roster versioning stream feature (RFC 6121 §2.6).
pub const ROSTER_VERSIONING: &str = "urn:xmpp:features:rosterver";
/// Subscription pre-approval stream feature (RFC 6121 §3.4).
pub const PRE_APPROVAL: &str = "urn:xmpp:features:pre-approval";
/// WebSocket framing (RFC 7395).
pub const FRAMING: &str = "urn:ietf:params:xml:ns:xmpp-framing";
/// XRD host metadata (RFC 6415, XEP-0156).
pub const XRD: &str = "http://docs.oasis-open.org/ns/xri/xrd-1.0";
/// Server dialback (XEP-0220).
pub const DIALBACK: &str = "jabber:server:dialback";
/// Server dialback stream feature (XEP-0220).
pub const DIALBACK_FEATURE: &str = "urn:xmpp:features:dialback";
/// Bidirectional server streams (XEP-0288).
pub const BIDI: &str = "urn:xmpp:bidi";
/// Bidirectional server streams, stream feature (XEP-0288).
pub const BIDI_FEATURE: &str = "urn:xmpp:features:bidi";
/// Data forms (XEP-0004).
pub const DATA_FORMS: &str = "jabber:x:data";
/// Last activity (XEP-0012).
pub const LAST_ACTIVITY: &str = "jabber:iq:last";
/// Flexible offline retrieval (XEP-0013).
pub const OFFLINE: &str = "http://jabber.org/protocol/offline";
/// Privacy lists (XEP-0016).
pub const PRIVACY: &str = "jabber:iq:privacy";
/// Service discovery: identity and features (XEP-0030).
pub const DISCO_INFO: &str = "http://jabber.org/protocol/disco#info";
/// Service discovery: items (XEP-0030).
pub const DISCO_ITEMS: &str = "http://jabber.org/protocol/disco#items";
/// Multi-user chat (XEP-0045).
pub const MUC: &str = "http://jabber.org/protocol/muc";
/// Multi-user chat, occupants (XEP-0045).
pub const MUC_USER: &str = "http://jabber.org/protocol/muc#user";
/// Multi-user chat, administration (XEP-0045).
pub const MUC_ADMIN: &str = "http://jabber.org/protocol/muc#admin";
/// Multi-user chat, configuration (XEP-0045).
pub const MUC_OWNER: &str = "http://jabber.org/protocol/muc#owner";
/// Private XML storage (XEP-0049).
pub const PRIVATE: &str = "jabber:iq:private";
/// Ad-hoc commands (XEP-0050).
pub const COMMANDS: &str = "http://jabber.org/protocol/commands";
/// vcard-temp (XEP-0054).
pub const VCARD: &str = "vcard-temp";
/// Result set management (XEP-0059).
pub const RSM: &str = "http://jabber.org/protocol/rsm";
/// Publish-subscribe (XEP-0060).
pub const PUBSUB: &str = "http://jabber.org/protocol/pubsub";
/// Publish-subscribe, error conditions (XEP-0060).
pub const PUBSUB_ERRORS: &str = "http://jabber.org/protocol/pubsub#errors";
/// Publish-subscribe, notifications (XEP-0060).
pub const PUBSUB_EVENT: &str = "http://jabber.org/protocol/pubsub#event";
/// Publish-subscribe, node owners (XEP-0060).
pub const PUBSUB_OWNER: &str = "http://jabber.org/protocol/pubsub#owner";
/// Out-of-band data (XEP-0066).
pub const OOB: &str = "jabber:x:oob";
/// In-band registration (XEP-0077).
pub const REGISTER: &str = "jabber:iq:register";
/// In-band registration stream feature (XEP-0077).
pub const REGISTER_FEATURE: &str = "http://jabber.org/features/iq-register";
/// Extended stanza addressing (XEP-0033).
pub const ADDRESS: &str = "http://jabber.org/protocol/address";
/// Advanced message processing (XEP-0079).
pub const AMP: &str = "http://jabber.org/protocol/amp";
/// Chat state notifications (XEP-0085).
pub const CHAT_STATES: &str = "http://jabber.org/protocol/chatstates";
/// Software version (XEP-0092).
pub const VERSION: &str = "jabber:iq:version";
/// Entity capabilities (XEP-0115).
pub const CAPS: &str = "http://jabber.org/protocol/caps";
/// vCard-based avatars (XEP-0153).
pub const VCARD_UPDATE: &str = "vcard-temp:x:update";
/// Discovering alternative connection methods (XEP-0156).
pub const ALT_CONNECTIONS: &str = "http://jabber.org/protocol/alternative-connections";
/// Contact addresses for services (XEP-0157).
pub const SERVER_INFO: &str = "http://jabber.org/network/serverinfo";
/// Delayed delivery (XEP-0203).
pub const DELAY: &str = "urn:xmpp:delay";
/// Message delivery receipts (XEP-0184).
pub const RECEIPTS: &str = "urn:xmpp:receipts";
/// Invisible command (XEP-0186).
pub const INVISIBLE: &str = "urn:xmpp:invisible:1";
/// Invisible command as its older versions have it (XEP-0186).
pub const INVISIBLE_0: &str = "urn:xmpp:invisible:0";
/// Simple communications blocking (XEP-0191).
pub const BLOCKING: &str = "urn:xmpp:blocking";
/// Simple communications blocking, error (XEP-0191).
pub const BLOCKING_ERRORS: &str = "urn:xmpp:blocking:errors";
/// Stream management (XEP-0198).
pub const SM: &str = "urn:xmpp:sm:3";
/// Ping (XEP-0199).
pub const PING: &str = "urn:xmpp:ping";
/// Entity time (XEP-0202).
pub const TIME: &str = "urn:xmpp:time";
/// Best practices to discourage denial of service: error conditions (XEP-0205).
pub const ERRORS: &str = "urn:xmpp:errors";
/// Portable import and export (XEP-0227).
pub const PIE: &str = "urn:xmpp:pie:0";
/// Portable import and export, before it had a namespace of its own (XEP-0227 0.2).
pub const PIE_OLD: &str = "http://www.xmpp.org/extensions/xep-0227.html#ns";
/// Portable import and export: archives (XEP-0227).
pub const PIE_MAM: &str = "urn:xmpp:pie:0#mam";
/// Portable import and export: SCRAM credentials (XEP-0227).
pub const PIE_SCRAM: &str = "urn:xmpp:pie:0#scram";
/// XInclude, by which such a document is split into files (XEP-0227 §5).
pub const XINCLUDE: &str = "http://www.w3.org/2001/XInclude";
/// Server IP check (XEP-0279).
pub const SIC: &str = "urn:xmpp:sic:1";
/// Server IP check, before it told the port (XEP-0279 0.1).
pub const SIC_0: &str = "urn:xmpp:sic:0";
/// BOSH (XEP-0124).
pub const HTTP_BIND: &str = "http://jabber.org/protocol/httpbind";
/// XMPP over BOSH (XEP-0206).
pub const XBOSH: &str = "urn:xmpp:xbosh";
/// SOCKS5 bytestreams (XEP-0065).
pub const BYTESTREAMS: &str = "http://jabber.org/protocol/bytestreams";
/// Message carbons (XEP-0280).
pub const CARBONS: &str = "urn:xmpp:carbons:2";
/// Message carbons: what is copied (XEP-0280).
pub const CARBONS_RULES: &str = "urn:xmpp:carbons:rules:0";
/// Stanza forwarding (XEP-0297).
pub const FORWARD: &str = "urn:xmpp:forward:0";
/// Namespace delegation (XEP-0355).
pub const DELEGATION: &str = "urn:xmpp:delegation:2";
/// Privileged entity (XEP-0356).
pub const PRIVILEGE: &str = "urn:xmpp:privilege:2";
/// Hashes (XEP-0300).
pub const HASHES: &str = "urn:xmpp:hashes:2";
/// Last message correction (XEP-0308).
pub const CORRECTION: &str = "urn:xmpp:message-correct:0";
/// Message archive (XEP-0313).
pub const MAM: &str = "urn:xmpp:mam:2";
/// Message archive, extended (XEP-0313).
pub const MAM_EXTENDED: &str = "urn:xmpp:mam:2#extended";
/// Message archive, queries that say whether they want what was said in rooms (XEP-0313).
pub const MAM_GROUPCHAT_FIELD: &str = "urn:xmpp:mam:2#groupchat-field";
/// Archive, full-text search (XEP-0431).
pub const FULLTEXT: &str = "urn:xmpp:fulltext:0";
/// Message retraction (XEP-0424).
pub const RETRACT: &str = "urn:xmpp:message-retract:1";
/// Chat markers (XEP-0333).
pub const CHAT_MARKERS: &str = "urn:xmpp:chat-markers:0";
/// Message processing hints (XEP-0334).
pub const HINTS: &str = "urn:xmpp:hints";
/// Client state indication (XEP-0352).
pub const CSI: &str = "urn:xmpp:csi:0";
/// Push notifications (XEP-0357).
pub const PUSH: &str = "urn:xmpp:push:0";
/// Unique and stable stanza ids (XEP-0359).
pub const STANZA_ID: &str = "urn:xmpp:sid:0";
/// HTTP file upload (XEP-0363).
pub const HTTP_UPLOAD: &str = "urn:xmpp:http:upload:0";
/// HTTP file upload: what a file is for (XEP-0363 §5).
pub const HTTP_UPLOAD_PURPOSE: &str = "urn:xmpp:http:upload:purpose:0";
/// Pre-authenticated roster subscription (XEP-0379).
pub const PARS: &str = "urn:xmpp:pars:0";
/// Blocking command reports (XEP-0377).
pub const REPORTING: &str = "urn:xmpp:reporting:1";
/// Explicit message encryption (XEP-0380).
pub const EME: &str = "urn:xmpp:eme:0";
/// Extensible SASL profile (XEP-0388).
pub const SASL2: &str = "urn:xmpp:sasl:2";
/// Bind 2 (XEP-0386).
pub const BIND2: &str = "urn:xmpp:bind:0";
/// Entity capabilities 2 (XEP-0390).
pub const CAPS2: &str = "urn:xmpp:caps";
/// Ad-hoc command: invite a contact (XEP-0401).
pub const INVITE: &str = "urn:xmpp:invite#invite";
/// Ad-hoc command: invite to an account (XEP-0401).
pub const CREATE_ACCOUNT: &str = "urn:xmpp:invite#create-account";
/// The form that holds an invitation (XEP-0401).
pub const INVITATION: &str = "urn:xmpp:invite#invitation";
/// SASL channel-binding type capability (XEP-0440).
pub const SASL_CHANNEL_BINDING: &str = "urn:xmpp:sasl-cb:0";
/// Pre-authenticated in-band registration (XEP-0445).
pub const IBR_TOKEN: &str = "urn:xmpp:ibr-token:0";
/// Fast authentication streamlining tokens (XEP-0484).
pub const FAST: &str = "urn:xmpp:fast:0";
/// SASL upgrade tasks (XEP-0480).
pub const SASL_UPGRADE: &str = "urn:xmpp:sasl:upgrade:0";
/// SASL upgrade tasks for SCRAM (XEP-0480).
pub const SCRAM_UPGRADE: &str = "urn:xmpp:scram-upgrade:0";
/// Client access management (XEP-0494).
pub const CLIENT_ACCESS: &str = "urn:xmpp:cam:0";
/// Stream limits advertisement (XEP-0478).
pub const STREAM_LIMITS: &str = "urn:xmpp:stream-limits:0";
/// Message reactions (XEP-0444).
pub const REACTIONS: &str = "urn:xmpp:reactions:0";
/// PEP native bookmarks (XEP-0402).
pub const BOOKMARKS2: &str = "urn:xmpp:bookmarks:1";
/// Bookmark storage (XEP-0048).
pub const BOOKMARKS: &str = "storage:bookmarks";
/// User avatars, data (XEP-0084).
pub const AVATAR_DATA: &str = "urn:xmpp:avatar:data";
/// User avatars, metadata (XEP-0084).
pub const AVATAR_METADATA: &str = "urn:xmpp:avatar:metadata";
/// OMEMO, the version in wide use (XEP-0384 0.3).
pub const OMEMO_LEGACY: &str = "eu.siacs.conversations.axolotl";
/// Jingle message initiation (XEP-0353).
pub const JINGLE_MESSAGE: &str = "urn:xmpp:jingle-message:0";
/// External service discovery (XEP-0215).
pub const EXTERNAL_SERVICES: &str = "urn:xmpp:extdisco:2";
/// Pangaea: the link between two nodes, version 1 (docs/architecture.md).
pub const LINK: &str = "urn:pangaea:link:1";
/// Pangaea: what XEP-0227 has no place for (docs/operations.md).
pub const EXPORT: &str = "urn:pangaea:export:0";
