//! Stream management as plain state: the counters and the unacked queue (XEP-0198).
