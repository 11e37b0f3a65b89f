//! One file a section: its type, its defaults, its checks. `read` is called once by `Config::parse`.

pub(crate) mod admin;
pub(crate) mod archive;
pub(crate) mod auth;
pub(crate) mod c2s;
pub(crate) mod clients;
pub(crate) mod components;
pub(crate) mod contact;
pub(crate) mod domains;
pub(crate) mod external_services;
pub(crate) mod geo;
pub(crate) mod http;
pub(crate) mod invitations;
pub(crate) mod limits;
pub(crate) mod link;
pub(crate) mod log;
pub(crate) mod metadata;
pub(crate) mod node;
pub(crate) mod proxy;
pub(crate) mod push;
pub(crate) mod redis;
pub(crate) mod registration;
pub(crate) mod reports;
pub(crate) mod s2s;
pub(crate) mod storage;
pub(crate) mod upload;
