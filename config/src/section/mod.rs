//! One file a section: its type, its defaults, its checks. `read` is called once by `Config::parse`.

pub(crate) mod admin;
pub(crate) mod c2s;
pub(crate) mod domains;
pub(crate) mod geo;
pub(crate) mod http;
pub(crate) mod limits;
pub(crate) mod link;
pub(crate) mod log;
pub(crate) mod metadata;
pub(crate) mod node;
pub(crate) mod push;
pub(crate) mod registration;
pub(crate) mod s2s;
pub(crate) mod storage;
