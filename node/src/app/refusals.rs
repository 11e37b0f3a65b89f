//! What the operator's desk says of what was not done: errors of homes, of the database and of passwords, as refusals of the admin API.

use crate::admin::Refusal;
use crate::auth::internal::NoKeys;
use crate::homes::HomeError;
use crate::storage::StorageError;

/// Why there are no keys of a password, for an administrator.
pub(super) fn unusable(why: NoKeys) -> Refusal {
    match why {
        NoKeys::Bad(_) => Refusal::invalid("this password cannot be used (RFC 4013)"),
        NoKeys::Busy => Refusal::unavailable("too many passwords are being derived"),
    }
}

/// Why a home did not do it, for an administrator.
pub(super) fn refused(error: HomeError) -> Refusal {
    match error {
        HomeError::Unreachable => {
            Refusal::unavailable("the account's home region cannot be reached")
        }
        HomeError::Unavailable(_) => Refusal::unavailable(error.to_string()),
        error => Refusal::failed(error.to_string()),
    }
}

/// Why something could not be read, for an administrator.
pub(crate) fn unread(error: StorageError) -> Refusal {
    match error {
        StorageError::Unavailable { .. } => Refusal::unavailable(error.to_string()),
        error => Refusal::failed(error.to_string()),
    }
}
