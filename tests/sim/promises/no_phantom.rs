//! I4. *What I get was sent to me, by whom it says:* checked when it comes (`people::ears`); here is only what was noted.

use crate::end::End;
use crate::people::journal::Journal;

/// See the module: all of it is in `Journal::wrong`.
pub fn check(_: &Journal, _: &End) -> Vec<String> {
    Vec::new()
}
