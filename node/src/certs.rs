//! Certificates for tests and for quickstart: an authority, leaves for a node's names, fingerprints of any.
