//! Payloads that two or more features share, one specification a file.
