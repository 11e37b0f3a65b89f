//! SASL mechanisms as values, one a file (RFC 6120 §6).
